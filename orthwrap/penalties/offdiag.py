"""`offdiag`: orthogonality without the norms, ‖G⊙(1−I)‖_F²."""

from __future__ import annotations

from functools import partial
from typing import Any

from orthwrap.penalties.penalty import Meaning, Penalty, by_probes

Tensor = Any


def offdiag(
    w: Tensor, probes: Tensor | None = None, alpha: float = 1.0, factor: float = 1.0
) -> Tensor:
    """factor · Σ ‖G⊙(1−I)‖_F² of matrices W/α, (count, m, n) or one (m, n).

    Args:
        probes: signs of `probe_shape(w.shape, p)`, for an estimate.
    """
    from orthwrap.penalties import tensors as t

    factor *= alpha**-4
    if probes is not None:
        compute = partial(_sketch, factor=factor)
        return t.differentiable(compute, t.unbatched(w), constants=(t.unbatched(probes),))
    exact = partial(t.square_of_gram, amount=None, factor=factor)
    return t.differentiable(exact, t.unbatched(w))


def _sketch(w: Tensor, probes: Tensor, *, factor: float) -> tuple[Tensor, Any]:
    from keras import ops

    from orthwrap.penalties import tensors as t

    short = -2 if t.is_tall(w) else -1
    diagonal = ops.sum(ops.square(w), short, keepdims=True)
    long_v = t.to_long(w, probes)
    image = t.to_short(w, long_v) - diagonal * probes
    factor /= probes.shape[short]

    def pullback(upstream: Tensor) -> Tensor:
        u = (2 * factor * upstream) * image
        own = ops.sum(u * probes, short, keepdims=True)
        return t.outer(w, [(t.to_long(w, u), probes), (long_v, u)]) - (2 * own) * w

    return t.square_sum(image, factor), pullback


def pull(w: Tensor) -> tuple[Tensor, Tensor]:
    """W(G−diag G)"""
    from orthwrap.penalties import tensors as t

    return t.towards(w, None)


def on_outputs(g: Tensor, rows: Tensor) -> Tensor:
    """‖G⊙(1−I)‖_F²"""
    from orthwrap.penalties import activity

    return activity.square(activity.off_diagonal(g))


PENALTY = Penalty(
    name="offdiag",
    formula="‖G⊙(1−I)‖²_F",
    minimum="0",
    class_name="OffDiag",
    doc="‖G⊙(1−I)‖_F²: columns orthogonal, lengths free (Brock et al. 2019, BigGAN).",
    source=(
        'Brock, Donahue, Simonyan 2019, "Large Scale GAN Training for High Fidelity '
        'Natural Image Synthesis", arXiv:1809.11096 (BigGAN; there 1e-4)'
    ),
    default_factor=1e-4,
    exact=offdiag,
    sketch=by_probes(offdiag),
    on_outputs=on_outputs,
    figure=lambda matrices: float(matrices.sum_of_squares(lambda g, eye: g * (1 - eye)).sum()),
    concerns_alpha=False,
    pull=pull,
    meaning=Meaning(
        "off-diagonal residual",
        "off-diagonal",
        "the residual without the lengths of the columns; 0 is at right angles",
    ),
    own_residual=True,
    takes_alpha=True,
    by_products=True,
)
