"""Penalties of a layer's outputs, of the Gram matrix of its features.

Outputs (samples, …, features) become A = (samples·positions, features)/√(samples·positions), and
G = AᵀA, always features × features. Textbook formulas with automatic gradients, which are finite
where the penalty is at its minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

Tensor = Any


def gram(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """(G of shape (features, features), the number of rows of A)."""
    features = outputs.shape[-1]
    a = ops.reshape(outputs, (-1, features))
    rows = ops.cast(ops.shape(a)[0], a.dtype)
    return ops.matmul(ops.transpose(a), a) / rows, rows


def _deviation(g: Tensor) -> Tensor:
    return g - ops.eye(g.shape[-1], dtype=g.dtype)


def _norm(x: Tensor) -> Tensor:
    """‖x‖_F with gradient 0 at 0, where √ alone would give 0/0."""
    square = ops.sum(ops.square(x))
    positive = square > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, square, ops.ones_like(square))), 0.0)


def so(g: Tensor, rows: Tensor) -> Tensor:
    return ops.sum(ops.square(_deviation(g)))


def dso(g: Tensor, rows: Tensor) -> Tensor:
    # ‖AAᵀ−I‖² = ‖AᵀA−I‖² + rows − features, exactly, whichever there are more of.
    return 2 * so(g, rows) + rows - g.shape[-1]


def mc(g: Tensor, rows: Tensor) -> Tensor:
    return ops.max(ops.abs(_deviation(g)))


def offdiag(g: Tensor, rows: Tensor) -> Tensor:
    return ops.sum(ops.square(g * (1 - ops.eye(g.shape[-1], dtype=g.dtype))))


def cosine(g: Tensor, rows: Tensor) -> Tensor:
    n = g.shape[-1]
    if n == 1:
        return 0.0 * ops.sum(g)
    squares = ops.diagonal(g)
    positive = squares > 0
    inverse = ops.where(positive, ops.rsqrt(ops.where(positive, squares, 1.0)), 0.0)
    cosines = g * ops.expand_dims(inverse, 0) * ops.expand_dims(inverse, 1)
    return ops.sum(ops.abs(cosines) * (1 - ops.eye(n, dtype=g.dtype))) / (n * (n - 1))


def frobenius(g: Tensor, rows: Tensor) -> Tensor:
    return _norm(_deviation(g))


def srip(g: Tensor, rows: Tensor, start: Tensor, steps: int) -> Tensor:
    deviation = _deviation(g)
    v = start
    for _ in range(steps):
        v = ops.matmul(deviation, ops.stop_gradient(v / ops.maximum(_norm(v), 1e-30)))
    return _norm(v)


PENALTIES: dict[str, Callable[..., Tensor]] = {
    "so": so,
    "dso": dso,
    "mc": mc,
    "offdiag": offdiag,
    "cosine": cosine,
    "frobenius": frobenius,
}
