"""What a config asks of whoever loads it: classes and functions of others, and code it keeps.

Pure functions over the config tree: nothing is imported or decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orthwrap.model_config.tree import Node, Pointer, class_of, is_ours, walk

# What only a compiled model has; all else makes the model itself.
COMPILED = "compile_config"
TRAINING = "(the training configuration)"
MODEL = "(the model)"

# Keys whose string is a function's or a class's name.
_NAMED = ("activation", "initializer", "regularizer", "constraint")
# What has a class_name but is no object to look up; a policy's name says what it is.
_VALUES = ("TensorShape", "TypeSpec", "Policy")


@dataclass(frozen=True)
class Need:
    """A class or function that a config names.

    Attributes:
        name: by which Keras looks it up, with its package if it has one: `my_package>Own`.
        others: further names by which it looks up a function.
        module: where it was defined, if the file says so.
        kind: `class`, `function`; or `activation`, `initializer`, … where a string of that key
            names it.
        where: the path of the layer that uses it; outside the layers, a word in brackets.
    """

    name: str
    others: tuple[str, ...]
    module: str | None
    kind: str
    where: str


# "keras", "given" for what the caller brought along, None for what nobody knows.
Lookup = Callable[[Need], str | None]


def unknown(root: Node, lookup: Lookup) -> tuple[Need, ...]:
    """The classes and functions that nobody knows, in the config's order.

    What stands in the config of a class that is not Keras's may mean anything: there, only what is
    written as Keras writes its objects counts.
    """
    return tuple(_unknown(root, lookup))


def code_in(root: Node) -> tuple[str, ...]:
    """Where the config keeps code: paths of Lambda layers and of what else holds a lambda.

    A Lambda layer that names a function keeps no code.
    """
    found = (where for node, where, _ in _objects(root) if _keeps_code(node))
    return tuple(dict.fromkeys(found))


def references_in(root: Node) -> dict[str, tuple[str, ...]]:
    """The functions that our regularizers in a config refer to, each with the layers it is in."""
    found: dict[str, dict[str, None]] = {}
    for node, where, _ in _objects(root):
        for need in _needs_of_ours(node, where):
            if is_reference(need.name):
                found.setdefault(need.name, {})[where] = None
    return {reference: tuple(places) for reference, places in found.items()}


def lost_code_in(root: Node) -> tuple[str, ...]:
    """Paths of layers whose activation is code in the form that Keras writes and cannot read."""
    found = (where for node, where, _ in _objects(root) if _has_lost_code(node))
    return tuple(dict.fromkeys(found))


def _has_lost_code(node: Node) -> bool:
    config = node.get("config")
    return isinstance(config, Mapping) and any(
        str(key).rpartition("_")[2] == "activation"
        and isinstance(value, Mapping)
        and "class_name" not in value
        and isinstance(value.get("value"), list)
        for key, value in config.items()
    )


def _unknown(root: Node, lookup: Lookup) -> Iterator[Need]:
    foreign: set[int] = set()  # nodes that a class of others reads
    for node, where, holder in _objects(root):
        if holder in foreign:
            foreign.add(id(node))
            if "module" not in node and "registered_name" not in node:
                continue
        need = _own_need(node, where)
        source = None if need is None else lookup(need)
        if need is not None and source is None:
            yield need
        is_foreign = need is not None and source != "keras" and not is_ours(node)
        (foreign.add if is_foreign else foreign.discard)(id(node))
        if not is_foreign:
            yield from (n for n in _needs_by_name(node, where) if lookup(n) is None)
    # Metrics may be names that nobody knows until `fit`; a loss may not.
    compiled = root.get(COMPILED)
    for name in _strings(compiled.get("loss") if isinstance(compiled, Mapping) else None):
        need = Need(name, (), None, "loss", TRAINING)
        if lookup(need) is None:
            yield need


def _strings(value: Any) -> Iterator[str]:
    """The names in a loss, or in lists and mappings of them by output; nodes are no names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) or (isinstance(value, dict) and "class_name" not in value):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _objects(root: Node) -> Iterator[tuple[Node, str, int]]:
    """Every node that has a class, the path of its layer, and the id of the node that holds it."""
    paths = {pointer: layer.path for layer in walk(root) for pointer in layer.pointers}
    stack: list[tuple[Any, Pointer, str, int]] = [(root, (), MODEL, 0)]
    while stack:
        value, pointer, where, holder = stack.pop()
        where = TRAINING if pointer[-1:] == (COMPILED,) else paths.get(pointer, where)
        if isinstance(value, dict):
            if isinstance(value.get("class_name"), str):
                yield value, where, holder
                holder = id(value)
            children = [(k, v) for k, v in value.items() if isinstance(v, (dict, list))]
        else:
            children = [(i, v) for i, v in enumerate(value) if isinstance(v, (dict, list))]
        # Vocabularies are long: what is no node takes no place here.
        stack.extend((v, (*pointer, k), where, holder) for k, v in reversed(children))


def _keeps_code(node: Node) -> bool:
    if class_of(node) == "__lambda__":
        return True
    config = node.get("config")
    if class_of(node) != "Lambda" or not isinstance(config, Mapping):
        return False
    return any(_is_code(config, key) for key in ("function", "output_shape", "mask"))


def _is_code(config: Mapping[str, Any], key: str) -> bool:
    """Keras 2 kept code as [code, defaults, closure], Keras 1 also as the code alone."""
    value = config.get(key)
    if isinstance(value, str):
        return config.get(f"{key}_type") == "lambda"
    return isinstance(value, list) and any(isinstance(part, str) for part in value)


def _own_need(node: Node, where: str) -> Need | None:
    name, config, module = node["class_name"], node.get("config"), node.get("module")
    if name.startswith("__") or class_of(node) in _VALUES:
        return None
    module = module if isinstance(module, str) else None
    registered = node.get("registered_name")
    others = (registered,) if isinstance(registered, str) else ()
    if name == "function":
        return Need(config, others, module, "function", where) if isinstance(config, str) else None
    return Need(others[0] if others else name, (), module, "class", where)


def _needs_of_ours(node: Node, where: str) -> Iterator[Need]:
    """The regularizers of others that one of ours names: what is only kept for later is none."""
    config = node.get("config")
    if is_ours(node) and isinstance(config, Mapping):
        for value in (config.get("regularizer"), config.get("combined_with")):
            if isinstance(value, str):
                yield Need(value, (), None, "regularizer", where)


def _needs_by_name(node: Node, where: str) -> Iterator[Need]:
    if is_ours(node):
        yield from _needs_of_ours(node, where)
        return
    config = node.get("config")
    for key, value in config.items() if isinstance(config, Mapping) else ():
        kind = str(key).rpartition("_")[2]
        if isinstance(value, str) and kind in _NAMED:
            yield Need(value, (), None, kind, where)
        elif class_of(node) == "Lambda" and key == "function" and isinstance(value, str):
            yield Need(value, (), None, "function", where)


def is_reference(node: Any) -> bool:
    """Whether a regularizer in a config stands for somebody's function."""
    return isinstance(node, str) and ":" in node
