"""Runs what is not there yet: `python -m studies [EXPERIMENT[:CASE] …]`; see `--help`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from studies.experiment import RESULTS, Experiment, kept, perform, planned

# In this order, the cheaper and more telling first.
MODULES = ("few_data", "deep_tanh", "plasticity", "finetuning", "recurrent", "robustness", "clean")


# Threads of small networks wait for one another more than they work.
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}


def experiments() -> dict[str, Experiment]:
    """All, by name. Imports Keras."""
    modules = [importlib.import_module(f"studies.{name}") for name in MODULES]
    found = [e for m in modules for e in vars(m).values() if isinstance(e, Experiment)]
    return {experiment.name: experiment for experiment in found}


def main() -> None:
    """One process, seed by seed; it can be stopped at any time and started again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="experiments, or experiment:case; all by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="one run of two arms each, not kept")
    parser.add_argument("--plan", action="store_true", help="what is there, and how long the rest")
    given = parser.parse_args()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    chosen = [name.partition(":") for name in given.only or experiments()]
    with tempfile.TemporaryDirectory() as scratch:
        for name, _, case in chosen:
            experiment = experiments()[name]
            if given.plan:
                sys.stdout.write("".join(f"{line}\n" for line in cost(experiment, given.results)))
                continue
            results = given.results
            if given.quick:
                experiment, results = experiment.quick(), Path(scratch)
            began = time.monotonic()
            for run in perform(experiment, results, (case,) if case else ()):
                done = kept(run, results) or {}
                print(
                    f"{time.monotonic() - began:6.0f} s  {run.file(results).relative_to(results)}  "
                    f"{done['cpu_s']} s of CPU  {done['scores']}",
                    flush=True,
                )


def cost(experiment: Experiment, results: Path) -> list[str]:
    """Runs there and to come, and CPU hours from what runs have taken."""
    lines = []
    for case in experiment.cases:
        took, count = cpu_seconds(experiment, case, results), planned(experiment, case)
        hours = f"{sum(took) / len(took) * count / 3600:.2f} h of CPU in all" if took else "?"
        lines.append(f"{experiment.name}:{case}  {len(took)} of {count} runs  {hours}")
    return lines


def cpu_seconds(experiment: Experiment, case: str, results: Path) -> list[float]:
    """What each run that is there has taken."""
    paths = sorted((results / experiment.name / case).glob("*.json"))
    return [float(json.loads(path.read_text(encoding="utf-8"))["cpu_s"]) for path in paths]


if __name__ == "__main__":
    main()
