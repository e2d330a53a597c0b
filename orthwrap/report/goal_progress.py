"""How far a run has come, kernel by kernel and epoch by epoch: what controller and verdict go by.

Frozen data without Keras, that goes to JSON and back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from orthwrap.rules.aims import FLOOR

T = TypeVar("T")


@dataclass(frozen=True)
class KernelGoal:
    """A kernel that is driven, and where to.

    Attributes:
        place: layer and slot, `conv1`, `lstm@recurrent`; of several kernels in one slot, the
            kernel after a slash: `attention/query`.
        driven: which residual its scale drives, `"residual"` or `"scaled_residual"`.
        start: that residual before the first step.
        target: what it is to come to; None where the run has no goal.
        is_pulled: by `pull`; else a penalty in the loss drives it.
    """

    place: str
    driven: str
    start: float
    target: float | None = None
    is_pulled: bool = False

    @property
    def has_division(self) -> bool:
        """Whether there is anything to divide: its start is above the floor."""
        return self.start > FLOOR

    def reached(self, residual: float) -> bool:
        """Whether a residual of it is at its goal; False where there is none."""
        if self.target is None:
            return False
        return residual <= max(self.target, 0.0 if self.has_division else FLOOR)

    def division(self, residual: float) -> float | None:
        """Start over residual; None where there is nothing to divide."""
        return self.start / max(residual, 1e-12) if self.has_division else None


@dataclass(frozen=True)
class TaskStanding:
    """How the task stands after an epoch, on the same samples as the original.

    Attributes:
        value: of the metric, or of the task loss.
        reference: what it is held against: the better of the original's and the first epoch's.
        worse_by: the mean paired difference to the reference; above 0 is worse.
        standard_error: of that difference; 0 where samples could not be told apart.
        margin: what may be lost, in the metric's own unit.
        pooled_worse_by: the same difference over these samples and some that are trained on, all
            alike; None where those were not asked.
        recovers: the loss of these samples is higher than at first, and a twentieth of that or
            more came back since the epoch before, each by more than its standard error.
        loss: the mean of these samples; None where it is not known.
        trained: the same on samples that are trained on, where the model may have been trained on
            these as well: then those are held to the margin.
        by_heart: these samples lost more than those, by more than twice its standard error, in
            this epoch or an earlier one.
    """

    value: float
    reference: float
    worse_by: float
    standard_error: float
    margin: float
    pooled_worse_by: float | None = None
    recovers: bool = False
    loss: float | None = None
    trained: TaskStanding | None = None
    by_heart: bool = False

    @property
    def held(self) -> TaskStanding:
        """What is held to the margin."""
        return self.trained or self

    @property
    def spent(self) -> bool:
        """Whether more than the margin was lost, by more than chance of the samples."""
        return self.worse_by - self.margin > self.standard_error

    @property
    def cannot_tell(self) -> bool:
        """Whether the samples are too few to say that, or that no more was lost."""
        return abs(self.held.worse_by - self.margin) <= self.held.standard_error

    @property
    def holds(self) -> bool:
        """Whether the margin does: where the samples cannot tell, more of them decide."""
        if self.trained is not None:
            return self.trained.worse_by <= self.margin
        if self.pooled_worse_by is None or not self.cannot_tell:
            return not self.spent
        return self.pooled_worse_by <= self.margin

    @property
    def may_go_on(self) -> bool:
        """Whether a next step may be taken: on what is trained on, until it is spent."""
        return self.holds or (self.trained is not None and not self.trained.spent)

    @property
    def is_well(self) -> bool:
        """Whether the margin holds and no sign speaks against it."""
        return self.holds and self.held.worse_by <= (0.0 if self.trained else self.margin)


@dataclass(frozen=True)
class GoalEpoch:
    """What held after an epoch.

    Attributes:
        epoch: counted from 1.
        residuals: driven, in the order of the kernels.
        rates: with which each kernel was pulled in it; None where it was not.
        task: None where there was nothing to compare on.
        seconds: since the run began.
    """

    epoch: int
    residuals: tuple[float, ...]
    rates: tuple[float | None, ...]
    task: TaskStanding | None = None
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the task is within its margin, or nothing was compared."""
        return self.task is None or self.task.holds

    @property
    def may_go_on(self) -> bool:
        """Whether a next step may be taken after it."""
        return self.task is None or self.task.may_go_on


@dataclass(frozen=True)
class GoalProgress:
    """A run's way to its goal; without a goal, the way its kernels went all the same.

    Attributes:
        goal: as it is spoken, `10x`; None where the run has none.
        kernels: that are driven, in the model's order.
        epochs: that are done.
        task: the figure that stands for the task, `accuracy`; None without one.
        lower_is_better: of that figure.
        original: that figure of the model before the first step.
        ended: why the run ended before its last epoch: `"reached"`, `"margin"` (spent, and not
            to be regained), or "".
    """

    goal: str | None
    kernels: tuple[KernelGoal, ...]
    epochs: tuple[GoalEpoch, ...] = ()
    task: str | None = None
    lower_is_better: bool = False
    original: float | None = None
    ended: str = ""

    def with_epoch(self, epoch: GoalEpoch) -> GoalProgress:
        return dataclasses.replace(self, epochs=(*self.epochs, epoch))

    def at(self, epoch: int) -> GoalEpoch | None:
        """What held after an epoch, counted from 1."""
        return next((e for e in self.epochs if e.epoch == epoch), None)

    def is_reached(self, epoch: GoalEpoch) -> bool:
        """Whether every kernel that has a goal was at it after this epoch; False where none has."""
        pairs = zip(self.kernels, epoch.residuals, strict=True)
        held = [k.reached(r) for k, r in pairs if k.target is not None]
        return bool(held) and all(held)

    @property
    def first_reached(self) -> GoalEpoch | None:
        """The first epoch after which every kernel was at its goal."""
        return next((e for e in self.epochs if self.is_reached(e)), None)

    def distance(self, epoch: GoalEpoch) -> float:
        """How far the kernels are from their goals: the mean over them of log(residual / target).

        A kernel at its goal counts as 0. In a run without a goal every kernel has the floor for
        one; in a run with a goal, one that has none does not count.
        """
        gaps = [
            0.0 if k.reached(r) else math.log(max(r, 1e-12) / max(target, 1e-12))
            for k, r in zip(self.kernels, epoch.residuals, strict=True)
            if (target := FLOOR if self.goal is None else k.target) is not None
        ]
        return sum(max(gap, 0.0) for gap in gaps) / len(gaps) if gaps else 0.0

    def least_division(self, epoch: GoalEpoch) -> float | None:
        """By how much the residual that fell least is divided; None where none had any."""
        pairs = zip(self.kernels, epoch.residuals, strict=True)
        return min((d for k, r in pairs if (d := k.division(r)) is not None), default=None)

    def is_within(self, epoch: GoalEpoch) -> bool:
        """Whether the margin holds after an epoch, and not by its luck alone.

        Where the samples cannot tell, one that follows an epoch in which it did not hold may be a
        lucky one: the next counts, if it holds there too.
        """
        before = self.at(epoch.epoch - 1)
        is_unsure = epoch.task is not None and epoch.task.cannot_tell
        return epoch.holds and (before is None or before.holds or not is_unsure)

    def is_better(self, one: GoalEpoch, other: GoalEpoch) -> bool:
        """Whether one epoch is rather to be kept: within the margin, then nearer to the goal.

        Between two in which the margin did not hold the one that lost less is kept; between two
        that are equally near, the one whose task stands better, then the one with the smaller loss
        (few samples give many epochs the same accuracy), and then the one with smaller residuals.
        """
        return self._order(one) < self._order(other)

    def _order(self, epoch: GoalEpoch) -> tuple[float, ...]:
        task = epoch.task
        lost = 0.0 if task is None else task.held.worse_by
        if not self.is_within(epoch):
            return 1.0, lost
        residuals = sum(math.log(max(r, 1e-12)) for r in epoch.residuals)
        loss = 0.0 if task is None or task.loss is None else task.loss
        return 0.0, self.distance(epoch), lost, loss, residuals

    @property
    def best(self) -> GoalEpoch | None:
        """The epoch to keep, the earlier of two that are equal; None before the first."""
        best: GoalEpoch | None = None
        for epoch in self.epochs:
            if best is None or self.is_better(epoch, best):
                best = epoch
        return best

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = _listed(dataclasses.asdict(self))
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GoalProgress:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is not what that gives.
        """
        kernels = tuple(_checked(KernelGoal, kernel) for kernel in data["kernels"])
        epochs = []
        for epoch in data["epochs"]:
            task = epoch["task"]
            lists = {name: tuple(epoch[name]) for name in ("residuals", "rates")}
            if any(len(values) != len(kernels) for values in lists.values()):
                raise ValueError(f"an epoch tells of other than {len(kernels)} kernels")
            numbers = (*lists["residuals"], *(r for r in lists["rates"] if r is not None))
            if not all(isinstance(n, (int, float)) for n in numbers):
                raise ValueError("a residual or a rate is no number")
            task = None if task is None else _standing(task)
            epochs.append(_checked(GoalEpoch, {**epoch, **lists, "task": task}))
        return _checked(cls, {**data, "kernels": kernels, "epochs": tuple(epochs)})


def _standing(data: Mapping[str, Any]) -> TaskStanding:
    whole = {"trained": None, **data}
    if whole["trained"] is not None:
        whole["trained"] = _standing(whole["trained"])
    return _checked(TaskStanding, whole)


_PLAIN: dict[str, Any] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "None": type(None),
}


def _checked(cls: type[T], data: Mapping[str, Any]) -> T:
    """A record whose plain fields are of their types; TypeError where one is not."""
    made = cls(**data)
    for field in dataclasses.fields(made):  # type: ignore[arg-type]
        names, value = str(field.type).split(" | "), getattr(made, field.name)
        if _PLAIN.keys() >= set(names) and not any(isinstance(value, _PLAIN[n]) for n in names):
            raise TypeError(f"{field.name} is of type {type(value).__name__}, not {field.type}")
    return made


def _listed(value: Any) -> Any:
    """With lists in place of tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: _listed(inner) for key, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, (list, tuple)) else value
