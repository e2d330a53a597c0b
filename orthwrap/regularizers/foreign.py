"""Regularizers that are not orthwrap's: Keras's, a user's function, a reference to one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from orthwrap.errors import ValueFault
from orthwrap.penalties.attachment import Attachment, describe, without_address
from orthwrap.regularizers.base import _Regularizer, register
from orthwrap.regularizers.known import regularizer_of
from orthwrap.rules import references
from orthwrap.rules.words import check_factor

Tensor = Any


@register
class Attached(_Regularizer):
    """factor × a regularizer that is not orthwrap's, attached by orthwrap.

    Args:
        regularizer: a Keras regularizer (object, name or config), a callable, or
            `"package.module:function"`. A reference is resolved only if the user named it in this
            process, or the function is registered with Keras or among the custom objects.
        factor: its coefficient; the regularizer's own coefficients stay as they are.
        name: what reports call it.
    """

    def __init__(
        self,
        regularizer: Any,
        factor: float = 1.0,
        name: str | None = None,
        on: str = "kernel",
        combined_with: Any = None,
        replaced: Any = None,
        absent: bool = False,
    ) -> None:
        node = _node_of(regularizer)
        if node is None:
            raise ValueFault("a regularizer is a name, a config or a callable; got None")
        self._adopt(
            Attachment(
                name=name or _shown(node),
                factor=check_factor(factor),
                on=on,
                foreign=node,
                combined_with=_node_of(combined_with),
                replaced=_node_of(replaced),
                absent=absent,
            )
        )
        is_object = callable(regularizer) and not isinstance(regularizer, (str, Mapping))
        self._function = regularizer if is_object else regularizer_of(node)

    def _value(self, x: Tensor) -> Tensor:
        value, factor = self._function(x), self._base.factor
        return value if factor == 1.0 else factor * value


def import_reference(reference: Any) -> None:
    """Imports `"package.module:function"`, which the user named; files may refer to it then.

    Raises:
        ValueFault: there is no such module, or no such function in it.
    """
    if isinstance(reference, str):
        references.remember(reference, references.imported(reference, "regularizer"))


def _shown(node: Any) -> str:
    """What a foreign regularizer is called: its reference without an address."""
    return without_address(node) if isinstance(node, str) else describe(node)


def _node_of(value: Any) -> Any:
    """A regularizer as it stands in a config: None, a name, a node, or a reference.

    An object is the user's own, so that files may refer to it from then on.
    """
    if value is None or isinstance(value, (str, Mapping)):
        return value
    if isinstance(value, keras.regularizers.Regularizer):
        cls = type(value)
        references.remember(f"{cls.__module__}:{cls.__name__}", cls)
        return keras.saving.serialize_keras_object(value)
    if not callable(value):
        raise ValueFault(f"a regularizer is a name, a config or a callable; got {value!r}")
    reference = references.reference_of(value)
    references.remember(reference, value)
    return reference


def check_callable(
    function: Any, shape: tuple[int, ...], where: str, name: str, what: str = "kernel"
) -> None:
    """Calls a regularizer once, eagerly and traced, on a kernel or on outputs of `shape`.

    Raises:
        ValueFault: it gives no scalar tensor, or no gradient, as with `np.linalg.norm`.
    """
    import numpy as np

    hint = f"use keras.ops, and return one number for the {what}"
    kernel = np.random.default_rng(0).normal(size=shape).astype("float32")
    variable = keras.Variable(kernel)
    try:
        value = function(variable)
        fault = _value_fault(value)
        if fault is None:
            fault = _trace_fault(function, variable, what)
    except Exception as e:  # the user's function may raise anything
        first = (str(e).splitlines() or [""])[0]
        fault = f"raised {type(e).__name__}: {first}"
    if fault is not None:
        on = where if what == "kernel" else f"{what} of {where}"
        raise ValueFault(f"regularizer {name!r} on {on} of shape {shape} {fault}; {hint}")


def _value_fault(value: Any) -> str | None:
    if not keras.ops.is_tensor(value):
        return f"returned {type(value).__name__}, not a scalar tensor"
    if tuple(value.shape) != ():
        return f"returned a tensor of shape {tuple(value.shape)}, not a scalar"
    if not keras.backend.is_float_dtype(value.dtype):
        return f"returned {keras.backend.standardize_dtype(value.dtype)}, not a float"
    return None


def _trace_fault(function: Any, variable: Any, what: str) -> str | None:
    """What goes wrong only inside a compiled step, or without a gradient."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        gradients = []

        def step() -> None:
            with tf.GradientTape() as tape:
                value = function(variable)
            gradients.append(tape.gradient(value, variable.value))

        # Traced and not run: calls would make TensorFlow warn of retracing.
        tf.function(step, autograph=False).get_concrete_function()
        has_one = gradients[0] is not None
        return None if has_one else f"has no gradient with respect to the {what}"
    if backend == "jax":
        import jax

        jax.make_jaxpr(jax.grad(lambda x: function(x)))(variable.value)
        return None
    value = function(variable)
    return None if value.requires_grad else f"has no gradient with respect to the {what}"
