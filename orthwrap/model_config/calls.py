"""Which call's result a graph uses, where a layer is called more than once: pure, of the config.

Keras 3.2.0 and 3.2.1 numbered every result that goes into another layer as that of the first call
(seen in files of 3.0.0 to 3.4.1, of which these two alone do); the model's outputs are numbered
right. What was meant is lost, for Keras 3.2 too when it reads the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from orthwrap.model_config.tree import Layer, Node

_NUMBERED_SO = (3, 2)
_NOT_SAID = (3, 0)  # which is taken for the version of a model.json, too
_TENSOR = "__keras_tensor__"


def first_alone(root: Node, layers: Iterable[Layer], version: tuple[int, int]) -> tuple[str, ...]:
    """Paths of the layers of whose calls a graph has the first one's result in every place.

    Args:
        root: the model's config.
        layers: what `walk` found in it.
        version: of the Keras that wrote it, major and minor. 3.0 may be any 3: there a layer counts
            only where the result of a call is used nowhere, which no graph has.
    """
    if version not in (_NUMBERED_SO, _NOT_SAID):
        return ()
    around = [("", root), *((f"{a.path}/", a.node) for a in layers if a.is_container)]
    return tuple(
        prefix + name
        for prefix, node in around
        for name in _of_graph(node.get("config"), sure=version == _NOT_SAID)
    )


def _of_graph(config: Any, *, sure: bool) -> Iterator[str]:
    """The same by name, in one Functional; nothing for what is none."""
    if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
        return
    calls: dict[str, list[Any]] = {}
    for node in config["layers"]:
        match node:
            case {"name": str(name), "inbound_nodes": list(nodes)}:
                calls[name] = nodes
    used: dict[str, set[int]] = {}
    for name, number in _results(list(calls.values())):
        used.setdefault(name, set()).add(number)
    outputs = {name for name, _ in _entries(config.get("output_layers"))}
    for name, nodes in calls.items():
        if len(nodes) > 1 and used.get(name) == {0} and not (sure and name in outputs):
            yield name


def _results(value: Any) -> Iterator[tuple[str, int]]:
    """Each tensor in the arguments of calls: the layer whose result it is, and of which call."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            config = item.get("config")
            if item.get("class_name") == _TENSOR and isinstance(config, dict):
                yield from _entries(config.get("keras_history"))
            else:
                waiting += item.values()


def _entries(value: Any) -> Iterator[tuple[str, int]]:
    """Each `[layer, call, tensor]` in a value."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            match item:
                case [str(name), int(number), *_]:
                    yield name, number
                case _:
                    waiting += item
