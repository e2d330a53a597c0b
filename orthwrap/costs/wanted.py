"""What is asked of a measuring of costs, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orthwrap.errors import Faults, UsageError, ValueFault
from orthwrap.penalties.table import PENALTIES
from orthwrap.rules.constrain import Constrain


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        batch: samples of a step.
        target, exclude: patterns of the kernels; None for those that `apply` takes.
        regularizers: names of penalties. None, and no `constrain`, for all there is.
        constrain: constraints, as `apply` takes them.
        whole: each penalty within a step of its own, which is compiled for it.
        seconds: after which no other is begun.
    """

    batch: int = 32
    target: Any = None
    exclude: Any = ()
    regularizers: Sequence[str] | None = None
    constrain: Sequence[str] | None = None
    whole: bool = False
    seconds: float = 60.0


def checked(wanted: Wanted) -> Wanted:
    """ValueFault or UsageError where a value is none."""
    faults = Faults()
    if wanted.batch < 1:
        faults.add(ValueFault(f"batch must be at least 1; got {wanted.batch}"))
    if not wanted.seconds > 0:
        faults.add(ValueFault(f"seconds must be above 0; got {wanted.seconds:g}"))
    for word, named in (("regularizer", wanted.regularizers), ("constrain", wanted.constrain)):
        if named is not None and not named:
            faults.add(UsageError(f"{word} names none: leave it out for all"))
    for name in wanted.regularizers or ():
        if name not in PENALTIES:
            faults.add(ValueFault(f"regularizer {name!r} is none of {', '.join(PENALTIES)}"))
    for what in wanted.constrain or ():
        faults.of(Constrain.parse, what)
    faults.raise_all()
    return wanted
