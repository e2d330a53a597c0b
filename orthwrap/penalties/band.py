"""`band`: singular values may lie in a band around 1, Σ max(0, |σ²−1|−ε)².

The eigenvalues of G and their vectors are computed with the value, and give the gradient at once:
that of an eigendecomposition itself is infinite where two eigenvalues are equal.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from orthwrap.penalties.figures import Matrices
from orthwrap.penalties.options import Option, number_from
from orthwrap.penalties.penalty import Meaning, Penalty

Tensor = Any

SLACK = Option("slack", 0.1, number_from(0.0))


def band(w: Tensor, slack: float = 0.1, alpha: float = 1.0, factor: float = 1.0) -> Tensor:
    """factor · Σ max(0, |σ²−1|−ε)² over the singular values of matrices W/α.

    Args:
        w: (count, m, n), or one (m, n).
        slack: ε, at least 0; with 0 it is ‖G−I‖_F², at a higher cost.
    """
    from orthwrap.penalties import tensors as t

    compute = partial(_band, slack=slack, alpha=alpha, factor=factor * alpha**-4)
    return t.differentiable(compute, t.unbatched(w))


def _band(w: Tensor, *, slack: float, alpha: float, factor: float) -> tuple[Tensor, Any]:
    from keras import ops

    from orthwrap.penalties import tensors as t

    values, slope = _of_gram(t.gram(w), alpha**2, slack * alpha**2)

    def pullback(upstream: Tensor) -> Tensor:
        return t.multiplied_by(w, slope, 2 * factor, upstream)

    return factor * (ops.sum(values) if len(values.shape) else values), pullback


def _of_gram(g: Tensor, middle: float, slack: float) -> tuple[Tensor, Tensor]:
    """Σ max(0, |λ−middle|−slack)² over the eigenvalues of each matrix, and its gradient."""
    from keras import ops

    from orthwrap.penalties import tensors as t

    values, vectors = t.eigen(g)
    off = values - middle
    outside = ops.sign(off) * ops.relu(ops.abs(off) - slack)
    slope = (vectors * ops.expand_dims(2 * outside, -2)) @ t.transposed(vectors)
    return ops.sum(ops.square(outside), -1), slope


def on_outputs(g: Tensor, rows: Tensor, slack: float = 0.1) -> Tensor:
    """Σ max(0, |λ−1|−ε)² over the eigenvalues of G."""
    from orthwrap.penalties import tensors as t

    def compute(g: Tensor) -> tuple[Tensor, Any]:
        value, slope = _of_gram(g, 1.0, slack)
        return value, lambda upstream: t.per_matrix(upstream) * slope

    return t.differentiable(compute, g)


def figure(matrices: Matrices, slack: float) -> float:
    outside = np.abs(matrices.singular_values**2 - 1) - slack
    return float(np.sum(np.maximum(outside, 0.0) ** 2))


PENALTY = Penalty(
    name="band",
    formula="Σ max(0, |σ²−1|−ε)²",
    minimum="0",
    doc="""Singular values in a band around 1, Σ max(0, |σ²−1|−ε)².

    `slack` is ε (default 0.1: σ between 0.949 and 1.049 costs nothing). Takes the eigenvalues of G
    at each call.
    """,
    source=(
        "‖G−I‖²_F with slack; cf. Vorontsov, Trabelsi, Kadoury, Pal 2017, "
        '"On orthogonality and learning recurrent networks with long term dependencies", '
        "arXiv:1702.00071 (hard orthogonality can hurt; there the singular values "
        "are kept within a margin of 1 by a parametrization)"
    ),
    own_options=(SLACK,),
    exact=band,
    on_outputs=on_outputs,
    figure=figure,
    meaning=Meaning(
        "outside band", "band", "Σ max(0, |σ²−1|−ε)²; 0: each singular value lies within its band"
    ),
    takes_alpha=True,
)
