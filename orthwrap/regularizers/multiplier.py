"""The variable that moves a regularizer's factor inside a compiled training step."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras

from orthwrap import keras_inside

MULTIPLIER = "factor_multiplier"  # what its variable is called
RATES = "pull_rates"  # what the variable of pulls is called, which the optimizer has on JAX


class Multiplier(keras.random.SeedGenerator):  # type: ignore[misc]  # Keras is untyped
    """A number that training steps read as state, so that it moves without retracing.

    On TensorFlow a traced step captures its variable, and PyTorch reads it at each step. JAX's
    steps see only what is handed to them: there the model tracks it as it tracks the state of
    random numbers, which goes into each step and is no weight, so that neither `get_weights()`
    nor a file knows of it.

    Attributes:
        state: the variable, a float32 scalar.
        value: the same number in Python, which may be read at any time.
        owner: who moves it.
    """

    def __init__(self, model: Any, owner: Any = None, value: float = 1.0) -> None:
        self.name = MULTIPLIER
        self.owner = owner
        self._model = model
        self.value = value
        self.state = moving_variable(model, value, self.name)
        if keras.backend.backend() == "jax":
            model.jax_state_sync()  # which goes by the variables that the model has
            keras_inside.seed_generators(model).append(self)
            model.predict_function = None  # on several devices it is made for these variables

    def assign(self, value: float) -> None:
        """Another number from the next step on."""
        if value == self.value:
            return
        if keras.backend.backend() == "jax":
            self._model.jax_state_sync()  # during an epoch the steps hold all variables
        self.value = value
        self.state.assign(value)

    def drop(self) -> None:
        """The model tracks it no more."""
        if keras.backend.backend() == "jax":
            self._model.jax_state_sync()
            held = keras_inside.seed_generators(self._model)
            held[:] = [generator for generator in held if generator is not self]
            self._model.predict_function = None

    def next(self, ordered: bool = True) -> Any:
        raise TypeError("a factor's multiplier gives no seeds")


def moving_variable(model: Any, value: Any, name: str) -> Any:
    """A float32 variable that steps of the model read and nobody trains."""
    with scope_of(model):
        return keras.Variable(
            value, dtype="float32", trainable=False, aggregation="only_first_replica", name=name
        )


def scope_of(model: Any) -> AbstractContextManager[Any]:
    """Where the model's variables are made: in its `tf.distribute` strategy, if it has one."""
    if keras.backend.backend() != "tensorflow":
        return nullcontext()
    scope: AbstractContextManager[Any] = model.distribute_strategy.scope()
    return scope
