"""What Keras 3 has written in forms that it does not read back, whichever release wrote it.

Told by the form alone: releases overlap, and a file that was saved again keeps what it was loaded
with. All else in a config of Keras 3 stays as it stands.
"""

from __future__ import annotations

from typing import Any

from orthwrap import keras_inside
from orthwrap.errors import FileFault
from orthwrap.upgrades.layers import old_classes, values
from orthwrap.upgrades.layers.rewrites import Rewrite
from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.models import graph, naming
from orthwrap.upgrades.models.modules import MOST_NESTED
from orthwrap.upgrades.models.operation_classes import OPERATIONS
from orthwrap.upgrades.rewriting import OldLayer, Rewriting, is_layer_node

# Arguments that had no effect on what the layer computes, and that its class no longer takes.
_RETIRED = {"RandomRotation": {"value_range"}}
# Operations whose settings, or whose own names, are others now.
_SETTINGS = {"Threshold": {"threshold_value": "threshold", "value": "default_value"}}
_CLASSES = {"CtcLoss": "CTCLoss"}


def rewrite(model: Any, run: Rewriting) -> None:
    """Correct a model's config in place."""
    _visit(model, "", True, run, 0)


def _visit(value: Any, path: str, in_graph: bool, run: Rewriting, depth: int) -> None:
    """`in_graph`: it is called with tensors that the graph around it names, or by the user."""
    if depth > MOST_NESTED:
        raise FileFault("model config: nested too deeply; the file is broken")
    if isinstance(value, list):
        for item in value:
            _visit(item, path, in_graph, run, depth + 1)
    if not isinstance(value, dict):
        return
    config = value.get("config")
    if not (is_layer_node(value) and isinstance(config, dict)):
        for item in value.values():
            _visit(item, path, False, run, depth + 1)
        return
    functional = "input_layers" in config and isinstance(config.get("layers"), list)
    if functional and not in_graph:
        graph.single_tensors(config, path, run, "Keras 3.0-3.10")
    layer = OldLayer(value, path, run)
    for each in _REWRITES if _is_of_keras(value) else ():
        detail = each.apply(layer)
        if detail is not None:
            layer.note(each.name, each.vintage, detail)
    prefix = f"{path}/" if path else ""
    for key, inner in config.items():
        for child in inner if isinstance(inner, list) else [inner]:
            name = naming.name_of(child) if isinstance(child, dict) else None
            below = prefix + name if name else path
            _visit(child, below, functional and key == "layers", run, depth + 1)


def _is_of_keras(node: Config) -> bool:
    """Not a class of the user's that has the name of one of Keras's."""
    module = node.get("module", "keras")
    return str(module).partition(".")[0] == "keras" and ">" not in node["class_name"]


def _operation(layer: OldLayer) -> str | None:
    """An operation, which Keras writes into an `.h5` without the module that it looks for then.

    It is told from a layer of its name by its config: every layer's says whether it is trainable.
    """
    module = OPERATIONS.get(layer.class_name)
    if module is None or "module" in layer.node or "trainable" in layer.config:
        return None
    if "inbound_nodes" not in layer.node:
        return None
    module = f"{keras_inside.OPERATIONS_MODULE}.{module}"
    layer.node.update(module=module, registered_name=layer.class_name)
    return layer.class_name


def _axes(layer: OldLayer) -> str | None:
    axis = layer.config.get("axis")
    several = isinstance(axis, list) and len(axis) > 1  # a list of one is read rightly
    return values.axis_list(layer) if several and "module" not in layer.node else None


def _of_application(layer: OldLayer) -> str | None:
    return None if "module" in layer.node else old_classes.application_layer(layer)


def _retired(layer: OldLayer) -> str | None:
    gone = [key for key in _RETIRED.get(layer.class_name, ()) if key in layer.config]
    for key in gone:
        del layer.config[key]
    return ", ".join(gone) or None


def _renamed(layer: OldLayer) -> str | None:
    done = []
    for old, new in _SETTINGS.get(layer.class_name, {}).items():
        if old in layer.config:
            layer.config[new] = layer.config.pop(old)
            done.append(f"{old} is now {new}")
    new_class = _CLASSES.get(layer.class_name)
    if new_class is not None and "trainable" not in layer.config:
        done.append(f"{layer.class_name} is {new_class}")
        layer.class_name = new_class
        if "registered_name" in layer.node:
            layer.node["registered_name"] = new_class
    return ", ".join(done) or None


_REWRITES = (
    Rewrite("operation renamed", "Keras 3.0-3.10", _renamed),
    Rewrite("operation in .h5", "Keras 3", _operation),
    Rewrite("axis as list", "Keras 3", _axes),
    Rewrite("application's layer", "Keras 3", _of_application),
    Rewrite("attention score", "Keras 3", old_classes.attention_score),
    Rewrite("argument retired", "Keras 3.0-3.5", _retired),
)
