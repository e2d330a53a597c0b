"""The Keras callback that moves regularizers' factors while a model trains."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.errors import NoMatchError, UsageError, ValueFault
from orthwrap.live.compiled import forget_compiled_steps, step_made_anew
from orthwrap.live.live_store import LiveStore, regularizers_of
from orthwrap.regularizers import _Regularizer
from orthwrap.regularizers.multiplier import Multiplier
from orthwrap.rules.patterns import Pattern, nearest, patterns_of
from orthwrap.rules.schedules import Schedule
from orthwrap.survey import Slot, survey
from orthwrap.training.loop.losses import split_losses


class FactorSchedule(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Moves the factor of orthwrap's regularizers over training, on every Keras backend.

    At each moment a regularizer's factor is its own times the schedule's multiplier:

        schedule = orthwrap.FactorSchedule("0:1, 20:1e-2, 50:1e-3, 120:0")
        model.fit(x, y, epochs=150, callbacks=[schedule])

        ramp = orthwrap.FactorSchedule("warmup:500, cosine:0.1", by="step", target="all-conv")
        decay = orthwrap.FactorSchedule(keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.9))

    While it trains, the logs have `task_loss`, `penalty` (of orthwrap's regularizers) and, where
    the model adds others, `own_penalty` beside `loss`, their sum; `val_…` too. `EarlyStopping` on
    one of them needs `mode="min"`. A model whose `metrics` are a list of its own, or whose
    `train_step` does without `compute_loss`, has none of them.

    `regularizer.factor` and configs give the factor of the moment, so a file that a
    `ModelCheckpoint` writes holds a plain number. When training ends, the last factor becomes the
    regularizer's own. The object remembers the factors it began with: a second `fit` with it goes
    on from those, with `initial_epoch` or from the start. A `fit` that breaks off leaves the
    factors where they are, until `stop()`, or until the next `fit` with a FactorSchedule.

    No step is retraced as the factor moves. Frozen kernels have no penalty in Keras, whatever
    their factor. In a training loop of one's own, call `start(model)` before steps are traced,
    `at(position)` as it goes, and `stop()`.

    Args:
        schedule: a text (`constant`, `linear[:TO[:OVER]]`, `cosine[:TO[:OVER]]`,
            `AT:MULTIPLIER, …`, after `warmup:N,` or not; see `orthwrap.rules.schedules`), a
            `Schedule`, or a callable of the position that gives the multiplier, such as a Keras
            `LearningRateSchedule`.
        by: `"epoch"` (default): the position is the number of epochs done, and the factor changes
            as each begins. `"step"`: the number of batches done; with `steps_per_execution`
            above 1 the factor changes as each execution begins. On JAX each change hands the
            steps' state back to the model: milliseconds, where that has hundreds of variables.
        target: patterns (see `orthwrap.rules.patterns`) of the layers whose regularizers it moves,
            of kernels and of activities. None, the default, moves all of orthwrap's.
        exclude: patterns of layers to leave out.

    Raises:
        ValueFault: what is no schedule. In `fit`, before anything is changed: no regularizer of
            orthwrap where the target says, one that another FactorSchedule moves, one object
            shared with a layer that is not chosen, or a schedule over the whole training where
            its length is not known. Later: a callable that gives no finite number from 0 up.
    """

    async_safe = True  # it reads no logs of batches, so steps need not wait for it

    def __init__(
        self,
        schedule: str | Schedule | Callable[[int], Any],
        *,
        by: str = "epoch",
        target: Any = None,
        exclude: Any = (),
    ) -> None:
        super().__init__()
        if by not in ("epoch", "step"):
            raise ValueFault(f"by={by!r} is not known; choose epoch or step")
        self.schedule = Schedule.parse(schedule) if isinstance(schedule, str) else schedule
        if not (isinstance(schedule, (str, Schedule)) or callable(schedule)):
            raise ValueFault(
                f"a schedule is a text, a Schedule or a callable; got {schedule!r}: write for "
                "example 'cosine:0.1'"
            )
        if not isinstance(self.schedule, Schedule):
            _check_callable(self.schedule)
        self.by = by
        self._target = None if target is None else patterns_of(target)
        self._exclude = patterns_of(exclude)
        self._given: tuple[_Regularizer, ...] | None = None
        # Over fits: (the factor it began with, the one it was left with).
        self._known: dict[_Regularizer, tuple[float, float]] = {}
        self._steps_per_epoch: int | None = None
        self._epochs: int | None = None
        self._first_step = 0
        self._epoch_start = 0
        self._next_step = 0
        self._clear()

    @classmethod
    def of(
        cls,
        regularizers: Iterable[Any],
        schedule: str | Schedule | Callable[[int], Any],
        *,
        by: str = "epoch",
    ) -> FactorSchedule:
        """One that moves these regularizer objects and no others."""
        made = cls(schedule, by=by)
        made._given = tuple(regularizers)
        return made

    def _clear(self) -> None:
        self._held: dict[_Regularizer, float] = {}  # with the factor it had before
        self._multiplier: Multiplier | None = None
        self._holder: Any = None
        self._split: split_losses | None = None
        self._total: float | None = None
        self._has_moved = False

    # What a training loop of one's own calls

    def start(self, model: Any, total: float | None = None) -> None:
        """Takes hold of the model's regularizers.

        The next calls of them read the multiplier from a variable, 1 until `at` is called, so
        start before steps are traced. On JAX it is one of `model.non_trainable_variables`.

        Args:
            total: epochs or steps of the whole training, for schedules that go over all of it.

        Raises:
            ValueFault: what is no model.
        """
        if not isinstance(model, keras.Model):
            raise ValueFault(
                f"start takes a keras.Model; got {type(model).__name__}: load a file with "
                "orthwrap.load_model first"
            )
        self.stop()
        if isinstance(self.schedule, Schedule) and self.schedule.needs_total:
            self.schedule.at(0, total)  # which asks for the total
        held = self._given
        if held is None:
            held = chosen_in(model, self._target, self._exclude)
        if not held:
            hint = "attach some with orthwrap.apply"
            raise NoMatchError(
                f"model {model.name!r} carries no orthwrap regularizer whose factor could move: "
                + ("exclude leaves none of them" if self._exclude else hint)
            )
        self._take_over(held)
        _warn_of_frozen(model, held)
        self._total, self._holder = total, model
        self._multiplier = Multiplier(model, owner=self)
        for regularizer in held:
            factor = regularizer.factor
            base, left = self._known.get(regularizer, (factor, factor))
            if factor != left:  # somebody has given it another one since
                base = factor
            self._held[regularizer] = factor
            self._known[regularizer] = (base, factor)
            regularizer.follow(self._multiplier, base)
        forget_compiled_steps(model)

    def at(self, position: int) -> None:
        """Gives the regularizers the factor of a position; no step is traced again.

        Raises:
            ValueFault: the schedule's own callable gives no finite number from 0 up.
        """
        if self._multiplier is None:
            raise UsageError("start(model) comes before at(position)")
        try:
            value = self._multiplier_at(position)
        except Exception:
            self.stop()
            raise
        self._multiplier.assign(value)
        self._has_moved = True

    def stop(self) -> None:
        """Lets go: the factors of this moment become the regularizers' own. May be repeated."""
        if self._split is not None:
            self._split.__exit__()
        if self._multiplier is not None:
            for regularizer, before in self._held.items():
                if not self._has_moved:
                    regularizer.follow(self._multiplier, before)
                regularizer.settle()
                self._known[regularizer] = (self._known[regularizer][0], regularizer.factor)
            self._multiplier.drop()
            forget_compiled_steps(self._holder)
        self._clear()

    def resume_at(self, step: int, steps_per_epoch: int | None, epochs: int) -> None:
        """The next `fit` is part of a training of so many epochs, and begins within one of them.

        Args:
            step: of the epoch that it begins with.
            steps_per_epoch: of a whole epoch; None where that is not known.
            epochs: of the whole training.
        """
        self._first_step, self._steps_per_epoch, self._epochs = step, steps_per_epoch, epochs

    def end(self, model: Any) -> None:
        """Leaves the factors as the training that `resume_at` tells of leaves them at its end."""
        length = self._length()
        if length is not None:
            self.start(model, length)
            self.at(int(length) - 1)
            self.stop()

    def _multiplier_at(self, position: int) -> float:
        if isinstance(self.schedule, Schedule):
            return self.schedule.at(position, self._total)
        given = self.schedule(position)
        try:
            value = float(keras.ops.convert_to_numpy(given))
        except (TypeError, ValueError):
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise ValueFault(
                f"schedule gave {given!r} at {self.by} {position}; expected a multiplier of the "
                "factor: one finite number, at least 0"
            )
        return value

    def _take_over(self, held: Iterable[_Regularizer]) -> None:
        """Nobody else moves them: what a `fit` that broke off has left, ends."""
        moved = (r.multiplier for r in held)
        for owner in {m.owner for m in moved if m is not None}:
            in_this_fit = owner.params is self.params  # Keras hands all callbacks the same one
            owner.stop()
            if in_this_fit:
                raise ValueFault(
                    "two FactorSchedules move the same regularizer: give each its own layers with "
                    "target and exclude"
                )

    # What Keras calls

    def on_train_begin(self, logs: Any = None) -> None:
        with step_made_anew(self.model):
            self.start(self.model, self._length())
            self._split = split_losses(self.model)
            self._split.__enter__()
            self._split.forget_phases()
            self._split.begin("")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.by == "epoch":
            self.at(epoch)
            return
        steps = self._steps()
        if steps is not None:
            self._epoch_start = epoch * steps + self._first_step
        else:
            self._next_step = self._next_step + self._first_step if epoch else self._first_step
            self._epoch_start = self._next_step
        self._first_step = 0
        self.at(self._epoch_start)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.by == "step":
            self.at(self._epoch_start + batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Where the data does not say how long it is, Keras begins one batch too many.
        self._next_step = max(self._next_step, self._epoch_start + batch + 1)

    def on_test_begin(self, logs: Any = None) -> None:
        if self._split is not None:
            self._split.begin("val_")

    def on_test_end(self, logs: Any = None) -> None:
        if self._split is not None:
            self._split.begin("")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._split is not None and logs is not None:
            self._split.clean(logs)

    def on_train_end(self, logs: Any = None) -> None:
        self.stop()

    def _steps(self) -> int | None:
        """Of one epoch; None where the data does not say."""
        return self._steps_per_epoch or (self.params or {}).get("steps")

    def _length(self) -> float | None:
        """Of the whole training, in what positions count."""
        epochs, steps = self._epochs or (self.params or {}).get("epochs"), self._steps()
        if self.by == "epoch" or epochs is None:
            return epochs
        return None if steps is None else epochs * steps


def _check_callable(function: Callable[[int], Any]) -> None:
    """ValueFault for a class, and for a function that does not take a position."""
    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(function, type):
        raise ValueFault(f"schedule {name} is a class: give an object of it, {name}(...)")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some built into Python it is not known
        return
    try:
        signature.bind(0)
    except TypeError:
        raise ValueFault(
            f"schedule function {name}{signature} must take one argument, the epoch or step: "
            "lambda epoch: 0.9**epoch"
        ) from None


def chosen_in(
    model: Any, target: tuple[Pattern, ...] | None, exclude: tuple[Pattern, ...]
) -> tuple[_Regularizer, ...]:
    """The model's regularizers of ours, each once, that the patterns choose."""
    ours = [r for _, r in regularizers_of(model) if isinstance(r, _Regularizer)]
    if target is None and not exclude:
        return tuple(dict.fromkeys(ours))
    places = tuple(carried(model))
    for pattern in exclude:
        if not any(_matching((pattern,), slot) for slot, _ in places):
            warnings.warn(
                f"exclude {pattern.text!r} excludes no layer that carries an orthwrap regularizer",
                UserWarning,
                stacklevel=4,
            )
    left_out = {id(r) for slot, r in places if _matching(exclude, slot)}
    if target is None:
        chosen = [r for r in ours if id(r) not in left_out]
    else:
        for pattern in target:
            if not any(_matching((pattern,), slot) for slot, _ in places):
                raise _no_match(pattern, places)
        chosen = [r for slot, r in places if _matching(target, slot) and id(r) not in left_out]
    picked = {id(r) for r in chosen}
    for slot, r in places:
        is_chosen = (target is None or _matching(target, slot)) and not _matching(exclude, slot)
        if is_chosen != (id(r) in picked):
            raise ValueFault(
                f"{slot.layer.path}@{slot.name} shares one regularizer object between layers that "
                "are chosen and others: give each layer an object of its own"
            )
    return tuple(dict.fromkeys(chosen))


def carried(model: Any) -> Iterator[tuple[Slot, _Regularizer]]:
    """Every slot that carries one of orthwrap's, kernels and activities, with the live object."""
    store = LiveStore(model)
    surveyed = survey(store)
    held = {id(v): v.regularizer for v in model.weights}
    for slot in surveyed.slots:
        keys = (kernel.weight.key for kernel in slot.kernels if kernel.weight is not None)
        for regularizer in dict.fromkeys(held.get(key) for key in keys):
            if isinstance(regularizer, _Regularizer):
                yield slot, regularizer
    for slot in surveyed.activities:
        regularizer = getattr(store.object_of(slot.layer), "activity_regularizer", None)
        if isinstance(regularizer, _Regularizer):
            yield slot, regularizer


def _matching(patterns: Iterable[Pattern], slot: Slot) -> bool:
    return any(pattern.matches(c) for pattern in patterns for c in slot.candidates())


def _no_match(pattern: Pattern, places: Iterable[tuple[Slot, Any]]) -> NoMatchError:
    slots = [slot for slot, _ in places]
    close = nearest(
        pattern.text,
        [slot.layer.path for slot in slots],
        [slot.layer.class_name for slot in slots],
        frozenset(f for slot in slots for f in slot.families),
    )
    hint = f"did you mean {', '.join(close)}?" if close else "no layer carries one"
    return NoMatchError(
        f"target {pattern.text!r} matches no layer that carries an orthwrap regularizer; {hint}"
    )


def _warn_of_frozen(model: Any, held: Iterable[_Regularizer]) -> None:
    chosen = {id(r) for r in held}
    acting = {id(v.regularizer) for v in model.trainable_weights}
    acting |= {id(layer.activity_regularizer) for layer in keras_inside.every_layer(model)}
    if not chosen & acting:
        warnings.warn(
            "every kernel whose factor is to move is frozen: Keras applies no penalty to it",
            UserWarning,
            stacklevel=3,
        )
