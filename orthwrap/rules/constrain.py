"""What a kernel's singular values are held to after each optimizer step, in words."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

from orthwrap.errors import ValueFault

# Each with how many numbers follow its colon.
_NUMBERS = {"orthogonal": 0, "spectral": 1, "band": 2}
_HOW = "orthogonal, spectral:C with C above 0, or band:A,B with 0 ≤ A ≤ B and B above 0"


@dataclass(frozen=True)
class Constrain:
    """`orthogonal`, `spectral:C` or `band:A,B`.

    Attributes:
        name: what stands before the colon.
        low, high: the least and the greatest singular value that it leaves: 1 and 1 for
            `orthogonal`, 0 and C for `spectral`.
    """

    name: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: Any) -> Constrain:
        """From its text, or from what this gave.

        Raises:
            ValueFault: it is none, or its numbers are out of range.
        """
        if isinstance(text, cls):
            return text
        name, _, numbers = str(text).partition(":")
        if name not in _NUMBERS:
            near = difflib.get_close_matches(name.lower(), _NUMBERS, 1, 0.0)
            raise ValueFault(f"unknown constraint {text!r}; did you mean {near[0]}? Give {_HOW}")
        try:
            found = [float(number) for number in numbers.split(",")] if numbers else []
            low, high = {0: [1.0, 1.0], 1: [0.0, *found], 2: found}[_NUMBERS[name]]
        except ValueError:
            raise ValueFault(f"constrain {text!r} is not understood: give {_HOW}") from None
        fits = len(found) == _NUMBERS[name] and math.isfinite(high) and 0 <= low <= high
        if not (fits and high > 0):
            raise ValueFault(f"constrain {text!r} is out of range: give {_HOW}")
        return cls(name, low, high)

    def __str__(self) -> str:
        numbers = (self.low, self.high)[2 - _NUMBERS[self.name] :]
        return f"{self.name}:{','.join(map(_shortest, numbers))}" if numbers else self.name


def _shortest(number: float) -> str:
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)
