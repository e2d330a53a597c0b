"""`lorth` against what it stands for: the convolution, its matrix, and kernels known exactly."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from orthwrap.penalties.conv_gram import ConvGeometry
from orthwrap.penalties.lorth import lorth, lorth_probe_shape, lorth_value, why_none_exists
from orthwrap.penalties.so import so
from tests.penalties.oracles import assert_gradient, orthonormal, random, signs
from tests.support.backend import EAGER_IS_CHEAP, compiled, value, value_and_grad

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

# kernel size, strides, C per group, M per group, groups
GEOMETRIES = [
    ((3,), (1,), 2, 3, 1),
    ((4,), (3,), 2, 5, 1),
    ((3, 3), (1, 1), 3, 2, 1),
    ((3, 3), (2, 2), 1, 6, 1),
    ((3, 3), (1, 1), 2, 4, 2),
    ((2, 4), (1, 2), 2, 3, 1),
    ((5, 1), (2, 1), 2, 2, 3),
    ((1, 1), (2, 2), 3, 2, 1),
    ((2, 2), (3, 2), 2, 11, 1),
    ((2, 3, 2), (1, 2, 1), 2, 3, 1),
]
geometries = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


@st.composite
def any_geometry(draw: st.DrawFn) -> tuple[Any, ...]:
    d = draw(st.integers(1, 2))
    size = draw(st.tuples(*[st.integers(1, 4)] * d))
    strides = draw(st.tuples(*[st.integers(1, 3)] * d))
    return size, strides, *draw(st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 2)))


def kernel_of(geometry: tuple[Any, ...], seed: int = 0) -> Any:
    size, _, c, m, groups = geometry
    return random((*size, c, m * groups), seed)


def by_offsets(kernel: Any, strides: tuple[int, ...], groups: int) -> float:
    """The definition, offset by offset: Σ_t ‖Σ_x K[x]ᵀK[x+tS] − [t=0]I‖² − (M−C·S^d)⁺."""
    *size, c, filters = kernel.shape
    m = filters // groups
    total = 0.0
    for g in range(groups):
        k = kernel[..., g * m : (g + 1) * m]
        reach = [(k - 1) // s for k, s in zip(size, strides, strict=True)]
        for offset in product(*(range(-q, q + 1) for q in reach)):
            t = np.zeros((m, m))
            for x in np.ndindex(*size):
                y = tuple(a + o * s for a, o, s in zip(x, offset, strides, strict=True))
                if all(0 <= b < n for b, n in zip(y, size, strict=True)):
                    t += k[x].T @ k[y]
            total += np.sum((t - (not any(offset)) * np.eye(m)) ** 2)
        total -= max(m - c * prod(strides), 0)
    return total


@settings(max_examples=60 if EAGER_IS_CHEAP else 15, deadline=None)
@given(geometry=any_geometry(), seed=st.integers(0, 2**16))
def test_value_is_the_definition(geometry: tuple[Any, ...], seed: int) -> None:
    _, strides, _, _, groups = geometry
    kernel = kernel_of(geometry, seed)
    expected = by_offsets(kernel, strides, groups)
    assert lorth_value(kernel, strides, groups) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    result = value(lambda k: lorth(k, strides, groups), kernel)
    assert result == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if g[4] == 1], ids=str)
def test_value_is_the_kernel_convolved_with_itself(geometry: tuple[Any, ...]) -> None:
    size, strides, c, m, _ = geometry
    kernel = kernel_of(geometry, 1).astype("float32")
    pads = [(k - 1) // s * s for k, s in zip(size, strides, strict=True)]
    images = np.pad(np.moveaxis(kernel, -1, 0), [(0, 0), *((p, p) for p in pads), (0, 0)])

    def convolved(k: Any) -> Any:
        out = ops.conv(ops.convert_to_tensor(images), k, strides, "valid", "channels_last")
        identity = np.zeros(out.shape, "float32")
        centre = tuple(n // 2 for n in out.shape[1:-1])
        identity[(np.arange(m), *centre, np.arange(m))] = 1
        return ops.sum(ops.square(out - ops.convert_to_tensor(identity))) - max(
            m - c * prod(strides), 0
        )

    result = value(lambda k: lorth(k, strides), kernel)
    assert result == pytest.approx(value(convolved, kernel), rel=1e-4)


def circular_matrix(kernel: Any, strides: tuple[int, ...], n: int) -> Any:
    """𝒦: the circular convolution of n output positions per axis, (M·n^d) × (C·(S·n)^d)."""
    *size, c, m = kernel.shape
    extent = [s * n for s in strides]
    rows = np.zeros((m, *[n] * len(size), c, *extent))
    for out in np.ndindex(*[n] * len(size)):
        for x in np.ndindex(*size):
            at = tuple((o * s + a) % e for o, s, a, e in zip(out, strides, x, extent, strict=True))
            rows[(slice(None), *out, slice(None), *at)] += kernel[x].T
    return rows.reshape(m * n ** len(size), -1)


@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if g[4] == 1], ids=str)
def test_value_is_that_of_the_circular_convolution_matrix(geometry: tuple[Any, ...]) -> None:
    size, strides, c, m, _ = geometry
    kernel = kernel_of(geometry, 2)
    n = max(-(-(2 * k - 1) // s) for k, s in zip(size, strides, strict=True))
    matrix = circular_matrix(kernel, strides, n)
    small = matrix @ matrix.T if m <= c * prod(strides) else matrix.T @ matrix
    expected = np.sum((small - np.eye(len(small))) ** 2) / n ** len(size)
    assert lorth_value(kernel, strides) == pytest.approx(expected, rel=1e-9)


@geometries
def test_gradient_agrees_with_central_differences(geometry: tuple[Any, ...]) -> None:
    _, strides, _, _, groups = geometry
    kernel = kernel_of(geometry, 3)
    probes = signs(lorth_probe_shape(kernel.shape, strides, groups, 2), 4)

    def exact(k: Any) -> Any:
        return lorth(k, strides, groups)

    def sketch(k: Any) -> Any:
        return lorth(k, strides, groups, ops.convert_to_tensor(probes, dtype="float64"))

    for function in (exact, sketch):
        assert_gradient(function, kernel)


@pytest.mark.parametrize("shape", [(3, 3, 6, 4), (3, 3, 4, 6)], ids=str)
def test_gradient_agrees_with_autodiff_of_the_convolution(shape: tuple[int, ...]) -> None:
    kernel = random(shape, 7, "float32")
    m = shape[-1]
    identity = np.zeros((m, 5, 5, m), "float32")
    identity[np.arange(m), 2, 2, np.arange(m)] = 1

    def convolved(k: Any) -> Any:
        images = ops.pad(ops.transpose(k, (3, 0, 1, 2)), [(0, 0), (2, 2), (2, 2), (0, 0)])
        out = ops.conv(images, k, 1, "valid", "channels_last")
        return ops.sum(ops.square(out - ops.convert_to_tensor(identity)))

    _, gradient = value_and_grad(lorth, kernel)
    _, expected = value_and_grad(convolved, kernel)
    assert np.abs(gradient - expected).max() < 1e-5 * np.abs(expected).max()


# --- kernels known exactly ------------------------------------------------------------------


def orthogonal_kernel(geometry: tuple[Any, ...]) -> Any:
    """An orthonormal matrix spread over the first min(k, S) taps of each axis."""
    size, strides, c, m, groups = geometry
    corner = [min(k, s) for k, s in zip(size, strides, strict=True)]
    kernel = np.zeros((*size, c, m * groups))
    for g in range(groups):
        matrix = orthonormal((1, prod(corner) * c, m), g)[0]
        kernel[(*(slice(n) for n in corner), slice(None), slice(g * m, (g + 1) * m))] = (
            matrix.reshape(*corner, c, m)
        )
    return kernel


@geometries
def test_zero_with_finite_gradient_at_an_orthogonal_convolution(geometry: tuple[Any, ...]) -> None:
    size, strides, c, m, groups = geometry
    result, gradient = value_and_grad(
        lambda k: lorth(k, strides, groups), orthogonal_kernel(geometry)
    )
    if why_none_exists(size, strides, c * groups, m * groups, groups) is None:
        assert result == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
    else:
        assert result >= 1


@settings(deadline=None)
@given(geometry=any_geometry())
def test_exists_exactly_where_zero_is_reached(geometry: tuple[Any, ...]) -> None:
    size, strides, c, m, groups = geometry
    reason = why_none_exists(size, strides, c * groups, m * groups, groups)
    reached = lorth_value(orthogonal_kernel(geometry), strides, groups)
    assert (reason is None) == (abs(reached) < 1e-9)
    constant = ConvGeometry.of((*size, c, m * groups), strides, groups).constant
    assert (reason is None) == (constant == 0)


@pytest.mark.parametrize(
    ("size", "strides", "c", "m", "reason"),
    [
        ((3, 3), (1, 1), 64, 64, None),
        ((3, 3), (1, 1), 64, 256, None),
        ((3, 3), (2, 2), 64, 256, None),
        ((1, 1), (2, 2), 64, 64, None),
        ((1, 1), (2, 2), 64, 128, "128 output channels exceed the 64 independent inputs"),
        ((1, 1), (2, 2), 64, 256, "stride 2×2 skips inputs that a 1×1 kernel never sees"),
        ((3, 1), (3, 2), 2, 12, "stride 3×2 skips inputs that a 3×1 kernel never sees"),
    ],
)
def test_existence_follows_achour_et_al(
    size: tuple[int, ...], strides: tuple[int, ...], c: int, m: int, reason: str | None
) -> None:
    found = why_none_exists(size, strides, c, m)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert reason in found


@pytest.mark.parametrize(
    ("k", "s", "c", "m"), [*product([1, 2, 3], [1, 2, 3], [1, 2], [1, 4, 9, 20])]
)
def test_existence_is_the_papers_condition_where_square(k: int, s: int, c: int, m: int) -> None:
    possible = m <= c * k**2 if m <= c * s**2 else s <= k
    assert (why_none_exists((k, k), (s, s), c, m) is None) == possible


def test_a_delta_kernel_times_an_orthogonal_matrix() -> None:
    kernel = np.zeros((3, 3, 5, 5))
    kernel[1, 1] = orthonormal((1, 5, 5))[0]
    for strides in ((1, 1), (2, 2)):
        assert value(lambda k, s=strides: lorth(k, s), kernel) == pytest.approx(0)


def test_im2col_orthonormal_is_not_conv_orthogonal() -> None:
    kernel = orthonormal((1, 3 * 3 * 4, 4)).reshape(3, 3, 4, 4)
    assert value(so, kernel.reshape(1, 36, 4)) == pytest.approx(0)
    assert value(lorth, kernel) > 0.1


def test_isometric_upsampling() -> None:
    """A transposed 2×2 stride-2 convolution, its kernel (2, 2, out, in): patches do not overlap."""
    kernel = orthonormal((1, 2 * 2 * 3, 5)).reshape(2, 2, 3, 5)
    assert value(so, kernel.reshape(1, 12, 5)) == pytest.approx(0)
    assert value(lambda k: lorth(k, (2, 2)), kernel) == pytest.approx(0)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=str)
def test_dense_and_one_by_one_kernels_are_so(shape: tuple[int, int]) -> None:
    w = random(shape, 8)
    expected = value_and_grad(lambda w: so(ops.reshape(w, (1, *shape))), w)
    result = value_and_grad(lorth, w)
    assert result[0] == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(result[1], expected[1], rtol=1e-12)
    assert value(lorth, w.reshape(1, 1, *shape)) == pytest.approx(expected[0])
    assert lorth_value(w) == pytest.approx(expected[0])


def test_groups_are_summed() -> None:
    kernel = random((3, 3, 2, 6), 9)
    each = [value(lorth, kernel[..., i : i + 3]) for i in (0, 3)]
    assert value(lambda k: lorth(k, groups=2), kernel) == pytest.approx(sum(each))


# --- sketch ---------------------------------------------------------------------------------


@pytest.mark.dear
@pytest.mark.parametrize(
    "geometry", [((3, 3), (1, 1), 6, 4, 1), ((3, 3), (2, 2), 2, 9, 2), ((3, 3), (2, 1), 4, 6, 1)]
)
def test_sketch_is_unbiased(geometry: tuple[Any, ...]) -> None:
    _, strides, _, _, groups = geometry
    kernel = (kernel_of(geometry, 10) / 2).astype("float32")
    exact = lorth_value(kernel, strides, groups)
    draw = compiled(lambda k, p: lorth(k, strides, groups, p))
    shape = lorth_probe_shape(kernel.shape, strides, groups, 2)
    probes = signs((200, *shape), 11, "float32")
    draws = [value(draw, kernel, p) for p in probes]
    assert abs(np.mean(draws) - exact) < 4 * np.std(draws, ddof=1) / np.sqrt(len(draws))


def test_sketch_has_minimum_zero() -> None:
    for geometry in (((3, 3), (1, 1), 3, 2, 1), ((3, 3), (2, 2), 1, 6, 1)):
        kernel, strides = orthogonal_kernel(geometry), geometry[1]
        probes = signs(lorth_probe_shape(kernel.shape, strides, 1, 2), 12)
        result, gradient = value_and_grad(
            lambda k, p, s=strides: lorth(k, s, probes=p), kernel, probes
        )
        assert result == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
