"""A run's way to its goal: what is measured after each epoch, and the pulls that follow from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orthwrap.report.goal_progress import GoalEpoch, GoalProgress, KernelGoal, TaskStanding
from orthwrap.rules.aims import Aim
from orthwrap.training.goal.controller import Course, ending, first_rates, next_rates
from orthwrap.training.goal.task import Measured, Task
from orthwrap.training.pull.kernels import DrivenKernel
from orthwrap.training.pull.pulling import Pulling


@dataclass(frozen=True)
class Pursued:
    """What to do with a kernel.

    Attributes:
        kernel: which.
        rate: fixed, with which it is pulled; None follows the goal, or leaves it to its penalty.
    """

    kernel: DrivenKernel
    rate: float | None = None


class Pursuit:
    """Measures the driven kernels and the task after each epoch, and moves the pulls.

    Without a goal it only watches, and keeps the rates that are fixed.

    Args:
        model: compiled.
        pursued: the kernels, in the model's order.
        aim: what they are to come to, or None.
        task: what is held against the margin, or None.
        course: how long the run is.
        owner: who set the pulls.
        clock: gives seconds.
    """

    def __init__(
        self,
        model: Any,
        pursued: Sequence[Pursued],
        aim: Aim | None,
        task: Task | None,
        course: Course,
        owner: Any = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._kernels = [p.kernel for p in pursued]
        self._fixed = [p.rate for p in pursued]
        self._aim, self._task, self._course, self._clock = aim, task, course, clock
        self._original: Measured | None = None
        self._reference: Measured | None = None
        self._before: Measured | None = None  # the epoch before
        self._trained: Measured | None = None  # the original, on what is trained on
        self._trained_reference: Measured | None = None  # where it may have known both
        self._rates: tuple[float | None, ...] = ()
        self._began = 0.0
        self._owner = owner
        self._pulled = [
            i
            for i, p in enumerate(pursued)
            if p.rate is not None or (aim is not None and p.kernel.regularizer.has_pull)
        ]
        self._pulling: Pulling | None = None
        self._progress = GoalProgress(None if aim is None else str(aim), ())

    @property
    def progress(self) -> GoalProgress:
        """So far."""
        return self._progress

    def begin(
        self, state: Mapping[str, Any] | None = None, arrays: Sequence[NDArray[Any]] = ()
    ) -> None:
        """Takes the start as it is now, or as a checkpoint has it, and sets the pulls.

        Raises:
            KeyError, TypeError, ValueError: a checkpoint that is not of these kernels.
        """
        if state is not None:
            self._restore(state, arrays)
        else:
            self._start()
        if self._pulled:
            chosen = [self._kernels[i] for i in self._pulled]
            self._pulling = Pulling(self._model, chosen, owner=self._owner)
            self._assign()
        spent = self.progress.epochs[-1].seconds if self.progress.epochs else 0.0
        self._began = self._clock() - spent

    def _start(self) -> None:
        kernels, speeds = [], []
        for i, kernel in enumerate(self._kernels):
            figures = kernel.figures()
            start = figures.residual
            speeds.append(figures.speed)
            target = None if self._aim is None else self._aim.target(start)
            kernels.append(
                KernelGoal(kernel.place, kernel.driven, start, target, i in self._pulled)
            )
        self._progress = replace(self.progress, kernels=tuple(kernels))
        if self._task is not None:
            self._original = self._reference = self._task.measure()
            if self._task.measure_trained is not None:
                self._trained = self._task.measure_trained()
                if self._task.may_have_known(self._original, self._trained):
                    self._trained_reference = self._trained
            self._progress = replace(
                self.progress,
                task=self._task.name,
                lower_is_better=self._task.lower_is_better,
                original=self._original.value,
            )
        rates = first_rates(self.progress, self._course, speeds)
        fixed = zip(rates, self._fixed, strict=True)
        self._rates = tuple(rate if own is None else own for rate, own in fixed)

    def epoch_done(self, epoch: int) -> GoalEpoch:
        """Measures what an epoch (counted from 1) came to, and sets the rates of the next."""
        figures = [kernel.figures() for kernel in self._kernels]
        residuals = tuple(f.residual for f in figures)
        task = None if self._task is None else self._standing(self._task)
        seconds = self._clock() - self._began
        done = GoalEpoch(epoch, residuals, self._rates, task, seconds)
        self._progress = self.progress.with_epoch(done)
        if self._aim is not None:
            self._progress = replace(self.progress, ended=ending(self.progress))
            rates = next_rates(self.progress, self._course, [f.speed for f in figures])
            moved = zip(rates, self._fixed, strict=True)
            self._rates = tuple(rate if own is None else own for rate, own in moved)
            self._assign()
        return done

    def _standing(self, task: Task) -> TaskStanding:
        """How the task stands; what is trained on is asked where the other samples are too few."""
        now = task.measure()
        assert self._reference is not None
        if not self.progress.epochs:  # what training alone gains is no leave to lose it again
            self._reference = task.better_of(self._reference, now)
        original = self.progress.original or 0.0
        standing = task.standing(original, self._reference, now, self._before)
        self._before = now
        if self._trained is None or task.measure_trained is None:
            return standing
        if self._trained_reference is not None:
            return self._held_by_trained(task, standing, task.measure_trained())
        if not standing.cannot_tell:
            return standing
        all_then = self._reference.with_more(self._trained)
        pooled, _ = task.worse_by(all_then, now.with_more(task.measure_trained()))
        return replace(standing, pooled_worse_by=pooled)

    def _held_by_trained(self, task: Task, standing: TaskStanding, now: Measured) -> TaskStanding:
        """What is trained on is held to the margin, against the better of original and first epoch.

        Once samples are shown to be known by heart, the first epoch's gain may be of that kind.
        """
        original, reference, epochs = self._trained, self._trained_reference, self.progress.epochs
        assert original is not None
        assert reference is not None
        if not epochs:
            reference = self._trained_reference = task.better_of(reference, now)
        trained = task.standing(original.value, reference, now)
        last = epochs[-1].task if epochs else None
        by_heart = (last is not None and last.by_heart) or task.is_by_heart(standing, trained)
        if by_heart:
            trained = task.standing(original.value, original, now)
        return replace(standing, trained=trained, by_heart=by_heart)

    def stop(self) -> None:
        """Takes the pulls off. May be repeated."""
        if self._pulling is not None:
            self._pulling.stop()
            self._pulling = None

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """Once a step was made: the kernels that are not pulled as they have no gradient."""
        if self._pulling is None:
            return ()
        return tuple(kernel.place for kernel in self._pulling.without_gradient)

    @property
    def kernels(self) -> tuple[DrivenKernel, ...]:
        """That are driven, in the order of the progress."""
        return tuple(self._kernels)

    @property
    def rates(self) -> tuple[float | None, ...]:
        """Of the next epoch; None for kernels that are not pulled."""
        return self._rates

    @property
    def may_have_known(self) -> bool:
        """Whether the model may have been trained on what it is validated on."""
        return self._trained_reference is not None

    @property
    def allowed(self) -> float:
        """What the task may lose, in its own unit; 0 where there is none."""
        return 0.0 if self._task is None else self._task.allowed(self.progress.original or 0.0)

    @property
    def told(self) -> tuple[int, float]:
        """Of how many samples the task is judged, and the least loss of it that they tell."""
        task, original = self._task, self._original
        if task is None or original is None or original.each is None:
            return 0, 0.0
        return len(original.each), task.worse_by(original, original)[1]

    @property
    def state(self) -> dict[str, Any]:
        """For `begin`, with `arrays`."""
        known = self.may_have_known
        rates = list(self._rates)
        return {"progress": self.progress.to_json(), "rates": rates, "may_have_known": known}

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """What the task is held against, sample by sample; nothing where there is none."""
        held = (self._reference, self._trained, self._trained_reference, self._before)
        return [a for m in held if m is not None for a in _arrays_of(m)]

    def _restore(self, state: Mapping[str, Any], arrays: Sequence[NDArray[Any]]) -> None:
        progress, rates = GoalProgress.from_json(state["progress"]), tuple(state["rates"])
        places = [k.place for k in progress.kernels]
        if places != [k.place for k in self._kernels] or len(rates) != len(places):
            raise ValueError("other kernels")
        if not all(r is None or 0 <= r <= 1 for r in rates):
            raise ValueError(f"rates {rates}")
        asks = self._task is not None and self._task.measure_trained is not None
        known = asks and state.get("may_have_known") is True
        has_before = self._task is not None and bool(progress.epochs)
        if len(arrays) != 3 * ((self._task is not None) + asks + known + has_before):
            raise ValueError("another task")
        self._progress, self._rates = progress, rates
        held = [_measured(*arrays[i : i + 3]) for i in range(0, len(arrays), 3)]
        self._reference = held[0] if held else None
        self._trained = held[1] if asks else None
        self._trained_reference = held[2] if known else None
        self._before = held[-1] if has_before else None

    def _assign(self) -> None:
        if self._pulling is not None:
            self._pulling.assign([self._rates[i] or 0.0 for i in self._pulled])


def _arrays_of(measured: Measured) -> list[NDArray[Any]]:
    """For `_measured`; an empty one stands for None."""
    none = np.empty(0, np.float32)
    samples = (none if a is None else a for a in (measured.each, measured.losses))
    return [np.asarray(measured.value, np.float64), *samples]


def _measured(value: Any, each: NDArray[Any], losses: NDArray[Any]) -> Measured:
    return Measured(float(value), each if each.size else None, losses if losses.size else None)
