"""Sequential models of old: bare lists of layers, and no layer for the input."""

from __future__ import annotations

from typing import Any

from orthwrap.errors import FileFault
from orthwrap.model_config.tree import class_of
from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.rewriting import Rewriting, is_layer_node

Shape = list[Any]


def as_named_layers(node: Config, path: str, run: Rewriting) -> None:
    """Keras 1.0 to 2.1 wrote `config` as the list of layers itself, without a name."""
    config = node.get("config")
    fallback = path.rsplit("/", 1)[-1] or "sequential"
    if isinstance(config, list):
        node["config"] = {"name": node.get("name") or fallback, "layers": config}
        run.ledger.note("bare-list Sequential", "Keras 1.0-2.1", path)
    elif isinstance(config, dict) and not isinstance(config.get("name"), str):
        config["name"] = fallback


def own_batch_shape(config: Any) -> Shape | None:
    """The input shape that a first layer carries in its own config."""
    if not isinstance(config, dict):
        return None
    shape = config.get("batch_input_shape")
    if not isinstance(shape, list):
        inner = config.get("layer")
        return own_batch_shape(inner.get("config")) if isinstance(inner, dict) else None
    return checked_shape(shape)


def checked_shape(shape: Shape) -> Shape:
    """Sizes must be numbers or unknown."""
    for size in shape:
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
            raise FileFault(f"expected an input shape of whole numbers, found {shape!r:.80}")
    return shape


def input_shape(node: Config) -> Shape | None:
    """The one input shape of a model's node that already speaks Keras 3."""
    config = node.get("config")
    if not isinstance(config, dict):
        return None
    if class_of(node) == "InputLayer":
        shape = config.get("batch_shape", config.get("batch_input_shape"))
        return checked_shape(shape) if isinstance(shape, list) else None
    layers = config.get("layers")
    if not isinstance(layers, list) or not layers:
        return None
    if class_of(node) == "Sequential":
        return input_shape(layers[0]) if is_layer_node(layers[0]) else None
    inputs = config.get("input_layers")
    if not isinstance(inputs, list) or not inputs:
        return None
    only = inputs[0] if len(inputs) == 1 else inputs
    name = only[0] if isinstance(only, list) and len(only) == 3 else None
    for layer in layers:
        if isinstance(layer, dict) and layer.get("name") == name and is_layer_node(layer):
            return input_shape(layer)
    return None


def add_input_layer(node: Config, shape: Shape | None, path: str, run: Rewriting) -> None:
    """Give a Sequential the InputLayer that Keras 3 builds from.

    Keras 2 kept the shape in the first layer's `batch_input_shape`, batch included; Keras 3 takes
    it for a shape without the batch and loads a model of one rank too many.
    """
    layers = node["config"]["layers"]
    if not layers or class_of(layers[0]) == "InputLayer":
        return
    if shape is None:
        shape = input_shape(layers[0])
        if shape is None:
            return
    first = layers[0]["config"]
    taken = {layer.get("config", {}).get("name") for layer in layers if is_layer_node(layer)}
    name = f"{first.get('name', 'sequential')}_input"
    while name in taken:
        name += "_1"
    config = {"batch_shape": shape, "dtype": _input_dtype(first), "sparse": False, "name": name}
    layer: Config = {"class_name": "InputLayer", "config": config}
    if "module" in node:
        layer |= {"module": "keras.layers", "registered_name": None}
    layers.insert(0, layer)
    run.ledger.note("input layer", "Keras 1.0-2.3, tf.keras 1.x-2.1", path, f"shape {shape}")


def _input_dtype(config: Config) -> str:
    dtype = config.get("dtype")
    if not isinstance(dtype, str) or dtype.startswith("mixed_"):
        return "float32"
    return dtype
