"""`dso`: double soft orthogonality, ‖WᵀW−I‖_F² + ‖WWᵀ−I‖_F².

The nonzero eigenvalues of WᵀW and WWᵀ are the same, so the larger Gram matrix adds only the
constant |m−n|.
"""

from __future__ import annotations

from typing import Any

from orthwrap.penalties import so as single
from orthwrap.penalties.figures import Matrices
from orthwrap.penalties.penalty import Penalty

Tensor = Any


def dso(w: Tensor, alpha: float = 1.0, factor: float = 1.0) -> Tensor:
    """factor · Σ ‖WᵀW−I‖_F² + ‖WWᵀ−I‖_F² of matrices W/α, (count, m, n) or one (m, n)."""
    count, m, n = (1, *w.shape)[-3:]
    return single.so(w, alpha=alpha, factor=2 * factor) + factor * _from_so(0, count, m, n)


def on_outputs(g: Tensor, rows: Tensor) -> Tensor:
    """‖AᵀA−I‖² + ‖AAᵀ−I‖², exactly, whichever there are more of."""
    return 2 * single.on_outputs(g, rows) + rows - g.shape[-1]


def figure(matrices: Matrices) -> float:
    so = float(matrices.square_deviation().sum())
    return float(_from_so(so, matrices.count, matrices.larger, matrices.smaller))


def _from_so(so: Any, count: int, m: int, n: int) -> Any:
    return 2 * so + count * abs(m - n)


PENALTY = Penalty(
    name="dso",
    formula="‖WᵀW−I‖²_F + ‖WWᵀ−I‖²_F",
    minimum="|m−n|",
    class_name="DSO",
    doc="Double soft orthogonality, ‖WᵀW−I‖_F² + ‖WWᵀ−I‖_F² (Bansal et al. 2018).",
    source=(
        'Bansal, Chen, Wang 2018, "Can We Gain More from Orthogonality Regularizations in '
        'Training Deep CNNs?", arXiv:1810.09102 (DSO)'
    ),
    exact=dso,
    on_outputs=on_outputs,
    figure=figure,
    figure_from_so=_from_so,
    pull=single.pull,
    takes_alpha=True,
    by_products=True,
)
