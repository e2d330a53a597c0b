"""How to train: what the user may say of it, checked. NumPy alone; Keras is not needed."""

from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from orthwrap.errors import UsageError, ValueFault
from orthwrap.schedules import Schedule

DEFAULT_EPOCHS = 5
DEFAULT_BATCH_SIZE = 32
DEFAULT_LEARNING_RATE = 1e-4
DEFAULT_RHO = 1.0
DEFAULT_TEMPERATURE = 2.0


class TrainingWords(TypedDict, total=False):
    """Keywords of `apply` and `finetune` that are about training; each is a long option too.

    Attributes:
        epochs: times through the data; 5.
        batch_size: samples per step; 32.
        learning_rate: None keeps the optimizer's own, or takes 1e-4 where none is named.
        seed: makes a run repeatable; None draws one.
        validation: data to validate on, in any form that `data` may have.
        validation_split: the share of `data` that is held out instead, between 0 and 1.
        rescale: what the pixels of an image folder are multiplied with, such as `"1/255"`.
        preprocessing: the `keras.applications` family whose preprocessing images get instead.
        image_size: height and width of images, `(224, 224)` or `"224x224"`, where the model takes
            any.
        loss: a Keras loss, by name or as an object; None takes the model's own, or one that
            follows from outputs and labels.
        optimizer: a Keras optimizer, by name or as an object; None takes the model's own, or Adam.
        metric: one or several Keras metrics, by name or as objects.
        freeze, unfreeze: patterns of layers that are not trained, or are again; what both name
            is trained.
        freeze_batchnorm: no BatchNormalization layer is trained, nor its statistics.
        batchnorm_momentum: how slowly those statistics follow while training, instead of each
            layer's own; 0.9 follows within some ten steps, Keras's 0.99 within some hundred.
        rho: with factor `"auto"`, the norm of the penalty's gradient over the task's; 1.
        rho_over: `"kernel"` (default): a factor for each kernel; `"all"`: one for all.
        schedule: how the factors move, such as `"cosine"` or `"0:1, 20:1e-2"`; see
            `orthwrap.FactorSchedule`.
        schedule_by: whether its numbers are epochs (`"epoch"`, default) or steps (`"step"`).
        distill: the original model's outputs are learnt instead of labels.
        temperature: what softens them; 2.
        keep: `"best"` or `"last"` epoch is what is saved; None keeps the best where there is
            something to validate on.
        monitor: which figure says what is best; None takes `val_task_loss`, without the penalty.
        log: a CSV file with a line per epoch.
        tensorboard: a folder for TensorBoard, with figures of each layer per epoch.
        checkpoint_dir: a folder for checkpoints, from which a run that was cut short goes on.
        resume: go on from the last checkpoint there.
        devices: how many devices of this machine to train on at once; None does not distribute.
        callbacks: further Keras callbacks (Python alone).
    """

    epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    seed: int | None
    validation: Any
    validation_split: float | None
    rescale: float | str | None
    preprocessing: str | None
    image_size: Any
    loss: Any
    optimizer: Any
    metric: Any
    freeze: Any
    unfreeze: Any
    freeze_batchnorm: bool
    batchnorm_momentum: float | None
    rho: float | None
    rho_over: str | None
    schedule: Any
    schedule_by: str | None
    distill: bool
    temperature: float | None
    keep: str | None
    monitor: str | None
    log: str | os.PathLike[str] | None
    tensorboard: str | os.PathLike[str] | None
    checkpoint_dir: str | os.PathLike[str] | None
    resume: bool
    devices: int | None
    callbacks: Sequence[Any]


@dataclass(frozen=True)
class Settings:
    """The training words, checked; see `TrainingWords` for what each means."""

    epochs: int = DEFAULT_EPOCHS
    batch_size: int = DEFAULT_BATCH_SIZE
    learning_rate: float | None = None
    seed: int | None = None
    validation: Any = None
    validation_split: float | None = None
    rescale: float | str | None = None
    preprocessing: str | None = None
    image_size: Any = None
    loss: Any = None
    optimizer: Any = None
    metric: tuple[Any, ...] = ()
    freeze: tuple[Any, ...] = ()
    unfreeze: tuple[Any, ...] = ()
    freeze_batchnorm: bool = False
    batchnorm_momentum: float | None = None
    rho: float = DEFAULT_RHO
    rho_over: str = "kernel"
    schedule: Any = None
    schedule_by: str = "epoch"
    distill: bool = False
    temperature: float = DEFAULT_TEMPERATURE
    keep: str | None = None
    monitor: str | None = None
    log: Path | None = None
    tensorboard: Path | None = None
    checkpoint_dir: Path | None = None
    resume: bool = False
    devices: int | None = None
    callbacks: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("devices", 1)):
            value = getattr(self, name)
            if value is not None:
                self._set(name, _whole_number(name, value, lowest))
        for name in ("learning_rate", "rho", "temperature"):
            value = getattr(self, name)
            if value is not None:
                self._set(name, _positive(name, value))
        share = self.validation_split
        if share is not None and not 0 < _positive("validation_split", share) < 1:
            raise ValueFault(f"validation split {share!r} must lie between 0 and 1, as 0.2 does")
        momentum = self.batchnorm_momentum
        if momentum is not None and not 0 < _positive("batchnorm_momentum", momentum) < 1:
            raise ValueFault(f"batchnorm momentum {momentum!r} must lie between 0 and 1, as 0.9")
        for name, choices in (
            ("rho_over", ("kernel", "all")),
            ("schedule_by", ("epoch", "step")),
            ("keep", (None, "best", "last")),
        ):
            value = getattr(self, name)
            if value not in choices:
                known = ", ".join(c for c in choices if c)
                raise ValueFault(f"{spoken(name)} {value!r} is not known; choose one of: {known}")
        for name in ("metric", "freeze", "unfreeze", "callbacks"):
            self._set(name, _several(getattr(self, name)))
        if isinstance(self.schedule, str):
            self._set("schedule", Schedule.parse(self.schedule))
        for name in ("log", "tensorboard", "checkpoint_dir"):
            value = getattr(self, name)
            if value is not None:
                self._set(name, Path(value))
        self._check_together()

    def _check_together(self) -> None:
        """UsageError where two words contradict each other."""
        if self.validation is not None and self.validation_split is not None:
            raise UsageError("validation and validation split exclude each other: give one")
        if self.rescale is not None and self.preprocessing is not None:
            raise UsageError("rescale and preprocessing exclude each other: give one")
        if self.resume and self.checkpoint_dir is None:
            raise UsageError("resume needs a checkpoint dir: the folder to go on from")
        if self.distill and self.loss is not None:
            raise UsageError("distill has a loss of its own: leave loss out")
        if self.freeze_batchnorm and self.batchnorm_momentum is not None:
            raise UsageError("freeze batchnorm and batchnorm momentum exclude each other: give one")
        if self.keep == "last" and self.monitor is not None:
            raise UsageError("monitor is about keep best: leave one out")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def settings_of(
    words: Mapping[str, Any], *, has_data: bool, others: Iterable[str] = ()
) -> Settings | None:
    """The settings of a verb's keywords; None where there is nothing to train on.

    Args:
        words: about training, the verb has found.
        has_data: whether there is something to train on.
        others: the verb's own keywords, one of which may have been meant.

    Raises:
        TypeError: a keyword that there is not.
        UsageError: words about training without data, or two that contradict each other.
        ValueFault: a value out of range.
    """
    known = [f.name for f in fields(Settings)]
    for name in words:
        if name not in known:
            raise TypeError(f"unexpected keyword {name!r}; {_meant(name, [*known, *others])}")
    given = {name: value for name, value in words.items() if _is_given(name, value)}
    if has_data:
        return Settings(**given)
    if given:
        raise UsageError(f"{spoken(next(iter(given)))} is about training, which needs data")
    return None


# What other libraries call them.
_ALIASES = {
    "validation_data": "validation",
    "verbose": "progress",
    "lr": "learning_rate",
    "batch": "batch_size",
    "lambda_": "factor",
}


def _meant(name: str, known: Sequence[str]) -> str:
    alias = _ALIASES.get(name.lower())
    if alias in known:
        return f"did you mean {alias!r}?"
    flat = {word.replace("_", ""): word for word in known}
    close = difflib.get_close_matches(name.lower().replace("_", ""), flat, 2, 0.6)
    if not close:
        return "help(orthwrap.TrainingWords) lists those about training"
    return f"did you mean {' or '.join(repr(flat[c]) for c in close)}?"


def spoken(name: str) -> str:
    """A keyword in a sentence, which is for readers of commands and of Python alike."""
    return name.replace("_", " ")


def _is_given(name: str, value: Any) -> bool:
    """Commands hand on every option, with None, False or no values where it was not used."""
    if name in ("freeze_batchnorm", "distill", "resume"):
        return bool(value)
    return value is not None and not (isinstance(value, (list, tuple)) and not value)


def _several(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _positive(name: str, value: Any) -> float:
    name = spoken(name)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value > 0):
        raise ValueFault(f"{name} {value!r} must be a finite number above 0")
    return float(value)


def _whole_number(name: str, value: Any, lowest: int) -> int:
    name = spoken(name)
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (is_whole and lowest <= value < 2**32):
        limit = " and below 2**32" if is_whole and value > 0 else ""
        raise ValueFault(f"{name} {value!r} must be a whole number of at least {lowest}{limit}")
    return int(value)
