"""What a file needs, found from its config before Keras is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

from orthwrap.errors import FileFault
from orthwrap.model_config import needs
from orthwrap.model_config.needs import is_reference
from orthwrap.model_config.tfmot import told_of
from orthwrap.model_config.tree import Node, walk
from orthwrap.rules.references import find
from orthwrap.text import listed
from orthwrap.upgrades.models.compile_config import without_metrics


def known_metrics_only(root: Node, given: Mapping[str, Any]) -> tuple[Node, tuple[str, ...]]:
    """The config without metrics that only `fit` would find to be unknown; and what they were."""
    import keras

    dropped: dict[str, None] = {}

    def is_known(name: str) -> bool:
        if name in given or name in ("accuracy", "acc", "crossentropy", "ce"):
            return True
        with contextlib.suppress(Exception):  # Keras raises one or another for an unknown name
            return keras.metrics.get(name) is not None
        dropped[name] = None
        return False

    training = without_metrics(root.get(needs.COMPILED) or {}, is_known)
    if not dropped:
        return root, ()
    named = ", ".join(map(repr, dropped))
    note = (
        f"the file's metric{'s' if len(dropped) > 1 else ''} {named} {_are(dropped)} not known "
        "here, so left out: give --custom-objects package.module:Name to keep "
        f"{'them' if len(dropped) > 1 else 'it'}"
    )
    return {**root, needs.COMPILED: training}, (note,)


def refuse_code(root: Node, shown: Path, unsafe_lambda: bool) -> None:
    lost = needs.lost_code_in(root)
    if lost:
        raise FileFault(
            f"{shown} keeps a lambda as activation of {listed(lost, _MOST_PLACES)}, in a form "
            "that Keras cannot load again: save the model with a named function instead"
        )
    places = () if unsafe_lambda else needs.code_in(root)
    if places:
        raise FileFault(
            f"{shown} keeps code of its own ({'a lambda' if len(places) == 1 else 'lambdas'}) in "
            f"{listed(places, _MOST_PLACES)}, which is not run by default: if you trust whoever "
            "made the file, give --unsafe-lambda (unsafe_lambda=True in Python)"
        )


def known_objects(root: Node, given: dict[str, Any], shown: Path) -> dict[str, Any]:
    """What was given, also under the names with a package that this file has for it.

    Raises:
        FileFault: the config names what neither Keras nor the user knows.
    """
    found = dict(given)
    users: dict[str, dict[str, None]] = {}
    for need in needs.unknown(root, _lookup_in(found)):
        users.setdefault(need.name, {})[need.where] = None
    for why in told_of(walk(root)) if users else ():
        raise FileFault(f"Keras cannot load {shown}: {why}")
    if users:
        named = "; ".join(
            f"{name!r} (in {listed(tuple(places), _MOST_PLACES)})" for name, places in users.items()
        )
        raise FileFault(
            f"Keras cannot load {shown}: it needs {named}, which {_are(users)} not known here: "
            "give --custom-objects package.module:Name (custom_objects= in Python)"
        )
    return found


def _lookup_in(found: dict[str, Any]) -> needs.Lookup:
    """Who knows what a config names: `given`, `keras`, or None.

    `found` is what was given; it gets the names with a package that the file has for it.
    """
    import keras

    builtin = _names_of_keras()
    getters = {
        "activation": keras.activations.get,
        "initializer": keras.initializers.get,
        "regularizer": keras.regularizers.get,
        "constraint": keras.constraints.get,
        "loss": keras.losses.get,
    }
    bare_names = dict(found)

    def is_given(need: needs.Need) -> bool:
        names = (need.name, *need.others)
        if any(keras.saving.get_registered_object(n, found) is not None for n in names):
            return True
        bare = need.name.rpartition(">")[2]
        if need.name == bare or bare not in bare_names:
            return False
        found[need.name] = bare_names[bare]
        return True

    def lookup(need: needs.Need) -> str | None:
        if is_given(need):
            return "given"
        if need.kind == "regularizer" and is_reference(need.name):
            return None if find(need.name, found) is None else "given"
        if need.kind in getters:
            with contextlib.suppress(Exception):  # each raises its own for an unknown name
                return "keras" if getters[need.kind](need.name) is not None else None
            return None
        package, _, inner = (need.module or "keras").partition(".")
        if package in ("keras_hub", "keras_cv", "keras_nlp") or inner.startswith("src."):
            return "keras"  # Keras looks these up by module
        known = package in ("keras", "builtins") and need.name.lower() in builtin
        return "keras" if known else None

    return lookup


def _names_of_keras() -> frozenset[str]:
    """Its classes and functions in lower case; of classes the Python names too, as in `.h5`."""
    import keras

    spaces = [getattr(keras, name) for name in _NAMESPACES]
    spaces.append(keras.optimizers.schedules)
    held = (value for space in spaces for value in vars(space).values())
    classes = {value.__name__.lower() for value in held if isinstance(value, type)}
    return _MODELS | classes | {name.lower() for space in spaces for name in dir(space)}


# Where Keras keeps what a config may name.
_NAMESPACES = (
    *("layers", "models", "initializers", "regularizers", "constraints", "activations"),
    *("optimizers", "losses", "metrics", "dtype_policies", "quantizers", "random"),
)


_MODELS = frozenset(("functional", "model", "sequential"))
_MOST_PLACES = 10


def _are(things: Sized) -> str:
    return "is" if len(things) == 1 else "are"
