"""How hard each kernel is pulled next: a pure function of how the run went so far.

The way to the goal is gone in steps, one an epoch. From 0, where the kernels began, to 1, where
each is a little inside its target, it is the share of the logarithm of its division that a kernel
has behind it. How long the next step is follows from how the task took the last ones (`pace`), and
the rates follow from the step and from how each kernel answered to its last rate (`rate_for`).

What Keras and the clock have to do with it is in `pursuit`. No state is kept beside the progress
that a checkpoint holds, so that a run goes on as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orthwrap.report.goal_progress import GoalEpoch, GoalProgress, KernelGoal, TaskStanding

HIGHEST = 0.5
"""The highest rate, at which singular values near 1 come to it in a step. Pulls go no further."""

_SPREAD = 3  # epochs that a goal is spread over at least, where there are so many
_SHARE = 0.5  # of the epochs, that it is spread over; the task recovers in the others
_INSIDE = 0.95  # of its target, where a kernel is aimed at: held ones stay within 3 % of it
_STEPS = 100  # of an epoch, until it is known
_LEAST = 0.01  # of a logarithm, that a kernel is asked to go at first
_DOWN = 3.0  # times a rate goes down where the margin stays spent although nothing moves on
_HELD = 2  # epochs for which kernels are held before that
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
        """Epochs that the whole way takes at the longest steps."""
        return min(max(_SPREAD, round(_SHARE * self.epochs)), self.epochs)

    @property
    def shortest(self) -> float:
        """The first step: taken in every epoch, it would just lead to the goal."""
        return 1 / self.epochs

    @property
    def longest(self) -> float:
        return 1 / self.spread


def first_rates(
    progress: GoalProgress, course: Course, speeds: Sequence[float] = ()
) -> tuple[float | None, ...]:
    """With which the kernels are pulled in the first epoch; None for those that are not.

    Args:
        speeds: of the kernels (`DrivenKernel.figures`); all 1 where they are not given.
    """
    speeds = speeds or (1.0,) * len(progress.kernels)
    steps = course.steps or _STEPS
    return tuple(
        min(max(course.shortest * _way(k), _LEAST) / (2 * steps * speed), HIGHEST)
        if k.is_pulled
        else None
        for k, speed in zip(progress.kernels, speeds, strict=True)
    )


def next_rates(
    progress: GoalProgress, course: Course, speeds: Sequence[float] = ()
) -> tuple[float | None, ...]:
    """With which they are pulled in the epoch after the last one.

    While the margin is spent no step is taken: each kernel is held where it is, so that the task
    can recover there. Where it does not, every rate goes down to a third, epoch after epoch.
    """
    now = progress.epochs[-1]
    if _lost_in_a_row(progress.epochs) > _HELD:
        return tuple(None if rate is None else rate / _DOWN for rate in now.rates)
    speeds = speeds or (1.0,) * len(progress.kernels)
    before = progress.epochs[-2] if len(progress.epochs) > 1 else None
    step = pace(progress, course) if now.may_go_on else 0.0
    place = _place(progress, now) + step
    rates: list[float | None] = []
    for i, (kernel, rate) in enumerate(zip(progress.kernels, now.rates, strict=True)):
        if rate is None:
            rates.append(None)
            continue
        start = kernel.start if before is None else before.residuals[i]
        answer = Answer(rate, course.steps or _STEPS, start, now.residuals[i], speeds[i])
        rates.append(rate_for(_next_residual(kernel, answer.after, place, step), answer))
    return tuple(rates)


def pace(progress: GoalProgress, course: Course) -> float:
    """How long the next step is, as a share of the way: what all epochs say of the task.

    It begins with `course.shortest` and is never above `course.longest`. An unlucky epoch
    shortens it and is made up for; a task that suffers at every step meets ever shorter ones.
    """
    length = course.shortest
    for epoch in progress.epochs:
        length = min(max(length * _longer(epoch.task), course.shortest / 4), course.longest)
    return length


def _longer(task: TaskStanding | None) -> float:
    """How many times longer the step after an epoch is than the one before."""
    if task is None or task.is_well:
        return 2.0
    if task.holds and (task.trained is not None or task.pooled_worse_by is not None):
        return 1.5  # the samples cannot tell, and of those that are trained on it holds
    return 0.5


@dataclass(frozen=True)
class Answer:
    """How a kernel answered to a rate.

    Attributes:
        rate: with which it was pulled.
        steps: for so many.
        before, after: its residual.
        speed: how many times faster than a small residual its own falls, as it is now.
    """

    rate: float
    steps: int
    before: float
    after: float
    speed: float = 1.0

    @property
    def push(self) -> float:
        """What the task added to the residual at each step, against the pull."""
        kept, pushed = _fallen(self.rate, self.steps, self.speed)
        return max((self.after - self.before * kept) / pushed, 0.0)


def rate_for(residual: float, last: Answer) -> float:
    """The rate with which a kernel comes to a residual in an epoch, if it answers as it did."""
    push = last.push

    def after(rate: float) -> float:
        kept, pushed = _fallen(rate, last.steps, last.speed)
        return last.after * kept + push * pushed

    low, high = 0.0, HIGHEST
    if after(high) > residual:
        return high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if after(middle) > residual else (low, middle)
    return high


def _fallen(rate: float, steps: int, speed: float) -> tuple[float, float]:
    """What is left of a residual of 1, and what a push of 1 at each step came to.

    A residual r obeys r ← r·(1 − 2β·speed) + push at each step.
    """
    falling = min(2 * rate * speed, 1.0)
    kept = (1 - falling) ** steps
    return kept, (1 - kept) / falling if falling * steps > 1e-9 else float(steps)


def ending(progress: GoalProgress) -> str:
    """Why the run should end now: "reached", "margin", or "" where it goes on.

    At the goal, and where the margin is spent, kernels are held, and what the way there cost the
    task may come back: not before that is over does the run end.
    """
    epochs = progress.epochs
    last = epochs[-2:]
    if last and last[-1].task is not None and last[-1].task.recovers:
        return ""
    if len(last) == 2 and all(progress.is_reached(e) and e.holds for e in last):
        return "reached"
    spent = [e for e in epochs if not e.holds]
    if not spent:
        return ""
    recent = epochs[-_PATIENCE:]
    if len(recent) == _PATIENCE and not any(e.holds for e in recent):
        tasks = [e.task.held.worse_by for e in recent if e.task is not None]
        return "margin" if min(tasks[1:]) >= tasks[0] or len(spent) > 2 * _PATIENCE else ""
    if epochs[-1].task is not None and epochs[-1].task.trained is not None and epochs[-1].may_go_on:
        return ""  # steps are taken, and a later epoch may be within the margin again
    best = progress.best
    assert best is not None
    waited = epochs[-1].epoch - max(best.epoch, spent[0].epoch)
    return "margin" if waited > _PATIENCE else ""


def _lost_in_a_row(epochs: Sequence[GoalEpoch]) -> int:
    """After how many of the last epochs no step was taken."""
    return next((i for i, e in enumerate(reversed(epochs)) if e.may_go_on), len(epochs))


def _place(progress: GoalProgress, epoch: GoalEpoch) -> float:
    """Which share of the way lies behind the kernels, on average over those that are pulled."""
    shares = [
        min(max(_log(k.start / max(r, 1e-12)) / _way(k), 0.0), 1.0) if _way(k) > 0 else 1.0
        for k, r in zip(progress.kernels, epoch.residuals, strict=True)
        if k.is_pulled
    ]
    return sum(shares) / len(shares) if shares else 1.0


def _next_residual(kernel: KernelGoal, now: float, place: float, step: float) -> float:
    """What a kernel should come to in the next epoch: that of the place on its way.

    One that lags goes no more than two steps at once, one that is ahead is held, and one that is
    far past its aim is let go.
    """
    aim = kernel.start * math.exp(-_way(kernel))
    if now < aim / 2:
        return aim
    wanted = kernel.start * math.exp(-min(place, 1.0) * _way(kernel))
    return min(now, max(wanted, now * math.exp(-2 * step * _way(kernel))))


def _way(kernel: KernelGoal) -> float:
    """Logarithm of what its residual is to be divided by in all; 0 where it is there."""
    target = 1e-12 if kernel.target is None else max(kernel.target, 1e-12)
    return max(_log(kernel.start / (_INSIDE * target)), 0.0)


def _log(value: float) -> float:
    return math.log(max(value, 1e-12))
