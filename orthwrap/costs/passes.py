"""A penalty of many kernels as one call on the device, loss and gradient, as a step has it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import keras
import numpy as np
from keras import ops

from orthwrap.costs.programs import program
from orthwrap.penalties.tensors import on_processor
from orthwrap.regularizers.clock import Clock

Tensor = Any
Penalized = tuple[Callable[[Tensor], Tensor], Any]  # a regularizer, and the kernel that it is on

PULL_RATE = 0.01
# By so much a step moves a weight before it is held again: Adam's first at its default rate.
_MOVED = 1e-3

_IN_A_ROW = 16
# Too little for a weight to change by, and more than a compiler takes for nothing.
_LINK = 1e-30


def times() -> int:
    """How often a call of what is made here does its work.

    On an accelerator, handing out so many arrays takes JAX longer than it takes the device to
    compute them meanwhile, and a single call would only show that.
    """
    is_hidden = keras.backend.backend() == "jax" and not on_processor()
    return _IN_A_ROW if is_hidden else 1


def _in_a_row(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`times` of step(values, states) → (results, states), each of the values that came before."""
    import jax

    def one_more(_: Any, carried: Any) -> Any:
        values, states = carried
        results, states = step(values, states)
        return [_linked(v, r) for v, r in zip(values, results, strict=True)], states

    return lambda values, states: jax.lax.fori_loop(0, times(), one_more, (values, states))


def _linked(value: Tensor, result: Tensor) -> Tensor:
    """The value, which is not known before the result is."""
    result = ops.reshape(result, value.shape) if result.size == value.size else result
    return value + ops.cast(_LINK * result, value.dtype)


def loss_and_gradients(pairs: Sequence[Penalized], compiled: bool) -> Callable[[], None]:
    """The sum of the penalties, and its gradients.

    Args:
        pairs: regularizers with their kernels, `keras.Variable`s, which stay as they are.
        compiled: by XLA, on TensorFlow; JAX always compiles, PyTorch never.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        return _on_jax(pairs)
    kernels = [kernel for _, kernel in pairs]

    def total() -> Tensor:
        return reduce(operator.add, (penalty(kernel) for penalty, kernel in pairs))

    if backend == "torch":
        import torch

        def by_autograd() -> Any:
            loss = total()
            if not loss.requires_grad:  # every kernel was left out
                return loss, ()
            values = [k.value for k in kernels]
            return loss, torch.autograd.grad(loss, values, allow_unused=True)

        return waiting(by_autograd)
    import tensorflow as tf

    @tf.function(autograph=False, jit_compile=compiled)  # type: ignore[untyped-decorator]
    def run() -> Any:
        with tf.GradientTape() as tape:
            loss = total()
        return loss, tape.gradient(loss, [k.value for k in kernels])

    return waiting(run)


def _on_jax(pairs: Sequence[Penalized]) -> Callable[[], None]:
    """The states of what draws or counts go in and come back, as Keras's steps have it."""
    import jax

    clocks = {id(r): r for r, _ in pairs if isinstance(r, Clock)}
    variables = [clock.state for clock in clocks.values()]
    states = [ops.copy(v) for v in variables]
    values = [k.value for _, k in pairs]

    def total(values: Any, states: Any) -> Any:
        handed_in = list(zip(variables, states, strict=True))
        with keras.StatelessScope(state_mapping=handed_in) as scope:
            loss = reduce(operator.add, (p(v) for (p, _), v in zip(pairs, values, strict=True)))
        return loss, [scope.get_current_value(v) for v in variables]

    with_gradients = jax.value_and_grad(total, has_aux=True)

    def once(values: Any, states: Any) -> Any:
        (loss, states), gradients = with_gradients(values, states)
        return (loss, gradients), states

    def gradients_alone(values: Any, states: Any) -> Any:
        (_, gradients), states = once(values, states)
        return gradients, states

    run = program(once if times() == 1 else _in_a_row(gradients_alone), values, states)

    def call() -> Any:
        nonlocal states
        results, states = run(values, states)
        return results

    return waiting(call)


def pulls(pairs: Sequence[tuple[Any, Any]], compiled: bool) -> Callable[[], None]:
    """The kernels after one pull each; arguments as of `loss_and_gradients`."""
    backend = keras.backend.backend()
    values = [kernel.value for _, kernel in pairs]

    def pulled(values: Sequence[Tensor]) -> list[Tensor]:
        rate = ops.convert_to_tensor(PULL_RATE, "float32")
        return [r.pulled(v, rate) for (r, _), v in zip(pairs, values, strict=True)]

    return waiting(compiled_call(pulled, values, backend, compiled))


def holds(pairs: Sequence[tuple[Any, Any]], compiled: bool) -> Callable[[], None]:
    """Kernels that were held and that a step has moved, held again.

    Args:
        pairs: constraints with their kernels, which stay as they are.
        compiled: as of `loss_and_gradients`.
    """
    rng = np.random.default_rng(0)
    values = []
    for constraint, kernel in pairs:
        held = constraint.project(kernel.value)
        signs = rng.choice((-_MOVED, _MOVED), tuple(held.shape))
        values.append(held + ops.convert_to_tensor(signs, held.dtype))

    def held_again(values: Sequence[Tensor]) -> list[Tensor]:
        return [c.project(v) for (c, _), v in zip(pairs, values, strict=True)]

    return waiting(compiled_call(held_again, values, keras.backend.backend(), compiled))


def nothing(kernels: Sequence[Any], compiled: bool) -> Callable[[], None]:
    """Calls with the same kernels that compute next to nothing: what calling costs."""
    backend = keras.backend.backend()
    values = [kernel.value for kernel in kernels]

    def first(values: Sequence[Tensor]) -> list[Tensor]:
        return [ops.reshape(v, (-1,))[0] for v in values]

    if backend == "torch":
        return waiting(lambda: values)
    return waiting(compiled_call(first, values, backend, compiled))


def compiled_call(
    function: Callable[[Any], Any], values: Sequence[Tensor], backend: str, compiled: bool
) -> Callable[[], Any]:
    if backend == "jax":
        if times() > 1:
            step = _in_a_row(lambda values, states: (function(values), states))
            in_a_row = program(step, values, ())
            return lambda: in_a_row(values, ())
        run = program(function, values)
        return lambda: run(values)
    if backend == "torch":
        import torch

        def without_gradient() -> Any:
            with torch.no_grad():
                return function(values)

        return without_gradient
    import tensorflow as tf

    made = tf.function(lambda: function(values), autograph=False, jit_compile=compiled)
    return lambda: made()


def waiting(call: Callable[[], Any]) -> Callable[[], None]:
    """The call, which returns when the device has done it."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def until_ready() -> None:
            jax.block_until_ready(call())

        return until_ready
    if backend == "torch":
        import torch

        is_on_gpu = torch.cuda.is_available()

        def run() -> None:
            call()
            if is_on_gpu:
                torch.cuda.synchronize()

        return run
    import tensorflow as tf

    has_gpu = bool(tf.config.list_logical_devices("GPU"))

    def run_on_tensorflow() -> None:
        call()
        if has_gpu:
            tf.test.experimental.sync_devices()

    return run_on_tensorflow
