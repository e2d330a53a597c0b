"""`spectral` against an SVD in float64: exact for a small side, above an estimate from below."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import orthwrap
from orthwrap.penalties.spectral import spectral
from tests.penalties.oracles import orthonormal, random
from tests.support.backend import EAGER_IS_CHEAP, value, value_and_grad

# Keras itself triggers this on tensors of some NumPy and backend versions.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def no_draw(*_: Any) -> Any:
    raise AssertionError("exact, and yet it draws")


def gaussian(seed: int) -> Any:
    return lambda shape, kind: ops.convert_to_tensor(random(shape, seed))


@settings(max_examples=25 if EAGER_IS_CHEAP else 6, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 2**16),
    target=st.sampled_from([0.0, 1.0, 2.5]),
    alpha=st.sampled_from([1.0, 0.3, 7.0]),
    size=st.sampled_from([1e-12, 1.0, 1e3]),
)
def test_value_and_gradient_are_those_of_the_svd(
    shape: tuple[int, int], seed: int, target: float, alpha: float, size: float
) -> None:
    w = size * random(shape, seed)
    u, s, vt = np.linalg.svd(w / alpha)
    words: dict[str, Any] = {"draw": no_draw, "target": target, "alpha": alpha, "factor": 0.5}
    found, gradient = value_and_grad(partial(spectral, **words), w)
    assert abs(np.sqrt(2 * found) - abs(s[0] - target)) <= 1e-3 * s[0] + 1e-12
    slope = (s[0] - target) / alpha * np.outer(u[:, 0], vt[0])
    if len(s) == 1 or s[1] < 0.99 * s[0]:  # else more than one vector is as good
        np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-8 * np.abs(slope).max())
    assert np.linalg.norm(gradient) <= (1 + 1e-3) * np.linalg.norm(slope) + 2e-3 * s[0] / alpha


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 1), (1, 5)], ids=str)
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_equal_singular_values_have_a_gradient(shape: tuple[int, int], sigma: float) -> None:
    """Any average of their vectors will do: along W itself it is (σ−t)·2σ."""
    w = sigma * orthonormal((1, *shape))[0]
    found, gradient = value_and_grad(partial(spectral, draw=no_draw), w)
    assert found == pytest.approx((sigma - 1) ** 2, abs=1e-3)
    assert np.sum(gradient * w) == pytest.approx(2 * (sigma - 1) * sigma, rel=1e-3, abs=2e-3)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-18, 1e-9])
def test_a_tiny_kernel_has_a_gradient_no_larger_than_it_should(size: float) -> None:
    w = (size * random((1, 6, 4))).astype("float32")
    found, gradient = value_and_grad(partial(spectral, draw=no_draw), w)
    assert found == pytest.approx(1.0, abs=1e-6)
    assert np.linalg.norm(gradient) <= 2.001


@pytest.mark.dear
@pytest.mark.parametrize("shape", [(1, 190, 150), (2, 150, 160)], ids=str)
def test_above_128_it_is_estimated_from_below(shape: tuple[int, int, int]) -> None:
    w = random(shape, 5) / np.sqrt(shape[1])
    true = [np.linalg.norm(matrix, 2) for matrix in w]
    found = []
    for steps in (1, 2, 5, 300):
        function = partial(spectral, draw=gaussian(6), steps=steps, target=0.0)
        found.append(value(function, w))
    assert found == sorted(found)
    assert found[1] > 0.5 * sum(s**2 for s in true)
    assert found[-1] == pytest.approx(sum(s**2 for s in true), rel=1e-3)
    _, gradient = value_and_grad(partial(spectral, draw=gaussian(6), steps=300), w)
    for matrix, slope in zip(w, gradient, strict=True):
        u, s, vt = np.linalg.svd(matrix)
        expected = 2 * (s[0] - 1) * np.outer(u[:, 0], vt[0])
        assert np.linalg.norm(slope - expected) < 0.05 * np.linalg.norm(expected)


def test_only_the_largest_moves() -> None:
    w = np.diag([3.0, 0.5, 0.1])
    _, gradient = value_and_grad(partial(spectral, draw=no_draw, target=2.0), w)
    np.testing.assert_allclose(gradient, np.diag([2.0, 0.0, 0.0]), atol=1e-12)


@pytest.mark.parametrize("r", [3, 140])
def test_what_is_not_finite_gives_no_number_and_no_error(r: int) -> None:
    w = random((2, 150, r))
    w[1, 2, 1] = np.nan
    assert np.isnan(value(partial(spectral, draw=gaussian(1)), w))


def test_the_target_is_an_option() -> None:
    w = np.diag([1.0, 2.0]).astype("float32")
    made = orthwrap.regularizer("spectral", factor=1.0, target=1.5)
    assert float(made(ops.convert_to_tensor(w))) == pytest.approx(0.25, rel=1e-3)
    assert made.get_config()["target"] == 1.5
    with pytest.raises(orthwrap.ValueFault, match=r"target=-1 must be at least 0"):
        orthwrap.regularizer("spectral", target=-1)
