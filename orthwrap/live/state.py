"""What a live layer keeps from one call to the next: its variables, wherever it holds them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from orthwrap import keras_inside
from orthwrap.regularizers import OrthogonalityRegularizer

Array = np.ndarray[Any, np.dtype[Any]]


def own_variables(layer: Any) -> dict[str, Any]:
    """The variables of a layer itself, by where it holds them: `kernel`, `states/0`.

    Those that Keras does not track too, such as the states of a recurrent layer. What `compile`
    gave a model is none of its own.
    """
    found: dict[str, Any] = {}
    tracked = keras_inside.tracked_lists(layer)
    passed_over = {*tracked, *keras_inside.COMPILED_STATE}
    for key, value in vars(layer).items():
        # TensorFlow's own book of the same variables begins with _self_.
        if key not in passed_over and not key.startswith("_self_"):
            _collect(key, value, found)
    held = {id(v) for v in found.values()}
    for key, values in tracked.items():
        rest: dict[str, Any] = {}
        _collect(key, list(values), rest)
        found.update((k, v) for k, v in rest.items() if id(v) not in held)
    return found


def _collect(key: str, value: Any, found: dict[str, Any]) -> None:
    if is_variable(value):
        found[key] = value
    elif isinstance(value, OrthogonalityRegularizer):
        pass  # whose count is its own: another one may stand there in a copy
    elif isinstance(value, keras.random.SeedGenerator):
        found[f"{key}/state"] = value.state
    elif isinstance(value, keras.Metric):
        _collect(key, list(value.variables), found)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _collect(f"{key}/{name}", inner, found)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            _collect(f"{key}/{i}", inner, found)


def is_variable(value: Any) -> bool:
    """Whether it is one of Keras's variables, or a bare one of TensorFlow's."""
    if isinstance(value, keras.Variable):
        return True
    return keras.backend.backend() == "tensorflow" and _is_of_tensorflow(value)


def _is_of_tensorflow(value: Any) -> bool:
    import tensorflow as tf

    return isinstance(value, tf.Variable)


def value_of(variable: Any) -> Array:
    """A variable's value, as an array of its own: JAX deletes the arrays that a step trains."""
    return np.array(keras.ops.convert_to_numpy(variable))


@contextlib.contextmanager
def state_kept(model: Any) -> Iterator[None]:
    """What calls of the model change in the block is put back: variables, losses and counts."""
    layers = keras_inside.every_layer(model)
    back = [of(layer) for layer in layers for of in (_losses_of, _counts_of, _draws_of)]
    variables = {id(v): v for layer in layers for v in own_variables(layer).values()}
    variables.update((id(v), v) for v in keras_inside.global_seeds())
    values = [(v, value_of(v)) for v in variables.values()]
    try:
        yield
    finally:
        for restore in back:
            restore()
        for variable, value in values:
            if np.asarray(keras.ops.convert_to_numpy(variable)).tobytes() != value.tobytes():
                variable.assign(value)


def _losses_of(layer: Any) -> Callable[[], None]:
    """What puts back the losses that a layer added in its last call."""
    held = keras_inside.added_losses(layer)
    then = list(held)

    def restore() -> None:
        held[:] = then

    return restore


def _counts_of(layer: Any) -> Callable[[], None]:
    """What puts back the plain numbers that a layer keeps; whether it is built is none."""
    numbers = {k: v for k, v in vars(layer).items() if type(v) in (int, float)}
    return lambda: vars(layer).update(numbers)


def _draws_of(layer: Any) -> Callable[[], None]:
    """What puts back the calls that a regularizer of ours has counted of a layer's outputs."""
    regularizer = layer.activity_regularizer
    if not isinstance(regularizer, OrthogonalityRegularizer):
        return lambda: None
    return partial(regularizer.restore, regularizer.moment)
