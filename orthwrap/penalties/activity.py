"""Building blocks of penalties of a layer's outputs, of the Gram matrix of its features.

Outputs (samples, …, features) become A = (samples·positions, features)/√(samples·positions), and
G = AᵀA, always features × features. Textbook formulas with automatic gradients, which are finite
where the penalty is at its minimum.
"""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def gram(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """(G of shape (features, features), the number of rows of A)."""
    features = outputs.shape[-1]
    a = ops.reshape(outputs, (-1, features))
    rows = ops.cast(ops.shape(a)[0], a.dtype)
    return ops.matmul(ops.transpose(a), a) / rows, rows


def deviation(g: Tensor) -> Tensor:
    """G−I"""
    return g - ops.eye(g.shape[-1], dtype=g.dtype)


def off_diagonal(g: Tensor) -> Tensor:
    return g * (1 - ops.eye(g.shape[-1], dtype=g.dtype))


def norm(x: Tensor) -> Tensor:
    """‖x‖_F with gradient 0 at 0, where √ alone would give 0/0."""
    square = ops.sum(ops.square(x))
    positive = square > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, square, ops.ones_like(square))), 0.0)
