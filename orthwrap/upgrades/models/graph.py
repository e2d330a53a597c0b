"""Calls between the layers of a functional model: `inbound_nodes`, inputs and outputs.

Keras 1 and 2 wrote a call as a list of [layer, node, tensor, arguments]; Keras 3 writes the
arguments of the call as they are, and still reads the old form where it is plain. It does not
read tensors among the old form's arguments, nor the old way of giving an RNN its initial state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from orthwrap.errors import FileFault
from orthwrap.model_config.tree import class_of
from orthwrap.upgrades.layers.recurrent import RECURRENT
from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.rewriting import MAX_DEPTH, Rewriting, is_layer_node

CONSTANT = "_CONSTANT_VALUE"
_MODELS = {"Functional", "Model", "Sequential"}


class Ref(NamedTuple):
    """A tensor: output `tensor` of call number `call` of a layer."""

    layer: str
    call: int
    tensor: int


@dataclass
class Call:
    """One call of a layer: its first argument and the others, tensors being `Ref`."""

    first: Any
    arguments: dict[str, Any]
    # Further positional arguments, which only operations have.
    more: list[Any] | None = None


def as_ref(value: Any, names: set[str]) -> Ref | None:
    """The tensor that a list stands for, if it is one of this model's."""
    if (
        isinstance(value, list)
        and len(value) in {3, 4}
        and isinstance(value[0], str)
        and value[0] in names
        and _is_index(value[1])
        and _is_index(value[2])
    ):
        return Ref(value[0], value[1], value[2])
    return None


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def map_refs(value: Any, change: Callable[[Ref], Any], names: set[str], depth: int = 0) -> Any:
    """Apply `change` to every tensor in a structure; lists that stand for tensors included."""
    if depth > MAX_DEPTH:
        raise FileFault("expected call arguments of moderate depth; the file is broken")
    if isinstance(value, Ref):
        return change(value)
    ref = as_ref(value, names)
    if ref is not None and len(value) == 3:
        return change(ref)
    if isinstance(value, list):
        return [map_refs(item, change, names, depth + 1) for item in value]
    if isinstance(value, dict):
        return {key: map_refs(item, change, names, depth + 1) for key, item in value.items()}
    return value


def parse_call(data: Any, names: set[str], keep_structure: bool, path: str) -> Call:
    """An old call. Operations keep a list of one tensor apart from a tensor."""
    arguments: dict[str, Any] = {}

    def leaf(value: list[Any]) -> Any:
        nonlocal arguments
        if len(value) == 4:
            if not isinstance(value[3], dict):
                raise _malformed(path)
            arguments = arguments or value[3]
        if value[0] == CONSTANT:
            return value[2]
        ref = as_ref(value, names)
        if ref is None:
            raise FileFault(
                f"layer {path!r}: it is called on the output of {value[0]!r:.60}, "
                "which the model does not have; the file is broken"
            )
        return ref

    def walk(value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _malformed(path)
        if isinstance(value, list):
            if len(value) in {3, 4} and isinstance(value[0], str):
                return leaf(value)
            return [walk(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return {key: walk(item, depth + 1) for key, item in value.items()}
        raise _malformed(path)

    first = walk(data, 0)
    if isinstance(first, list) and len(first) == 1 and not keep_structure:
        first = first[0]
    # Tensors among the arguments are lists as well.
    arguments = {key: map_refs(value, lambda ref: ref, names) for key, value in arguments.items()}
    return Call(first, arguments)


def _malformed(path: str) -> FileFault:
    return FileFault(f"layer {path!r}: its inbound_nodes have an unknown form; the file is broken")


def tensor_config(ref: Ref) -> Config:
    """A tensor in the words of Keras 3; shape and type are replaced by the tensor's own."""
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": [None], "dtype": "float32", "keras_history": list(ref)},
    }


def new_form(call: Call) -> Config:
    """The call as Keras 3 writes it."""
    args = [call.first, *(call.more or [])]
    return {
        "args": map_refs(args, tensor_config, set()),
        "kwargs": map_refs(call.arguments, tensor_config, set()),
    }


def old_form(call: Call) -> list[Any] | None:
    """The call as Keras 2 wrote it, where Keras 3 reads that form rightly; else None."""
    tensors = call.first if isinstance(call.first, list) else [call.first]
    if call.more or not all(isinstance(tensor, Ref) for tensor in tensors):
        return None
    if any(_has_ref(value) for value in call.arguments.values()):
        return None
    return [[*ref, call.arguments] for ref in tensors]


def _has_ref(value: Any) -> bool:
    if isinstance(value, Ref):
        return True
    if isinstance(value, dict):
        return any(_has_ref(item) for item in value.values())
    return isinstance(value, list) and any(_has_ref(item) for item in value)


def initial_state(call: Call, node: Config) -> bool:
    """[inputs, *states] as first argument becomes inputs and `initial_state`."""
    if class_of(node) not in RECURRENT or not isinstance(call.first, list) or len(call.first) < 2:
        return False
    call.first, *states = call.first
    call.arguments = {**call.arguments, "initial_state": states}
    return True


def call_offsets(layers: list[Config], names: set[str], outputs: Any) -> dict[str, int]:
    """Models whose calls are counted from 1.

    A functional model came with a call of its own, from input to output, so old files count its
    calls in the graph from 1; Keras 3 counts from 0. Every call in a file is used, so the highest
    number that is referred to tells which way the file counts.
    """
    highest: dict[str, int] = {}
    counts: dict[str, int] = {}
    for layer in layers:
        nodes = layer.get("inbound_nodes")
        if class_of(layer) in _MODELS and isinstance(nodes, list):
            counts[layer["name"]] = len(nodes)
        for ref in _all_refs(nodes, names):
            highest[ref.layer] = max(highest.get(ref.layer, 0), ref.call)
    for ref in _all_refs(outputs, names):
        highest[ref.layer] = max(highest.get(ref.layer, 0), ref.call)
    return {name: 1 for name, count in counts.items() if count and highest.get(name, 0) == count}


def _all_refs(value: Any, names: set[str], depth: int = 0) -> list[Ref]:
    ref = as_ref(value, names)
    if ref is not None:
        inner = _all_refs(value[3], names, depth + 1) if len(value) == 4 else []
        return [ref, *inner]
    if depth > MAX_DEPTH:
        raise FileFault("expected call arguments of moderate depth; the file is broken")
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [found for item in items for found in _all_refs(item, names, depth + 1)]


def rename_refs(model: Config, changes: dict[str, str]) -> None:
    """New layer names in every reference of a functional model's config."""

    def walk(value: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise FileFault("expected call arguments of moderate depth; the file is broken")
        if isinstance(value, dict):
            for item in value.values():
                walk(item, depth + 1)
        elif isinstance(value, list):
            if len(value) >= 3 and isinstance(value[0], str) and _is_index(value[1]):
                value[0] = changes.get(value[0], value[0])
            for item in value:
                walk(item, depth + 1)

    for layer in model["layers"]:
        walk(layer.get("inbound_nodes"), 0)
    walk(model.get("input_layers"), 0)
    walk(model.get("output_layers"), 0)


def single_tensors(
    model: Config, path: str, run: Rewriting, vintage: str = "Keras 1.0-2.15"
) -> None:
    """A model of one input or one output: a list of one tensor becomes the tensor.

    Keras 3 holds a model to the structure of inputs that its config has: a list of one does not
    fit what a Sequential or a wrapper passes on to a nested model, and draws a warning elsewhere.
    """
    for key in ("input_layers", "output_layers"):
        value = model.get(key)
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
            model[key] = value[0]
            run.ledger.note("single tensor", vintage, path)


def layer_names(layers: list[Any], path: str) -> set[str]:
    """Names of a functional model's layers, each of which must have one."""
    names = set()
    for layer in layers:
        name = layer.get("name") if is_layer_node(layer) else None
        if not isinstance(name, str):
            raise FileFault(
                f"model {path or 'at the root'!r}: a layer of its graph has no name or class; "
                "the file is broken"
            )
        names.add(name)
    return names
