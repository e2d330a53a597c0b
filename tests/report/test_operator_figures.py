"""The figures of a convolution itself, against its explicit matrix and inputs sent through it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orthwrap.model_config.convolution import Convolution
from orthwrap.model_config.layers import LAYER_TYPES
from orthwrap.penalties.conv_operator import OperatorFigures, _Band, operator_figures
from orthwrap.report.measure import measure
from orthwrap.report.measure_operator import measure_operator

SIZE = 8


def explicit(
    kernel: Any, strides: Sequence[int], dilation: Sequence[int], *, circular: bool
) -> Any:
    """The matrix of one group's convolution on 8 × 8 inputs: (outputs, inputs), tap by tap."""
    *taps, channels, filters = kernel.shape
    sizes = [SIZE // s if circular else -(-SIZE // s) for s in strides]
    matrix = np.zeros((*sizes, filters, *[SIZE] * len(taps), channels))
    for out in itertools.product(*map(range, sizes)):
        for tap in itertools.product(*map(range, taps)):
            place = [
                o * s + d * t - d * (k - 1) // 2
                for o, s, d, t, k in zip(out, strides, dilation, tap, taps, strict=True)
            ]
            if circular:
                place = [p % SIZE for p in place]
            elif not all(0 <= p < SIZE for p in place):
                continue
            matrix[(*out, slice(None), *place)] += kernel[tap].T
    return matrix.reshape(math.prod(sizes) * filters, -1)


def oracle(
    groups: Sequence[Any], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[float, float, float]:
    """(largest norm, smallest σ, largest residual), by the matrices of the groups."""
    norm, lowest, residual = 0.0, math.inf, 0.0
    for kernel in groups:
        around = explicit(kernel, strides, dilation, circular=True)
        padded = explicit(kernel, strides, dilation, circular=False)
        sigma = np.linalg.svd(around, compute_uv=False)
        norm = max(norm, sigma[0], np.linalg.norm(padded, 2))
        lowest = min(lowest, sigma[-1])
        smaller = around @ around.T if len(around) <= around.shape[1] else around.T @ around
        square = np.sum((smaller - np.eye(len(smaller))) ** 2) / len(smaller)
        residual = max(residual, math.sqrt(square))
    return float(norm), float(lowest), residual


def figures(class_name: str, slot: str, config: dict[str, Any], kernel: Any) -> OperatorFigures:
    """As the report has them, of a layer's kernel."""
    spec = next(s for s in LAYER_TYPES[class_name].kernels if s.slot == slot)
    layout = spec.layout(config, kernel.shape)
    assert not isinstance(layout, str)
    convolution = Convolution.of(layout, config, slot, kernel.shape)
    return measure_operator(kernel, convolution, measure(kernel, layout))


def random(*shape: int) -> Any:
    return np.random.default_rng(math.prod(shape)).normal(size=shape)


def agree(found: OperatorFigures, groups: Sequence[Any], strides: Any, dilation: Any) -> None:
    norm, lowest, residual = oracle(groups, strides, dilation)
    assert norm <= found.norm_upper <= 1.02 * found.norm_lower
    assert found.sigma_min is not None
    assert found.sigma_min <= lowest + 1e-9
    assert found.residual == pytest.approx(residual, rel=1e-9)
    ranks = [np.sum(k**2) / operator_figures(k, strides).norm_upper ** 2 for k in groups]
    if max(dilation) > 1:
        return
    assert found.stable_rank == pytest.approx(min(ranks), rel=0.05)


@pytest.mark.parametrize("kernel_size", [(1, 1), (2, 2), (3, 3), (4, 4), (3, 1), (2, 3)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (4, 4), (1, 2), (8, 8)])
@pytest.mark.parametrize(("channels", "filters", "groups"), [(2, 3, 1), (4, 2, 2), (1, 5, 1)])
def test_convolutions_of_every_stride_size_and_group(
    kernel_size: tuple[int, int],
    strides: tuple[int, int],
    channels: int,
    filters: int,
    groups: int,
) -> None:
    if max(kernel_size) > 3 and max(strides) == 1 and channels > 2:
        kernel_size = (4, 1)
    kernel = random(*kernel_size, channels // groups, filters * groups)
    found = figures("Conv2D", "kernel", {"strides": strides, "groups": groups}, kernel)
    agree(found, np.split(kernel, groups, -1), strides, (1, 1))


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_dilation_changes_nothing(dilation: int) -> None:
    kernel = random(3, 3, 2, 3)
    found = figures("Conv2D", "kernel", {"dilation_rate": dilation}, kernel)
    assert found == figures("Conv2D", "kernel", {}, kernel)
    assert np.linalg.norm(explicit(kernel, (1, 1), [dilation] * 2, circular=False), 2) <= (
        found.norm_upper
    )


@pytest.mark.parametrize("strides", [(2, 2), (4, 2)])
def test_dilation_and_stride_at_once_are_the_taps_that_they_are(strides: tuple[int, int]) -> None:
    """Keras refuses both at once in most classes, not in all."""
    kernel = random(2, 3, 3, 2)
    config = {"strides": strides, "dilation_rate": (2, 1)}
    found = figures("DepthwiseConv2D", "depthwise", config, kernel)
    groups = [kernel[:, :, c : c + 1, :] for c in range(3)]
    agree(found, groups, strides, (2, 1))


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_is_a_group_for_each_channel(strides: tuple[int, int], multiplier: int) -> None:
    kernel = random(3, 2, 4, multiplier)
    found = figures("DepthwiseConv2D", "depthwise", {"strides": strides}, kernel)
    agree(found, [kernel[:, :, c : c + 1, :] for c in range(4)], strides, (1, 1))


@pytest.mark.parametrize("kernel_size", [(2, 2), (3, 3)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_transposed_is_the_adjoint(kernel_size: tuple[int, int], strides: tuple[int, int]) -> None:
    kernel = random(*kernel_size, 2, 3)  # (*k, out, in)
    found = figures("Conv2DTranspose", "kernel", {"strides": strides}, kernel)
    agree(found, [kernel], strides, (1, 1))


@pytest.mark.parametrize(("slot", "strides"), [("kernel", (2, 2)), ("recurrent", (1, 1))])
def test_each_gate_of_a_convolutional_lstm_is_a_group(slot: str, strides: tuple[int, int]) -> None:
    """Its stride is that of its input's convolution; the state's has none."""
    kernel = random(3, 3, 2, 8)
    found = figures("ConvLSTM2D", slot, {"strides": (2, 2)}, kernel)
    agree(found, np.split(kernel, 4, -1), strides, (1, 1))


def test_separable_has_both_factors() -> None:
    depthwise, pointwise = random(3, 3, 4, 2), random(1, 1, 8, 5)
    config = {"strides": (2, 2)}
    first = figures("SeparableConv2D", "depthwise", config, depthwise)
    second = figures("SeparableConv2D", "pointwise", config, pointwise)
    agree(first, [depthwise[:, :, c : c + 1, :] for c in range(4)], (2, 2), (1, 1))
    agree(second, [pointwise], (1, 1), (1, 1))
    composed = np.einsum("ijcm,cmo->ijco", depthwise, pointwise.reshape(4, 2, 5))
    norm, _, _ = oracle([composed], (2, 2), (1, 1))
    assert norm <= first.norm_upper * second.norm_upper


@pytest.mark.parametrize("shape", [(5, 2, 3), (8, 1, 4), (2, 3, 3, 2, 2)])
def test_one_and_three_dimensions(shape: tuple[int, ...]) -> None:
    kernel = random(*shape)
    class_name = f"Conv{len(shape) - 2}D"
    found = figures(class_name, "kernel", {}, kernel)
    grids = np.meshgrid(*[np.linspace(0, 2 * np.pi, 48)] * (len(shape) - 2), indexing="ij")
    positions = np.indices(shape[:-2]).reshape(len(shape) - 2, -1)
    phases = np.exp(-1j * np.stack([g.ravel() for g in grids], -1) @ positions)
    symbols = np.tensordot(phases, kernel.reshape(-1, *shape[-2:]), 1)
    truth = np.linalg.svd(symbols, compute_uv=False)
    assert truth.max() <= found.norm_upper <= 1.02 * truth.max()
    assert found.sigma_min is not None
    assert found.sigma_min <= truth[:, -1].min() * 1.001


@pytest.mark.parametrize(
    ("class_name", "slot", "config", "shape"),
    [
        ("Dense", "kernel", {}, (7, 5)),
        ("EinsumDense", "kernel", {"equation": "abc,cde->abde"}, (4, 2, 3)),
        ("MultiHeadAttention", "kernel", {}, (6, 2, 3)),
        ("LSTM", "recurrent", {}, (4, 16)),
        ("Embedding", "embeddings", {}, (9, 3)),
    ],
)
def test_where_the_matrix_is_the_operator(
    class_name: str, slot: str, config: dict[str, Any], shape: tuple[int, ...]
) -> None:
    kernel = random(*shape)
    spec = next(s for s in LAYER_TYPES[class_name].kernels if s.slot == slot)
    layout = spec.layout(config, shape)
    assert not isinstance(layout, str)
    matrices = layout.to_matrices(kernel, np)
    sigma = np.linalg.svd(matrices, compute_uv=False)
    found = figures(class_name, slot, config, kernel)
    assert sigma.max() <= found.norm_upper <= sigma.max() * (1 + 1e-5)
    assert found.sigma_min == pytest.approx(sigma.min(), rel=1e-9)
    residual = np.sqrt(((sigma**2 - 1) ** 2).sum(-1) / sigma.shape[-1])
    assert found.residual == pytest.approx(residual.max(), rel=1e-9)
    assert found.stable_rank == pytest.approx(((sigma**2).sum(-1) / sigma[:, 0] ** 2).min())


def convolved(kernel: Any, strides: Sequence[int], x: Any) -> Any:
    """Keras's padding `same`, tap by tap, in NumPy."""
    *taps, _, filters = kernel.shape
    sizes = [-(-n // s) for n, s in zip(x.shape[:-1], strides, strict=True)]
    needed = [
        max((o - 1) * s + k - n, 0)
        for o, s, k, n in zip(sizes, strides, taps, x.shape, strict=False)
    ]
    padded = np.pad(x, [(p // 2, p - p // 2) for p in needed] + [(0, 0)])
    y = np.zeros((*sizes, filters))
    for tap in itertools.product(*map(range, taps)):
        index = tuple(
            slice(t, t + (o - 1) * s + 1, s) for t, o, s in zip(tap, sizes, strides, strict=True)
        )
        y += padded[index] @ kernel[tap]
    return y


def adjoint(kernel: Any, strides: Sequence[int], y: Any, shape: Sequence[int]) -> Any:
    """The transpose of `convolved`."""
    *taps, channels, _ = kernel.shape
    sizes = y.shape[:-1]
    needed = [
        max((o - 1) * s + k - n, 0) for o, s, k, n in zip(sizes, strides, taps, shape, strict=False)
    ]
    padded = np.zeros((*(n + p for n, p in zip(shape, needed, strict=False)), channels))
    for tap in itertools.product(*map(range, taps)):
        index = tuple(
            slice(t, t + (o - 1) * s + 1, s) for t, o, s in zip(tap, sizes, strides, strict=True)
        )
        padded[index] += y @ kernel[tap].T
    inner = tuple(slice(p // 2, p // 2 + n) for n, p in zip(shape, needed, strict=False))
    return padded[inner]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, tuple[int, int], tuple[int, int]]:
    """A kernel of one of several kinds, strides, and an input's size."""
    kernel_size = draw(st.tuples(*[st.integers(1, 5)] * 2))
    channels, filters = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel = rng.normal(size=(*kernel_size, channels, filters))
    kind = draw(st.sampled_from(["random", "positive", "low rank", "peaked", "tiny", "huge"]))
    if kind == "positive":  # which is largest at frequency 0, and all the more without padding
        kernel = np.abs(kernel)
    elif kind == "low rank":
        kernel = kernel[..., :1] * rng.normal(size=filters)
    elif kind == "peaked":  # at a frequency that is on no grid
        waves = np.cos(np.indices(kernel_size).T.swapaxes(0, 1) @ rng.uniform(0, np.pi, 2))
        kernel = waves[..., None, None] * kernel[:1, :1]
    elif kind in ("tiny", "huge"):
        kernel = kernel * (1e-180 if kind == "tiny" else 1e180)
    size = draw(st.tuples(*[st.integers(3, 24)] * 2))
    return kernel, draw(st.tuples(*[st.integers(1, 3)] * 2)), size


@pytest.mark.slow
@settings(max_examples=300)
@given(cases())
def test_no_input_is_stretched_by_more(case: tuple[Any, tuple[int, int], tuple[int, int]]) -> None:
    kernel, strides, size = case
    found = operator_figures(kernel, strides)
    unit = np.abs(kernel).max()
    x = np.random.default_rng(0).normal(size=(*size, kernel.shape[2]))
    for _ in range(12):
        x /= np.linalg.norm(x)
        y = convolved(kernel / unit, strides, x)
        assert np.linalg.norm(y) * unit <= found.norm_upper
        x = adjoint(kernel / unit, strides, y, size)
        if not np.linalg.norm(x):
            break
    assert found.norm_lower <= found.norm_upper <= 1.02 * found.norm_lower


@pytest.mark.dear
@pytest.mark.parametrize("seed", range(3))
def test_large_symbols_are_tested_and_not_computed(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Cholesky tests say of 3 × 3 × 80 × 80 is what all its eigenvalues say."""
    kernel = np.random.default_rng(seed).normal(size=(3, 3, 80, 90)).astype("float32")
    plain = operator_figures(kernel)
    monkeypatch.setattr("orthwrap.penalties.conv_operator._CHEAP", 0)
    monkeypatch.setattr("orthwrap.penalties.conv_operator._EIGENVALUES", 0)
    tested = operator_figures(kernel)
    assert plain.norm_lower <= tested.norm_upper * (1 + 1e-9)
    assert tested.norm_lower <= plain.norm_upper
    assert tested.norm_upper <= 1.02 * tested.norm_lower
    assert tested.residual == plain.residual


def counted(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """(matrices whose eigenvalues were computed, Cholesky tests) where eigenvalues are dear."""
    counts = {"eigvalsh": 0, "cholesky": 0}
    monkeypatch.setattr("orthwrap.penalties.conv_operator._CHEAP", 0)
    monkeypatch.setattr("orthwrap.penalties.conv_operator._EIGENVALUES", 40 * (40**3 + (1 << 13)))

    def counting(name: str) -> Any:
        plain = getattr(np.linalg, name)

        def call(matrices: Any) -> Any:
            counts[name] += math.prod(matrices.shape[:-2])
            return plain(matrices)

        return call

    with monkeypatch.context() as patched:
        for name in counts:
            patched.setattr(np.linalg, name, counting(name))
        found = operator_figures(kernel)
    assert found.norm_upper <= 1.02 * found.norm_lower
    return counts["eigvalsh"], counts["cholesky"]


def test_frequencies_that_cannot_hold_the_maximum_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flat = np.random.default_rng(0).normal(size=(3, 3, 40, 40))
    peaked = np.abs(flat)  # whose norm is at frequency 0
    eigenvalues, tests = counted(flat, monkeypatch)
    assert eigenvalues < 50
    assert tests <= 26 * 26 // 2 + 26
    _, left = counted(peaked, monkeypatch)
    assert left < tests / 3


def test_symbols_come_in_slices() -> None:
    rng = np.random.default_rng(0)
    band = _Band(rng.normal(size=(9, 1, 400, 400)).astype("float64"), (3, 3))
    sizes = [grams.nbytes for _, grams in itertools.islice(band.grams((26, 26)), 3)]
    assert max(sizes) <= 64 << 20
    assert min(sizes) > 4 << 20


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_has_no_figures(value: float) -> None:
    kernel = np.ones((3, 3, 2, 2))
    kernel[0, 0, 0, 0] = value
    found = figures("Conv2D", "kernel", {}, kernel)
    assert math.isnan(found.norm_upper)
    assert found.residual is None


def test_a_kernel_of_zeros() -> None:
    found = figures("Conv2D", "kernel", {}, np.zeros((3, 3, 2, 4)))
    assert (found.norm_upper, found.norm_lower, found.sigma_min) == (0.0, 0.0, 0.0)
    assert found.residual == pytest.approx(1.0)
    assert found.stable_rank is None


@pytest.mark.parametrize("gram_limit", [5120, 100])
def test_matrices_whose_singular_values_are_too_many(
    gram_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is shown by one Cholesky test, or follows from the sizes of the entries."""
    for module in ("measure", "measure_operator"):
        monkeypatch.setattr(f"orthwrap.report.{module}.EXACT_LIMIT", 200)
    monkeypatch.setattr("orthwrap.report.measure_operator._BLOCK", 1000)
    monkeypatch.setattr("orthwrap.report.measure_operator._GRAM_LIMIT", gram_limit)
    kernel = random(500, 300)
    sigma = np.linalg.norm(kernel, 2)
    found = figures("Dense", "kernel", {}, kernel)
    assert found.norm_lower <= sigma <= found.norm_upper
    assert found.norm_upper <= (1.03 if gram_limit > 300 else 20) * sigma
    assert found.sigma_min is None
    conv = random(2, 1, 250, 300)
    norm = operator_figures(conv).norm_lower
    found = figures("Conv2D", "kernel", {}, conv)
    assert found.norm_lower <= norm <= found.norm_upper
    assert found.residual is None
