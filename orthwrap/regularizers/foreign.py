"""Regularizers that are not orthwrap's: Keras's, a user's function, a reference to one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import keras

from orthwrap.errors import ValueFault
from orthwrap.penalties.attachment import Attachment, describe, without_address
from orthwrap.regularizers.base import _plain, _Regularizer, register
from orthwrap.words import check_factor

Tensor = Any


@register
class Attached(_Regularizer):
    """factor × a regularizer that is not orthwrap's, attached by orthwrap.

    Args:
        regularizer: a Keras regularizer (object, name or config), a callable, or
            `"package.module:function"`. A reference is resolved only if its module is already
            imported, or the function is among the custom objects.
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
        self._function = regularizer if is_object else resolve(node)

    def _value(self, x: Tensor) -> Tensor:
        value, factor = self._function(x), self._base.factor
        return value if factor == 1.0 else factor * value


def import_reference(reference: Any) -> None:
    """Imports the module of `"package.module:function"`, which the user named.

    Raises:
        ValueFault: there is no such module, or no such function in it.
    """
    if not isinstance(reference, str):
        return
    module, _, name = reference.partition(":")
    try:
        importlib.import_module(module)
    except (ImportError, ValueError) as e:  # ValueError: an empty name
        raise ValueFault(f"cannot import {module!r} for regularizer {reference!r}: {e}") from e
    if not callable(getattr(sys.modules[module], name, None)):
        raise ValueFault(
            f"module {module!r} has no function {name!r} for regularizer {reference!r}"
        )


def resolve(node: Any) -> Callable[[Tensor], Tensor]:
    """A foreign regularizer from its node. Imports nothing.

    Raises:
        ValueFault: a reference whose module is not imported and which is no custom object.
    """
    if not (isinstance(node, str) and ":" in node):
        return _from_config(node)
    module, _, name = node.partition(":")
    found: Any = _attribute(module, name)
    for key in (node, name):
        found = keras.saving.get_registered_object(key) or found
    if not callable(found):
        raise ValueFault(
            f"regularizer {node!r} is not known here: import {module} first, or give "
            f"custom_objects={{{name!r}: {name}}}"
        )
    return found  # type: ignore[no-any-return]  # whatever the user registered


def _from_config(node: Any) -> Callable[[Tensor], Tensor]:
    """A Keras regularizer; one of the caller's own classes only if its module is imported."""
    known = {}
    if isinstance(node, Mapping):
        # Keras writes no module for what comes from __main__.
        cls = _attribute(node.get("module") or "__main__", str(node.get("class_name")))
        if isinstance(cls, type) and issubclass(cls, keras.regularizers.Regularizer):
            known = {str(node.get("registered_name")): cls, cls.__name__: cls}
    try:
        with keras.saving.custom_object_scope(known):
            return keras.regularizers.get(_plain(node))  # type: ignore[no-any-return]  # untyped
    except Exception as e:  # the class may be anyone's
        first = (str(e).splitlines() or [""])[0]
        raise ValueFault(
            f"regularizer {describe(node)!r} cannot be made ({first}): import or register "
            "its class first"
        ) from e


def _attribute(module: str, name: str) -> Any:
    """`name`, dotted or not, in a module that is already imported; else None."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _shown(node: Any) -> str:
    """What a foreign regularizer is called: its reference without an address."""
    return without_address(node) if isinstance(node, str) else describe(node)


def _node_of(value: Any) -> Any:
    """A regularizer as it stands in a config: None, a name, a node, or a reference.

    A function that no module has under its name gets a reference with `<…>`, which holds in this
    process alone and is another one for each object.
    """
    if value is None or isinstance(value, (str, Mapping)):
        return value
    if isinstance(value, keras.regularizers.Regularizer):
        return keras.saving.serialize_keras_object(value)
    if not callable(value):
        raise ValueFault(f"a regularizer is a name, a config or a callable; got {value!r}")
    module = getattr(value, "__module__", None) or type(value).__module__
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if _attribute(module, name) is value:
        return f"{module}:{name}"
    return f"{module}:<{name.rpartition('.')[2].strip('<>')} at {id(value):#x}>"


def check_callable(function: Any, shape: tuple[int, ...], where: str, name: str) -> None:
    """Calls a regularizer once, eagerly and traced, on a kernel of `shape`.

    Raises:
        ValueFault: it gives no scalar tensor, or no gradient, as with `np.linalg.norm`.
    """
    import numpy as np

    hint = "use keras.ops, and return one number per kernel"
    kernel = np.random.default_rng(0).normal(size=shape).astype("float32")
    variable = keras.Variable(kernel)
    try:
        value = function(variable)
        fault = _value_fault(value)
        if fault is None:
            fault = _trace_fault(function, variable)
    except Exception as e:  # the user's function may raise anything
        first = (str(e).splitlines() or [""])[0]
        fault = f"raised {type(e).__name__}: {first}"
    if fault is not None:
        raise ValueFault(f"regularizer {name!r} on {where} of shape {shape} {fault}; {hint}")


def _value_fault(value: Any) -> str | None:
    if not keras.ops.is_tensor(value):
        return f"returned {type(value).__name__}, not a scalar tensor"
    if tuple(value.shape) != ():
        return f"returned a tensor of shape {tuple(value.shape)}, not a scalar"
    if not keras.backend.is_float_dtype(value.dtype):
        return f"returned {keras.backend.standardize_dtype(value.dtype)}, not a float"
    return None


def _trace_fault(function: Any, variable: Any) -> str | None:
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
        return None if has_one else "has no gradient with respect to the kernel"
    if backend == "jax":
        import jax

        jax.make_jaxpr(jax.grad(lambda x: function(x)))(variable.value)
        return None
    value = function(variable)
    return None if value.requires_grad else "has no gradient with respect to the kernel"
