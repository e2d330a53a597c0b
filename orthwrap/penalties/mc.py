"""`mc`: mutual coherence, max |G−I|."""

from __future__ import annotations

from typing import Any

import numpy as np

from orthwrap.penalties.figures import Matrices
from orthwrap.penalties.penalty import NOT_SQUARED, Meaning, Penalty

Tensor = Any


def mc(w: Tensor) -> Tensor:
    """Σ max |G−I| of matrices (count, m, n)."""
    from orthwrap.penalties import tensors as t

    return t.differentiable(_mc, t.unbatched(w))


def _mc(w: Tensor) -> tuple[Tensor, Any]:
    from keras import ops

    from orthwrap.penalties import tensors as t

    r = min(w.shape[-2:])
    deviation = ops.reshape(t.less(t.gram(w), 1.0), (*w.shape[:-2], r * r))
    magnitude = ops.abs(deviation)

    def pullback(upstream: Tensor) -> Tensor:
        # Only the two vectors whose product is the largest entry have a gradient.
        place = ops.argmax(magnitude, -1)
        sign = ops.sum(ops.sign(deviation) * ops.one_hot(place, r * r, dtype=w.dtype), -1)
        axis = -2 if t.is_tall(w) else -1
        i = ops.expand_dims(ops.one_hot(place // r, r, dtype=w.dtype), axis)
        j = ops.expand_dims(ops.one_hot(place % r, r, dtype=w.dtype), axis)
        i = t.per_matrix(upstream * sign) * i
        return t.outer(w, [(t.to_long(w, i), j), (t.to_long(w, j), i)])

    return ops.sum(ops.max(magnitude, -1)), pullback


def on_outputs(g: Tensor, rows: Tensor) -> Tensor:
    """max |G−I|"""
    from keras import ops

    from orthwrap.penalties import activity

    entries = (-1,) if len(g.shape) == 2 else (-1, g.shape[-1] ** 2)
    magnitude = ops.reshape(ops.abs(activity.deviation(g)), entries)
    # Where a compiler computes an entry twice, and not alike, no entry equals the maximum, and the
    # gradient of a plain maximum is 0/0.
    place = ops.argmax(magnitude, -1, keepdims=True)
    return ops.squeeze(ops.take_along_axis(magnitude, place, -1), -1)


def figure(matrices: Matrices) -> float:
    largest = np.zeros(matrices.count)
    for square, below, _ in matrices.panels():
        on = np.abs(square / matrices.alpha**2 - np.eye(square.shape[1]))
        largest = np.maximum(largest, on.max(axis=(1, 2)))
        if below.shape[1]:
            largest = np.maximum(largest, np.abs(below).max(axis=(1, 2)) / matrices.alpha**2)
    return float(largest.sum())


PENALTY = Penalty(
    name="mc",
    formula="max |G−I|",
    minimum="0",
    class_name="MC",
    doc="Mutual coherence, max |G−I| (Bansal et al. 2018).",
    source=(
        'Bansal, Chen, Wang 2018, "Can We Gain More from Orthogonality Regularizations in '
        'Training Deep CNNs?", arXiv:1810.09102 (MC, mutual coherence)'
    ),
    convention=NOT_SQUARED,
    exact=mc,
    on_outputs=on_outputs,
    figure=figure,
    by_products=True,
    meaning=Meaning("largest deviation", "largest", "the largest entry of |G−I|; 0 is orthonormal"),
)
