"""Task loss and penalties, told apart in a model's logs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from orthwrap import keras_inside
from orthwrap.live.compiled import forget_compiled_steps
from orthwrap.regularizers import Attached, OrthogonalityRegularizer
from orthwrap.regularizers.multiplier import scope_of
from orthwrap.regularizers.shares import Shares, listening

FIGURES = TASK, PENALTY, OWN_PENALTY = "task_loss", "penalty", "own_penalty"

_ROUNDING = 1e-5  # of a total, in float32


class split_losses:
    """While active, the model's logs tell `task_loss`, `penalty` and `own_penalty` apart.

    `loss` is their sum. `penalty` is that of orthwrap's regularizers, with their factors;
    `own_penalty` is what else the model's `compute_loss` adds from `model.losses`: regularizers
    that are not orthwrap's, and losses that layers add. `without_unused` takes it away where there
    is none. Each is summed by itself: none is what a subtraction leaves. Validation logs have them
    too. A model whose `train_step` does without `compute_loss`, or whose `metrics` are a list of
    its own, gets none of them.

    One inside another does nothing.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._account: _LossAccount | None = None
        self._listening = contextlib.ExitStack()

    def __enter__(self) -> None:
        model = self._model
        if _account_of(model) is not None:
            return
        with scope_of(model):
            self._account = _LossAccount(model)
        self._listening.enter_context(listening(self._account.shares, _with_ours(model)))
        vars(model)["compute_loss"] = self._account
        keras_inside.own_metrics(model).extend(self._account.means)
        forget_compiled_steps(model)

    def __exit__(self, *error: object) -> None:
        """May be called again, and does nothing then."""
        model, account = self._model, self._account
        if account is None:
            return
        self._account = None
        self._listening.close()
        del vars(model)["compute_loss"]
        metrics = keras_inside.own_metrics(model)
        metrics[:] = [m for m in metrics if m not in account.means]
        forget_compiled_steps(model)

    def begin(self, phase: str = "") -> None:
        """Steps of another phase come: "" for training, "val_" for validation."""
        account = _account_of(self._model)
        if account is not None:
            account.phase = phase

    def forget_phases(self) -> None:
        """Nothing has been told in any phase yet."""
        account = _account_of(self._model)
        if account is not None:
            account.phases.clear()

    def clean(self, logs: dict[str, Any]) -> None:
        """Takes out of an epoch's logs what no step of its phase has told: they are zeros."""
        account = _account_of(self._model)
        if account is None:
            return
        for phase in ("", "val_"):
            if phase not in account.phases:
                for mean in account.means:
                    logs.pop(phase + mean.name, None)
        without_unused(self._model, logs)


def without_unused(model: Any, logs: dict[str, Any]) -> dict[str, Any]:
    """The same logs, without the penalties of its own of a model that has none."""
    account = _account_of(model)
    if account is not None and not account.has_others:
        for phase in ("", "val_"):
            logs.pop(phase + OWN_PENALTY, None)
    return logs


def adds_losses_up(model: Any) -> bool:
    """Whether the logs' `loss` is the task's loss and all penalties, each as it is."""
    account = _account_of(model)
    return account is not None and account.is_plain


def _account_of(model: Any) -> _LossAccount | None:
    account = vars(model).get("compute_loss")
    return account if isinstance(account, _LossAccount) else None


def _with_ours(model: Any) -> list[Any]:
    """The layers whose outputs one of our regularizers is about."""
    ours = (OrthogonalityRegularizer, Attached)
    layers = keras_inside.every_layer(model)
    return [layer for layer in layers if isinstance(layer.activity_regularizer, ours)]


class _LossAccount:
    """A model's `compute_loss` that keeps account of the task's loss and of what is added to it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._total_of = model.compute_loss
        self.is_plain = getattr(self._total_of, "__func__", None) is keras.Model.compute_loss
        self.means = tuple(_Account(name=name) for name in FIGURES)
        self.shares = Shares()
        self.has_others = False  # penalties of the model's own were seen
        self.phase = ""
        self.phases: set[str] = set()  # in which it was called

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if keras.backend.backend() == "jax" and not keras_inside.in_stateless_scope():
            return self._total_of(*args, **kwargs)  # there is nobody to hand the account on
        self.phases.add(self.phase)
        before = keras_inside.given_losses(self._model)
        try:
            split = self._plainly if self.is_plain else self._in_its_way
            total, parts = split(*args, **kwargs)
        finally:
            keras_inside.give_losses(self._model, before)
        # Keras weighs each batch's loss by its size; the last one may be smaller.
        arrays = (a for a in keras.tree.flatten((args, kwargs)) if hasattr(a, "shape"))
        samples = ops.shape(next(arrays))[0]
        for mean, value in zip(self.means, parts, strict=True):
            value = ops.zeros((), total.dtype) if value is None else value
            mean.tell(keras_inside.unscaled(value), samples)
        return total

    def _plainly(self, *args: Any, **kwargs: Any) -> tuple[Any, tuple[Any, ...]]:
        """By Keras's own `compute_loss`, which adds up: nothing instead of the losses is the task.

        Returns:
            The total; and task loss, penalty, and penalties of the model's own.
        """
        model = self._model
        losses = list(keras_inside.given_losses(model))
        if not losses:
            keras_inside.give_losses(model, [])
            losses = list(model.losses)
        keras_inside.give_losses(model, [ops.zeros_like(loss) for loss in losses[:1]])
        task = self._total_of(*args, **kwargs)
        if not losses:
            return task, (task, None, None)
        added = [keras_inside.as_added(model, loss) for loss in losses]
        return ops.sum([task, *added]), (task, *self._shared(losses, added))

    def _in_its_way(self, *args: Any, **kwargs: Any) -> tuple[Any, tuple[Any, ...]]:
        """By a `compute_loss` of the model's own, which may do anything with the losses.

        It is asked again for the task loss, with zeros and without effect.
        """
        model = self._model
        losses = _Watched(model)
        keras_inside.give_losses(model, losses)
        total = self._total_of(*args, **kwargs)
        if not losses.found:
            return total, (total, None, None)
        keras_inside.give_losses(model, [ops.zeros_like(loss) for loss in losses.found])
        with keras_inside.without_effects():
            task = self._total_of(*args, **kwargs)
        added = [keras_inside.as_added(model, loss) for loss in losses.found]
        ours, others = self._shared(losses.found, added)
        extra = sum(part for part in (ours, others) if part is not None)
        task = ops.where(ops.isfinite(task), task, total - extra)  # it may not take zeros
        gap = total - task
        # As they are, but for rounding; else as many multiple as it takes them.
        is_sum = ops.abs(gap - extra) <= 1e-3 * ops.abs(extra) + _ROUNDING * ops.abs(total)
        multiple = ops.where(is_sum, 1.0, ops.divide_no_nan(gap, extra))
        return total, (task, *(p if p is None else multiple * p for p in (ours, others)))

    def _shared(self, losses: Sequence[Any], added: Sequence[Any]) -> tuple[Any, Any]:
        """Of the losses of layers: ours, and others', as they are added; None for none."""
        sums: list[list[Any]] = [[], []]
        for loss, whole in zip(losses, added, strict=True):
            for part, parts in zip(self.shares.of(loss), sums, strict=True):
                if part is not None:
                    is_all = part is loss
                    parts.append(whole if is_all else keras_inside.as_added(self._model, part))
        ours, others = (sum(parts[1:], parts[0]) if parts else None for parts in sums)
        self.has_others |= others is not None
        return ours, others


class _Account(keras.metrics.Mean):  # type: ignore[misc]  # Keras is untyped
    """A mean that only we feed: a `train_step` of one's own may feed each of `model.metrics`."""

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Nothing of anybody else's."""

    def tell(self, value: Any, samples: Any) -> None:
        super().update_state(value, samples)


class _Watched(list[Any]):
    """Stands for `model.losses` while a total is computed, and keeps what was handed out.

    Keras asks whether a list of losses is set before it makes one. That is when they are made
    here, once: each call of a regularizer counts.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(keras_inside.given_losses(model))
        self._model = model
        self.found: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        if not len(self):
            keras_inside.give_losses(self._model, [])
            self.extend(self._model.losses)
            keras_inside.give_losses(self._model, self)
        self.found = tuple(self)
        return len(self) > 0
