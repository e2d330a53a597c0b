"""The verdict on a run: how far its kernels came, what the task paid, and what to do next. Pure.

Frozen data without Keras, that goes to JSON and back.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orthwrap.report.goal_progress import GoalProgress, TaskStanding
from orthwrap.rules.aims import FLOOR
from orthwrap.text import counted, listed

_STILL = 1.05  # a residual divided by less than this, and by more than its inverse, did not move
_LITTLE = 2.0  # a division below it is little, for a run without a goal

# Figures that a model's logs have beside its metrics.
_LOSSES = ("task_loss", "penalty", "own_penalty", "loss")


@dataclass(frozen=True)
class KernelVerdict:
    """How far one kernel came.

    Attributes:
        path: layer and slot, `conv1`, `lstm@recurrent`.
        driven: which residual: `residual`, `scaled_residual`, or the name of a penalty that
            leaves lengths free.
        before, after: that residual, of the original and of the epoch that is kept.
        division: before over after; None where it was orthonormal to begin with.
        reached: whether it is at its goal; None where the run has none.
    """

    path: str
    driven: str
    before: float
    after: float
    division: float | None
    reached: bool | None

    @property
    def rose(self) -> bool:
        return self.after > max(self.before * _STILL, FLOOR)


@dataclass(frozen=True)
class TaskVerdict:
    """What the task paid.

    Attributes:
        name: the figure that stands for it.
        original, after: of the original, and of the epoch that is kept, on the same samples.
        margin: what might be lost, in the figure's own unit; None where nothing was held to one.
        lost: whether more was lost, by more than the chance of the samples.
        reference: what it is held against: the better of the original and the first epoch.
        standard_error: of the paired difference of `after` and `reference`; None where nothing was
            held to a margin or samples could not be told apart.
        control: the figure where the same was trained without penalties; None where it was not.
        trained_reference, trained_after: the same two figures of samples that are trained on,
            where these were held to the margin; else None.
    """

    name: str
    original: float
    after: float
    margin: float | None = None
    lost: bool = False
    reference: float | None = None
    control: float | None = None
    trained_reference: float | None = None
    trained_after: float | None = None
    standard_error: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What came of a run.

    Attributes:
        goal: as it is spoken, `10x`; None where the run had none.
        kernels: those that were driven, in the model's order.
        task: None where no figure stands for it.
        next_step: what to do where a kernel did not get there; "" where all is done.
        warnings: a line each: what rose, what was lost, or that nothing moved.
    """

    goal: str | None
    kernels: tuple[KernelVerdict, ...]
    task: TaskVerdict | None = None
    next_step: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def reached(self) -> int | None:
        """How many kernels are at the goal; None without one."""
        return None if self.goal is None else sum(bool(k.reached) for k in self.kernels)

    @property
    def median(self) -> float | None:
        """The median division; None where no kernel had anything to divide."""
        divisions = [k.division for k in self.kernels if k.division is not None]
        return statistics.median(divisions) if divisions else None

    @property
    def worst(self) -> KernelVerdict | None:
        """The kernel whose residual was divided by least."""
        divided = [k for k in self.kernels if k.division is not None]
        return min(divided, key=lambda k: k.division or 0.0, default=None)

    @property
    def fails(self) -> bool:
        """Whether `--strict` says no: something to warn of, or a goal that was not reached."""
        return bool(self.warnings) or self.reached not in (None, len(self.kernels))

    @property
    def line(self) -> str:
        """In one line of plain words."""
        return "; ".join(part for part in (self._kernels_in_words(), self._task_in_words()) if part)

    def _kernels_in_words(self) -> str:
        count = len(self.kernels)
        if not count:
            return "no trained kernel carries a penalty of orthogonality"
        worst, median = self.worst, self.median
        which = counted(count, "kernel")
        if self.goal is not None:
            aim = self.goal if "=" in self.goal else f"{self.goal} more orthogonal"
            aim = aim.replace("residual=", "at a residual of ")
            all_ = "the one kernel" if count == 1 else f"all {count} kernels"
            which = f"{all_} {aim}" if self.reached == count else f"{self.reached} of {which} {aim}"
        if worst is None or median is None:
            return f"{which}: orthonormal from the start"
        if count == 1:
            return f"{which} ({division(median)}: {worst.path})"
        least = f"worst {division(worst.division or 0.0)}: {worst.path}"
        return f"{which} (median {division(median)}, {least})"

    def _task_in_words(self) -> str:
        task = self.task
        if task is None:
            return ""
        notes = [] if task.control is None else [f"control {figure(task.control)}"]
        if task.trained_reference is not None and task.trained_after is not None:
            went = f"{figure(task.trained_reference)} → {figure(task.trained_after)}"
            notes.append(f"{went} of what is trained on")
        notes += [] if task.margin is None else [f"margin {task.margin:.3g}"]
        aside = f" ({', '.join(notes)})" if notes else ""
        name = task.name.replace("_", " ")
        error = "" if task.standard_error is None else f" ± {task.standard_error:.2g}"
        return f"{name} {figure(task.original)} → {figure(task.after)}{error}{aside}"

    def to_json(self) -> dict[str, Any]:
        worst = self.worst
        return {
            "line": self.line,
            "goal": self.goal,
            "reached": self.reached,
            "division": None
            if worst is None
            else {"median": self.median, "worst": worst.division, "path": worst.path},
            "task": None if self.task is None else dataclasses.asdict(self.task),
            "next_step": self.next_step or None,
            "warnings": list(self.warnings),
            "kernels": [dataclasses.asdict(k) for k in self.kernels],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_json`."""
        task = data["task"]
        return cls(
            data["goal"],
            tuple(KernelVerdict(**k) for k in data["kernels"]),
            None if task is None else TaskVerdict(**task),
            data["next_step"] or "",
            tuple(data["warnings"]),
        )


def verdict_on(
    progress: GoalProgress | None,
    kept: int,
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> Verdict:
    """The verdict on a run, whether a goal, a pull or a factor drove it.

    Args:
        progress: how its kernels went; None where none was driven.
        kept: the epoch that is kept, counted from 1.
        before, after: losses and metrics of the original and of that epoch.
    """
    epoch = None if progress is None else progress.at(kept)
    if progress is None or epoch is None:
        return Verdict(None, (), _plain_task(before, after))
    kernels = tuple(
        KernelVerdict(
            path=k.place,
            driven=k.driven,
            before=k.start,
            after=now,
            division=k.division(now),
            reached=None if k.target is None else k.reached(now),
        )
        for k, now in zip(progress.kernels, epoch.residuals, strict=True)
        if math.isfinite(k.start) and math.isfinite(now)
    )
    task = _plain_task(before, after)
    if progress.task is not None and epoch.task is not None and progress.original is not None:
        standing = epoch.task
        task = TaskVerdict(
            progress.task,
            progress.original,
            standing.value,
            standing.margin,
            standing.held.spent,
            standing.reference,
            trained_reference=None if standing.trained is None else standing.trained.reference,
            trained_after=None if standing.trained is None else standing.trained.value,
            standard_error=standing.standard_error or None,
        )
    warned = (*_of_kernels(kernels), *_of_task(task, epoch.task, progress.lower_is_better))
    return Verdict(progress.goal, kernels, task, _next(progress, kernels), warned)


def _plain_task(before: Mapping[str, float], after: Mapping[str, float]) -> TaskVerdict | None:
    """The first metric, else the task loss, where nothing was held to a margin."""
    names = [*(n for n in before if n not in _LOSSES), *(n for n in _LOSSES if n in before)]
    name = next((n for n in names if n in after), None)
    return None if name is None else TaskVerdict(name, before[name], after[name])


def _of_kernels(kernels: Sequence[KernelVerdict]) -> tuple[str, ...]:
    rose = [k for k in kernels if k.rose]
    if rose:
        risen = listed([f"{k.path} {k.before:.3g} → {k.after:.3g}" for k in rose])
        return (f"residuals rose: {risen}" if len(rose) > 1 else f"a residual rose: {risen}",)
    divisions = [k.division for k in kernels if k.division is not None]
    if divisions and max(divisions) < _STILL:
        return ("nothing moved: every residual is within 5 % of what it was",)
    return ()


def _of_task(
    task: TaskVerdict | None, standing: TaskStanding | None, lower_is_better: bool
) -> tuple[str, ...]:
    if task is None or standing is None or not (standing.spent or standing.held.spent):
        return ()
    held, name = standing.held, task.name.replace("_", " ")
    of = "" if standing.trained is None else " of what is trained on"
    went = "rose" if lower_is_better else "fell"
    by = f"by more than the margin of {standing.margin:.3g}"
    if held.spent:
        is_first = standing.trained is None and standing.reference != task.original
        since = ", its best after the first epoch" if is_first else ""
        change = f"from {figure(held.reference)}{since} to {figure(held.value)}"
        return (f"{name}{of} {went} {change}, {by}",)
    change = f"from {figure(standing.reference)} to {figure(task.after)}"
    return (
        f"{name} {went} {change} on the held-out samples, {by}, and not on those that are trained "
        "on: the model may have been trained on both, so that it may be forgotten by heart and not "
        "lost elsewhere; validation samples that it never saw would tell",
    )


def _next(progress: GoalProgress, kernels: Sequence[KernelVerdict]) -> str:
    """What to do where a kernel did not get there: which one, and what stopped it."""
    divided = [k for k in kernels if k.division is not None]
    if progress.goal is None:
        worst = min(divided, key=lambda k: k.division or 0.0, default=None)
        if worst is None or (worst.division or 0.0) >= _LITTLE:
            return ""
        pulled = {k.place for k in progress.kernels if k.is_pulled}
        how = "a higher pull" if worst.path in pulled else "a goal, as 10x, instead of the factor"
        return f"{worst.path} came to {division(worst.division or 0.0)}: give {how}"
    goals = {k.place: k for k in progress.kernels}
    left = [k for k in kernels if not k.reached]
    if not left:
        return ""
    worst = max(left, key=lambda k: k.after / max(goals[k.path].target or FLOOR, 1e-12))
    came = division(worst.division) if worst.division is not None else f"{worst.after:.3g}"
    where = f"{worst.path} came to {came}"
    if not goals[worst.path].is_pulled:
        return f"{where}: it has no pull, so attach so to it, or exclude it"
    if not all(e.holds for e in progress.epochs):
        return f"{where}, where the task's margin stopped it: allow a larger one, or exclude it"
    return f"{where} when the epochs ended: give more of them"


def division(by: float) -> str:
    """`÷34`; `×1.2` where it is a multiplication."""
    if by < 1 and f"{by:.2g}" != "1":
        return f"×{1 / max(by, 1e-12):.2g}"
    return f"÷{by:.2g}" if by < 10 else f"÷{by:.0f}"


def figure(value: float) -> str:
    """A metric or a loss, as the report shows them."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"
