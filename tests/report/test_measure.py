"""The figures of a kernel, against a plain SVD of each of its matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orthwrap.model_config.blocks import scale_of
from orthwrap.model_config.layout import Layout, conv_layout
from orthwrap.report import measure as measure_module
from orthwrap.report.measure import measure

DENSE = Layout("dense", (0,), (1,))


def orthonormal(m: int, n: int, seed: int = 0) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(max(m, n), min(m, n))))
    return q if m >= n else q.T


def reference(w: np.ndarray) -> dict:
    """The definitions, written out for one matrix."""
    m, n = w.shape
    g = w.T @ w if n <= m else w @ w.T
    r = min(m, n)
    sigma = np.linalg.svd(w, compute_uv=False)
    columns = w if n <= m else w.T
    norms = np.linalg.norm(columns, axis=0)
    cosines = [
        abs(columns[:, i] @ columns[:, j]) / (norms[i] * norms[j])
        for i in range(r)
        for j in range(r)
        if i != j and norms[i] and norms[j]
    ]
    alpha = np.linalg.norm(w) / math.sqrt(r) or 1.0
    return {
        "residual": np.linalg.norm(g - np.eye(r)) / math.sqrt(r),
        "scaled_residual": np.linalg.norm(g / alpha**2 - np.eye(r)) / math.sqrt(r),
        "scale": alpha,
        "sigma_min": sigma[-1],
        "sigma_max": sigma[0],
        "coherence": max(cosines) if cosines and norms.all() else None,
    }


@settings(max_examples=60, deadline=None)
@given(m=st.integers(1, 12), n=st.integers(1, 12), seed=st.integers(0, 99))
def test_one_matrix_agrees_with_the_definitions(m: int, n: int, seed: int) -> None:
    w = np.random.default_rng(seed).normal(size=(m, n))
    found = measure(w, DENSE)
    for name, value in reference(w).items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-9), name
    assert found.condition == pytest.approx(found.sigma_max / found.sigma_min)


def test_a_batch_reports_the_worst_and_pools_the_residual() -> None:
    kernel = np.random.default_rng(3).normal(size=(3, 3, 2, 8))
    layout = conv_layout(4, groups=2)
    parts = [reference(w) for w in layout.to_matrices(kernel, np)]
    found = measure(kernel, layout)
    assert found.sigma_min == pytest.approx(min(p["sigma_min"] for p in parts))
    assert found.sigma_max == pytest.approx(max(p["sigma_max"] for p in parts))
    assert found.coherence == pytest.approx(max(p["coherence"] for p in parts))
    assert found.residual == pytest.approx(math.sqrt(np.mean([p["residual"] ** 2 for p in parts])))
    assert found.condition == pytest.approx(max(p["sigma_max"] / p["sigma_min"] for p in parts))


KERNELS = {
    "random": lambda rng: rng.normal(size=(40, 12)),
    "near orthonormal": lambda rng: orthonormal(40, 12) + 1e-4 * rng.normal(size=(40, 12)),
    "orthonormal, and three times as large": lambda rng: 3 * orthonormal(12, 40),
    "with columns at right angles": lambda rng: orthonormal(40, 12) * rng.uniform(1, 2, 12),
    "with a column that float32 cannot square": lambda rng: np.c_[
        rng.normal(size=(40, 3)), 1e-21 * rng.normal(size=(40, 2)), np.full((40, 1), 3e-20)
    ],
    "with a zero column": lambda rng: np.c_[rng.normal(size=(40, 3)), np.zeros((40, 1))],
    "so large that its squares are none in float32": lambda rng: 1e25 * rng.normal(size=(9, 4)),
    "so small that they are zero": lambda rng: 1e-30 * rng.normal(size=(9, 4)),
    "zero": lambda rng: np.zeros((9, 4)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_without_singular_values_the_other_figures_are_the_same(name: str) -> None:
    w = KERNELS[name](np.random.default_rng(0)).astype(np.float32)
    found = measure(w, DENSE, with_sigmas=False)
    assert (found.sigma_min, found.sigma_max, found.condition, found.spectrum) == (None,) * 4
    wanted = reference(w.astype(np.float64))
    for figure in ("residual", "scaled_residual", "scale", "coherence"):
        value = getattr(found, figure)
        assert value == (wanted[figure] and pytest.approx(wanted[figure], 1e-5, 1e-12)), figure


def test_a_penalty_that_needs_no_singular_values_leaves_them_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    own = measure_module._singular_values

    def counted(*what: Any) -> Any:
        asked.append(1)
        return own(*what)

    monkeypatch.setattr(measure_module, "_singular_values", counted)
    w = np.random.default_rng(0).normal(size=(9, 4))
    for name, times in (("so", 0), ("cosine", 0), ("srip", 1)):
        asked.clear()
        found = measure(w, DENSE, {"name": name, "alpha": 1.0}, with_sigmas=False)
        assert found.penalty == measure(w, DENSE, {"name": name, "alpha": 1.0}).penalty
        assert len(asked) == times + 1  # one of them is the second's
        assert found.sigma_max is None


@pytest.mark.parametrize("shape", [(5, 5), (9, 4), (4, 9), (1, 7), (7, 1), (1, 1)])
def test_an_orthonormal_kernel_has_residual_zero(shape) -> None:
    found = measure(orthonormal(*shape), DENSE, {"name": "so", "alpha": 1.0})
    assert found.residual == pytest.approx(0, abs=1e-12)
    assert found.condition == pytest.approx(1)
    assert found.penalty == pytest.approx(0, abs=1e-20)
    assert (found.coherence is None) == (min(shape) == 1)


@pytest.mark.parametrize("alpha", [0.1, 3.0])
def test_the_scaled_residual_does_not_see_the_scale(alpha: float) -> None:
    found = measure(alpha * orthonormal(8, 5), DENSE)
    assert found.scale == pytest.approx(alpha)
    assert found.scaled_residual == pytest.approx(0, abs=1e-12)
    assert found.residual == pytest.approx(abs(alpha**2 - 1))


def test_a_zero_kernel_has_figures_that_go_to_json() -> None:
    found = measure(np.zeros((6, 4)), DENSE, {"name": "cosine", "alpha": 1.0})
    assert found.residual == pytest.approx(1)
    assert found.scale == 1.0
    assert (found.sigma_min, found.sigma_max) == (0.0, 0.0)
    assert found.condition is None
    assert found.coherence is None
    assert found.penalty == 0.0


def test_a_small_singular_value_is_not_lost_in_the_gram_matrix() -> None:
    u, v = orthonormal(40, 20, 1), orthonormal(20, 20, 2)
    sigma = np.geomspace(1, 1e-11, 20)
    found = measure(u @ np.diag(sigma) @ v, DENSE)
    assert found.sigma_min == pytest.approx(1e-11, rel=1e-3)
    assert found.condition == pytest.approx(1e11, rel=1e-3)


def test_below_resolution_there_is_no_condition() -> None:
    w = np.ones((6, 4)) + 0.0
    assert measure(w, DENSE).condition is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_float_type_is_measured_in_float64(dtype) -> None:
    w = np.random.default_rng(0).normal(size=(8, 4)).astype(dtype)
    assert measure(w, DENSE).residual == pytest.approx(reference(w.astype(float))["residual"])


def test_not_a_number_is_null_in_json() -> None:
    w = np.ones((3, 2))
    w[0, 0] = np.nan
    assert all(value is None for value in measure(w, DENSE).to_json().values())


def test_alpha_is_the_rms_singular_value() -> None:
    w = np.random.default_rng(5).normal(size=(3, 3, 4, 8))
    sigma = np.linalg.svd(w.reshape(36, 8), compute_uv=False)
    assert scale_of(w, conv_layout(4)) == pytest.approx(math.sqrt(np.mean(sigma**2)))
    assert scale_of(np.zeros((3, 2)), DENSE) == 1.0


PENALTIES = {
    "so": lambda g, w: np.sum((g - np.eye(len(g))) ** 2),
    "dso": lambda g, w: (
        np.sum((w.T @ w - np.eye(w.shape[1])) ** 2) + np.sum((w @ w.T - np.eye(w.shape[0])) ** 2)
    ),
    "mc": lambda g, w: np.max(np.abs(g - np.eye(len(g)))),
    "srip": lambda g, w: np.linalg.norm(g - np.eye(len(g)), 2),
    "offdiag": lambda g, w: np.sum((g - np.diag(np.diag(g))) ** 2),
    "frobenius": lambda g, w: np.linalg.norm(g - np.eye(len(g))),
    "lorth": lambda g, w: np.sum((g - np.eye(len(g))) ** 2),
}


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (1, 4), (4, 1)])
@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_the_penalty_column_is_the_penalty(name: str, shape, alpha: float) -> None:
    w = np.random.default_rng(1).normal(size=shape)
    v = w / alpha
    g = v.T @ v if shape[1] <= shape[0] else v @ v.T
    found = measure(w, DENSE, {"name": name, "alpha": alpha})
    assert found.penalty == pytest.approx(PENALTIES[name](g, v))


def test_a_large_kernel_is_estimated_within_a_few_percent(monkeypatch) -> None:
    w = np.random.default_rng(0).normal(size=(300, 200)) / 20
    exact = measure(w, DENSE, {"name": "so", "alpha": 1.0})
    monkeypatch.setattr(measure_module, "EXACT_LIMIT", 100)
    estimated = measure(w, DENSE, {"name": "so", "alpha": 1.0})
    assert estimated.sigma_min is None
    assert estimated.residual == pytest.approx(exact.residual, rel=0.05)
    assert estimated.scaled_residual == pytest.approx(exact.scaled_residual, rel=0.05)
    assert estimated.sigma_max == pytest.approx(exact.sigma_max, rel=0.02)
    assert estimated.penalty == pytest.approx(exact.penalty, rel=0.1)


@pytest.mark.parametrize("name", ["so", "dso"])
def test_the_penalty_of_a_large_kernel_is_at_the_regularizers_scale(name: str, monkeypatch) -> None:
    """Which is the kernel's own at first, and no more once it was trained."""
    w = np.random.default_rng(0).normal(size=(300, 200)) / 10
    exact = measure(w, DENSE, {"name": name, "alpha": 2.5})
    monkeypatch.setattr(measure_module, "EXACT_LIMIT", 100)
    estimated = measure(w, DENSE, {"name": name, "alpha": 2.5})
    assert estimated.penalty == pytest.approx(exact.penalty, rel=0.1)
