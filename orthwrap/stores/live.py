"""A `keras.Model` in memory: read, rebuilt with an edited config, or changed in place."""

from __future__ import annotations

import contextlib
import tempfile
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras.src.saving.serialization_lib import ObjectSharingScope

from orthwrap.errors import RebuildError, ValueFault
from orthwrap.layouts import KERNELS, KernelSpec
from orthwrap.records import ModelRecord
from orthwrap.references import known_objects
from orthwrap.stores.base import WeightRef, as_float
from orthwrap.stores.compiled import compiled_state, copy_compiled, set_compiled_state
from orthwrap.walker import Edit, Layer, Node, Step, at, edit, to_snake_case, walk


class LiveStore:
    """Reads one model. It is never changed here."""

    format = "memory"

    def __init__(self, model: Any) -> None:
        if not isinstance(model, keras.Model):
            raise ValueFault(
                f"expected a keras.Model or a path, got {type(model).__module__}."
                f"{type(model).__name__}: give a Keras 3 model"
            )
        if not model.built or not model.weights:
            raise ValueFault(
                f"model {model.name!r} has no weights yet: call it once on an input, or build it"
            )
        self.model = model
        self.no_config = ""  # why there is none, where the model's get_config fails
        try:
            self.root = _serialize(model)
        except Exception as e:  # get_config is the user's code and may raise anything
            self.root = {"class_name": type(model).__name__, "config": {}}
            self.no_config = f"its get_config failed ({_first_line(e)})"
        self.record = ModelRecord(None, self.format, keras.__version__, int(model.count_params()))
        self._objects = _live_layers(model)

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
        return tuple(found)

    def object_of(self, layer: Layer) -> Any:
        """The live layer, or None where the config names one that does not exist."""
        return next((self._objects[p] for p in layer.paths if p in self._objects), None)

    def weights(self, layer: Layer, specs: Sequence[KernelSpec]) -> list[WeightRef | None]:
        live = self.object_of(layer)
        return [None if live is None else _weight(live, spec) for spec in specs]

    def close(self) -> None:
        """There is no file to let go of."""

    def _with_object(self, layer: Layer) -> Layer:
        live = self.object_of(layer)
        if live is None:
            return layer
        return replace(layer, kind=_kind_of(live), trainable=_is_trainable(self.model, live))


def _weight(live: Any, spec: KernelSpec) -> WeightRef | None:
    variable = variable_of(live, spec)
    if variable is None:
        return None
    return WeightRef(
        tuple(variable.shape),
        lambda: as_float(keras.ops.convert_to_numpy(variable)),
        id(variable),
    )


def variable_of(live: Any, spec: KernelSpec) -> Any:
    """The variable a spec speaks of, or None."""
    for attribute in spec.attributes:
        live = getattr(live, attribute, None)
    # Dense.kernel is a property that adds LoRA's factors; the variable is behind it. Keras 3
    # calls the kernel of a depthwise convolution `kernel`.
    names = (f"_{spec.weight}", spec.weight, "kernel")
    found = (getattr(live, name, None) for name in names)
    return next((v for v in found if isinstance(v, keras.Variable)), None)


# The live tree. Paths agree with the walker's.


def _live_layers(model: Any) -> dict[str, Any]:
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
    # Functional and Sequential list their layers; every other layer tracks what it holds.
    layers = getattr(owner, "layers", None)
    if not isinstance(layers, list):
        layers = getattr(owner, "_layers", [])
    for layer in layers:
        if isinstance(layer, keras.layers.Layer):
            yield layer.name, layer


def _kind_of(live: Any) -> str | None:
    """The first known Keras class the layer is an instance of."""
    for cls in type(live).__mro__:
        if cls.__name__ in KERNELS and cls.__module__.startswith("keras."):
            return cls.__name__
    return None


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
        class_name=class_name,
        kind=_kind_of(live),
        name=live.name,
        node={"class_name": class_name, "config": dict(config)},
        pointers=(),
        steps=(Step("layers", live.name, snake, 0),),
        trainable=bool(live.trainable),
        is_container=bool(getattr(live, "_layers", None)) and _kind_of(live) is None,
    )


# Rebuilding


def _serialize(model: Any) -> Node:
    with warnings.catch_warnings(), ObjectSharingScope():
        # Lambda layers warn that loading them runs code; this code is the caller's own.
        warnings.simplefilter("ignore")
        root: Node = keras.saving.serialize_keras_object(model)
    return root


def rebuild(store: LiveStore, edits: Sequence[Edit]) -> tuple[Any, tuple[str, ...]]:
    """A new model with its own variables from the edited config; and warnings.

    Weights, compiled state and optimizer variables are those of the original, which stays as it
    was.

    Raises:
        RebuildError: the config does not rebuild the model.
    """
    model = store.model
    if store.no_config:
        raise _cannot_rebuild(model, store.no_config)
    root = edit(store.root, edits)
    for node in _named_nodes(root):
        node.pop("compile_config", None)  # the compiled state is copied from the live models
    known = {**live_objects(store), **_keep_functions(store, root)}
    with warnings.catch_warnings(), ObjectSharingScope():
        warnings.simplefilter("ignore")
        try:
            if _shares_between_models(model):
                new = _clone(store, root, known)
            else:
                new = keras.saving.deserialize_keras_object(
                    root, custom_objects=known, safe_mode=True
                )
        except Exception as e:  # from_config is the user's code and may raise anything
            raise _cannot_rebuild(model, f"from_config failed ({_first_line(e)})") from e
    if not isinstance(new, keras.Model):
        raise _cannot_rebuild(model, f"its config makes a {type(new).__name__}")
    if [tuple(w.shape) for w in new.weights] != [tuple(w.shape) for w in model.weights]:
        raise _cannot_rebuild(
            model,
            f"its config makes {len(new.weights)} weights of other shapes or in another order "
            f"(the model has {len(model.weights)})",
        )
    new.set_weights(model.get_weights())
    pairs = [(model, new), *_pairs(model, new)]
    for old, fresh in pairs:
        if fresh.name != old.name:  # not every class's config has the name
            fresh.name = old.name
        _copy_own_state(old, fresh)
    _copy_seeds(model, new)
    _copy_trainable(model, new, pairs)
    notes: list[str] = []
    for old, fresh in pairs:
        if isinstance(old, keras.Model) and old.compiled:
            notes += copy_compiled(old, fresh, known)
    return new, tuple(notes)


def _cannot_rebuild(model: Any, why: str) -> RebuildError:
    return RebuildError(
        f"model {model.name!r} ({type(model).__name__}) cannot be rebuilt from its config: {why}; "
        "use in_place=True, or give the class a get_config that rebuilds it"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _shares_between_models(model: Any) -> bool:
    """Whether two (sub)models hold one layer, which a config does not tell."""
    owners: dict[int, int] = {}
    submodels = [model, *model._flatten_layers(include_self=False)]
    for owner in {id(m): m for m in submodels if isinstance(m, keras.Model)}.values():
        for layer in owner.layers:
            owners[id(layer)] = owners.get(id(layer), 0) + 1
    return any(count > 1 for count in owners.values())


def _clone(store: LiveStore, root: Node, known: Mapping[str, Any]) -> Any:
    """The model's graph once more, each layer from its node: what is shared stays so."""
    nodes = {
        id(store.object_of(layer)): at(root, layer.pointers[0])
        for layer in store.layers()
        if layer.pointers
    }

    def from_node(layer: Any) -> Any:
        if id(layer) not in nodes:
            return type(layer).from_config(layer.get_config())  # an operation, say
        return keras.saving.deserialize_keras_object(nodes[id(layer)], safe_mode=True)

    with known_objects(known):
        new = keras.models.clone_model(store.model, clone_function=from_node, recursive=True)
    if type(new) is not type(store.model):
        raise TypeError(f"a clone of it is a {type(new).__name__}")
    return new


# The caller's own classes and functions are alive, so they need not be registered for a copy.


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
            if _is_keras(cls.__module__):
                continue
            found[cls.__name__] = found[str(keras.saving.get_registered_name(cls))] = cls
        elif callable(value) and isinstance(getattr(value, "__name__", None), str):
            found[value.__name__] = value
            found[str(keras.saving.get_registered_name(value))] = value
    return found


def _is_keras(module: str) -> bool:
    return module.partition(".")[0] == "keras"


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
                function = getattr(live, key, getattr(live, f"_{key}", None))
                if isinstance(value, Mapping) and isinstance(function, types.FunctionType):
                    name = f"{layer.path}.{key}"
                    found[name] = function
                    config[key] = {
                        "module": "builtins",
                        "class_name": "function",
                        "config": name,
                        "registered_name": name,
                    }
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


# What a config does not hold.


def _pairs(model: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    originals = model._flatten_layers(include_self=False, recursive=True)
    copies = new._flatten_layers(include_self=False, recursive=True)
    for old, fresh in zip(originals, copies, strict=False):
        if type(old).__name__ == type(fresh).__name__:
            yield old, fresh


def _copy_own_state(old: Any, fresh: Any) -> None:
    """What a layer saves in its own way: statistics, a vocabulary that was learnt from data."""
    base = keras.layers.Layer.load_own_variables
    if _kind_of(old) is None and type(old).load_own_variables is not base:
        state: dict[str, Any] = {}
        old.save_own_variables(state)
        fresh.load_own_variables(state)
    if hasattr(old, "save_assets") and hasattr(fresh, "load_assets"):
        with tempfile.TemporaryDirectory(prefix="orthwrap-") as folder:
            old.save_assets(folder)
            fresh.load_assets(folder)


def _copy_seeds(model: Any, new: Any) -> None:
    """Dropout and the like go on from the state they had."""
    old_seeds = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    new_seeds = [v for v in new.non_trainable_variables if v.name == "seed_generator_state"]
    if len(old_seeds) == len(new_seeds):
        for old, fresh in zip(old_seeds, new_seeds, strict=True):
            fresh.assign(old)


def _copy_trainable(model: Any, new: Any, pairs: Sequence[tuple[Any, Any]]) -> None:
    """A frozen model or layer is frozen in the copy too; configs do not always say so."""
    for old, fresh in pairs:
        if old._trainable != fresh._trainable:
            fresh._trainable = old._trainable
    for old, fresh in zip(model.weights, new.weights, strict=True):
        if old.trainable != fresh.trainable:
            fresh.trainable = old.trainable


def set_regularizer(live: Any, key: str, variables: Sequence[Any], regularizer: Any) -> None:
    """Sets a regularizer on the live layer *and* on its variables: either alone is not enough.

    Keras reads the variable's when it sums losses, and the layer's when it saves.
    """
    if live is None:
        raise RebuildError(
            "the copy made from the model's config lacks a layer of the model: use in_place=True"
        )
    owners = [live]
    cell = getattr(live, "cell", None)
    if cell is not None:
        owners.append(cell)
    for owner in owners:
        for name in (key, f"_{key}"):  # attention layers keep theirs behind an underscore
            is_view = isinstance(getattr(type(owner), name, None), property)  # of its cell's
            if hasattr(owner, name) and not is_view:
                setattr(owner, name, regularizer)
    for variable in variables:
        variable.regularizer = regularizer


@contextlib.contextmanager
def restored_on_error(model: Any) -> Iterator[None]:
    """Where the block fails, the model is as it was, but for weights that were trained already.

    Its regularizers, which layers are trained, and how it is compiled are put back.
    """
    layers = [
        (layer, {k: v for k, v in vars(layer).items() if k.endswith(("regularizer", "_trainable"))})
        for layer in model._flatten_layers()
    ]
    variables = [(v, v.regularizer, v.trainable) for v in model.variables]
    compiled = compiled_state(model)
    rate = getattr(compiled.get("optimizer"), "learning_rate", None)
    rates = [(rate, keras.ops.convert_to_numpy(rate))] if isinstance(rate, keras.Variable) else []
    try:
        yield
    except BaseException:
        for layer, own in layers:
            vars(layer).update(own)
        for variable, regularizer, trainable in variables:
            variable.regularizer, variable.trainable = regularizer, trainable
        set_compiled_state(model, compiled)
        for variable, value in rates:
            variable.assign(value)
        raise


def regularizers_of(model: Any) -> Iterator[tuple[str, Any]]:
    """(place, regularizer or None) of every variable and of every layer's outputs."""
    for variable in model.weights:
        yield variable.path, variable.regularizer
    for layer in model._flatten_layers():
        yield layer.name, layer.activity_regularizer


# Checking


def output_difference(first: Any, second: Any, seed: int = 0) -> float | None:
    """The largest |difference| of two models' outputs on random inputs; None if none can be made.

    Inputs have each input's dtype; unknown dimensions become 1 for the batch and 32 elsewhere.

    Raises:
        RebuildError: the second fails on inputs that the first takes.
    """
    inputs = _random_inputs(first, seed)
    if inputs is None:
        return None
    try:
        before = first(inputs, training=False)
    except Exception:  # a model may not take inputs of the sizes chosen for its free dimensions
        return None
    try:
        after = second(inputs, training=False)
    except Exception as e:  # the copy of a user's class may do anything
        raise RebuildError(
            f"model {first.name!r}: the copy made from its config fails on inputs that the model "
            f"takes ({type(e).__name__}: {_first_line(e)}): use in_place=True, or mend the "
            "class's get_config"
        ) from e
    worst = 0.0
    pairs = zip(keras.tree.flatten(before), keras.tree.flatten(after), strict=True)
    for a, b in pairs:
        a, b = (np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in (a, b))
        if a.size:
            both_nan = np.isnan(a) & np.isnan(b)
            worst = max(worst, float(np.max(np.where(both_nan, 0.0, np.abs(a - b)))))
    return worst


def _random_inputs(model: Any, seed: int) -> Any:
    graph = getattr(model, "_functional", None) or model  # a Sequential holds its graph inside
    template = getattr(graph, "_inputs_struct", None)
    if template is None:
        return None
    rng = np.random.default_rng(seed)

    def make(tensor: Any) -> Any:
        shape = [d if d is not None else (32 if i else 1) for i, d in enumerate(tensor.shape)]
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype == "string":
            raise TypeError
        if "int" in dtype or dtype == "bool":
            return keras.ops.convert_to_tensor(rng.integers(0, 2, shape), dtype)
        return keras.ops.convert_to_tensor(rng.normal(size=shape), dtype)

    try:
        return keras.tree.map_structure(make, template)
    except (TypeError, ValueError):
        return None
