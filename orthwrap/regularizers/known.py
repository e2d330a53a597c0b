"""Regularizers from a config: Keras's own, and what the user named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orthwrap.errors import ValueFault
from orthwrap.model_config.needs import is_reference
from orthwrap.model_config.tree import to_snake_case
from orthwrap.penalties.attachment import describe
from orthwrap.penalties.of_keras import KERAS_NAMES
from orthwrap.rules.references import HINT, NAMED, find
from orthwrap.text import first_line


def regularizer_of(node: Any) -> Callable[[Any], Any]:
    """A regularizer from what a config has for it: a name, a node, or a reference.

    Keras's own are made by their class name, others only where `find` or the user allows it.

    Raises:
        ValueFault: it is not known here, or cannot be made from its config.
    """
    return _known(node, "regularizer")


def constraint_of(node: Any) -> Callable[[Any], Any]:
    """The same of a constraint that was set aside."""
    return _known(node, "constraint")


def _known(node: Any, what: str) -> Callable[[Any], Any]:
    config = node.get("config") if isinstance(node, Mapping) else None
    is_function = is_reference(node)
    if isinstance(node, Mapping) and node.get("class_name") == "function":
        is_function, found = True, find(str(config))
    elif isinstance(node, Mapping):
        found = _resolved_class(node, what)
    else:
        found = _resolved_class({"class_name": node}, what) or find(str(node))
    if not callable(found) or (is_function and isinstance(found, type)):
        raise ValueFault(f"{what} {_shown(node)} is not known here: {HINT}")
    return _made(found, config, node, what) if isinstance(found, type) else found


# Keras's own, by the names that stand for them.
_CLASSES = ("L1", "L2", "L1L2", "OrthogonalRegularizer")


_KERAS = {
    "regularizer": {
        **dict(zip(_CLASSES, _CLASSES, strict=True)),
        **dict(zip(KERAS_NAMES, _CLASSES, strict=True)),
        "l1l2": "L1L2",
    },
    "constraint": {
        name: cls
        for cls in ("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm")
        for name in (cls, to_snake_case(cls))
    },
}


def _resolved_class(node: Mapping[str, Any], what: str) -> Any:
    """The class of a node; None where nobody here knows it, or it is no class."""
    import keras

    module, name = node.get("module"), str(node.get("class_name"))
    registered = node.get("registered_name")
    if isinstance(registered, str) and registered != name:
        found = find(registered)
    elif name in _KERAS[what] and str(module or "keras").partition(".")[0] == "keras":
        found = getattr(getattr(keras, f"{what}s"), _KERAS[what][name])
    else:
        # Keras writes no module for what comes from __main__.
        found = find(name) or NAMED.get(f"{module or '__main__'}:{name}")
    return found if isinstance(found, type) and hasattr(found, "from_config") else None


def _made(cls: Any, config: Any, node: Any, what: str) -> Callable[[Any], Any]:
    try:
        made = cls() if config is None else cls.from_config(dict(config))
    except Exception as e:  # the class may be anyone's
        raise ValueFault(
            f"{what} {_shown(node)} cannot be made from its config: {first_line(e)}"
        ) from e
    if not callable(made):
        raise ValueFault(f"{_shown(node)} is no {what}: it cannot be called")
    return made  # type: ignore[no-any-return]  # an object of anyone's class


def _shown(node: Any) -> str:
    return f"{node if isinstance(node, str) else describe(node)!r:.200}"
