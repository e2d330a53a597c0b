"""How a verb ends: what it gives back, and what was saved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthwrap.errors import Interrupted, OrthwrapError
from orthwrap.loading.saving import save_model
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


def saved(model: Any, report: Report, target: Path | None) -> Result:
    if target is not None:
        save_model(model, target)
        report = replace(report, output=str(target))
    return Result(model, target, report)


def ended(model: Any, report: Report, outcome: Outcome, target: Path | None, job: Job) -> Result:
    """The trained model, saved; where the run was cut short, saved where it harms nothing."""
    if not job.processes.writes:
        target = None
    if not (outcome.fault or outcome.interrupted):
        with job.off_devices():
            return replace(saved(model, report, target), process=job.processes.index)
    folder = job.session.settings.checkpoint_dir
    if outcome.interrupted and folder is not None:
        raise Interrupted(
            f"interrupted {outcome.place}: go on with the same command and --resume, which finds "
            f"its checkpoint in {folder}"
        )
    what = outcome.fault or f"interrupted {outcome.place}"
    advice = f"; {outcome.advice}" if outcome.advice else ""
    as_of = "as it was then" if outcome.kept is None else f"as of epoch {outcome.kept}"
    if outcome.fault and not outcome.kept:
        raise OrthwrapError(f"{what}: nothing was saved{advice}")
    if target is None:
        stopped = f"{what}: the error's `model` is the model {as_of}{advice}"
    else:
        aside = target.with_name(f"{target.name}.interrupted") if target.exists() else target
        with job.off_devices():
            save_model(model, aside, like=target)
        stopped = f"{what}; {aside} holds the model {as_of}{advice}"
    error = Interrupted(stopped) if outcome.interrupted else OrthwrapError(stopped)
    error.model = model
    raise error
