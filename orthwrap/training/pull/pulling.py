"""A model's kernels held by pulls: set, moved and taken off, with all that Keras needs for that."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from orthwrap import keras_inside
from orthwrap.errors import UsageError
from orthwrap.live.compiled import forget_compiled_steps, inner_of
from orthwrap.regularizers.multiplier import RATES, moving_variable
from orthwrap.training.pull.constraint import PullConstraint
from orthwrap.training.pull.kernels import DrivenKernel, check_pullable


class Pulling:
    """Kernels that are pulled after each optimizer step, each at a rate of its own that may move.

    While it lasts the kernels' regularizers add nothing to the loss; a foreign one that is
    combined with them still does. No step is traced again as the rates move.

    On JAX a step of the optimizer sees its own variables alone, so the rates are one of them; they
    are out of the way while `model.save` runs, as Keras drops the state of an optimizer that has
    one more variable than it expects.

    Args:
        model: compiled, with an optimizer.
        kernels: to pull.
        owner: who moves the rates.

    Raises:
        ValueFault: a kernel that cannot be pulled.
        UsageError: the optimizer averages weights.
    """

    def __init__(self, model: Any, kernels: Sequence[DrivenKernel], owner: Any = None) -> None:
        check_pullable(model, kernels)
        self._model, self.kernels, self.owner = model, tuple(kernels), owner
        self._optimizer = inner_of(model.optimizer)
        check_no_averages(self._optimizer)
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        self.rates: tuple[float, ...] = (0.0,) * len(self.kernels)
        self._state = moving_variable(model, np.zeros(len(self.kernels), "float32"), RATES)
        self._is_jax = keras.backend.backend() == "jax"
        if self._is_jax:
            model.jax_state_sync()  # which goes by the variables that the optimizer has
            keras_inside.track_in(self._optimizer, self._state)
            vars(model)["save"] = self._save
        for i, kernel in enumerate(self.kernels):
            kernel.variable.constraint = PullConstraint(
                self,
                kernel.regularizer,
                functools.partial(operator.getitem, self._state, i),
                self._optimizer,
                kernel.variable.constraint,
            )
            kernel.regularizer.is_pulled = True
        forget_compiled_steps(model)

    def assign(self, rates: Sequence[float]) -> None:
        """Other rates from the next step on, one for each kernel."""
        rates = tuple(float(np.float32(rate)) for rate in rates)
        if rates == self.rates:
            return
        if self._is_jax:
            self._model.jax_state_sync()  # during an epoch the steps hold all variables
        self.rates = rates
        self._state.assign(np.asarray(rates, "float32"))

    @property
    def without_gradient(self) -> tuple[DrivenKernel, ...]:
        """Once a step was made: the kernels that it did not pull, as they have no gradient."""
        constraints = ((k, k.variable.constraint) for k in self.kernels)
        return tuple(k for k, c in constraints if not getattr(c, "was_called", True))

    def stop(self) -> None:
        """Takes the pulls off; whatever constraints were there are back. May be repeated."""
        for kernel in self.kernels:
            constraint = kernel.variable.constraint
            if isinstance(constraint, PullConstraint) and constraint.owner is self:
                kernel.variable.constraint = constraint.own
                kernel.regularizer.is_pulled = False
        if self._is_jax and any(v is self._state for v in self._optimizer.variables):
            self._model.jax_state_sync()
            keras_inside.untrack_in(self._optimizer, self._state)
            vars(self._model).pop("save", None)
        forget_compiled_steps(self._model)

    def _save(self, *args: Any, **kwargs: Any) -> Any:
        self._model.jax_state_sync()
        keras_inside.untrack_in(self._optimizer, self._state)
        try:
            return type(self._model).save(self._model, *args, **kwargs)
        finally:
            keras_inside.track_in(self._optimizer, self._state)


def check_no_averages(optimizer: Any) -> None:
    """UsageError where the optimizer averages weights, which the pull would not reach."""
    if getattr(optimizer, "use_ema", False):
        raise UsageError(
            "the optimizer averages weights (use_ema), which a pull does not reach: train with an "
            "optimizer without it, or give a factor instead"
        )


def pulling_of(kernels: Sequence[DrivenKernel]) -> list[Pulling]:
    """Whatever pulls these kernels now."""
    constraints = (k.variable.constraint for k in kernels)
    owners = [c.owner for c in constraints if isinstance(c, PullConstraint)]
    return list({id(owner): owner for owner in owners}.values())
