"""How hard each kernel is pulled next: a pure function of how the run went so far.

What Keras and the clock have to do with it is in `pursuit`. No state is kept beside the progress
that a checkpoint holds, so that a run goes on as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orthwrap.report.goal_progress import GoalEpoch, GoalProgress, KernelGoal

HIGHEST = 0.5
"""The highest rate, at which singular values near 1 come to it in a step. Pulls go no further."""

_SPREAD = 3  # epochs that a goal is spread over at least, where there are so many
_SHARE = 0.25  # of the epochs, that it is spread over; the task recovers in the others
_INSIDE = 0.8  # of its target, where a kernel is aimed at
_STEPS = 100  # of an epoch, until it is known
_DOWN = 3.0  # times a rate goes down after an epoch in which the margin was spent
_PATIENCE = 5  # epochs that a spent margin, or a standstill after it, is waited for


@dataclass(frozen=True)
class Course:
    """The length of a run.

    Attributes:
        steps: optimizer steps in an epoch; None where that is not known.
        epochs: at most.
    """

    steps: int | None
    epochs: int

    @property
    def spread(self) -> int:
        """Epochs after which the goal should be reached, at the first rates."""
        return min(max(_SPREAD, round(_SHARE * self.epochs)), self.epochs)

    def rate(self, division: float, epochs: float) -> float:
        """β that divides a small residual so in so many epochs, where nothing opposes it.

        Each step multiplies it by 1 − 2β.
        """
        steps = max((self.steps or _STEPS) * epochs, 1.0)
        return min(max(math.log(max(division, 1.0)) / (2 * steps), 0.0), HIGHEST)


def first_rates(progress: GoalProgress, course: Course) -> tuple[float | None, ...]:
    """With which the kernels are pulled in the first epoch; None for those that are not."""
    return tuple(
        course.rate(max(k.start / _aim(k), 2.0), course.spread) if k.is_pulled else None
        for k in progress.kernels
    )


def next_rates(progress: GoalProgress, course: Course) -> tuple[float | None, ...]:
    """With which they are pulled in the epoch after the last one.

    Where the margin is spent every rate goes down to a third, epoch after epoch until it is
    regained. Afterwards no rate comes to more than half of what it was when the margin was spent,
    so that rates cannot go up and down for ever. Else a kernel that lags is pulled harder, one
    that reached its goal is held, and one that is far past it is let go a little.
    """
    now = progress.epochs[-1]
    if is_spent(now):
        return tuple(None if rate is None else rate / _DOWN for rate in now.rates)
    before = progress.epochs[-2] if len(progress.epochs) > 1 else None
    starts = [k.start for k in progress.kernels] if before is None else before.residuals
    left = max(course.spread - len(progress.epochs), 1)
    rates: list[float | None] = []
    for i, kernel in enumerate(progress.kernels):
        rate = now.rates[i]
        if rate is None:
            rates.append(None)
            continue
        rate *= _factor(kernel, starts[i], now.residuals[i], left)
        ceilings = (e.rates[i] for e in _too_much(progress.epochs))
        rates.append(min([rate, HIGHEST, *(r / 2 for r in ceilings if r is not None)]))
    return tuple(rates)


def _factor(kernel: KernelGoal, before: float, now: float, left: int) -> float:
    """By how much its rate changes, `left` epochs before the goal should be reached."""
    target = _target(kernel)
    if kernel.reached(now):
        return 0.7 if now < target / 2 else 1.2 if now > 0.95 * target else 1.0
    needed = math.log(max(now / _aim(kernel), 1.0)) / left
    observed = math.log(max(before, 1e-12) / max(now, 1e-12))
    return 3.0 if observed < needed / 3 else max(needed / observed, 0.7)


def ending(progress: GoalProgress) -> str:
    """Why the run should end now: "reached", "margin", or "" where it goes on."""
    epochs = progress.epochs
    last = epochs[-2:]
    if len(last) == 2 and all(progress.is_reached(e) and not is_spent(e) for e in last):
        return "reached"
    spent = [e for e in epochs if is_spent(e)]
    if not spent:
        return ""
    recent = epochs[-_PATIENCE:]
    if len(recent) == _PATIENCE and all(map(is_spent, recent)):
        tasks = [e.task.worse_by for e in recent if e.task is not None]
        return "margin" if min(tasks[1:]) >= tasks[0] or len(spent) > 2 * _PATIENCE else ""
    best = progress.best
    assert best is not None
    waited = epochs[-1].epoch - max(best.epoch, spent[0].epoch)
    return "margin" if waited > _PATIENCE else ""


def _too_much(epochs: Sequence[GoalEpoch]) -> list[GoalEpoch]:
    """The epochs in which the margin was spent, those before which it was spent already aside."""
    return [e for i, e in enumerate(epochs) if is_spent(e) and not (i and is_spent(epochs[i - 1]))]


def is_spent(epoch: GoalEpoch) -> bool:
    return epoch.task is not None and epoch.task.spent


def _target(kernel: KernelGoal) -> float:
    return 1e-12 if kernel.target is None else max(kernel.target, 1e-12)


def _aim(kernel: KernelGoal) -> float:
    return _INSIDE * _target(kernel)
