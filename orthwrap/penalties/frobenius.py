"""`frobenius`: the classic, ‖G−I‖_F, not squared."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from orthwrap.penalties.penalty import NOT_SQUARED, Penalty
from orthwrap.penalties.so import pull

Tensor = Any


def frobenius(w: Tensor, alpha: float = 1.0, factor: float = 1.0) -> Tensor:
    """factor · Σ ‖G−I‖_F of matrices W/α, (count, m, n) or one (m, n)."""
    from orthwrap.penalties import tensors as t

    compute = partial(_frobenius, alpha=alpha, factor=factor * alpha**-2)
    return t.differentiable(compute, t.unbatched(w))


def _frobenius(w: Tensor, *, alpha: float, factor: float) -> tuple[Tensor, Any]:
    from keras import ops

    from orthwrap.penalties import tensors as t

    deviation = t.less(t.gram(w), alpha**2)
    norms, part = t.root(deviation), t.share(deviation) ** 0.5

    def pullback(upstream: Tensor) -> Tensor:
        scale = t.per_matrix(t.divided(upstream, norms))
        return t.multiplied_by(w, deviation, 2 * factor * part, scale)

    return (factor / part) * (ops.sum(norms) if len(norms.shape) else norms), pullback


def on_outputs(g: Tensor, rows: Tensor) -> Tensor:
    """‖G−I‖_F"""
    from orthwrap.penalties import activity

    return activity.norm(activity.deviation(g))


PENALTY = Penalty(
    name="frobenius",
    formula="‖G−I‖_F",
    minimum="0",
    doc='‖G−I‖_F, unsquared: the classic "|WᵀW − I|".',
    source=(
        'the classic |WᵀW−I|; cf. Brock, Lim, Ritchie, Weston 2017, "Neural Photo '
        'Editing with Introspective Adversarial Networks", arXiv:1609.07093'
    ),
    convention=NOT_SQUARED,
    exact=frobenius,
    on_outputs=on_outputs,
    figure=lambda matrices: float(np.sqrt(matrices.square_deviation()).sum()),
    pull=pull,
    takes_alpha=True,
    by_products=True,
)
