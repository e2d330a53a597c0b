"""A `keras.Model` in memory: read, rebuilt with an edited config, or changed in place."""

from __future__ import annotations

import math
import warnings
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.errors import ValueFault
from orthwrap.live.theirs import in_class
from orthwrap.model_config.layers import (
    LAYER_TYPES,
    PUBLIC_NAMES,
    UNKNOWN,
    KernelSpec,
    layer_type_of_object,
)
from orthwrap.model_config.tree import (
    Layer,
    Node,
    Step,
    by_attributes_too,
    is_of_keras,
    to_snake_case,
    walk,
)
from orthwrap.stores.store import ModelRecord, Unclaimed, WeightRef, as_float, likely_kernel
from orthwrap.text import error_summary


class LiveStore:
    """Reads one model. It is never changed here."""

    format = "memory"

    def __init__(self, model: Any) -> None:
        if not isinstance(model, keras.Model):
            raise ValueFault(
                f"expected a keras.Model or a path, got {type(model).__module__}."
                f"{type(model).__name__}: give a Keras 3 model"
            )
        if not (model.weights or model.built):
            raise ValueFault(
                f"model {model.name!r} has no weights yet: call it once on an input, or build it"
            )
        self.model = model
        self.no_config = ""  # why there is none, where the model's get_config fails
        try:
            self.root = _serialize(model)
        except Exception as e:  # get_config is the user's code and may raise anything
            self.root = {"class_name": type(model).__name__, "config": {}}
            where, raised = in_class(e)
            self.no_config = f"its get_config failed{where} ({error_summary(raised)})"
        self.record = ModelRecord(None, self.format, keras.__version__, _size_of(model))
        self._objects = live_layers(model)

    def layers(self) -> tuple[Layer, ...]:
        """The layers of the config, then those that only the live model knows.

        A subclassed model's config may not hold its layers; they have no place in the tree
        (`pointers` is empty) and are changed on the object itself.
        """
        found: list[Layer] = []
        index: dict[int, int] = {}  # by the live object: a config may hold a shared layer twice
        for layer in walk(self.root):
            live = self.object_of(layer)
            first = None if live is None else index.setdefault(id(live), len(found))
            if first is None or first == len(found):
                found.append(self._with_object(layer))
                continue
            old = found[first]
            found[first] = replace(
                old,
                paths=(*old.paths, *layer.paths),
                pointers=(*old.pointers, *layer.pointers),
            )
        for path, live in self._objects.items():
            if id(live) not in index:
                index[id(live)] = len(found)
                found.append(_live_only(path, live))
        return by_attributes_too(found, self._attributes_of)

    def _attributes_of(self, layer: Layer) -> Iterator[str]:
        """For each part of its path, the attribute of the object around that holds it, or ""."""
        owner, path = self.model, ""
        for part in layer.path.split("/"):
            path += part
            child = self._objects.get(path)
            if owner is None or child is None:
                return
            yield keras_inside.attribute_of(owner, child)
            owner, path = child, path + "/"

    def object_of(self, layer: Layer) -> Any:
        """The live layer, or None where the config names one that does not exist."""
        return next((self._objects[p] for p in layer.paths if p in self._objects), None)

    def weights(self, layer: Layer, specs: Sequence[KernelSpec]) -> list[WeightRef | None]:
        live = self.object_of(layer)
        return [None if live is None else _weight(live, spec) for spec in specs]

    def unclaimed(self, layers: Sequence[Layer], specified: Container[str]) -> list[Unclaimed]:
        held: list[tuple[Layer | None, Any]] = [(None, self.model)]
        held += [(layer, self.object_of(layer)) for layer in layers]
        found = []
        for layer, live in held:
            if live is None or is_of_keras({"module": type(live).__module__}):
                continue
            below = Unclaimed(layer)
            if layer is None or layer.path not in specified:
                for variable in _float_variables(live):
                    below.add(variable.shape, is_own=True)
            for variable in () if layer is None else _passed_over(live, layer.kind):
                below.add(variable.shape, is_own=False)
            found.append(below)
        return [below for below in found if below.parameters]

    def close(self) -> None:
        """There is no file to let go of."""

    def _with_object(self, layer: Layer) -> Layer:
        live = self.object_of(layer)
        if live is None:
            return layer
        # Whether a class makes its layers from the config is tried on the model made of it.
        tried = replace(layer, made_by="", held_by="")
        return replace(tried, kind=_kind_of(live), trainable=_is_trainable(self.model, live))


def _size_of(model: Any) -> int:
    """How many numbers its weights are; `count_params` refuses a model that has no `call`."""
    return sum(math.prod(v.shape) for v in model.weights)


def _weight(live: Any, spec: KernelSpec) -> WeightRef | None:
    variable = variable_of(live, spec)
    found = None if variable is None else _reference(variable)
    if spec not in UNKNOWN:
        return found
    return likely_kernel(found, [_reference(v) for v in _float_variables(live)])


def _passed_over(live: Any, kind: str | None) -> list[Any]:
    """The float variables within a layer of a known kind that its kind is not about."""
    if kind is None:
        return []  # what is within it is walked
    parts = {a for spec in LAYER_TYPES[kind].kernels for a in spec.attributes}
    meant = {id(v) for a in parts for v in getattr(getattr(live, a, None), "variables", ())}
    within = [v for inner in keras_inside.layers_within(live) for v in _float_variables(inner)]
    return [v for v in within if id(v) not in meant]


def _reference(variable: Any) -> WeightRef:
    return WeightRef(
        tuple(variable.shape),
        lambda: as_float(keras.ops.convert_to_numpy(variable)),
        id(variable),
    )


def _float_variables(live: Any) -> list[Any]:
    """Those of a layer itself."""
    own = keras_inside.own_variables(live)
    return [v for v in own if "float" in keras.backend.standardize_dtype(v.dtype)]


def variable_of(live: Any, spec: KernelSpec) -> Any:
    """The variable a spec speaks of, or None."""
    for attribute in spec.attributes:
        live = getattr(live, attribute, None)
    found = keras_inside.variable_called(live, spec.weight)
    if found is None and live is not None and spec in UNKNOWN:
        matrices = [v for v in _float_variables(live) if len(v.shape) >= 2]
        return matrices[0] if len(matrices) == 1 else None
    return found


# The live tree. Paths agree with the walker's.


def live_layers(model: Any) -> dict[str, Any]:
    """Every layer below the model, by each of its paths."""
    found: dict[str, Any] = {}

    def descend(owner: Any, prefix: str, depth: int) -> None:
        for name, child in _members(owner):
            path = prefix + name
            while path in found:  # as the walker does where two members have one name
                path += "'"
            found[path] = child
            if _kind_of(child) is None and depth < 50:
                descend(child, path + "/", depth + 1)

    descend(model, "", 0)
    return found


def _members(owner: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(owner, keras.layers.Bidirectional):
        yield f"forward_{owner.forward_layer.name.removeprefix('forward_')}", owner.forward_layer
        # The walker names both after the forward layer; a backward layer of its own keeps its name.
        yield owner.backward_layer.name, owner.backward_layer
        return
    # A model's list is in its order; another layer may keep anything under that name.
    is_model = isinstance(owner, keras.Model)
    for layer in owner.layers if is_model else keras_inside.held_layers(owner):
        if isinstance(layer, keras.layers.Layer):
            yield layer.name, layer


def _kind_of(live: Any) -> str | None:
    """The name of the first known class the layer is an instance of."""
    known = layer_type_of_object(live)
    return None if known is None else known.name


def _is_trainable(model: Any, live: Any) -> bool:
    if not model.trainable or not live.trainable:
        return False
    weights = live.trainable_weights
    return bool(weights) or not live.weights


def _live_only(path: str, live: Any) -> Layer:
    class_name = type(live).__name__
    snake = to_snake_case(class_name)
    try:
        config = live.get_config()
    except Exception:  # a user's class may not have one; its variables are known all the same
        config = {}
    return Layer(
        path=path,
        paths=(path,),
        class_name=PUBLIC_NAMES.get(class_name, class_name),
        kind=_kind_of(live),
        name=live.name,
        node={"class_name": class_name, "config": dict(config)},
        pointers=(),
        steps=(Step("layers", live.name, snake, 0),),
        trainable=bool(live.trainable),
        is_container=bool(keras_inside.held_layers(live)) and _kind_of(live) is None,
    )


# Rebuilding


def _serialize(model: Any) -> Node:
    with warnings.catch_warnings(), keras_inside.sharing_scope():
        # Lambda layers warn that loading them runs code; this code is the caller's own.
        warnings.simplefilter("ignore")
        root: Node = keras.saving.serialize_keras_object(model)
    return root


# The caller's own classes and functions are alive, so they need not be registered for a copy.


# What a config does not hold.


def regularizers_of(model: Any) -> Iterator[tuple[str, Any]]:
    """(place, regularizer or None) of every variable and of every layer's outputs."""
    for variable in model.weights:
        yield variable.path, variable.regularizer
    for layer in keras_inside.every_layer(model):
        yield layer.name, layer.activity_regularizer


# Checking
