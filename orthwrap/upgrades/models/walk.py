"""Walks a model's config tree and rewrites it in place, layer by layer.

One of two walkers: `model_config/tree.py` finds the layers of any tree and leaves it as it stands.

On the way back it composes the edits of weights, so that each top-level layer ends up with one
function for its list of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orthwrap.errors import FileFault
from orthwrap.model_config.tree import class_of
from orthwrap.stores.edits import StoreEdit, StoreMove
from orthwrap.upgrades.arrays import store_paths
from orthwrap.upgrades.arrays.weights import Arrays, count, in_a_row, nested_model, own_arrays
from orthwrap.upgrades.layers.rewrites import rewrite_layer
from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.models import graph, keras1, naming, operations, sequential, wrappers
from orthwrap.upgrades.rewriting import MAX_DEPTH, OldLayer, Rewriting, config_of, is_layer_node

# Bidirectional holds its layer twice, so that thirty around one another hold a billion.
_MOST_TWINS = 1024
_OLD_MODELS = {"Container": "Model", "Network": "Model"}


@dataclass(frozen=True)
class _OldModel:
    """The model that some layers stand in.

    Attributes:
        path: its own; "" at the root.
        group, stores: where the arrays of its layers lie.
        known: the names of its layers, and
        offsets: by how much each one's calls are counted from another number now, in a graph.
        is_graph: whether its layers say what they are called on.
    """

    path: str
    group: str
    stores: tuple[str, ...]
    depth: int
    known: set[str] = field(default_factory=set)
    offsets: dict[str, int] = field(default_factory=dict)
    is_graph: bool = False


class Walker:
    """One pass over one model."""

    def __init__(self, run: Rewriting, keras_1: bool, ordering: str | None, theano: bool) -> None:
        self.run = run
        self.keras_1 = keras_1
        self.ordering = ordering
        self.theano = theano

    def model(
        self,
        node: Config,
        path: str,
        group: str = "",
        stores: tuple[str, ...] = ("",),
        depth: int = 0,
    ) -> list[Arrays]:
        """Rewrite a model's node; the arrays of its layers, in their order."""
        if depth > MAX_DEPTH:
            raise FileFault(f"model {path!r}: nested deeper than {MAX_DEPTH} levels")
        node["class_name"] = _OLD_MODELS.get(class_of(node), node["class_name"])
        if class_of(node) == "Sequential":
            sequential.as_named_layers(node, path, self.run)
        config = config_of(node, path)
        layers = config.get("layers")
        if not isinstance(layers, list):
            raise FileFault(f"model {path!r}: expected a list of layers; the file is broken")
        old_names = [naming.name_of(item) if isinstance(item, dict) else None for item in layers]
        changes = naming.rename_layers(layers, f"{path}/" if path else "", self.run)
        if "input_layers" not in config:
            is_layer = layers and is_layer_node(layers[0])
            shape = sequential.own_batch_shape(layers[0].get("config")) if is_layer else None
            parts = self._children(layers, old_names, _OldModel(path, group, stores, depth))
            sequential.add_input_layer(node, shape, path, self.run)
            return parts
        if changes:
            graph.rename_refs(config, changes)
        known = graph.layer_names(layers, path)
        offsets = graph.call_offsets(layers, known, config.get("output_layers"))
        around = _OldModel(path, group, stores, depth, known, offsets, is_graph=True)
        parts = self._children(layers, old_names, around)
        self._outputs(config, known, offsets)
        graph.single_tensors(config, path, self.run)
        return parts

    def _children(
        self, layers: list[Any], old_names: list[str | None], around: _OldModel
    ) -> list[Arrays]:
        """Rewrite a model's layers; their arrays.

        Args:
            old_names: of the layers in the file; None for one without.
        """
        parts = []
        containers = tuple(f"{store}/layers".lstrip("/") for store in around.stores)
        old_groups, new_groups = store_paths.Names(), store_paths.Names()
        for index, (child, old) in enumerate(zip(layers, old_names, strict=True)):
            if not is_layer_node(child):
                raise FileFault(
                    f"model {around.path or 'at the root'!r}: layer number {index} is not a layer; "
                    "the file is broken"
                )
            name = naming.name_of(child) or f"layer_{index}"
            path = f"{around.path}/{name}" if around.path else name
            group_name = old_groups.next(class_of(child))
            inside = tuple(f"{container}/{group_name}" for container in containers)
            is_operation = class_of(child) in operations.OPERATION_CLASSES
            if around.is_graph and child.get("inbound_nodes"):
                self._calls(child, around.known, around.offsets, path)
            if is_operation:
                parts.append(Arrays(path, 0, 0))
                continue
            self._drop_input_shape(child, path)
            group = around.group or (old or name)
            parts.append(self.layer(child, path, group, inside, around.depth + 1))
            new_name = new_groups.next(class_of(child))
            if new_name != group_name:
                self.run.store_moves += [StoreMove(store, new_name) for store in inside]
        return parts

    def _drop_input_shape(self, child: Config, path: str) -> None:
        """It says again what the model's input says, or what its neighbours do."""
        inner = child.get("config")
        if (
            class_of(child) != "InputLayer"
            and isinstance(inner, dict)
            and inner.pop("batch_input_shape", None) is not None
        ):
            self.run.ledger.note("input shape", "Keras 1.0-2.15", path)

    def layer(
        self, node: Config, path: str, group: str, stores: tuple[str, ...], depth: int
    ) -> Arrays:
        """Rewrite one layer's node and what is inside it."""
        if depth > MAX_DEPTH:
            raise FileFault(f"layer {path!r}: nested deeper than {MAX_DEPTH} levels")
        if len(stores) > _MOST_TWINS:
            raise FileFault(f"layer {path!r}: in too many Bidirectional layers; no real model")
        if is_model(node):
            parts = self.model(node, path, group, stores, depth)
            config = config_of(node, path)
            config.pop("batch_input_shape", None)
            arrays = nested_model(path, parts)
            return arrays.frozen() if config.get("trainable") is False else arrays
        layer = OldLayer(node, path, self.run, group)
        old_name, old_config = layer.class_name, dict(layer.config)
        counts = count(old_name, old_config, self.keras_1)
        if self.keras_1 or (
            self.run.version == (0, 0) and keras1.looks_like_keras_1(old_name, old_config)
        ):
            detail = keras1.convert(layer, self.ordering, self.theano)
            layer.note("Keras 1 words", "Keras 1.0-1.2", detail)
        inner = self._held_layers(layer, old_name, stores, depth)
        rewrite_layer(layer)
        if inner:
            arrays = in_a_row(path, wrappers.count_directions(old_name, inner))
        elif is_model(node):
            # A layer that became a small model has no arrays.
            arrays = Arrays(path, 0, 0)
        else:
            arrays = own_arrays(layer, counts)
            if arrays.transform is not None:
                self.run.store_edits += [
                    StoreEdit(store, arrays.transform)
                    for store in store_paths.of_arrays(layer.class_name, stores)
                ]
        return arrays.frozen() if old_config.get("trainable") is False else arrays

    def _held_layers(
        self, layer: OldLayer, old_name: str, stores: tuple[str, ...], depth: int
    ) -> list[Arrays]:
        """Rewrite the layers that a wrapper's config holds; their arrays.

        Args:
            old_name: the wrapper's class in the file.
        """
        inner = []
        cells = store_paths.Names()
        children = list(wrappers.inner_nodes(layer.config))
        for key, child in children:
            child_name = naming.name_of(child) or class_of(child).lower()
            if "/" in child_name:
                naming.rename(child, child_name.replace("/", "_"))
                child_name = child_name.replace("/", "_")
                layer.note("slash in name", "Keras 1.0-2.15")
            child_path = f"{layer.path}/{child_name}"
            inside = store_paths.of_inner(
                old_name, key, stores, cells, class_of(child), only=len(children) == 1
            )
            inner.append(self.layer(child, child_path, layer.group, inside, depth + 1))
            wrappers.name_module(child, child_path, self.run)
        return inner

    def _calls(self, child: Config, known: set[str], offsets: dict[str, int], path: str) -> None:
        calls = child["inbound_nodes"]
        if not isinstance(calls, list):
            raise FileFault(f"layer {path!r}: its inbound_nodes are no list; the file is broken")
        if child["class_name"] in operations.OPERATION_CLASSES:
            self._operation(child, known, offsets, path)
            return
        child["inbound_nodes"] = [self._call(child, call, known, offsets, path) for call in calls]

    def _call(
        self, child: Config, data: Any, known: set[str], offsets: dict[str, int], path: str
    ) -> Any:
        if isinstance(data, dict) and set(data) == {"args", "kwargs"}:
            return data
        call = self._shifted(graph.parse_call(data, known, False, path), offsets, path)
        dropped = [key for key, value in call.arguments.items() if value is None]
        for key in dropped:
            del call.arguments[key]
        moved = graph.initial_state(call, child)
        plain = None if moved else graph.old_form(call)
        if moved:
            self.run.ledger.note("initial state", "Keras 2.0-2.15", path)
        elif plain is None:
            self.run.ledger.note("tensor as argument", "tf.keras 2.4-2.15", path)
        if dropped:
            self.run.ledger.note("empty argument", "Keras 2.0-2.15", path, ", ".join(dropped))
        return plain if plain is not None else graph.new_form(call)

    def _operation(
        self, child: Config, known: set[str], offsets: dict[str, int], path: str
    ) -> None:
        translated = []
        for data in child["inbound_nodes"]:
            keep = class_of(child) != "TensorFlowOpLayer"
            call = self._shifted(graph.parse_call(data, known, keep, path), offsets, path)
            translated.append(operations.translate(child, call, path))
        first = translated[0]
        if any((t.name, t.settings) != (first.name, first.settings) for t in translated):
            raise FileFault(
                f"layer {path!r}: one operation is called with different settings; "
                "load the model with its own Keras and rebuild that step"
            )
        old = class_of(child)
        child.update(operations.as_node(first, child["name"]))
        child.pop("build_config", None)
        child["inbound_nodes"] = [
            graph.new_form(graph.Call(t.args[0], t.kwargs, t.args[1:])) for t in translated
        ]
        vintage = "tf.keras 2.0-2.3" if old == "TensorFlowOpLayer" else "tf.keras 2.4-2.15"
        self.run.ledger.note("TensorFlow operation", vintage, path, f"{first.name}")

    def _shifted(self, call: graph.Call, offsets: dict[str, int], path: str) -> graph.Call:
        def shift(ref: graph.Ref) -> graph.Ref:
            offset = offsets.get(ref.layer, 0)
            if offset:
                self.run.ledger.note("call number", "Keras 1.0-2.15", path)
            return ref._replace(call=max(ref.call - offset, 0))

        first = graph.map_refs(call.first, shift, set())
        arguments = graph.map_refs(call.arguments, shift, set())
        return graph.Call(first, arguments)

    def _outputs(self, config: Config, known: set[str], offsets: dict[str, int]) -> None:
        """Outputs: Keras 3 counts the calls of functional models from 1 here, of others from 0."""
        classes = {layer["name"]: class_of(layer) for layer in config["layers"]}

        def settle(ref: graph.Ref) -> list[Any]:
            call = ref.call
            if classes.get(ref.layer) == "Sequential":
                call -= offsets.get(ref.layer, 0)
            if call != ref.call:
                self.run.ledger.note("call number", "Keras 1.0-2.15", ref.layer)
            return [ref.layer, call, ref.tensor]

        for key in ("input_layers", "output_layers"):
            config[key] = graph.map_refs(config.get(key), settle, known)


def is_model(node: Config) -> bool:
    """Whether a node is a model: layers inside, and known to be built from them."""
    config = node.get("config")
    name = class_of(node)
    if name == "Sequential":
        return isinstance(config, list) or (isinstance(config, dict) and "layers" in config)
    if isinstance(config, dict) and isinstance(config.get("layers"), list):
        return name in {"Model", "Functional", *_OLD_MODELS} or "input_layers" in config
    return False
