"""The gate: which kernels exceed a limit, or are worse than in an earlier report. Plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orthwrap.penalties.conv_operator import OperatorFigures
from orthwrap.text import counted

_OF_MATRICES = (
    *("residual", "scaled_residual", "scale", "sigma_min", "sigma_max", "condition"),
    *("coherence", "penalty"),
)
_OF_OPERATOR = tuple(f.name for f in dataclasses.fields(OperatorFigures))
FIGURES = (*_OF_MATRICES, "operator.norm", *(f"operator.{name}" for name in _OF_OPERATOR))
"""What may be limited, by the names of the report's figures; `operator.norm` is its upper bound."""
OF_SIGMAS = ("sigma_min", "sigma_max", "condition")
"""Those that take every singular value."""


@dataclass(frozen=True)
class Limit:
    """What a figure may be at most.

    Attributes:
        figure: one of `FIGURES`.
        most: the limit.
        pattern: of the kernels it is for; None is for all.
    """

    figure: str
    most: float
    pattern: str | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Excess:
    """A kernel that does not pass.

    Attributes:
        path, slot, kernel: which.
        place: the same in a word: `conv1`, `lstm@recurrent`, `mha query/kernel`.
        figure: one of `FIGURES`.
        value: of the figure; None where there is none, such as the condition of a singular matrix.
        limit: what it may be at most; against a baseline, `sigma_min` and `stable_rank` at least.
        baseline: what it was there; None where the limit was given.
    """

    path: str
    slot: str
    kernel: str | None
    place: str
    figure: str
    value: float | None
    limit: float
    baseline: float | None = None

    @property
    def severity(self) -> float:
        """By what factor the limit is missed; the worst come first."""
        if self.value is None:
            return math.inf
        low, high = sorted((abs(self.value), abs(self.limit)))
        return high / low if low else math.inf

    @property
    def text(self) -> str:
        """In words, without the kernel's name."""
        value = "has no value" if self.value is None else f"is {self.value:.4g}"
        if self.baseline is None:
            return f"{self.figure} {value}, at most {self.limit:.4g} is allowed"
        return f"{self.figure} {value}, and was {self.baseline:.4g} (limit {self.limit:.4g})"


@dataclass(frozen=True)
class Gate:
    """What the gate says.

    Attributes:
        limits: that were given.
        baseline: the file of the earlier report, or None.
        worse_than: the share by which a figure may be worse than there.
        checked: the places of the kernels that were held against something.
        failures: worst first.
    """

    limits: tuple[Limit, ...]
    baseline: str | None
    worse_than: float | None
    checked: tuple[str, ...]
    failures: tuple[Excess, ...]

    @property
    def text(self) -> str:
        """`2 of 54 kernels fail`."""
        failing = len({e.place for e in self.failures})
        kernels = counted(len(self.checked), "kernel")
        if not failing:
            return f"{kernels} checked: all within the limits"
        return f"{failing} of {kernels} {'fails' if failing == 1 else 'fail'}"

    def to_json(self) -> dict[str, Any]:
        return {
            "limits": [limit.to_json() for limit in self.limits],
            "baseline": self.baseline,
            "worse_than": self.worse_than,
            "checked": list(self.checked),
            "failures": [dataclasses.asdict(excess) for excess in self.failures],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Gate:
        """The inverse of `to_json`."""
        return cls(
            tuple(Limit(**limit) for limit in data["limits"]),
            data["baseline"],
            data["worse_than"],
            tuple(data["checked"]),
            tuple(Excess(**excess) for excess in data["failures"]),
        )
