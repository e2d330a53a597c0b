"""`srip` against the published code, the spectrum, and its gradient written out."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from orthwrap.penalties.penalty import probe_shape
from orthwrap.penalties.srip import estimated, srip
from tests.penalties.oracles import gram, numpy_srip, orthonormal, random
from tests.support.backend import value, value_and_grad

# Keras itself triggers this on tensors of some NumPy and backend versions.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def published_srip(w: Any, start: Any) -> Any:
    """Wide-Resnet/train_n.py of the 2018 paper, for one weight of shape (out, in)."""
    rows, cols = w.shape
    m, size = (w.T @ w, cols) if rows > cols else (w @ w.T, rows)
    w_tmp = m - np.eye(size)
    b_k = start.reshape(size, 1)
    v1 = w_tmp @ b_k
    norm1 = np.linalg.norm(v1)
    v2 = v1 / norm1
    v3 = w_tmp @ v2
    return np.linalg.norm(v3) ** 2


@pytest.mark.parametrize("shape", [(1, 12, 5), (1, 5, 12), (1, 6, 6)], ids=str)
def test_srip_squared_is_the_published_code(shape: tuple[int, int, int]) -> None:
    w = random(shape, 12)
    start = np.random.default_rng(13).random(probe_shape(shape, 1))
    result = value(lambda w, s: estimated(w, s, steps=2), w, start)
    assert result**2 == pytest.approx(published_srip(w[0].T, start), rel=1e-10)


@pytest.mark.parametrize("shape", [(1, 64, 32), (1, 32, 64), (1, 48, 48), (1, 300, 64)], ids=str)
def test_srip_bounds(shape: tuple[int, int, int]) -> None:
    by_steps = {k: partial(estimated, steps=k) for k in (1, 2, 5, 20)}
    ratios = []
    for seed in range(15):
        w = random(shape, seed) / np.sqrt(shape[1])
        true = numpy_srip(w[0])
        start = random(probe_shape(shape, 1), 100 + seed)
        for function in by_steps.values():
            estimate = value(function, w, start)
            assert estimate <= true * (1 + 1e-12)
        ratios.append(estimate / true)
    assert np.median(ratios) >= 0.93


def test_srip_converges_where_the_gap_is_two() -> None:
    u, v = orthonormal((1, 40, 16), 1)[0], orthonormal((1, 16, 16), 2)[0]
    eigenvalues = np.concatenate([[2.0], np.linspace(-0.9, 1.0, 15)])
    w = (u * np.sqrt(1 + eigenvalues)) @ v
    twenty = partial(estimated, steps=20)
    for seed in range(10):
        start = random((1, 1, 16), seed)
        estimate = value(twenty, w[None], start)
        assert estimate == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 9, 5), (2, 5, 9)], ids=str)
@pytest.mark.parametrize("steps", [1, 3])
def test_srip_gradient_holds_the_last_vector_fixed(shape: tuple[int, int, int], steps: int) -> None:
    w, start = random(shape, 14), random(probe_shape(shape, 1), 15)
    expected = np.zeros_like(w)
    for i, matrix in enumerate(w):
        tall = matrix.shape[1] <= matrix.shape[0]
        a = gram(matrix) - np.eye(min(matrix.shape))
        v = start[i].reshape(-1)
        for _ in range(steps - 1):
            v = a @ (v / np.linalg.norm(v))
        v /= np.linalg.norm(v)
        u = a @ v / np.linalg.norm(a @ v)
        both = np.outer(u, v) + np.outer(v, u)
        expected[i] = matrix @ both if tall else both @ matrix
    _, gradient = value_and_grad(lambda w, s: estimated(w, s, steps), w, start)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def no_draw(*_: Any) -> Any:
    raise AssertionError("exact, and yet it draws")


SPECTRA = {
    "one on top": lambda r: np.r_[1.4065, np.linspace(-0.9, 0.9, r - 1)],
    "all nearly as large": lambda r: np.r_[1.0, np.full(r - 1, 0.999)],
    "and as large below": lambda r: np.r_[
        1.0, -1.0 + np.zeros(r // 2), np.full((r - 2) // 2, 0.99)
    ],
    "near the minimum": lambda r: 1e-4 * np.linspace(-1.0, 0.7, r),
    "huge": lambda r: 1e6 * np.linspace(0.0, 1.0, r),
}


@pytest.mark.parametrize("r", [2, 16, 128])
@pytest.mark.parametrize("kind", SPECTRA)
def test_up_to_128_it_is_the_norm_and_its_gradient(kind: str, r: int) -> None:
    eigenvalues = SPECTRA[kind](r)
    w = orthonormal((1, r + 5, r), 3)[0] * np.sqrt(1 + eigenvalues) @ orthonormal((1, r, r), 4)[0]
    sigma = np.abs(eigenvalues).max()
    found, gradient = value_and_grad(lambda x: srip(x, no_draw), w.T[None])
    assert found == pytest.approx(sigma, rel=1e-3)
    # Along W itself, d(WᵀW) = 2WᵀW: ⟨gradient, W⟩ = 2·Σ weight·sign(λ)·(1+λ) over the top of
    # the spectrum, weights summing to 1.
    top = eigenvalues[np.abs(eigenvalues) > 0.98 * sigma]
    low, high = (2 * f(np.sign(top) * (1 + top)) for f in (np.min, np.max))
    slack = 0.02 * max(abs(low), abs(high))
    assert low - slack <= float(np.sum(gradient * w.T)) <= high + slack


def test_two_equal_columns_are_no_matter_of_chance() -> None:
    w = np.array([[[1.0, -1.0], [2.0, -2.0], [0.0, 0.0]]])
    assert value(lambda x: srip(x, no_draw), w) == pytest.approx(9.0, rel=1e-3)


def test_srip_needs_a_step() -> None:
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        estimated(random((1, 4, 3)), random((1, 1, 3)), steps=0)
