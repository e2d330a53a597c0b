"""`package.module:Name`, by which a user names the classes and functions a file needs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from orthwrap.errors import ValueFault
from orthwrap.rules.references import import_module, imported

# What a caller may give: by name, or where it is to be imported from.
CustomObjects = Mapping[str, Any] | Iterable[str] | str

_WHAT = "custom objects"


def custom_objects_of(given: CustomObjects | None) -> dict[str, Any]:
    """The objects by the names that files call them by; imports the modules that are named.

    Args:
        given: a mapping; or references, each `package.module:Name`, or `package.module` for all
            public classes with a get_config and all public functions that are defined there.

    Raises:
        ValueFault: no such module or name (the nearest are named).
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    references = [given] if isinstance(given, str) else given
    if not isinstance(references, Iterable) or inspect.isclass(given):
        raise ValueFault(
            "custom_objects must map names to classes, or be package.module:Name; got "
            f"{given!r:.80}"
        )
    found: dict[str, Any] = {}
    for reference in references:
        if not isinstance(reference, str):
            raise ValueFault(f"custom object {reference!r:.80} must be named package.module:Name")
        for name, value in _objects_of(reference).items():
            found[name] = value
            found[_registered_name(value)] = value
    return found


def _objects_of(reference: str) -> dict[str, Any]:
    path, colon, name = reference.partition(":")
    if colon:
        return {name: imported(reference, _WHAT, "class or function")}
    module = import_module(path, reference, _WHAT)
    public = _public(module)
    found = {n: v for n, v in public.items() if _is_of(v, module)}
    if not (found or any(_is_ours(v) for v in public.values())):
        raise ValueFault(
            f"module {path!r} for {_WHAT} {reference!r} defines no class with a get_config and no "
            "function: name the module that does"
        )
    return found


def _public(module: ModuleType) -> dict[str, Any]:
    names = getattr(module, "__all__", None)
    if not isinstance(names, (list, tuple)):
        names = [n for n in vars(module) if not n.startswith("_")]
    return {n: getattr(module, n, None) for n in names}


def _is_of(value: Any, module: ModuleType) -> bool:
    """Whether a file could need it, and it comes from the module's own package."""
    package = module.__name__.partition(".")[0]
    if str(getattr(value, "__module__", "")).partition(".")[0] != package:
        return False
    return inspect.isfunction(value) or (inspect.isclass(value) and hasattr(value, "get_config"))


def _is_ours(value: Any) -> bool:
    """Whether it is a thing of orthwrap's, such as the penalty that the module registers."""
    return type(value).__module__.partition(".")[0] == "orthwrap"


def _registered_name(value: Any) -> str:
    """`package>Name` of what is registered with Keras, else its own name."""
    keras = sys.modules.get("keras")
    name = getattr(value, "__name__", type(value).__name__)
    return str(keras.saving.get_registered_name(value)) if keras is not None else name
