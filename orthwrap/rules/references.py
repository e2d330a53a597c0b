"""`package.module:name`: what a user names, and how much of that a file may call upon.

A file's string is never looked up among the modules that happen to be imported: `builtins` always
is. It stands for an object only where the user named that object in this process, or where it is
registered with Keras.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from orthwrap import keras_inside
from orthwrap.errors import ValueFault
from orthwrap.model_config.needs import is_reference
from orthwrap.text import first_line

NAMED: dict[str, Any] = {}  # what the user named or handed over in this process

HINT = "name it with --custom-objects package.module:Name (custom_objects= in Python)"


# From the user's words to objects


def imported(reference: str, what: str, kind: str = "function") -> Any:
    """The function or class of `package.module:name`, which the user named; imports the module.

    Args:
        reference: its name may be dotted, for what is inside a class.
        what: it is for, such as `regularizer`.
        kind: what messages call the thing itself.

    Raises:
        ValueFault: there is no such module, or nothing in it that can be called by that name (the
            nearest are named).
    """
    path, _, name = reference.partition(":")
    module = import_module(path, reference, what)
    value = attribute(module, name)
    if callable(value):
        return value
    if value is not None:
        raise ValueFault(
            f"{name!r} of module {path!r} is no {kind} but of type {type(value).__name__}: "
            f"{what} {reference!r} must name a {kind}"
        )
    public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
    raise ValueFault(
        f"module {path!r} has no {kind} {name!r} for {what} {reference!r}{nearest(name, public)}"
    )


def import_module(path: str, reference: str, what: str) -> ModuleType:
    """The module that the user named; ValueFault where it cannot be imported."""
    try:
        return importlib.import_module(path)
    except Exception as e:  # a module runs as it is imported, and may raise anything
        missing = isinstance(e, ModuleNotFoundError) and f"{path}.".startswith(f"{e.name}.")
        hint = nearest(path, _modules_beside(path)) if missing or not path else ""
        raise ValueFault(
            f"cannot import {path!r} for {what} {reference!r}: {first_line(e)}{hint}"
        ) from e


def _modules_beside(path: str) -> list[str]:
    """The modules that `path` might have meant: those of its package, or all there are."""
    package, dot, _ = path.rpartition(".")
    if not dot:
        return [m.name for m in pkgutil.iter_modules()]
    found = sys.modules.get(package)
    return [f"{package}.{m.name}" for m in pkgutil.iter_modules(getattr(found, "__path__", ()))]


def nearest(name: str, known: Iterable[str]) -> str:
    """`; nearest: a, b`, or nothing where none is near."""
    close = difflib.get_close_matches(name, sorted(known), 3, 0.6)
    return f"; nearest: {', '.join(close)}" if close else ""


def attribute(module: Any, name: str) -> Any:
    """What a dotted name leads to; None where it leads nowhere."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


# From objects to references


def reference_of(value: Any) -> str:
    """`package.module:name` of a function or class.

    One that no module has under its name gets `<…>`, which holds in this process alone and is
    another one for each object.
    """
    module = getattr(value, "__module__", None) or type(value).__module__
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if attribute(sys.modules.get(module), name) is value:
        return f"{module}:{name}"
    return f"{module}:<{name.rpartition('.')[2].strip('<>')} at {id(value):#x}>"


def remember(reference: str, value: Any) -> None:
    """The user named or handed over this object: files may refer to it in this process."""
    if "<" not in reference:
        NAMED[reference] = value


# From a file's words to objects


@contextlib.contextmanager
def known_objects(objects: Mapping[str, Any]) -> Iterator[None]:
    """Keras knows these too by their names; its own scope would forget those of a scope around."""
    import keras

    around = keras_inside.objects_in_scope()
    with keras.saving.custom_object_scope({**around, **objects}):
        yield


def find(name: str, given: Mapping[str, Any] | None = None) -> Any:
    """The object that a name in a file may stand for, else None. Imports nothing.

    Args:
        name: `package.module:name`, or as Keras registers objects.
        given: further custom objects.
    """
    import keras

    found = keras.saving.get_registered_object(name, given)
    if found is not None or not is_reference(name):
        return found
    found = keras.saving.get_registered_object(name.partition(":")[2], given)
    if found is not None or name in NAMED:
        return NAMED[name] if found is None else found
    registered = keras.saving.get_custom_objects().values()
    return next((v for v in registered if callable(v) and reference_of(v) == name), None)
