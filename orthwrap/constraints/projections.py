"""The nearest matrices whose singular values are as asked.

Tensors are float32 or float64, matrices (count, m, n) or one (m, n). Nothing here has a gradient:
it is done to a kernel between two steps of training.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from orthwrap.penalties import tensors as t

Tensor = Any

# σ ↦ aσ+bσ³+cσ⁵: of all such, each brings the interval that the one before it leaves nearest to
# 1, from [1e-6, 1] on. They follow the construction of Amsel, Persson, Musco and Gower 2025, "The
# Polar Express", arXiv:2505.16932.
BEST = (
    (8.514258082455058, -25.28157595476675, 18.76730935805361),
    (4.257075196727443, -3.160166288472384, 0.586476765868896),
    (4.256827871287449, -3.159995222216547, 0.5864572527839937),
    (4.255775367659367, -3.1592672143845126, 0.5863742109078712),
    (4.251301905827495, -3.156172446623364, 0.5860212008399822),
    (4.232387470106782, -3.143078118361268, 0.5845276048318979),
    (4.154156380575221, -3.088757958066137, 0.5783322356155871),
    (3.8583591588450075, -2.8808253054211703, 0.5546316341261245),
    (3.0495983995227425, -2.284988803856788, 0.48706082742570256),
    (2.112055937418367, -1.4938364726662927, 0.4001025026375724),
    (1.8783836569506636, -1.2537545015170726, 0.3753756481422359),
)
# At the upper end of its interval each multiplies what rounding has put beyond by up to 13, which
# ends at infinity within 8 steps. Their margin of 1 % keeps every σ inside.
_MARGIN = 1.01
SCHEDULE = (
    *((a / _MARGIN, b / _MARGIN**3, c / _MARGIN**5) for a, b, c in BEST),
    (15 / 8, -10 / 8, 3 / 8),  # and on: what is left near 1 is cubed at each step
)
# Matrices whose long side is this much longer have no singular values so small: they come in
# later, where the interval is [3e-4, 1]·2.
_TALL, _LATER = 1.5, 4
# ‖G−I‖ below which the last of them is the best, and below which one more of it is enough.
_NEAR, _DONE = 0.7, 0.01
_MOST = 20  # steps; σ of 1e-8 of the RMS come near 1 by then


def polar(w: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (rows where m < n): UVᵀ of W = UΣVᵀ.

    It does not change with the length of W. A column (of the short side) that is 0 stays 0. Where
    W lacks a direction otherwise, there is no nearest one, and rounding decides on that direction.
    As many steps are made as W needs: 2 or 3 where it was orthogonal before an optimizer's step,
    else 8 to 12, at most 20.
    """
    r = min(w.shape[-2:])
    w = w * t.per_matrix(r**0.5 / (t.norm(w) + t.TINY))
    if r == 1:
        return w

    def goes_on(x: Tensor, k: Tensor, off: Tensor) -> Tensor:
        return ops.any(off >= _DONE)  # no longer where it is NaN

    first = _LATER if max(w.shape[-2:]) >= _TALL * r else 0
    if keras.backend.backend() == "torch" and len(w.shape) == 2:
        return _step_by_step(w, first)
    start = (w, ops.convert_to_tensor(first, "int32"), ops.ones_like(t.norm(w)))
    found: Tensor = ops.while_loop(
        goes_on, lambda x, k, off: _step(x, k, k == first, first), start, _MOST
    )[0]
    return found


def _step_by_step(x: Tensor, first: int) -> Tensor:
    """The steps on one matrix of PyTorch, a sixth of the operations: Python knows the numbers."""
    import torch

    for k in range(first, first + _MOST):
        g = t.gram(x)
        square = g @ g
        away = torch.sub(square, g, alpha=2)
        away.diagonal().add_(g.diagonal() > 0)
        off = float(t.norm(away).detach()) ** 0.5
        near = off < _NEAR
        a, b, c = SCHEDULE[-1] if near else SCHEDULE[min(k, len(SCHEDULE) - 1)]
        if k == first and not near:
            bound = float(t.largest_row_sum(g).detach())
            size = (2.0 if first else 1.0) * (bound**-0.5 if bound > 0 else 1.0)
            a, b, c = a * size, b * size**3, c * size**5
        polynomial = torch.add(b * g, square, alpha=c)
        sides = (x, polynomial) if t.is_tall(x) else (polynomial, x)
        x = torch.addmm(x, *sides, beta=a)
        if not off >= _DONE:  # nor where it is NaN
            break
    return x


def _step(x: Tensor, k: Tensor, is_first: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """One polynomial of the schedule, number k, on all matrices that are not near yet."""
    g = t.gram(x)
    square = g @ g
    here = ops.cast(ops.diagonal(g, 0, -2, -1) > 0, x.dtype)
    away = square - 2 * g + ops.expand_dims(here, -1) * t.eye_like(x)
    off = ops.sqrt(t.norm(away))  # at least |σ²−1| for each σ
    near = off < _NEAR
    bound = t.largest_row_sum(g)
    # All σ ≤ 1 before the first; later entries expect them up to 2.
    size = (2.0 if first else 1.0) * ops.rsqrt(ops.where(bound > 0, bound, ops.ones_like(bound)))
    size = ops.where(near | ops.logical_not(is_first), ops.ones_like(size), size)
    table = ops.convert_to_tensor(SCHEDULE, x.dtype)
    now = ops.take(table, ops.minimum(k, len(SCHEDULE) - 1), 0)
    a, b, c = (
        t.per_matrix(ops.where(near, last, now[i]) * size ** (2 * i + 1))
        for i, last in enumerate(SCHEDULE[-1])
    )
    return a * x + t.multiplied(x, b * g + c * square), k + 1, off


def below(w: Tensor, high: float) -> Tensor:
    """W/max(1, σ_max/high)."""
    values, _ = t.eigen(t.gram(w))
    sigma = ops.sqrt(ops.relu(values[..., -1]))
    return w * t.per_matrix(1 / ops.where(sigma > high, sigma / high, ops.ones_like(sigma)))


def clipped(w: Tensor, low: float, high: float) -> Tensor:
    """The nearest matrix whose singular values lie within low and high.

    From W = UP with U as `polar` has it, and the eigenvalues of P, which are the singular values
    themselves: those of WᵀW would lose the small ones. What is said there of directions that W
    lacks holds here too.
    """
    u = polar(w)
    p = t.transposed(u) @ w if t.is_tall(w) else w @ t.transposed(u)
    values, vectors = t.eigen((p + t.transposed(p)) / 2)
    held = (vectors * ops.expand_dims(ops.clip(values, low, high), -2)) @ t.transposed(vectors)
    return t.multiplied(u, held)
