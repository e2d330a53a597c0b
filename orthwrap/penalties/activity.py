"""Building blocks of penalties of a layer's outputs, of Gram matrices.

Outputs (samples, …, features) become A = (samples·positions, features)/√(samples·positions), and
G = AᵀA, always features × features. Or each sample is a matrix of its own, positions × features,
with a Gram matrix of its own. Textbook formulas with automatic gradients, which are finite where
the penalty is at its minimum; each gives one number for every Gram matrix (…, n, n).
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from orthwrap.errors import ValueFault
from orthwrap.penalties.options import SIDES
from orthwrap.penalties.sample_shapes import why_no_matrices

Tensor = Any


def gram(outputs: Tensor, center: bool = False) -> tuple[Tensor, Tensor]:
    """(G of shape (features, features), the number of rows of A).

    Args:
        center: G is the covariance of the features, over samples and positions, divided by their
            number.
    """
    features = outputs.shape[-1]
    a = ops.reshape(outputs, (-1, features))
    if center:
        a = a - ops.mean(a, 0, keepdims=True)
    rows = ops.cast(ops.shape(a)[0], a.dtype)
    return ops.transpose(a) @ a / rows, rows


def grams_of_samples(
    outputs: Tensor, side: str = SIDES[0], shape: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(G of each matrix A, (count, k, k); the other side of A; how many matrices a sample has).

    Args:
        outputs: (samples, …, features). Each sample is one matrix A, positions × features.
        side: what is multiplied: `"rows"` AAᵀ, `"columns"` AᵀA, `"smaller"` the smaller of both.
        shape: (a, b): each sample's numbers, in their order, are matrices A of that shape instead.

    Raises:
        ValueFault: the outputs are no matrices, or a side whose length must be known is not.
    """
    a, per_sample = _matrices(outputs, shape)
    m, n = a.shape[-2:]
    if side == "smaller" and None in (m, n):
        raise ValueFault(
            f"outputs of shape {_shown(outputs)} with gram=sample: which side is smaller is not "
            "known; say side=rows or side=columns"
        )
    if side == "rows" or (side == "smaller" and m < n):
        a, m, n = ops.swapaxes(a, -1, -2), n, m
    if n is None:
        raise ValueFault(
            f"outputs of shape {_shown(outputs)} with gram=sample: how many {side} there are must "
            "be known; say the other side"
        )
    other = ops.cast(ops.shape(a)[-2], a.dtype)
    return ops.swapaxes(a, -1, -2) @ a, other, ops.cast(per_sample, a.dtype)


def _matrices(outputs: Tensor, shape: tuple[int, int] | None) -> tuple[Tensor, Any]:
    """(matrices (count, m, n), how many of them a sample has)."""
    sizes = tuple(outputs.shape)[1:]
    problem = why_no_matrices(outputs.shape, shape)
    if problem:
        raise ValueFault(problem)
    if shape is None:
        if len(sizes) == 2:
            return outputs, 1
        positions = None if None in sizes[:-1] else math.prod(sizes[:-1])
        first = ops.shape(outputs)[0] if positions is None else -1
        return ops.reshape(outputs, (first, positions or -1, sizes[-1])), 1
    entries = math.prod(shape)
    if None in sizes:
        whole = ops.prod(ops.stack([ops.cast(s, "int32") for s in ops.shape(outputs)[1:]]))
        return ops.reshape(outputs, (-1, *shape)), whole / entries
    return ops.reshape(outputs, (-1, *shape)), math.prod(sizes) // entries


def _shown(outputs: Tensor) -> str:
    return str(("batch", *outputs.shape[1:])).replace("'", "")


def deviation(g: Tensor) -> Tensor:
    """G−I"""
    return g - ops.eye(g.shape[-1], dtype=g.dtype)


def off_diagonal(g: Tensor) -> Tensor:
    return g * (1 - ops.eye(g.shape[-1], dtype=g.dtype))


def square(x: Tensor) -> Tensor:
    """‖x‖_F² of each matrix."""
    return ops.sum(ops.square(x), (-2, -1))


def norm(x: Tensor) -> Tensor:
    """‖x‖_F of each matrix, with gradient 0 at 0, where √ alone would give 0/0."""
    squares = square(x)
    positive = squares > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, squares, ops.ones_like(squares))), 0.0)
