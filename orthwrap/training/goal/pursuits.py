"""Who drives the kernels of a run: decided from the settings, and told before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import keras

from orthwrap.data import Data
from orthwrap.errors import UsageError
from orthwrap.live.compiled import inner_of
from orthwrap.penalties.table import with_pull
from orthwrap.rules.aims import Aim
from orthwrap.text import counted, listed
from orthwrap.training.goal.compiling import learning_rate
from orthwrap.training.goal.controller import Course
from orthwrap.training.goal.pursuit import Pursued, Pursuit
from orthwrap.training.goal.task import task_of
from orthwrap.training.pull.kernels import DrivenKernel
from orthwrap.training.pull.pulling import check_no_averages
from orthwrap.training.settings import DEFAULT_GOAL, Settings

Places = Sequence[tuple[str, str]]

TRAINED = 1000
"""Samples of what is trained on, at most, that stand by where others are too few."""


def aim_of(model: Any, kernels: Sequence[DrivenKernel], settings: Settings) -> Aim | None:
    """The goal that holds for a compiled model.

    The default gives way where nothing can be pulled, or where the optimizer averages weights.

    Args:
        kernels: of the model, those that are driven.

    Raises:
        UsageError: a goal that was asked for cannot be pursued.
    """
    aim: Aim | None = settings.goal
    if aim is None:
        return None
    try:
        check_no_averages(inner_of(model.optimizer))
        if not any(kernel.regularizer.has_pull for kernel in kernels):
            names = dict.fromkeys(kernel.regularizer.penalty for kernel in kernels)
            what = f"{', '.join(names)} has no pull" if names else "no trained kernel carries one"
            raise UsageError(
                f"goal {aim} is reached by pulls, and {what}: attach {with_pull()}, "
                "or give a factor"
            )
    except UsageError:
        if aim is DEFAULT_GOAL:
            return None
        raise
    return aim


def pursuit_of(
    model: Any,
    kernels: Sequence[DrivenKernel],
    aim: Aim | None,
    batches: Callable[[], Iterable[Any]] | None,
    settings: Settings,
    steps: int | None,
    kinds: Sequence[str] = (),
    pulls: Sequence[tuple[float, Places]] = (),
    trained: Callable[[], Iterable[Any]] | None = None,
    *,
    is_split: bool = False,
) -> Pursuit | None:
    """What pursues the goal, pulls at the rates that were given, or only watches.

    Args:
        kernels: of the model, those that are driven.
        aim: the goal that holds for it.
        batches: what the task is held against, the same each time; None for nothing.
        steps: of an epoch; None where that is not known.
        kinds: of the outputs, where they are to be a teacher's.
        pulls: rates of rules, with the layers and slots they are for.
        trained: some of what is trained on, the same each time; None for nothing.
        is_split: whether both are parts of what was given to train on.

    None where no trained kernel carries a penalty of ours.

    Raises:
        UsageError: a pull or a goal that was asked for cannot be.
    """
    rates: dict[tuple[str, str], float] = {p: rate for rate, places in pulls for p in places}
    pursued = []
    for kernel in kernels:
        rate = rates.get((kernel.path, kernel.slot))
        if rate is None and kernel.regularizer.has_pull:
            rate = settings.pull
        pursued.append(Pursued(kernel, rate))
    if settings.pull is not None and all(p.rate is None for p in pursued):
        raise UsageError(
            f"pull {settings.pull:g}: no trained kernel carries {with_pull()}, which have a pull"
        )
    if not pursued:
        return None
    task = None
    if batches is not None:
        asked = None if aim is None else trained
        task = task_of(model, batches, settings.task_margin, kinds, asked)
        # A teacher's outputs were never trained on.
        task = replace(task, is_split=is_split and not kinds)
    return Pursuit(model, pursued, aim, task, Course(steps, settings.epochs))


def is_pulled(pursuit: Pursuit | None) -> bool:
    """Whether any kernel is pulled, so that the loss has no penalty of it."""
    return pursuit is not None and any(rate is not None for rate in pursuit.rates)


def trained_samples(data: Data, batch_size: int) -> Callable[[], Iterable[Any]] | None:
    """Some of those that are trained on, where there are others to validate on; not of a stream."""
    if data.held_out is None or not data.are_kept[0]:
        return None
    return lambda: data.some_trained(TRAINED, batch_size)


_BOUND_BY_RATE = (
    *(keras.optimizers.Adam, keras.optimizers.Nadam, keras.optimizers.Adamax),
    *(keras.optimizers.RMSprop, keras.optimizers.Lion),
)


def moves_little(model: Any, pursuit: Pursuit, steps: int) -> list[str]:
    """Where the optimizer cannot move weights as far as a kernel is from its goal: a line of it.

    Adam and its like move a weight by about their rate at each step at most.
    """
    optimizer, rate = inner_of(model.optimizer), learning_rate(model.optimizer)
    if not isinstance(optimizer, _BOUND_BY_RATE) or isinstance(rate, str):
        return []
    reach = rate * steps
    far, name = 0.0, ""
    for kernel, goal in zip(pursuit.kernels, pursuit.progress.kernels, strict=True):
        shape = tuple(kernel.variable.shape)
        _, m, n = kernel.regularizer.layout_for(shape).matrices(shape)
        # With all σ/α at 1 + d the residual is d(d+2), and a weight's mean way α·d/√max(m, n).
        way = math.sqrt(1 + goal.start) - 1
        needed = kernel.regularizer.attachment.alpha * way / math.sqrt(max(m, n))
        if needed > max(far, reach):
            far, name = needed, kernel.place
    if not name:
        return []
    return [
        f"{type(optimizer).__name__}'s rate {rate:.2g} over {steps} steps moves a weight by "
        f"{reach:.2g} at most, whatever the factor, and {name} is about {far:.2g} from there: a "
        "goal or a pull is not bound by that"
    ]


def told_of_pursuit(
    model: Any, pursuit: Pursuit | None, settings: Settings, steps: int | None
) -> tuple[str, ...]:
    """What was chosen, and what a factor will not do, one line each."""
    if pursuit is None:
        return ()
    progress = pursuit.progress
    lines = []
    pulled = [(k, r) for k, r in zip(progress.kernels, pursuit.rates, strict=True) if r is not None]
    left = [k.place for k in progress.kernels if not k.is_pulled]
    rates = sorted(rate for _, rate in pulled)
    if rates:
        several = "" if rates[0] == rates[-1] else f" to {rates[-1]:.2g}"
        kernels = counted(len(pulled), "kernel")
        what = f"{kernels} pulled after each step, at {rates[0]:.2g}{several}"
        if progress.goal is not None:
            what = f"goal {progress.goal}: {what} at first"
            if settings.epochs > 1:
                what += ", in longer steps from epoch to epoch while the task stands well"
        lines.append(f"{what}; the loss has no penalty of them")
        if left:
            lines.append(f"no pull, but a penalty with its factor: {listed(left)}")
    elif settings.goal is DEFAULT_GOAL:
        lines.append("no goal: nothing here can be pulled, so the factor holds")
    if not rates and steps is not None:
        lines += moves_little(model, pursuit, steps * settings.epochs)
    if progress.task is not None and progress.goal is not None and progress.original is not None:
        samples, told = pursuit.told
        few = f", of which {samples} samples tell no less than {told:.2g}"
        lines.append(
            f"task: {progress.task}, {progress.original:.4g} as it is; {pursuit.allowed:.3g} of it "
            f"may be lost{few if told > pursuit.allowed else ''}"
        )
        if pursuit.may_have_known:
            lines.append(
                f"that is judged on up to {TRAINED} samples that are trained on: the model knows "
                "the held-out ones as well, and may have been trained on them; validation samples "
                "that it never saw would tell more"
            )
    return tuple(lines)
