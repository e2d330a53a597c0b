"""A new model from an edited config, with the original's weights and state."""

from __future__ import annotations

import copy
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.errors import RebuildError
from orthwrap.live.carried import (
    copy_counts,
    copy_own_state,
    copy_trainable,
    copy_values,
    layer_pairs,
    seeds_left,
    variable_pairs,
)
from orthwrap.live.compiled import as_policy, copy_compiled, own_policy
from orthwrap.live.live_store import LiveStore
from orthwrap.live.same_outputs import check_outputs, has_graph
from orthwrap.live.theirs import in_class, is_keras
from orthwrap.model_config.tree import Edit, Layer, Node, at, edit
from orthwrap.rules.references import known_objects
from orthwrap.text import error_summary

_Pairs = list[tuple[Any, Any]]


def rebuild(store: LiveStore, edits: Sequence[Edit]) -> tuple[Any, tuple[str, ...]]:
    """A new model with its own variables from the edited config; and warnings.

    Weights, compiled state and optimizer variables are those of the original, which stays as it
    was.

    Raises:
        RebuildError: the config does not rebuild the model, or the copy gives other outputs.
    """
    model = store.model
    if store.no_config:
        raise _cannot_rebuild(model, store.no_config)
    root = edit(store.root, edits)
    for node in _named_nodes(root):
        node.pop("compile_config", None)  # the compiled state is copied from the live models
    _mark_shared(store, root)
    known = {**live_objects(store), **_keep_functions(store, root)}
    ways = [_from_config, _clone] if held_by_several(model) else [_from_config]
    refused: list[RebuildError] = []
    for way in ways:
        try:
            new = _made(store, partial(way, store, root, known))
            layers, variables = _with_state(model, new)
            notes = check_outputs(layers)
            seeds = seeds_left(model, variables)
            return new, (*seeds, *_compiled(layers, variables, known), *notes)
        except RebuildError as e:
            refused.append(e)
    raise refused[0]


def _made(store: LiveStore, way: Callable[[], Any]) -> Any:
    """A new model from the config, under the dtype policy of the original.

    Raises:
        RebuildError: there is none.
    """
    model = store.model
    policy = as_policy(own_policy(model))
    with warnings.catch_warnings(), keras_inside.sharing_scope(), policy:
        warnings.simplefilter("ignore")
        try:
            new = way()
        except Exception as e:  # from_config is the user's code and may raise anything
            where, raised = in_class(e)
            raise _cannot_rebuild(
                model, f"from_config failed{where} ({error_summary(raised)})"
            ) from e
    if not isinstance(new, keras.Model):
        raise _cannot_rebuild(model, f"its config makes a {type(new).__name__}")
    return new


def _with_state(model: Any, new: Any) -> tuple[_Pairs, _Pairs]:
    """Gives the copy all that a config does not hold; the layers and variables that correspond."""
    layers = layer_pairs(model, new)
    variables = variable_pairs(model, new, layers)
    if variables is None:
        raise _cannot_rebuild(
            model,
            f"its config makes {len(new.weights)} weights of other shapes or in another order "
            f"(the model has {len(model.weights)})",
        )
    if {id(v) for v in model.weights} & {id(v) for v in new.weights}:
        raise _cannot_rebuild(model, "what its config makes holds the model's own weights")
    copy_values(variables)
    for old, fresh in layers:
        try:
            if fresh.name != old.name:  # not every class's config has the name
                fresh.name = old.name
            if own_policy(old) not in (None, own_policy(fresh)):  # made under another
                fresh.dtype_policy = old.dtype_policy
            copy_own_state(old, fresh)
            copy_counts(old, fresh)
        except Exception as e:  # what a class saves and loads in its own way is the user's code
            why = f"class {type(old).__name__} does not load what it saves ({error_summary(e)})"
            raise _cannot_rebuild(model, why) from e
    copy_trainable(layers, variables)
    return layers, variables


def _compiled(layers: _Pairs, variables: _Pairs, known: Mapping[str, Any]) -> list[str]:
    return [
        note
        for old, fresh in layers
        if isinstance(old, keras.Model) and old.compiled
        for note in copy_compiled(old, fresh, variables, known)
    ]


def _cannot_rebuild(model: Any, why: str) -> RebuildError:
    return RebuildError(
        f"model {model.name!r} ({type(model).__name__}) cannot be rebuilt from its config: {why}; "
        "use in_place=True, or give the class a get_config that rebuilds it"
    )


def held_by_several(model: Any) -> list[Any]:
    """The layers that two (sub)models hold as their own, which a config does not tell."""
    owners = [m for m in keras_inside.every_layer(model) if isinstance(m, keras.Model)]
    held = [layer for owner in {id(m): m for m in owners}.values() for layer in owner.layers]
    holders = Counter(map(id, held))
    return [layer for layer in held if holders[id(layer)] > 1]


def _mark_shared(store: LiveStore, root: Node) -> None:
    """Says of each place where one layer stands that it is one; Keras says so of the last alone."""
    for number, layer in enumerate(store.layers(), start=1):
        for pointer in layer.pointers if len(layer.pointers) > 1 else ():
            at(root, pointer)["shared_object_id"] = number


def _from_config(store: LiveStore, root: Node, known: Mapping[str, Any]) -> Any:
    root = copy.deepcopy(root)  # Keras and the classes take out of it what they have read
    return keras.saving.deserialize_keras_object(root, custom_objects=known, safe_mode=True)


def _clone(store: LiveStore, root: Node, known: Mapping[str, Any]) -> Any:
    """The model's graph once more, each layer from its node: what is shared stays so.

    Of a class without a graph, those of the models that it is made of.
    """
    places = {
        id(store.object_of(layer)): layer.pointers[0] for layer in store.layers() if layer.pointers
    }
    made: dict[int, Any] = {}  # by the original: two of the models may hold it

    def from_node(layer: Any) -> Any:
        if id(layer) not in places:
            return type(layer).from_config(layer.get_config())  # an operation, say
        if id(layer) not in made:
            node = at(root, places[id(layer)])
            made[id(layer)] = keras.saving.deserialize_keras_object(node, safe_mode=True)
        return made[id(layer)]

    def clone(model: Any) -> Any:
        new = keras.models.clone_model(model, clone_function=from_node, recursive=True)
        if type(new) is not type(model):
            raise TypeError(f"a clone of it is a {type(new).__name__}")
        return new

    with known_objects(known):
        if has_graph(store.model):
            return clone(store.model)
        clones: dict[str, Any] = {}
        for layer in store.layers():
            live = store.object_of(layer)
            if isinstance(live, keras.Model) and has_graph(live) and _is_outermost(layer, clones):
                clones[layer.path] = clone(live)
                for pointer in layer.pointers:
                    _name_in(at(root, pointer), layer.path)
        return _from_config(store, root, {**known, **clones})


def _is_outermost(layer: Layer, around: Iterable[str]) -> bool:
    return not any(f"{layer.path}/".startswith(f"{path}/") for path in around)


def _name_in(node: Node, name: str) -> None:
    """Lets a node stand for a known object of that name, which Keras looks up as it does functions.

    A function's node says nothing but its name.
    """
    node.clear()
    node.update(module="builtins", class_name="function", config=name, registered_name=name)


def live_objects(store: LiveStore) -> dict[str, Any]:
    """The classes and functions that the model is made of and Keras does not know, by name.

    Only what is alive in it counts: its config may have kept strings of a file.
    """
    from orthwrap.regularizers import Attached

    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [store.model, *store._objects.values()]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        cls = type(value)
        if isinstance(value, Attached) and isinstance(value.attachment.foreign, str):
            found[value.attachment.foreign] = value._function
        if hasattr(cls, "get_config"):
            waiting += _held(value)
            if is_keras(cls.__module__):
                continue
            found[cls.__name__] = found[str(keras.saving.get_registered_name(cls))] = cls
        elif callable(value) and isinstance(getattr(value, "__name__", None), str):
            found[value.__name__] = value
            found[str(keras.saving.get_registered_name(value))] = value
    return found


def _held(live: Any) -> Iterator[Any]:
    """The values of an object's attributes, and those in its lists and dicts; not its methods."""
    for key, value in list(vars(live).items()):
        if isinstance(value, Mapping):
            yield from value.values()
        elif isinstance(value, (list, tuple)):
            yield from value
        elif not callable(getattr(type(live), key, None)):  # which Keras wraps for each object
            yield value


def _keep_functions(store: LiveStore, root: Node) -> dict[str, Any]:
    """Lets nodes that stand for a function name the live one; returns them by name.

    A lambda's node is its bytecode, without the module around it; two functions may have one name.
    """
    found: dict[str, Any] = {}
    for layer in store.layers():
        live = store.object_of(layer)
        for pointer in layer.pointers:
            config = at(root, pointer)["config"]
            for key, value in config.items() if isinstance(config, dict) else ():
                function = keras_inside.setting(live, key)
                if isinstance(value, Mapping) and isinstance(function, types.FunctionType):
                    name = f"{layer.path}.{key}"
                    found[name] = function
                    config[key] = {}
                    _name_in(config[key], name)
    return found


def _named_nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if value.get("module") and value.get("class_name"):
            yield value
        for inner in value.values():
            yield from _named_nodes(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _named_nodes(inner)
