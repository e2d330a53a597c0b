"""Gradients of task and penalty, on every backend, that leave a model exactly as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from orthwrap import keras_inside
from orthwrap.regularizers import Attached, OrthogonalityRegularizer, from_attachment

Tensor = Any
Gradients = list[NDArray[np.float64]]

# Draws of a penalty that is estimated from random probes.
DRAWS = 8


def gradients_of(
    function: Callable[..., Tensor], variables: Sequence[Any], held: Sequence[Any] = ()
) -> Callable[..., Gradients]:
    """The gradients of a scalar function with respect to Keras variables.

    The function runs in a stateless scope: what it assigns to variables (statistics, seeds,
    metrics) is forgotten.

    Args:
        function: reads the variables' values itself; further tensors are its arguments.
        variables: what to differentiate by.
        held: further variables whose values the function may look up in the scope.

    Returns:
        What takes the function's arguments, and gives one float64 array per variable; zeros where
        the function does not depend on it. The keyword `at` gives other values to the variables.
    """
    others = [v for v in held if all(v is not own for own in variables)]

    def value_at(values: Sequence[Tensor], rest: Sequence[Tensor], given: Any) -> Tensor:
        mapping = [*zip(variables, values, strict=True), *zip(others, rest, strict=True)]
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
            return function(*given)

    differentiated = _differentiated(value_at)

    def call(*given: Any, at: Sequence[Any] | None = None) -> Gradients:
        values, rest = ([_value(v) for v in group] for group in (variables, others))
        if at is not None:
            values = [ops.convert_to_tensor(a, v.dtype) for a, v in zip(at, values, strict=True)]
        found = differentiated(values, rest, given)
        return [_array(g, v) for g, v in zip(found, variables, strict=True)]

    return call


def _differentiated(function: Callable[..., Tensor]) -> Callable[..., Sequence[Any]]:
    """By the first argument, a list of tensors."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        # One by one, JAX would compile each operation for each shape.
        compiled: Callable[..., Sequence[Any]] = jax.jit(jax.grad(function))
        return compiled
    return _with_tape(function) if backend == "tensorflow" else _with_autograd(function)


def _value(variable: Any) -> Tensor:
    return ops.convert_to_tensor(variable.value)


def _array(gradient: Any, variable: Any) -> NDArray[np.float64]:
    if gradient is None:
        return np.zeros(tuple(variable.shape))
    dense = ops.convert_to_numpy(ops.convert_to_tensor(gradient))
    return np.asarray(dense).astype(np.float64)


def task_gradients(
    model: Any,
    batches: Iterable[Sequence[Any]],
    variables: Sequence[Any],
    at: Sequence[Any] | None = None,
) -> Iterator[Gradients]:
    """Of the compiled model's whole loss, for each batch, without orthwrap's regularizers.

    As a training step computes it, dropout and batch statistics included; the model's state stays
    as it was. Regularizers that are not orthwrap's, and losses that layers add, belong to the task.

    Args:
        model: compiled.
        batches: `(x, y)` or `(x, y, sample_weight)`, each as `fit` takes it.
        variables: some of the model's.
        at: other values for them, one array each.
    """
    flag = keras_inside.training_flag(model)

    def loss(x: Any, y: Any, weight: Any) -> Tensor:
        total = keras_inside.whole_loss(model, x, y, model(x, **flag), weight)
        keras_inside.forget_losses(model)
        return keras_inside.unscaled(total)  # no device takes its share here

    gradient = gradients_of(loss, variables, model.variables)
    for batch in batches:
        x, y, *rest = (keras.tree.map_structure(_as_fit_does, part) for part in batch)
        weight = rest[0] if rest else None
        with _without_ours(model):
            keras_inside.build_for(model, (x, y, weight))  # losses may make variables
            found = gradient(x, y, weight, at=at)
        yield found


def _as_fit_does(array: Any) -> Tensor:
    if array is None:
        return None
    if not ops.is_tensor(array):
        array = np.asarray(array)  # another backend's, such as tf.data gives
    is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(array.dtype))
    return ops.convert_to_tensor(array, keras.config.floatx() if is_float else None)


@contextlib.contextmanager
def _without_ours(model: Any) -> Iterator[None]:
    """While active, orthwrap's regularizers are away; what they were combined with is not."""
    held = [(v, "regularizer") for v in model.weights]
    held += [(layer, "activity_regularizer") for layer in keras_inside.every_layer(model)]
    ours = [
        (owner, name, regularizer)
        for owner, name in held
        if isinstance(regularizer := getattr(owner, name), (OrthogonalityRegularizer, Attached))
    ]
    for owner, name, regularizer in ours:
        setattr(owner, name, regularizer._foreign)
    try:
        yield
    finally:
        for owner, name, regularizer in ours:
            setattr(owner, name, regularizer)


def penalty_gradients(regularizer: Any, variable: Any) -> Iterator[NDArray[np.float64]]:
    """Of one of orthwrap's regularizers with factor 1 on one kernel: one array per draw.

    A penalty estimated from random probes is drawn 8 times, any other one once. It is paid for
    at every call (`every` is left out), and what it is combined with is not part of it.
    """
    attachment = regularizer.attachment
    options = {k: v for k, v in attachment.options.items() if k != "every"}
    alone = replace(attachment, factor=1.0, options=options, combined_with=None)
    made = from_attachment(alone, getattr(regularizer, "_function", None))
    draws, held = 1, []
    if isinstance(made, OrthogonalityRegularizer) and made.is_random:
        draws, held = DRAWS, [made.state]
    gradient = gradients_of(lambda: made(variable.value), [variable], held)
    for i in range(draws):
        if draws > 1:  # nobody takes the next count back
            made.restore({**regularizer.moment, "count": i})
        yield gradient()[0]


# The backends that differentiate as they go.


def _with_tape(function: Callable[..., Tensor]) -> Callable[..., Sequence[Any]]:
    import tensorflow as tf

    def call(values: list[Tensor], *rest: Any) -> Sequence[Any]:
        values = [tf.convert_to_tensor(v) for v in values]  # variables of several devices stay so
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            result = function(values, *rest)
        found: Sequence[Any] = tape.gradient(result, values)
        return found

    return call


def _with_autograd(function: Callable[..., Tensor]) -> Callable[..., Sequence[Any]]:
    import torch

    def call(values: list[Tensor], *rest: Any) -> Sequence[Any]:
        leaves = [v.detach().clone().requires_grad_() for v in values]
        with torch.random.fork_rng():  # Keras's dropout draws from PyTorch's own state
            result = function(leaves, *rest)
        if not result.requires_grad:
            return [None] * len(leaves)
        found: Sequence[Any] = torch.autograd.grad(result, leaves, allow_unused=True)
        return found

    return call
