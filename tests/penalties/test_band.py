"""`band` against an SVD in float64, within the band and where singular values are equal."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import orthwrap
from orthwrap.penalties.band import band
from orthwrap.penalties.so import so
from tests.penalties.oracles import assert_gradient, orthonormal, random
from tests.support.backend import EAGER_IS_CHEAP, value, value_and_grad

# Keras itself triggers this on tensors of some NumPy and backend versions.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def with_sigmas(sigmas: Any, m: int, n: int, seed: int = 0) -> Any:
    r = min(m, n)
    left, right = orthonormal((1, m, r), seed)[0], orthonormal((1, n, r), seed + 1)[0]
    return (left * np.asarray(sigmas)) @ right.T


def oracle(w: Any, slack: float) -> tuple[float, Any]:
    """The value, and the gradient U·diag(f'(σ))·Vᵀ."""
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    outside = np.sign(s**2 - 1) * np.maximum(np.abs(s**2 - 1) - slack, 0)
    return float(np.sum(outside**2)), (u * (4 * outside * s)) @ vt


@settings(max_examples=25 if EAGER_IS_CHEAP else 6, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 2**16),
    slack=st.sampled_from([0.0, 0.1, 0.5, 3.0]),
    alpha=st.sampled_from([1.0, 0.3, 7.0]),
)
def test_value_and_gradient_are_those_of_the_svd(
    shape: tuple[int, int], seed: int, slack: float, alpha: float
) -> None:
    w = random(shape, seed)
    expected, slope = oracle(w / alpha, slack)
    found, gradient = value_and_grad(partial(band, slack=slack, alpha=alpha, factor=0.5), w)
    assert found == pytest.approx(0.5 * expected, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(gradient, 0.5 * slope / alpha, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("m", "n"), [(7, 4), (4, 7), (4, 4)])
def test_within_the_band_nothing_is_dear(m: int, n: int) -> None:
    inside = with_sigmas(np.sqrt([0.91, 0.95, 1.0, 1.09]), m, n)
    found, gradient = value_and_grad(band, inside)
    assert found == 0.0
    np.testing.assert_array_equal(gradient, 0)
    outside = with_sigmas(np.sqrt([0.7, 0.95, 1.0, 1.3]), m, n)
    assert value(band, outside) == pytest.approx(2 * 0.2**2, rel=1e-9)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.2, 2.0])
@pytest.mark.parametrize(("m", "n"), [(6, 4), (4, 6), (5, 5), (5, 1), (1, 5)])
def test_equal_singular_values_have_their_gradient(sigma: float, m: int, n: int) -> None:
    w = with_sigmas(np.full(min(m, n), sigma), m, n)
    expected, slope = oracle(w, 0.1)
    found, gradient = value_and_grad(band, w)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-9)
    assert_gradient(band, w)


@pytest.mark.parametrize("shape", [(2, 7, 4), (2, 4, 7)], ids=str)
def test_without_slack_it_is_so(shape: tuple[int, int, int]) -> None:
    w = random(shape, 3)
    expected, slope = value_and_grad(so, w)
    found, gradient = value_and_grad(partial(band, slack=0.0), w)
    assert found == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_gives_no_number_and_no_error(bad: float) -> None:
    w = random((2, 5, 3), dtype="float32")
    w[1, 2, 1] = bad
    assert np.isnan(value(band, w))


def test_the_slack_is_an_option() -> None:
    w = np.diag([1.0, 2.0]).astype("float32")
    wide = orthwrap.regularizer("band", factor=1.0, slack=2.0)
    assert float(wide(ops.convert_to_tensor(w))) == pytest.approx(1.0)
    assert wide.get_config()["slack"] == 2.0
    for given_, said in (("-1", "at least 0"), ("x", "a number"), ("nan", "a number")):
        with pytest.raises(orthwrap.ValueFault, match=f"slack=.* must be {said}"):
            orthwrap.regularizer("band", slack=given_)
