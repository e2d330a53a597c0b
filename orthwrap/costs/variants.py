"""What is measured: each penalty, each way in which it can be had cheaper, and each constraint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orthwrap.penalties.options import BFLOAT16, ESTIMATE, EVERY, PRECISION
from orthwrap.penalties.table import PENALTIES
from orthwrap.rules.constrain import Constrain


@dataclass(frozen=True)
class Variant:
    """A penalty, had in one way, or a constraint.

    Attributes:
        regularizer: its name; of a constraint what it is asked for by.
        how: the way, in words: `exact`, `sketch`, `bfloat16`, `every=4`, `pulled`.
        options: those that make it so.
        is_pull: the kernels are pulled after the step, and nothing is added to the loss.
        constrain: what they are held to after the step; None of a penalty.
    """

    regularizer: str
    how: str = "exact"
    options: Mapping[str, Any] = field(default_factory=dict)
    is_pull: bool = False
    constrain: Constrain | None = None

    @property
    def name(self) -> str:
        return f"{self.regularizer}, {self.how}"

    @property
    def is_estimate(self) -> bool:
        return ESTIMATE.name in self.options

    @property
    def every(self) -> int:
        return int(self.options.get(EVERY.name, EVERY.default))


_EVERY = 4
HELD = ("orthogonal", "spectral:1", "band:0.9,1.1")  # where all is measured


def variants(
    names: Sequence[str] | None = None, constrain: Sequence[str] | None = None
) -> list[Variant]:
    """Those of these penalties and constraints; of all where neither is named.

    First come the ways of the first, then each as it is, then the constraints. In this order they
    are measured, where time is short.
    """
    nothing_named = names is None and constrain is None
    chosen = list(PENALTIES) if nothing_named else list(dict.fromkeys(names or ()))
    ways = {name: list(_ways(name)) for name in chosen}
    first = [way for name in chosen[:1] for way in ways[name]]
    exact = [ways[name][0] for name in chosen[1:]]
    rest = [v for name in chosen[1:] for v in ways[name][1:] if not nothing_named or v.is_estimate]
    asked = HELD if nothing_named else constrain or ()
    held = dict.fromkeys(map(Constrain.parse, asked))
    return [*first, *exact, *(Variant(str(to), "held", constrain=to) for to in held), *rest]


def _ways(name: str) -> Iterator[Variant]:
    """The penalty as it is, and then what makes it cheaper."""
    penalty = PENALTIES[name]
    yield Variant(name)
    if penalty.sketch is not None:
        for estimate in ("auto", "sketch"):
            yield Variant(name, estimate, {ESTIMATE.name: estimate})
    if penalty.by_products:
        yield Variant(name, BFLOAT16, {PRECISION.name: BFLOAT16})
    yield Variant(name, f"every={_EVERY}", {EVERY.name: _EVERY})
    if penalty.pull is not None:
        yield Variant(name, "pulled", is_pull=True)
