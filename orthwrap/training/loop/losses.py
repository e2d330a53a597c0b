"""Task loss and penalty, told apart in a model's logs."""

from __future__ import annotations

from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.live.compiled import forget_compiled_steps
from orthwrap.regularizers.multiplier import scope_of


class split_losses:
    """While active, the model's logs tell `task_loss` and `penalty` apart.

    `loss` is their sum. The penalty is everything that the model's `compute_loss` adds from
    `model.losses`: regularizers of kernels, and losses of layers. Validation logs have both too.
    A model whose `train_step` does without `compute_loss`, or whose `metrics` are a list of its
    own, gets neither.

    One inside another does nothing.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._account: _LossAccount | None = None

    def __enter__(self) -> None:
        model = self._model
        if _account_of(model) is not None:
            return
        with scope_of(model):
            self._account = _LossAccount(model)
        vars(model)["compute_loss"] = self._account
        keras_inside.own_metrics(model).extend(self._account.means)
        forget_compiled_steps(model)

    def __exit__(self, *error: object) -> None:
        """May be called again, and does nothing then."""
        model, account = self._model, self._account
        if account is None:
            return
        self._account = None
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


def _account_of(model: Any) -> _LossAccount | None:
    account = vars(model).get("compute_loss")
    return account if isinstance(account, _LossAccount) else None


class _LossAccount:
    """A model's `compute_loss` that keeps account of what the losses of its layers add."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._total_of = model.compute_loss
        self.means = (_Account(name="task_loss"), _Account(name="penalty"))
        self.phase = ""
        self.phases: set[str] = set()  # in which it was called

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model, (task, penalty) = self._model, self.means
        before = keras_inside.given_losses(model)
        losses = _Watched(model)
        keras_inside.give_losses(model, losses)
        try:
            total = self._total_of(*args, **kwargs)
        finally:
            keras_inside.give_losses(model, before)
        if keras.backend.backend() == "jax" and not keras_inside.in_stateless_scope():
            return total  # there is nobody to hand the account numbers on
        self.phases.add(self.phase)
        extra = sum((keras_inside.as_added(model, loss) for loss in losses.found), 0.0)
        extra = keras.ops.cast(extra, total.dtype)
        # Keras weighs each batch's loss by its size; the last one may be smaller.
        arrays = (a for a in keras.tree.flatten((args, kwargs)) if hasattr(a, "shape"))
        samples = keras.ops.shape(next(arrays))[0]
        penalty.tell(keras_inside.unscaled(extra), samples)
        task.tell(keras_inside.unscaled(total - extra), samples)
        return total


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
