"""`srip`: spectral restricted isometry, σ_max(G−I).

Up to r = 128 it is exact, to 1e-3: G−I is squared again and again, which is cheap there. Above, it
is estimated from below by power iteration from a Gaussian start, which never forms G.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from orthwrap.penalties.figures import Matrices
from orthwrap.penalties.options import Option, whole_number
from orthwrap.penalties.penalty import NOT_SQUARED, Meaning, Penalty, probe_shape

Tensor = Any

STEPS = Option("steps", 2, whole_number(1))


EXACT_UP_TO = 128  # r
MEASURED_UP_TO = 1024  # features of outputs, in figures on validation data
_SQUARINGS = 11  # (G−I)^2048: σ is right to 7e-4 whatever the spectrum of at most 128
_RENORMALISED = 4  # after so many; 128^(−16/2) is still far from the end of float32


def srip(w: Tensor, draw: Any, steps: int = 2, alpha: float = 1.0, factor: float = 1.0) -> Tensor:
    """factor · Σ σ_max(G−I) of matrices W/α, (count, m, n) or one (m, n).

    The gradient is that of σ with the vectors held fixed.

    Args:
        draw: `draw(shape, "normal")` gives the start of the estimate above r = 128, which receives
            no gradient.
        steps: of the estimate: products with G−I, at least 1, none of which forms it. The
            published code uses two.
    """
    from orthwrap.penalties import tensors as t

    if min(w.shape[-2:]) <= EXACT_UP_TO:
        return t.differentiable(
            partial(_exact, alpha=alpha, factor=factor * alpha**-2), t.unbatched(w)
        )
    return estimated(w, draw(probe_shape(w.shape, 1), "normal"), steps, alpha, factor)


def estimated(
    w: Tensor, start: Tensor, steps: int = 2, alpha: float = 1.0, factor: float = 1.0
) -> Tensor:
    """The estimate of `srip`, from a start of `probe_shape(w.shape, 1)`, for any r."""
    from orthwrap.penalties import tensors as t

    if steps < 1:
        raise ValueError(f"srip needs at least 1 step, got {steps}")
    compute = partial(_estimate, steps=steps, alpha=alpha, factor=factor * alpha**-2)
    return t.differentiable(compute, t.unbatched(w), constants=(t.unbatched(start),))


def _exact(w: Tensor, *, alpha: float, factor: float) -> tuple[Tensor, Any]:
    from orthwrap.penalties import tensors as t

    deviation = t.less(t.gram(w), alpha**2)
    sigma, slope = top(deviation)

    def pullback(upstream: Tensor) -> Tensor:
        return t.multiplied_by(w, slope, 2 * factor * t.share(w), upstream)

    return _total(sigma, factor), pullback


def top(b: Tensor) -> tuple[Tensor, Tensor]:
    """The largest |eigenvalue| of symmetric matrices, and its gradient with respect to them.

    The gradient is given over `tensors.share`.
    """
    from orthwrap.penalties import tensors as t

    return _top_by_vectors(b) if t.is_eager() else _top_by_squaring(b)


def _top_by_squaring(b: Tensor) -> tuple[Tensor, Tensor]:
    """By powers of them.

    σ = ‖B·Bᵖ‖/‖Bᵖ‖, all columns of Bᵖ being nearly in the space of ±σ. The root of a share serves
    as well as the norm: what Bᵖ is longer for it, is taken from the norm of B·Bᵖ.
    """
    from orthwrap.penalties import tensors as t

    power = b
    for i in range(_SQUARINGS if b.shape[-1] <= EXACT_UP_TO else _SQUARINGS + 1):
        if i % _RENORMALISED == 0:
            power = t.divided(power, t.per_matrix(t.root(power)))
        power = power @ power
    power = t.divided(power, t.per_matrix(t.root(power)))
    image = b @ power
    sigma = t.root(image)
    return sigma, t.divided(image @ power, t.per_matrix(sigma))


def _top_by_vectors(b: Tensor) -> tuple[Tensor, Tensor]:
    """In few operations, where PyTorch dispatches each of them on its own."""
    from orthwrap.penalties import tensors as t

    # An eigendecomposition of what is not finite is an error; the norm of B·v then is NaN.
    values, vectors = t.eigh(b.nan_to_num(0.0, 0.0, 0.0))
    place = values.abs().argmax(-1, keepdim=True)
    v = vectors.gather(-1, place.unsqueeze(-2).expand(*vectors.shape[:-1], 1))
    image = b @ v
    sigma = t.norm(image)
    return sigma, t.divided(image, t.per_matrix(sigma)) @ v.mT


def _estimate(
    w: Tensor, start: Tensor, *, steps: int, alpha: float, factor: float
) -> tuple[Tensor, Any]:
    from orthwrap.penalties import tensors as t

    image = start
    for step in range(steps):
        is_any_length = step == 0 and steps > 1  # the next one is made of length 1
        v = image if is_any_length else t.divided(image, t.per_matrix(t.root(image)))
        long_v = t.to_long(w, v)
        image = t.to_short_less(w, long_v, v, alpha**2)
    norms = t.root(image)

    def pullback(upstream: Tensor) -> Tensor:
        u = t.per_matrix(t.divided((factor * t.share(w)) * upstream, norms)) * image
        return t.outer(w, [(t.to_long(w, u), v), (long_v, u)])

    return _total(norms, factor), pullback


def _total(sigma: Tensor, factor: float) -> Tensor:
    from keras import ops

    return factor * (ops.sum(sigma) if len(sigma.shape) else sigma)


def on_outputs(g: Tensor, rows: Tensor, draw: Any, steps: int) -> Tensor:
    """σ_max(G−I), exact up to 128 features, and above estimated from below."""
    from keras import ops

    from orthwrap.penalties import activity
    from orthwrap.penalties import tensors as t

    deviation = activity.deviation(g)
    if g.shape[-1] <= EXACT_UP_TO:
        return t.differentiable(_of_deviation, deviation)
    v = draw((g.shape[-1], 1), "normal")
    for _ in range(steps):
        length = t.per_matrix(ops.maximum(activity.norm(v), 1e-30))
        v = ops.matmul(deviation, ops.stop_gradient(v / length))
    return activity.norm(v)


def measured_on_outputs(g: Tensor, rows: Tensor, draw: Any, steps: int) -> Tensor:
    """The same without chance, up to 1,024 features, where a product of G−I is not yet dear."""
    from orthwrap.penalties import activity
    from orthwrap.penalties import tensors as t

    if g.shape[-1] > MEASURED_UP_TO:
        return on_outputs(g, rows, draw, steps)
    return t.differentiable(_of_deviation, activity.deviation(g))


def _of_deviation(b: Tensor) -> tuple[Tensor, Any]:
    from orthwrap.penalties import tensors as t

    sigma, slope = _top_by_squaring(b)
    return sigma, lambda upstream: t.per_matrix(t.share(b) * upstream) * slope


def figure(matrices: Matrices, steps: int) -> float:
    """The norm itself, whatever the steps."""
    return float(np.abs(matrices.singular_values**2 - 1).max(axis=1).sum())


PENALTY = Penalty(
    name="srip",
    formula="σ_max(G−I)",
    minimum="0",
    class_name="SRIP",
    doc="""Spectral restricted isometry, σ_max(G−I) (Bansal et al. 2018).

    Exact to 1e-3 where the smaller side of the matrices is at most 128. Above, an estimate from
    below: power iteration by `steps` products with G−I (default 2) from a Gaussian start.
    """,
    source=(
        'Bansal, Chen, Wang 2018, "Can We Gain More from Orthogonality Regularizations in '
        'Training Deep CNNs?", arXiv:1810.09102 (SRIP; '
        "the published code squares it)"
    ),
    convention=NOT_SQUARED,
    own_options=(STEPS,),
    draws=True,
    exact=srip,
    on_outputs=on_outputs,
    measured_on_outputs=measured_on_outputs,
    figure=figure,
    meaning=Meaning(
        "spectral deviation", "spectral", "the largest |σ²−1|, as srip finds it; 0 is orthonormal"
    ),
    takes_alpha=True,
)
