"""How orthogonal kernels are to become: text ↔ a residual to reach. Pure.

====================  ============================================================================
`residual=0.1`        each kernel's residual, the one that its scale drives, at most 0.1
`10x`, `÷10`          at most a tenth of what it was, and never asked below `FLOOR`
====================  ============================================================================
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from orthwrap.errors import ValueFault

FLOOR = 0.01
"""The residual below which no kernel is asked to go by a division. One that starts at or below it
has nothing to divide, and counts as reached."""

_EXAMPLE = "write for example '10x', '÷10' or 'residual=0.1'"
_DIVISION = re.compile(r"(?:÷(?P<after>[^x÷]+)|(?P<before>[^x÷]+)x)")


@dataclass(frozen=True)
class Aim:
    """What each kernel's driven residual is to come to. One of the two is None.

    Attributes:
        residual: at most this, above 0.
        division: at most its start divided by this, which is above 1.

    Raises:
        ValueFault: a value out of range, or both, or none.
    """

    residual: float | None = None
    division: float | None = None

    def __post_init__(self) -> None:
        if (self.residual is None) == (self.division is None):
            raise ValueFault(f"a goal is a residual or a division: {_EXAMPLE}")
        if self.residual is not None and not (math.isfinite(self.residual) and self.residual > 0):
            raise ValueFault(f"goal residual={self.residual:g} must be above 0: {_EXAMPLE}")
        if self.division is not None and not (math.isfinite(self.division) and self.division > 1):
            raise ValueFault(f"goal {self.division:g}x must divide by more than 1: {_EXAMPLE}")

    @classmethod
    def parse(cls, said: Any) -> Aim:
        """From `residual=X`, `Nx` or `÷N`; an Aim is one already.

        Raises:
            ValueFault: anything else.
        """
        if isinstance(said, Aim):
            return said
        if not isinstance(said, str):
            raise ValueFault(f"goal {said!r} is not known: {_EXAMPLE}")
        text = "".join(said.split())
        name, equals, value = text.partition("=")
        if equals and name == "residual":
            return cls(residual=_number(value, said))
        found = _DIVISION.fullmatch(text)
        if found is None:
            raise ValueFault(f"goal {said!r} is not known: {_EXAMPLE}")
        return cls(division=_number(found["after"] or found["before"], said))

    def target(self, start: float) -> float:
        """The residual that reaches it, of a kernel that starts at `start`."""
        if self.residual is not None:
            return self.residual
        assert self.division is not None
        return max(start / self.division, FLOOR)

    def __str__(self) -> str:
        if self.residual is not None:
            return f"residual={self.residual:g}"
        return f"{self.division:g}x"


def _number(text: str, said: str) -> float:
    try:
        if "_" in text:  # which Python would read
            raise ValueError
        return float(text)
    except ValueError:
        raise ValueFault(f"goal {said!r} holds no number: {_EXAMPLE}") from None
