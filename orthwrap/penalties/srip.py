"""`srip`: spectral restricted isometry, σ_max(G−I), by power iteration that never forms G."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from orthwrap.penalties.figures import Matrices
from orthwrap.penalties.options import Option, whole_number
from orthwrap.penalties.penalty import NOT_SQUARED, Penalty, probe_shape

Tensor = Any

STEPS = Option("steps", 2, whole_number(1))


def srip(w: Tensor, start: Tensor, steps: int = 2) -> Tensor:
    """Σ σ_max(G−I) of matrices (count, m, n), estimated from below.

    The gradient is that of σ with the last vector held fixed.

    Args:
        start: any tensor of `probe_shape(w.shape, 1)`, which receives no gradient.
        steps: products with G−I, at least 1, none of which forms it. The published code uses two.
    """
    from orthwrap.penalties import tensors as t

    if steps < 1:
        raise ValueError(f"srip needs at least 1 step, got {steps}")
    compute = partial(_srip, steps=steps)
    return t.differentiable(compute, t.unbatched(w), constants=(t.unbatched(start),))


def _srip(w: Tensor, start: Tensor, *, steps: int) -> tuple[Tensor, Any]:
    from keras import ops

    from orthwrap.penalties import tensors as t

    image, norms = start, t.norm(start)
    for _ in range(steps):
        v = image / t.per_matrix(norms + t.TINY)
        long_v = t.to_long(w, v)
        image = t.to_short(w, long_v) - v
        norms = t.norm(image)

    def pullback(upstream: Tensor) -> Tensor:
        u = t.per_matrix(upstream / (norms + t.TINY)) * image
        return t.outer(w, [(t.to_long(w, u), v), (long_v, u)])

    return ops.sum(norms), pullback


def on_outputs(g: Tensor, rows: Tensor, draw: Any, steps: int) -> Tensor:
    """σ_max(G−I), estimated from below."""
    from keras import ops

    from orthwrap.penalties import activity

    deviation = activity.deviation(g)
    v = draw((g.shape[-1], 1))
    for _ in range(steps):
        v = ops.matmul(deviation, ops.stop_gradient(v / ops.maximum(activity.norm(v), 1e-30)))
    return activity.norm(v)


def figure(matrices: Matrices, steps: int) -> float:
    """The norm itself, whatever the steps."""
    return float(np.abs(matrices.singular_values**2 - 1).max(axis=1).sum())


PENALTY = Penalty(
    name="srip",
    formula="σ_max(G−I)",
    minimum="0",
    class_name="SRIP",
    doc="""Spectral restricted isometry, σ_max(G−I) (Bansal et al. 2018), by power iteration.

    `steps` products with G−I (default 2) from a random start: an estimate from below.
    """,
    source=(
        'Bansal, Chen, Wang 2018, "Can We Gain More from Orthogonality Regularizations in '
        'Training Deep CNNs?", arXiv:1810.09102 (SRIP; '
        "the published code squares it)"
    ),
    convention=NOT_SQUARED,
    own_options=(STEPS,),
    draws=True,
    exact=lambda w, draw, steps: srip(w, draw(probe_shape(w.shape, 1)), steps),
    on_outputs=on_outputs,
    figure=figure,
)
