"""How a verb ends: what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthwrap.report.record import Report

if TYPE_CHECKING:
    from orthwrap.training.job import Job
    from orthwrap.training.loop.watch import Outcome


@dataclass(frozen=True)
class Result:
    """What a verb gives back.

    Attributes:
        model: the new `keras.Model`; None where a file became a file.
        output: the file written, or None.
        report: what was done, layer by layer.
        process: which of several processes that train together this is; all but 0 write nothing.
    """

    model: Any
    output: Path | None
    report: Report
    process: int = 0

    def __repr__(self) -> str:
        what = [None if self.model is None else f"model={self.model.name!r}"]
        what += [None if self.output is None else f"output={str(self.output)!r}"]
        kernels = self.report.summary
        what += [f"report of {kernels['regularized']} of {kernels['kernels']} kernels"]
        return f"Result({', '.join(w for w in what if w)})"


def finished(model: Any, report: Report, target: Path | None, process: int = 0) -> Result:
    """The result of a verb that has written `target`, or nothing."""
    output = None if target is None else str(target)
    return Result(model, target, replace(report, output=output), process)


def trained(job: Job, model: Any, report: Report, outcome: Outcome, target: Path | None) -> Result:
    """The result of a verb that has trained; where the run was cut short, its error is raised."""
    return finished(model, report, job.save(model, outcome, target), job.processes.index)
