"""What is measured: each penalty, and each way in which it can be had cheaper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orthwrap.penalties.options import BFLOAT16, ESTIMATE, EVERY, PRECISION
from orthwrap.penalties.table import PENALTIES


@dataclass(frozen=True)
class Variant:
    """A penalty, had in one way.

    Attributes:
        regularizer: its name.
        how: the way, in words: `exact`, `sketch`, `bfloat16`, `every=4`, `pulled`.
        options: those that make it so.
        is_pull: the kernels are pulled after the step, and nothing is added to the loss.
    """

    regularizer: str
    how: str = "exact"
    options: Mapping[str, Any] = field(default_factory=dict)
    is_pull: bool = False

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


def variants(names: Sequence[str] | None = None) -> list[Variant]:
    """Those of these penalties, or of all: first the ways of the first, then each as it is.

    In this order they are measured, where time is short.
    """
    chosen = list(PENALTIES) if names is None else list(dict.fromkeys(names))
    ways = {name: list(_ways(name)) for name in chosen}
    first = ways[chosen[0]]
    exact = [ways[name][0] for name in chosen[1:]]
    rest = [v for name in chosen[1:] for v in ways[name][1:] if names is not None or v.is_estimate]
    return [*first, *exact, *rest]


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
