"""Functions timed in turn, in one process, so that what else the machine does touches all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orthwrap.report.cost_record import Quartiles

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Timed:
    """What is timed.

    Attributes:
        call: does it, and returns when the device is done.
        calls: in a row that make one measurement, whose mean counts: so many that each does the
            same work.
        times: how often a call does it.
    """

    call: Callable[[], Any]
    calls: int = 1
    times: int = 1

    def seconds(self) -> float:
        """Of doing it once, the mean of `calls`."""
        start = time.perf_counter()
        for _ in range(self.calls):
            self.call()
        return (time.perf_counter() - start) / (self.calls * self.times)


def in_turn(
    functions: Mapping[str, Timed], *, least: int = 3, most: int = 25, until: float | None = None
) -> dict[str, Seconds]:
    """Seconds of each function in each round; every round has all of them.

    Args:
        functions: by name, called before, so that nothing is compiled any more.
        least, most: rounds.
        until: of `time.monotonic()`, after which no round begins that is not one of the least.
    """
    rounds: list[list[float]] = []
    while len(rounds) < most:
        took = sum(rounds[-1]) if rounds else 0.0
        if len(rounds) >= least and until is not None and time.monotonic() + took > until:
            break
        rounds.append([timed.seconds() for timed in functions.values()])
    return dict(zip(functions, np.array(rounds).T, strict=True))


def quartiles(values: Seconds) -> Quartiles:
    low, median, high = (float(v) for v in np.quantile(values, (0.25, 0.5, 0.75)))
    return Quartiles(median, low, high)
