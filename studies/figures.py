"""What the kept runs come to: means, and intervals of paired differences."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studies.experiment import TUNING

RESAMPLES = 10_000


@dataclass(frozen=True)
class Cell:
    """The runs of one arm at one strength, seed by seed."""

    case: str
    arm: str
    strength: float
    scores: dict[int, dict[str, float]]
    cpu_s: float

    def mean(self, measure: str) -> float:
        """Over its seeds."""
        return float(np.mean([scores[measure] for scores in self.scores.values()]))


@dataclass(frozen=True)
class Difference:
    """Of means over the seeds that both have, with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves 0 out, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def cells(results: Path, experiment: str) -> list[Cell]:
    """All results, without the runs that only chose a strength."""
    found: dict[tuple[str, str, float], list[dict[str, Any]]] = defaultdict(list)
    for path in sorted((results / experiment).glob("*/*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["seed"] < TUNING:
            found[run["case"], run["arm"], run["strength"]].append(run)
    return [
        Cell(
            *key,
            scores={run["seed"]: run["scores"] for run in runs},
            cpu_s=sum(run["cpu_s"] for run in runs),
        )
        for key, runs in sorted(found.items())
    ]


def difference(one: Cell, other: Cell, measure: str) -> Difference:
    """`one` less `other`.

    The percentile bootstrap in three lines, so that its numbers are the same with each version of
    any library. With ten pairs its intervals are somewhat narrow.
    """
    seeds = sorted(set(one.scores) & set(other.scores))
    pairs = np.array([one.scores[s][measure] - other.scores[s][measure] for s in seeds])
    drawn = np.random.default_rng(0).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    low, high = np.percentile(pairs[drawn].mean(axis=1), [2.5, 97.5])
    return Difference(float(pairs.mean()), float(low), float(high), len(seeds))
