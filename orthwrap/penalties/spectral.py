"""`spectral`: the largest singular value at a target, (σ_max−t)²; the others are free.

Up to r = 128 σ_max is exact, to 4e-4, by the same means as in `srip`. Above, it is estimated from
below by power iteration from a Gaussian start, which never forms G.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from orthwrap.penalties.figures import Matrices
from orthwrap.penalties.options import Option, number_from
from orthwrap.penalties.penalty import Meaning, Penalty, probe_shape
from orthwrap.penalties.srip import EXACT_UP_TO, MEASURED_UP_TO, STEPS, top

Tensor = Any

TARGET = Option("target", 1.0, number_from(0.0))


def spectral(
    w: Tensor,
    draw: Any,
    steps: int = 2,
    target: float = 1.0,
    alpha: float = 1.0,
    factor: float = 1.0,
) -> Tensor:
    """factor · Σ (σ_max−t)² of matrices W/α, (count, m, n) or one (m, n).

    The gradient is that of σ_max with its vectors held fixed.

    Args:
        draw: `draw(shape, "normal")` gives the start of the estimate above r = 128, which receives
            no gradient.
        steps: of the estimate: products with G, at least 1.
        target: t, at least 0.
    """
    from orthwrap.penalties import tensors as t

    words = {"target": target * alpha, "factor": factor * alpha**-2}
    if min(w.shape[-2:]) <= EXACT_UP_TO:
        return t.differentiable(partial(_exact, **words), t.unbatched(w))
    start = t.unbatched(draw(probe_shape(w.shape, 1), "normal"))
    compute = partial(_estimate, steps=steps, **words)
    return t.differentiable(compute, t.unbatched(w), constants=(start,))


def _exact(w: Tensor, *, target: float, factor: float) -> tuple[Tensor, Any]:
    from keras import ops

    from orthwrap.penalties import tensors as t

    sigma, slope = _top_of_gram(t.gram(w))
    off = sigma - target

    def pullback(upstream: Tensor) -> Tensor:
        scale = t.per_matrix(upstream * off / (sigma + t.TINY))
        return t.multiplied_by(w, slope, 2 * factor, scale)

    return factor * ops.sum(ops.square(off)), pullback


def _top_of_gram(g: Tensor) -> tuple[Tensor, Tensor]:
    """√λ_max of positive semidefinite matrices, and the gradient of λ_max: vvᵀ or its mean."""
    from keras import ops

    from orthwrap.penalties import tensors as t

    # Of matrices of one size, so that a small one is not lost where it is squared.
    size = ops.sum(ops.diagonal(g, 0, -2, -1), -1) + t.TINY
    part, slope = top(g / t.per_matrix(size))
    return ops.sqrt(part * size), slope if t.share(g) == 1.0 else t.share(g) * slope


def _estimate(
    w: Tensor, start: Tensor, *, steps: int, target: float, factor: float
) -> tuple[Tensor, Any]:
    from keras import ops

    from orthwrap.penalties import tensors as t

    v = start
    for _ in range(steps):
        v = v / t.per_matrix(t.norm(v) + t.TINY)
        v = t.to_short(w, t.to_long(w, v))
    v = v / t.per_matrix(t.norm(v) + t.TINY)
    image = t.to_long(w, v)
    sigma = t.norm(image)
    off = sigma - target

    def pullback(upstream: Tensor) -> Tensor:
        u = image * t.per_matrix((2 * factor) * upstream * off / (sigma + t.TINY))
        return t.outer(w, [(u, v)])

    return factor * ops.sum(ops.square(off)), pullback


def on_outputs(g: Tensor, rows: Tensor, draw: Any, steps: int = 2, target: float = 1.0) -> Tensor:
    """(σ_max(A)−t)², exact up to 128 features, and above estimated from below."""
    from keras import ops

    from orthwrap.penalties import tensors as t

    if g.shape[-1] <= EXACT_UP_TO:
        return t.differentiable(partial(_of_gram, target=target), g)
    v = draw((g.shape[-1], 1), "normal")
    for _ in range(steps):
        v = ops.matmul(ops.stop_gradient(g), v / t.per_matrix(t.norm(v) + t.TINY))
    v = v / t.per_matrix(t.norm(v) + t.TINY)
    square = ops.sum(v * ops.matmul(g, v), (-2, -1))
    positive = square > 0
    sigma = ops.sqrt(ops.where(positive, square, ops.ones_like(square)))
    return ops.square(ops.where(positive, sigma, 0.0) - target)


def measured_on_outputs(
    g: Tensor, rows: Tensor, draw: Any, steps: int = 2, target: float = 1.0
) -> Tensor:
    """The same without chance, up to 1,024 features."""
    from orthwrap.penalties import tensors as t

    if g.shape[-1] > MEASURED_UP_TO:
        return on_outputs(g, rows, draw, steps, target)
    return t.differentiable(partial(_of_gram, target=target), g)


def _of_gram(g: Tensor, *, target: float) -> tuple[Tensor, Any]:
    from orthwrap.penalties import tensors as t

    sigma, slope = _top_of_gram(g)
    off = sigma - target
    return off * off, lambda upstream: t.per_matrix(upstream * off / (sigma + t.TINY)) * slope


def figure(matrices: Matrices, steps: int, target: float) -> float:
    """Of σ_max itself, whatever the steps."""
    return float(np.sum((matrices.singular_values.max(axis=1) - target) ** 2))


PENALTY = Penalty(
    name="spectral",
    formula="(σ_max−t)²",
    minimum="0",
    doc="""The largest singular value at a target, (σ_max−t)² (cf. Lewandowski et al. 2025).

    `target` is t (default 1; with scale `preserve`, in units of α). σ_max is exact to 4e-4 where
    the smaller side of the matrices is at most 128. Above, an estimate from below: power iteration
    by `steps` products with G (default 2) from a Gaussian start.
    """,
    source=(
        "Lewandowski, Bortkiewicz, Kumar, György, Schuurmans, Ostaszewski, Machado 2025, "
        '"Learning Continually by Spectral Regularization", arXiv:2406.06811 '
        "(there with an exponent on σ_max, and of the biases too)"
    ),
    own_options=(STEPS, TARGET),
    draws=True,
    exact=spectral,
    on_outputs=on_outputs,
    measured_on_outputs=measured_on_outputs,
    figure=figure,
    meaning=Meaning(
        "(σ_max−t)²", "(σ_max−t)²", "how far the largest singular value is from its target, squared"
    ),
    says_scale=True,
    takes_alpha=True,
)
