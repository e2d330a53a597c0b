"""`cosine`: mean |cos| over pairs of columns, of rows where n > m."""

from __future__ import annotations

from typing import Any

import numpy as np

from orthwrap.penalties.figures import Matrices
from orthwrap.penalties.penalty import Meaning, Penalty

Tensor = Any


def cosine(w: Tensor) -> Tensor:
    """Σ mean |cos| over pairs of matrices (count, m, n); 0 for a single column (row).

    Equal to `keras.regularizers.OrthogonalRegularizer(1.0, mode="columns")` for n ≤ m.
    """
    from orthwrap.penalties import tensors as t

    return t.differentiable(_cosine, t.unbatched(w))


def _cosine(w: Tensor) -> tuple[Tensor, Any]:
    import keras
    from keras import ops

    from orthwrap.penalties import tensors as t

    r = min(w.shape[-2:])
    if r == 1:
        return ops.zeros((), w.dtype), lambda upstream: ops.zeros_like(w)
    axis = -2 if t.is_tall(w) else -1
    # As keras.ops.normalize does, a vector no longer than epsilon is divided by epsilon.
    epsilon = keras.config.epsilon()
    norms = ops.sqrt(ops.sum(ops.square(w), axis, keepdims=True))
    normal = norms > epsilon
    norms = ops.where(normal, norms, ops.full_like(norms, epsilon))
    unit = w / norms
    cosines = t.gram(unit) * (1 - t.eye_like(w))
    pairs = r * (r - 1)

    def pullback(upstream: Tensor) -> Tensor:
        slope = t.multiplied(unit, (2 * upstream / pairs) * ops.sign(cosines))
        along = ops.sum(slope * unit, axis, keepdims=True) * ops.cast(normal, w.dtype)
        return (slope - along * unit) / norms

    return ops.sum(ops.abs(cosines)) / pairs, pullback


def on_outputs(g: Tensor, rows: Tensor) -> Tensor:
    """Mean |cos| over pairs of features."""
    from keras import ops

    from orthwrap.penalties import activity

    n = g.shape[-1]
    if n == 1:
        return 0.0 * ops.sum(g, (-2, -1))
    squares = ops.diagonal(g, 0, -2, -1)
    positive = squares > 0
    inverse = ops.where(positive, ops.rsqrt(ops.where(positive, squares, 1.0)), 0.0)
    cosines = g * ops.expand_dims(inverse, -2) * ops.expand_dims(inverse, -1)
    return ops.sum(activity.off_diagonal(ops.abs(cosines)), (-2, -1)) / (n * (n - 1))


def figure(matrices: Matrices) -> float:
    r = matrices.smaller
    if r == 1:
        return 0.0
    return sum(weight * float(np.sum(c)) for c, weight in matrices.cosines()) / (r * (r - 1))


PENALTY = Penalty(
    name="cosine",
    formula="mean |cos(wᵢ, wⱼ)|, i ≠ j",
    minimum="0",
    doc="Mean |cos| over pairs of columns (rows where n > m), as Keras's OrthogonalRegularizer.",
    source=(
        "keras.regularizers.OrthogonalRegularizer (mode=columns for n ≤ m, rows above; there 0.01)"
    ),
    default_factor=1e-2,
    convention="not squared, averaged over pairs, summed over a kernel's matrices",
    exact=cosine,
    on_outputs=on_outputs,
    figure=figure,
    meaning=Meaning(
        "mean |cos|", "mean |cos|", "between pairs of columns; 0 is at right angles, 1 is parallel"
    ),
    concerns_alpha=False,
)
