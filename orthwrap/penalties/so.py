"""`so`: soft orthogonality, ‖G−I‖_F²."""

from __future__ import annotations

from functools import partial
from typing import Any

from orthwrap.penalties.penalty import Penalty, by_probes

Tensor = Any


def so(w: Tensor, probes: Tensor | None = None, alpha: float = 1.0, factor: float = 1.0) -> Tensor:
    """factor · Σ ‖G−I‖_F² of matrices W/α, (count, m, n) or one (m, n).

    Args:
        probes: signs of `probe_shape(w.shape, p)`, for the estimate E‖(G−I)v‖² = ‖G−I‖_F².
    """
    from orthwrap.penalties import tensors as t

    # ‖G−α²I‖²/α⁴: no pass over W/α
    factor *= alpha**-4
    if probes is not None:
        compute = partial(_sketch, alpha=alpha, factor=factor)
        return t.differentiable(compute, t.unbatched(w), constants=(t.unbatched(probes),))
    exact = partial(t.square_of_gram, amount=alpha**2, factor=factor)
    return t.differentiable(exact, t.unbatched(w))


def _sketch(w: Tensor, probes: Tensor, *, alpha: float, factor: float) -> tuple[Tensor, Any]:
    from orthwrap.penalties import tensors as t

    long_v = t.to_long(w, probes)
    image = t.to_short_less(w, long_v, probes, alpha**2)
    factor /= probes.shape[-2 if t.is_tall(w) else -1]

    def pullback(upstream: Tensor) -> Tensor:
        u = (2 * factor * upstream) * image
        return t.outer(w, [(t.to_long(w, u), probes), (long_v, u)])

    return t.square_sum(image, factor), pullback


def pull(w: Tensor) -> tuple[Tensor, Tensor]:
    """W(G−I): Parseval's retraction (Cissé et al. 2017, arXiv:1704.08847)."""
    from orthwrap.penalties import tensors as t

    return t.towards(w, 1.0)


def on_outputs(g: Tensor, rows: Tensor) -> Tensor:
    """‖G−I‖_F²"""
    from orthwrap.penalties import activity

    return activity.square(activity.deviation(g))


PENALTY = Penalty(
    name="so",
    formula="‖G−I‖²_F",
    minimum="0",
    class_name="SO",
    doc="Soft orthogonality, ‖G−I‖_F² (Bansal et al. 2018), on the smaller Gram matrix.",
    source=(
        'Bansal, Chen, Wang 2018, "Can We Gain More from Orthogonality Regularizations in '
        'Training Deep CNNs?", arXiv:1810.09102 (SO; '
        "here on the smaller Gram matrix, so that 0 is reachable)"
    ),
    exact=so,
    sketch=by_probes(so),
    on_outputs=on_outputs,
    figure=lambda matrices: float(matrices.square_deviation().sum()),
    figure_from_so=lambda so, count, m, n: so,
    pull=pull,
    takes_alpha=True,
    by_products=True,
)
