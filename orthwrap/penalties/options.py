"""Options of penalties: name, default and check of each, once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orthwrap.errors import Faults, ValueFault
from orthwrap.text import first_line


@dataclass(frozen=True)
class Option:
    """An option of a penalty.

    Attributes:
        name: as it is written, `KEY` in `--option KEY=VALUE` and in a file's config.
        default: what holds where it is not given; files do not keep it.
        convert: what was given, a text on the command line → the value, JSON-ready; a ValueError
            says what is wrong with it, after `option KEY=VALUE`.
    """

    name: str
    default: Any
    convert: Callable[[Any], Any]


def whole_number(lowest: int) -> Callable[[Any], int]:
    """Takes whole numbers of at least `lowest`, also as text."""

    def convert(value: Any) -> int:
        try:
            number = int(value)
            if number != float(value):
                raise ValueError
        except (TypeError, ValueError):
            raise ValueError("must be a whole number") from None
        if number < lowest:
            raise ValueError(f"must be at least {lowest}")
        return number

    return convert


def number_from(lowest: float) -> Callable[[Any], float]:
    """Takes finite numbers of at least `lowest`, also as text."""

    def convert(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError("must be a number") from None
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError("must be a number")
        if number < lowest:
            raise ValueError(f"must be at least {lowest:g}")
        return number

    return convert


def one_of(*names: str) -> Callable[[Any], str]:
    """Takes one of some names."""

    def convert(value: Any) -> str:
        if value not in names:
            raise ValueError(f"must be {', '.join(names[:-1])} or {names[-1]}")
        return str(value)

    return convert


def _yes_or_no(value: Any) -> bool:
    if str(value).lower() not in ("true", "false", "1", "0"):
        raise ValueError("must be true or false")
    return str(value).lower() in ("true", "1")


def _shape(value: Any) -> str | None:
    """`"3x3"`, also of a pair."""
    if value is None:
        return None
    try:
        sides = value.lower().split("x") if isinstance(value, str) else value
        rows, columns = (whole_number(1)(side) for side in sides)
    except (TypeError, ValueError):
        raise ValueError("must be two whole numbers of at least 1, as 3x3") from None
    return f"{rows}x{columns}"


def sides_of(shape: str | None) -> tuple[int, int] | None:
    """(3, 3) of `"3x3"`."""
    if shape is None:
        return None
    rows, columns = shape.split("x")
    return int(rows), int(columns)


def _seed(value: Any) -> int | None:
    return None if value is None else whole_number(0)(value)


def _precision(value: Any) -> str | None:
    if value not in (None, BFLOAT16):
        raise ValueError(f"must be {BFLOAT16}, or left out")
    return None if value is None else BFLOAT16


BFLOAT16 = "bfloat16"
ESTIMATE = Option("estimate", "exact", one_of("exact", "auto", "sketch"))
PROBES = Option("probes", 8, whole_number(1))
SEED = Option("seed", None, _seed)
PRECISION = Option("precision", None, _precision)
EVERY = Option("every", 1, whole_number(1))
ACROSS_CHANNELS = Option("across_channels", False, _yes_or_no)
# What every penalty takes.
COMMON = (EVERY, ACROSS_CHANNELS)
FILTER_GROUPS = Option("filter_groups", 1, whole_number(1))
# Those of outputs: whose Gram matrix, of the batch or of each sample; of what; and of what centre.
SIDES = ("smaller", "rows", "columns")
GRAM = Option("gram", "batch", one_of("batch", "sample"))
SIDE = Option("side", SIDES[0], one_of(*SIDES))
SHAPE = Option("shape", None, _shape)
CENTER = Option("center", False, _yes_or_no)
OF_OUTPUTS = (GRAM, SIDE, SHAPE, CENTER)


def checked(name: str, taken: Sequence[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the regularizer `name`, converted, without those at their default.

    Raises:
        ValueFault: options it does not take, or values out of range.
    """
    known = {option.name: option for option in taken}

    def converted(key: str, value: Any) -> Any:
        if key not in known:
            raise ValueFault(
                f"regularizer {name!r} takes no option {key!r}; it takes: {', '.join(known)}"
            )
        try:
            return known[key].convert(value)
        except (TypeError, ValueError) as e:
            raise ValueFault(f"option {key}={value!r} {first_line(e)}") from None

    faults = Faults()
    found = {key: faults.of(converted, key, value) for key, value in given.items()}
    faults.raise_all()
    return {key: value for key, value in found.items() if value != known[key].default}
