"""Runs beside the first one: a control without penalties, and other seeds. Plain frozen data."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orthwrap.report.verdict import Verdict


@dataclass(frozen=True)
class ControlRun:
    """The same training without penalty and pull: same start, seed, order of samples and epochs.

    Attributes:
        epochs: after which its figures were taken, as many as led to the epoch that is kept.
        metrics: losses and metrics, on the samples that the others' are of.
        residuals: the same that the other run drove, by layer and slot.
    """

    epochs: int
    metrics: Mapping[str, float]
    residuals: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "epochs": self.epochs,
            "metrics": dict(self.metrics),
            "residuals": dict(self.residuals),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ControlRun:
        """The inverse of `to_json`."""
        return cls(data["epochs"], data["metrics"], data["residuals"])


@dataclass(frozen=True)
class SeedRun:
    """One seed's run.

    Attributes:
        seed: what all that is random in it followed from.
        kept_epoch: the epoch whose figures these are, counted from 1.
        verdict: what came of it.
        control: its own, or None.
    """

    seed: int
    kept_epoch: int
    verdict: Verdict
    control: ControlRun | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "kept_epoch": self.kept_epoch,
            "verdict": self.verdict.to_json(),
            "control": self.control and self.control.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SeedRun:
        """The inverse of `to_json`."""
        control = data["control"]
        return cls(
            data["seed"],
            data["kept_epoch"],
            Verdict.from_json(data["verdict"]),
            None if control is None else ControlRun.from_json(control),
        )


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (of a sample; 0 for one), least and most of some numbers."""

    mean: float
    deviation: float
    least: float
    most: float


def spread_of(numbers: Iterable[float | None]) -> Spread | None:
    """None where a number is missing, or all are."""
    found = list(numbers)
    known = [n for n in found if n is not None]
    if not known or len(known) < len(found):
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    return Spread(statistics.fmean(known), deviation, min(known), max(known))


@dataclass(frozen=True)
class Repeats:
    """The runs of several seeds, the first of which is the one whose model is written."""

    runs: tuple[SeedRun, ...]

    @property
    def spread(self) -> dict[str, Spread | None]:
        """Over the seeds, of the task and of the kernels' divisions."""
        verdicts = [run.verdict for run in self.runs]
        tasks, worst = [v.task for v in verdicts], [v.worst for v in verdicts]
        return {
            "original": spread_of(None if t is None else t.original for t in tasks),
            "control": spread_of(None if t is None else t.control for t in tasks),
            "after": spread_of(None if t is None else t.after for t in tasks),
            "median_division": spread_of(v.median for v in verdicts),
            "worst_division": spread_of(None if w is None else w.division for w in worst),
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": [run.to_json() for run in self.runs],
            "spread": {name: s and vars(s) for name, s in self.spread.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Repeats:
        """The inverse of `to_json`."""
        return cls(tuple(SeedRun.from_json(run) for run in data["runs"]))
