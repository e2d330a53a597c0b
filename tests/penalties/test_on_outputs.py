"""Penalties of a layer's outputs, against their formulas on AᵀA in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keras import ops

from orthwrap.penalties import activity
from orthwrap.penalties.table import PENALTIES
from tests.support.backend import value, value_and_grad


def cosines(g: Any) -> float:
    lengths = np.sqrt(np.diag(g))
    pairs = [
        abs(g[i, j]) / (lengths[i] * lengths[j])
        for i in range(len(g))
        for j in range(len(g))
        if i != j
    ]
    return float(np.mean(pairs)) if pairs else 0.0


# (A, G = AᵀA − features × features) → the penalty.
FORMULAS: dict[str, Callable[[Any, Any], Any]] = {
    "so": lambda a, g: np.linalg.norm(g - np.eye(len(g))) ** 2,
    "dso": lambda a, g: (
        np.linalg.norm(g - np.eye(len(g))) ** 2 + np.linalg.norm(a @ a.T - np.eye(len(a))) ** 2
    ),
    "mc": lambda a, g: np.abs(g - np.eye(len(g))).max(),
    "srip": lambda a, g: np.abs(np.linalg.eigvalsh(g - np.eye(len(g)))).max(),
    "offdiag": lambda a, g: np.linalg.norm(g - np.diag(np.diag(g))) ** 2,
    "cosine": lambda a, g: cosines(g),
    "frobenius": lambda a, g: np.linalg.norm(g - np.eye(len(g))),
    "spectral": lambda a, g: (np.linalg.norm(a, 2) - 1) ** 2,
    "band": lambda a, g: np.sum(np.maximum(np.abs(np.linalg.eigvalsh(g) - 1) - 0.1, 0) ** 2),
}
# Right to some digits.
NEARLY = ("srip", "spectral")


def penalty_of(name: str, steps: int = 200) -> Callable[[Any], Any]:
    """The penalty of outputs of any shape; power iteration starts where it reaches the largest."""
    penalty = PENALTIES[name]
    words = penalty.words({"steps": steps})
    if penalty.draws:
        start = np.random.default_rng(1).normal
        words["draw"] = lambda shape, _: ops.convert_to_tensor(start(size=shape))
    assert penalty.on_outputs is not None
    on_outputs = penalty.on_outputs
    return lambda outputs: on_outputs(*activity.gram(outputs), **words)


def test_every_penalty_that_has_a_form_on_outputs_is_here() -> None:
    assert {n for n, p in PENALTIES.items() if p.on_outputs is not None} == set(FORMULAS)


@pytest.mark.parametrize("shape", [(12, 4), (3, 5), (2, 3, 2, 4), (6, 1)], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_value_is_the_formula(name: str, shape: tuple[int, ...]) -> None:
    outputs = np.random.default_rng(0).normal(size=shape)
    rows = outputs.reshape(-1, shape[-1])
    a = rows / np.sqrt(len(rows))
    expected = FORMULAS[name](a, a.T @ a)
    rel = 1e-3 if name in NEARLY else 1e-6
    assert value(penalty_of(name), outputs) == pytest.approx(expected, rel=rel, abs=1e-12)


@pytest.mark.parametrize("name", FORMULAS)
def test_gradient_is_finite_at_the_minimum_and_at_zero(name: str) -> None:
    units = np.tile(np.eye(3), (2, 1)) * np.sqrt(3.0)  # AᵀA = I
    result, gradient = value_and_grad(penalty_of(name, steps=2), units)
    assert result == pytest.approx(3.0 if name == "dso" else 0.0, abs=1e-6)
    assert np.isfinite(gradient).all()
    _, gradient = value_and_grad(penalty_of(name, steps=2), np.zeros((6, 3)))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", NEARLY)
def test_an_estimate_by_few_steps_is_from_below(name: str) -> None:
    outputs = np.random.default_rng(2).normal(size=(300, 140))
    two, many = (value(penalty_of(name, steps), outputs) for steps in (2, 200))
    assert 0.5 * many < two < many
    a = outputs / np.sqrt(300)
    assert many == pytest.approx(FORMULAS[name](a, a.T @ a), rel=1e-3)
