"""Which array of a SavedModel's checkpoint is which weight of which layer.

Keras 2 tracked its objects by the names of attributes: a model's layers are `layer-0`, `layer-1`,
…, in the order of its config, and a layer's arrays and inner layers are found by the attributes
that its class gave them. So config and graph of objects are walked side by side, and each array
gets the place that a `.keras` of Keras 2 has for it. No class is built: what classes keep is a
table (`layer_arrays`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orthwrap.errors import FileFault
from orthwrap.model_config.tree import class_of
from orthwrap.stores.edits import HeldObject
from orthwrap.upgrades.arrays import store_paths
from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.models.naming import name_of
from orthwrap.upgrades.models.walk import is_model
from orthwrap.upgrades.models.wrappers import inner_nodes
from orthwrap.upgrades.rewriting import MAX_DEPTH, config_of, is_layer_node
from orthwrap.upgrades.saved_models import layer_arrays

# Bidirectional holds its layer twice, so that a small config can name many.
_MOST_LAYERS = 60_000
# Not the layer's own: what Keras lists again, what functions captured, what a run left behind.
_ASIDE = re.compile(r"keras_api|states|(trace|capture)_\d+")
# Generators of random layers, which Keras 3 seeds anew.
_DISPENSABLE = re.compile(r"(.*/)?(StateVar|_state_var)/.*")
_LOOKUPS = {"StringLookup", "IntegerLookup", "TextVectorization"}


@dataclass(frozen=True)
class LaidOut:
    """Where the arrays go.

    Attributes:
        groups: a `.keras` file's group → keys of the checkpoint, in the layer's order.
        left: what has no place there: arrays by name, `optimizer` and `metrics` for theirs.
    """

    groups: Mapping[str, tuple[str, ...]]
    left: tuple[str, ...]


def lay_out(
    model: Config, objects: Sequence[HeldObject], shapes: Mapping[str, tuple[int, ...]]
) -> LaidOut:
    """Find each weight's array.

    Args:
        model: the config of Keras 2, its root a model with layers.
        objects: the checkpoint's graph of objects; the first is the model.
        shapes: of the checkpoint's arrays, by key.

    Raises:
        FileFault: config and checkpoint disagree, or a layer that orthwrap does not know keeps
            arrays.
    """
    if not objects:
        raise FileFault("the checkpoint holds no objects, so no weights can be told apart")
    walk = _Walk(objects, shapes)
    walk.model(model, 0, "", "", 0)
    walk.check_all_placed()
    placed = {key for keys in walk.groups.values() for key in keys}
    left = (_left(key) for key in shapes if key not in placed)
    return LaidOut(walk.groups, tuple(dict.fromkeys(name for name in left if name)))


def _left(key: str) -> str:
    name = key.partition("/.ATTRIBUTES/")[0]
    if name.startswith("optimizer/") or "/.OPTIMIZER_SLOT/" in key:
        return "optimizer"
    if name.startswith("keras_api/metrics/"):
        return "metrics"
    if _DISPENSABLE.fullmatch(key):
        return "random state"
    return "" if name == "save_counter" else name


class _Walk:
    def __init__(
        self, objects: Sequence[HeldObject], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.objects = objects
        self.shapes = shapes
        self.groups: dict[str, tuple[str, ...]] = {}
        self._layers: list[tuple[int, str, Config]] = []

    def model(self, node: Config, place: int, path: str, store: str, depth: int) -> None:
        """A model's layers, each with its object."""
        config = config_of(node, path)
        layers = config.get("layers")
        if not isinstance(layers, list) or depth > MAX_DEPTH:
            raise FileFault(f"model {path or 'at the root'!r}: no layers, or nested too deeply")
        # A Sequential does not count the layer of its input.
        if "input_layers" not in config and layers and class_of(layers[0]) == "InputLayer":
            layers = layers[1:]
        names = store_paths.Names()
        for child, inner in self._side_by_side(layers, place, path):
            name = name_of(child) or class_of(child)
            group = f"{store}/layers/{names.next(class_of(child))}".lstrip("/")
            self.layer(child, inner, f"{path}/{name}".lstrip("/"), group, depth + 1)

    def _side_by_side(
        self, layers: list[Config], place: int, path: str
    ) -> Iterator[tuple[Config, int]]:
        if not all(is_layer_node(layer) for layer in layers):
            raise FileFault(f"model {path or 'at the root'!r}: holds what is no layer")
        children = self.objects[place].children
        found: list[int] = []
        while (number := children.get(f"layer-{len(found)}")) is not None:
            found.append(number)
        if len(found) != len(layers):
            raise FileFault(
                f"model {path or 'at the root'!r}: its config has {len(layers)} layers, the "
                f"checkpoint {len(found)}; the folder's config and weights disagree"
            )
        return zip(layers, found, strict=True)

    def layer(self, node: Config, place: int, path: str, store: str, depth: int) -> None:
        """A layer's own arrays, and the layers inside it."""
        if depth > MAX_DEPTH or len(self._layers) > _MOST_LAYERS:
            raise FileFault(f"layer {path!r}: nested too deeply, or too many layers")
        if is_model(node):
            self.model(node, place, path, store, depth)
            return
        config = config_of(node, path)
        _refuse_lost_table(node, config, path)
        self._layers.append((place, path, node))
        self._own(class_of(node), config, place, path, store)
        children = list(inner_nodes(config))
        cells = store_paths.Names()
        for index, (key, child) in enumerate(children):
            inside = store_paths.of_inner(
                class_of(node), key, (store,), cells, class_of(child), only=len(children) == 1
            )
            for group in inside:
                attribute = f"cells/{index}" if key == "cells" else group.rsplit("/", 1)[-1]
                inner = self._find(place, attribute)
                if inner is None:
                    raise FileFault(
                        f"layer {path!r} ({class_of(node)}): its config has a layer inside it, "
                        f"the checkpoint has no {attribute!r}; the two disagree"
                    )
                name = name_of(child) or class_of(child)
                self.layer(child, inner, f"{path}/{name}", group, depth + 1)

    def _own(self, class_name: str, config: Config, place: int, path: str, store: str) -> None:
        for name, shape in layer_arrays.arrays_of(class_name, config).items():
            found = self._find(place, name)
            key = None if found is None else self.objects[found].key
            held = None if key is None else self.shapes.get(key)
            if key is None or held is None or not layer_arrays.fits(held, shape):
                has = "has none" if held is None else f"holds {layer_arrays.shown(held)}"
                asked = "" if shape is None else f" of shape {layer_arrays.shown(shape)}"
                raise FileFault(
                    f"layer {path!r} ({class_name}): its config asks for {name}{asked}, the "
                    f"checkpoint {has}; the folder's config and weights disagree"
                )
            within, _, _ = name.rpartition("/")
            group = f"{store}/{within}".rstrip("/")
            self.groups[group] = (*self.groups.get(group, ()), key)

    def _find(self, place: int, attributes: str) -> int | None:
        here: int | None = place
        for attribute in attributes.split("/"):
            if here is None:
                return None
            here = self.objects[here].children.get(attribute)
        return here

    def check_all_placed(self) -> None:
        """Every array that a layer's object holds must have found its place."""
        placed = {key for keys in self.groups.values() for key in keys}
        seen: set[int] = set()
        for place, path, node in self._layers:
            waiting = [place]
            while waiting:
                here = waiting.pop()
                if here in seen:
                    continue
                seen.add(here)
                found = self.objects[here]
                key = found.key
                if key is not None and key not in placed and not _DISPENSABLE.fullmatch(key):
                    raise _no_place(key, path, class_of(node))
                waiting += [n for name, n in found.children.items() if not _ASIDE.fullmatch(name)]


def _no_place(key: str, path: str, class_name: str) -> FileFault:
    name = key.partition("/.ATTRIBUTES/")[0]
    return FileFault(
        f"layer {path!r} ({class_name}): the checkpoint's array {name!r:.200} is none that "
        "orthwrap knows of this class and config; save the model as .h5 or .keras with its own "
        "Keras"
    )


def _refuse_lost_table(node: Config, config: Config, path: str) -> None:
    """Vocabularies that were learnt are in the folder's functions alone, which are not run."""
    if class_of(node) in _LOOKUPS and not config.get("vocabulary"):
        raise FileFault(
            f"layer {path!r} ({class_of(node)}): its vocabulary is not in its config; save the "
            "model as .keras with its own Keras"
        )
