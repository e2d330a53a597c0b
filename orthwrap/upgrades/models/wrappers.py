"""Layers inside layers: wrappers and cells.

Keras 3 finds a wrapped layer by its module, which files of Keras 1 and 2 do not give:
`Could not locate class 'GRU'`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orthwrap.model_config.tree import class_of
from orthwrap.model_config.whole_model import MODELS
from orthwrap.upgrades.layers.arguments import ACCEPTED
from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.rewriting import Rewriting, is_layer_node

_KEYS = ("layer", "backward_layer", "cell", "forward_layer")


def inner_nodes(config: Config) -> Iterator[tuple[str, Config]]:
    """The layers that a layer's config holds, with the key that holds each."""
    for key in _KEYS:
        value = config.get(key)
        if value is not None and is_layer_node(value):
            yield key, value
    cells = config.get("cells")
    if isinstance(cells, list):
        for value in cells:
            if is_layer_node(value):
                yield "cells", value


def name_module(node: Config, path: str, run: Rewriting) -> None:
    """Say where a wrapped layer's class is."""
    name = class_of(node)
    module = MODELS.get(name) or ("keras.layers" if name in ACCEPTED else None)
    if module is None or "module" in node:
        return
    node["module"] = module
    node["registered_name"] = "Functional" if name == "Functional" else None
    node.pop("shared_object_id", None)
    run.ledger.note("module of wrapped layer", "Keras 1.0-2.15", path)


def count_directions(class_name: str, parts: list[Any]) -> list[Any]:
    """Bidirectional holds its layer's arrays twice."""
    return parts * 2 if class_name == "Bidirectional" and len(parts) == 1 else parts
