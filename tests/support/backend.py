"""Values and gradients on whichever Keras backend runs: TensorFlow, JAX or PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np

# JAX compiles every operation anew for every shape.
EAGER_IS_CHEAP = keras.backend.backend() != "jax"

Array = np.ndarray[Any, np.dtype[Any]]


def double_precision() -> AbstractContextManager[None]:
    """JAX silently computes in float32 outside of this; the others need nothing."""
    if keras.backend.backend() == "jax":
        import jax

        context: AbstractContextManager[None] = jax.enable_x64(True)
        return context
    return nullcontext()


def value(function: Callable[..., Any], *arrays: Any) -> float:
    """function(*arrays) as a float, each array handed over as a tensor of its own dtype."""
    with double_precision():
        return float(keras.ops.convert_to_numpy(_cheaply(function)(*map(tensor, arrays))))


def value_and_grad(function: Callable[..., Any], x: Any, *others: Any) -> tuple[float, Array]:
    """function(x, *others) and its gradient with respect to x, in x's dtype."""
    with double_precision():
        result, gradient = _value_and_grad(function, tensor(x), *map(tensor, others))
        return float(keras.ops.convert_to_numpy(result)), keras.ops.convert_to_numpy(gradient)


def tensor(x: Any) -> Any:
    return keras.ops.convert_to_tensor(np.array(x), dtype=str(np.array(x).dtype))


def _value_and_grad(function: Callable[..., Any], x: Any, *others: Any) -> tuple[Any, Any]:
    name = keras.backend.backend()
    if name == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            result = function(x, *others)
        return result, tape.gradient(result, x)
    if name == "jax":
        import jax

        return _cheaply(jax.value_and_grad(function))(x, *others)
    if name == "torch":
        import torch

        x = x.detach().requires_grad_()
        result = function(x, *others)
        return result.detach(), torch.autograd.grad(result, x)[0]
    raise NotImplementedError(name)


def _cheaply(function: Callable[..., Any]) -> Callable[..., Any]:
    """JAX compiles a whole function faster than its operations one by one."""
    return function if EAGER_IS_CHEAP else compiled(function)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as the backend's training step runs it: traced, where it traces."""
    name = keras.backend.backend()
    if name == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if name == "jax":
        import jax

        return jax.jit(function)
    return function
