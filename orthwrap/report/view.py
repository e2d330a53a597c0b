"""How a screen shows the kernels of a report; a command knows it before any report is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sort = Literal["residual", "condition", "sigma", "parameters"]


@dataclass(frozen=True)
class View:
    """How a screen shows the kernels.

    Attributes:
        unfold: every kernel in a row of its own.
        sort: by which figure, the worst or the most first; None is the model's order.
        top: how many of them at most; None is all. Without `sort` by residual.
    """

    unfold: bool = False
    sort: Sort | None = None
    top: int | None = None
