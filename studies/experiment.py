"""An experiment: arms that are tuned with equally many trials, then run on paired seeds.

Each run leaves one small JSON; what is there is not run again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

# Seeds that only choose strengths: no result is of one of them.
TUNING = 1000

Scores = dict[str, float]


@dataclass(frozen=True)
class Arm:
    """What is compared with others: how, and the strengths that are tried."""

    name: str
    strengths: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class Run:
    """One training, which is one file."""

    experiment: str
    case: str
    arm: str
    strength: float
    seed: int

    def file(self, results: Path) -> Path:
        """Where its scores are kept."""
        name = f"{self.arm}-{self.strength:g}-{self.seed}.json"
        return results / self.experiment / self.case / name

    @property
    def is_tuning(self) -> bool:
        """Whether it only chooses a strength."""
        return self.seed >= TUNING


@dataclass(frozen=True)
class Experiment:
    """What is run, and how often.

    Attributes:
        scores: of one run: `(case, arm, strength, seed)` to figures, of which `validation`, the
            higher the better, is of a split that no result is of.
        arms: the first is what the others are held against beside `decay`.
        tuned: whether each arm runs with the strength that validates best; else with every one.
        tuning_seeds: how many seeds each strength is tried on.
    """

    name: str
    cases: tuple[str, ...]
    arms: tuple[Arm, ...]
    scores: Callable[[str, str, float, int], Scores]
    seeds: int = 10
    tuned: bool = True
    tuning_seeds: int = 2

    def __post_init__(self) -> None:
        tried = {len(arm.strengths) for arm in self.arms if len(arm.strengths) > 1}
        if self.tuned and len(tried) > 1:
            raise ValueError(f"{self.name}: each arm that is tuned gets equally many trials")

    def quick(self) -> Experiment:
        """One case, one strength, one seed: whether it runs at all."""
        arms = tuple(Arm(arm.name, arm.strengths[:1]) for arm in self.arms)
        return replace(self, cases=self.cases[:1], arms=arms[:1] + arms[1:][-1:], seeds=1)

    def trials(self, case: str, arm: Arm) -> list[Run]:
        """What chooses a strength; nothing where there is one."""
        if not self.tuned or len(arm.strengths) == 1:
            return []
        seeds = range(TUNING, TUNING + self.tuning_seeds)
        return [Run(self.name, case, arm.name, s, seed) for seed in seeds for s in arm.strengths]

    def strengths(self, case: str, arm: Arm, results: Path) -> tuple[float, ...]:
        """Those that results are of: the one that validates best, or all. None yet: empty."""
        trials = self.trials(case, arm)
        if not trials:
            return arm.strengths
        found = {run: kept(run, results) for run in trials}
        if None in found.values():
            return ()
        means = {
            s: sum(k["scores"]["validation"] for r, k in found.items() if r.strength == s and k)
            for s in arm.strengths
        }
        return (max(means, key=lambda s: means[s]),)

    def runs(self, case: str, results: Path) -> Iterator[Run]:
        """What is known to be run, seed by seed, so that a part of it is paired too."""
        for seed in range(self.seeds):
            for arm in self.arms:
                for strength in self.strengths(case, arm, results):
                    yield Run(self.name, case, arm.name, strength, seed)


def kept(run: Run, results: Path) -> dict[str, Any] | None:
    """What a run left, or None."""
    path = run.file(results)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def perform(
    experiment: Experiment, results: Path, cases: tuple[str, ...] = ()
) -> Generator[Run, None, None]:
    """Runs what is not there yet; gives each run once it is kept."""
    for case in cases or experiment.cases:
        trials = [run for arm in experiment.arms for run in experiment.trials(case, arm)]
        yield from _each(experiment, trials, results)
        yield from _each(experiment, list(experiment.runs(case, results)), results)


def _each(experiment: Experiment, runs: list[Run], results: Path) -> Iterator[Run]:
    for run in runs:
        if kept(run, results) is None:
            began = time.process_time()
            scores = experiment.scores(run.case, run.arm, run.strength, run.seed)
            _keep(run, results, scores, time.process_time() - began)
            yield run


def _keep(run: Run, results: Path, scores: Scores, cpu: float) -> None:
    path = run.file(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        **asdict(run),
        "scores": {name: float(f"{value:.6g}") for name, value in scores.items()},
        "cpu_s": round(cpu, 2),
        "versions": {name: version(name) for name in ("keras", "tensorflow", "numpy")},
    }
    written = path.with_suffix(".part")
    written.write_text(json.dumps(found, allow_nan=False) + "\n", encoding="utf-8")
    written.replace(path)


def planned(experiment: Experiment, case: str) -> int:
    """How many runs a case is, trials included."""
    trials = sum(len(experiment.trials(case, arm)) for arm in experiment.arms)
    each = [1 if experiment.tuned else len(arm.strengths) for arm in experiment.arms]
    return trials + experiment.seeds * sum(each)
