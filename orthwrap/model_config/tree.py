"""A model's config tree → its layers, with their paths; and edits of the tree.

One of two walkers: this one finds layers and sets keys of their configs, and leaves all else as it
stands; `upgrades/models/walk.py` rewrites a whole tree of an older Keras, with its weights.

Pure functions over dicts, no Keras. Both dialects are read: the legacy nodes of `.h5` files
(`class_name`, `config`, `inbound_nodes`) and Keras 3's (`module`, `registered_name` as well).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orthwrap import keras_inside
from orthwrap._version import __version__
from orthwrap.errors import FileFault, ValueFault
from orthwrap.model_config.layers import PUBLIC_NAMES, WITHOUT_KERNELS, layer_type_of

Node = dict[str, Any]
Pointer = tuple[str | int, ...]

# Guards against hostile files: more than any real model has.
MAX_DEPTH = 100
MAX_LAYERS = 6_000  # at a millisecond for each; a layer counts once for each place it is used in
MAX_PATH = 2000  # characters
MAX_PARTS = 200  # of a path, between slashes


@dataclass(frozen=True)
class Step:
    """One step from a layer's owner down to it, as weight files need it.

    Attributes:
        attribute: the owner's attribute that holds the layer: `layers`, `layer`, `cell`, ….
        name: the layer's name.
        snake: the class name in snake case, by which `.keras` files number the members of a list.
        ordinal: how many members of the list before it have the same `snake`; None if no list.
        is_named: the config says the name; that of a class which leaves it out was made up here.
    """

    attribute: str
    name: str
    snake: str
    ordinal: int | None = None
    is_named: bool = True


@dataclass(frozen=True)
class Layer:
    """A layer of the model: one entry, however many places it is used in.

    Attributes:
        path: its first place, `outer/inner/conv1`.
        paths: every place.
        class_name: the config's class name, without a `package>` prefix.
        kind: the known class it is (live: or is a subclass of); None for an unknown class.
        name: its own name.
        node: its node in the tree; not to be changed.
        pointers: where its config stands in the tree, one for each place.
        steps: from the root to its first place.
        other_ways: the same to its other places.
        trainable: false where it, or a model around it, is frozen.
        twin: the path of the layer whose config this one shares: the backward layer of a
            Bidirectional whose file keeps one config for both directions.
        is_container: it is a model or a wrapper; its layers are entries of their own.
        made_by: the class of a model around it that builds itself without regard to the layers
            that its config lists, so that an edit there is lost; "" where there is none.
        held_by: the outermost class of others around it, whose `from_config` decides what it makes
            of the layer's config; "" where there is none.
        also: its first place by the names of the attributes that hold it and those around it,
            `generator/conv` where the model's own name is another.
    """

    path: str
    paths: tuple[str, ...]
    class_name: str
    kind: str | None
    name: str
    node: Node
    pointers: tuple[Pointer, ...]
    steps: tuple[Step, ...]
    trainable: bool
    twin: str | None = None
    is_container: bool = False
    is_operation: bool = False
    made_by: str = ""
    held_by: str = ""
    other_ways: tuple[tuple[Step, ...], ...] = ()

    @property
    def ways(self) -> tuple[tuple[Step, ...], ...]:
        """The steps to every place."""
        return (self.steps, *self.other_ways)

    also: tuple[str, ...] = ()

    @property
    def matched(self) -> tuple[str, ...]:
        """All that patterns may call it."""
        return (*self.paths, *self.also)

    @property
    def config(self) -> Mapping[str, Any]:
        config = self.node.get("config")
        return config if isinstance(config, dict) else {}


def walk(root: Node) -> tuple[Layer, ...]:
    """Every layer below the root, in the order of the config, shared layers once.

    Raises:
        FileFault: the tree is not a model's config.
    """
    if not isinstance(root, dict) or "config" not in root:
        raise FileFault("expected a model config with class_name and config; found another JSON")
    if _children(root) is None:
        return ()
    found: dict[str, Layer] = {}
    shared: dict[Any, str] = {}
    copies: dict[str, int] = {}
    for count, (layer, shared_id) in enumerate(
        _descend(root, (), (), "", not _is_frozen(root), _Around(), 0)
    ):
        _check_size(layer.path, count)
        first = shared.get(shared_id) if shared_id is not None else None
        if first is not None:
            old = found[first]
            found[first] = replace(
                old,
                paths=(*old.paths, *layer.paths),
                other_ways=(*old.other_ways, layer.steps),
                # Where it stands again without a config, there is nothing to edit.
                pointers=old.pointers + (layer.pointers if _has_config(layer.node) else ()),
            )
            continue
        path = layer.path
        while path in found:  # two members of one name: custom layers may have them
            number = copies[layer.path] = copies.get(layer.path, 0) + 1
            path = f"{layer.path}'{number if number > 1 else ''}"
        found[path] = replace(layer, path=path, paths=(path,))
        if shared_id is not None:
            shared[shared_id] = path
    return by_attributes_too(found.values(), lambda layer: map(_attribute_of, layer.steps))


def _attribute_of(step: Step) -> str:
    """The attribute that holds a layer and nothing else; "" where it is one of a list."""
    return step.attribute if step.ordinal is None and step.attribute != "layers" else ""


def by_attributes_too(
    layers: Iterable[Layer], attributes_of: Callable[[Layer], Iterable[str]]
) -> tuple[Layer, ...]:
    """The layers, each with what it is called by attributes, where no other is called so.

    Args:
        attributes_of: for each part of a layer's path the attribute that holds it, or "".
    """
    layers = tuple(layers)
    taken = {path for layer in layers for path in layer.paths}

    def with_attributes(layer: Layer) -> Layer:
        parts = layer.path.split("/")
        attributes = tuple(attributes_of(layer))
        if len(parts) != len(attributes):
            return layer
        # Every attribute's name, or the outermost alone: `gan/net/conv`, `gan/inner/conv`.
        mixed = [a or p for a, p in zip(attributes, parts, strict=True)]
        called = ("/".join(mixed), "/".join((mixed[0], *parts[1:])))
        new = tuple(c for c in dict.fromkeys((*layer.also, *called)) if c not in taken)
        return replace(layer, also=new)

    return tuple(map(with_attributes, layers))


def _check_size(path: str, count: int) -> None:
    if count >= MAX_LAYERS:
        raise FileFault(f"the config has more than {MAX_LAYERS} layers; this is no real model")
    if len(path) > MAX_PATH or path.count("/") > MAX_PARTS:
        raise FileFault(
            f"the config has a layer whose path is {len(path)} characters long: {path[:60]}…; "
            "this is no real model"
        )


def _descend(
    node: Node,
    pointer: Pointer,
    steps: tuple[Step, ...],
    prefix: str,
    trainable: bool,
    around: _Around,
    depth: int,
) -> Iterator[tuple[Layer, Any]]:
    if depth > MAX_DEPTH:
        raise FileFault(f"the config nests more than {MAX_DEPTH} layers; this is no real model")
    around = around.within(node)
    for child in _children(node) or ():
        path = prefix + child.step.name
        class_name = class_of(child.node)
        known = layer_type_of(class_name)
        members = _children(child.node) if known is None else None
        layer = Layer(
            path=path,
            paths=(path,),
            class_name=PUBLIC_NAMES.get(class_name, class_name),
            kind=None if known is None else known.name,
            name=child.step.name,
            node=child.node,
            pointers=((*pointer, *child.pointer),),
            steps=(*steps, child.step),
            trainable=trainable and not _is_frozen(child.node),
            twin=None if child.twin is None else prefix + child.twin,
            is_container=members is not None,
            is_operation=_is_operation(child.node),
            made_by=around.made_by,
            held_by=around.held_by,
        )
        shared_id = child.node.get("shared_object_id")
        yield layer, shared_id if isinstance(shared_id, (int, str)) else None
        if members:
            place = (layer.pointers[0], layer.steps, f"{path}/")
            yield from _descend(child.node, *place, layer.trainable, around, depth + 1)


@dataclass(frozen=True)
class _Around:
    """As in `Layer`, for what lies within a node."""

    made_by: str = ""
    held_by: str = ""

    def within(self, node: Node) -> _Around:
        name = class_of(node)
        return _Around(
            self.made_by or ("" if _reads_its_layers(node) else name),
            self.held_by or ("" if is_of_keras(node) else name),
        )


def _is_frozen(node: Node) -> bool:
    """Whether a node's config freezes it; Keras does not read that of a Sequential."""
    config = node.get("config")
    if not isinstance(config, dict) or config.get("trainable") is not False:
        return False
    return not (class_of(node) == "Sequential" and _is_model_of_keras(node))


@dataclass(frozen=True)
class _Child:
    node: Node
    pointer: Pointer  # from the owner's node
    step: Step
    twin: str | None = None


def _children(node: Node) -> list[_Child] | None:
    """The layers directly below a node; None for a leaf."""
    config = node.get("config")
    if isinstance(config, list):  # Sequential of Keras 1.x and 2.0–2.1
        return _members(config, ("config",), "layers")
    if not isinstance(config, dict):
        return None
    class_name = class_of(node)
    is_list = isinstance(config.get("layers"), list)
    if is_list and (_is_model_of_keras(node) or _lists_as_keras(config)):
        return _members(config["layers"], ("config", "layers"), "layers")
    if class_name == "Bidirectional" and _is_layer(config.get("layer")):
        return _directions(config["layer"], config.get("backward_layer"))
    found = [c for key, v in config.items() for c in _within(v, ("config", key), key)]
    return found or None


def _within(value: Any, pointer: Pointer, attribute: str) -> Iterator[_Child]:
    """The layers in a value of a config, in lists and mappings of any depth."""
    if _is_layer(value):
        yield _single(value, pointer, attribute)
    elif isinstance(value, list):
        if any(_is_layer(v) for v in value):
            yield from _members(value, pointer, attribute)
        for i, inner in enumerate(value):
            if not _has_class(inner):
                yield from _within(inner, (*pointer, i), attribute)
    elif isinstance(value, dict) and not _has_class(value):
        for key, inner in value.items():
            yield from _within(inner, (*pointer, key), attribute)


def _has_class(value: Any) -> bool:
    return isinstance(value, dict) and "class_name" in value


_MODELS = ("Functional", "Model", "Sequential")
# What Keras itself writes into the config of a model that lists its layers.
_OWN_KEYS = frozenset(
    ("name", "trainable", "dtype", "layers", "input_layers", "output_layers", "build_input_shape")
)


def is_of_keras(node: Node) -> bool:
    """Whether a node's class is one of Keras's; where no module is named, its name decides."""
    name, module = str(node.get("class_name")), node.get("module")
    if isinstance(module, str):
        return module.partition(".")[0] in ("keras", "tf_keras", "tensorflow")
    return name in WITHOUT_KERNELS or layer_type_of(name) is not None


def _is_model_of_keras(node: Node) -> bool:
    """Whether a node's class is Functional or Sequential."""
    return node["class_name"] in _MODELS and is_of_keras(node)


def _lists_as_keras(config: Mapping[str, Any]) -> bool:
    """Whether its list of layers is one that Keras wrote: with what only a model has beside it."""
    return "input_layers" in config or "build_input_shape" in config


def _reads_its_layers(node: Node) -> bool:
    """False for a model that is not made from the layers that its config lists.

    Keras makes its own classes from the list, and others whose config is as Keras writes it. A
    class with more in there has a `get_config` of its own: it builds itself, from that.
    """
    config = node.get("config")
    if not isinstance(config, dict) or _is_model_of_keras(node):
        return True
    return not _lists_as_keras(config) or config.keys() <= _OWN_KEYS


def _members(nodes: Sequence[Any], pointer: Pointer, attribute: str) -> list[_Child]:
    children = []
    seen: dict[str, int] = {}
    for i, node in enumerate(nodes):
        if not isinstance(node, dict) or not isinstance(node.get("class_name"), str):
            continue
        snake = to_snake_case(class_of(node))
        ordinal = None
        if not _is_operation(node):
            ordinal = seen.get(snake, 0)
            seen[snake] = ordinal + 1
        name = _given_name(node)
        step = Step(attribute, name or _made_name(snake, i), snake, ordinal, bool(name))
        children.append(_Child(node, (*pointer, i), step))
    return children


def _single(node: Node, pointer: Pointer, attribute: str) -> _Child:
    snake = to_snake_case(class_of(node))
    return _Child(node, pointer, Step(attribute, _name(node, snake), snake))


def _directions(forward: Node, backward: Any) -> list[_Child]:
    """The two layers of a Bidirectional, which Keras names forward_… and backward_…."""
    snake = to_snake_case(class_of(forward))
    name = _name(forward, snake).removeprefix("forward_")
    forward_name = f"forward_{name}"
    children = [
        _Child(forward, ("config", "layer"), Step("forward_layer", forward_name, snake)),
    ]
    if _is_layer(backward):
        child = _single(backward, ("config", "backward_layer"), "backward_layer")
        children.append(child)
    else:
        children.append(
            _Child(
                forward,
                ("config", "layer"),
                Step("backward_layer", f"backward_{name}", snake),
                twin=forward_name,
            )
        )
    return children


def _is_layer(value: Any) -> bool:
    """A layer's node, and not an initializer, a dtype policy or the like.

    Every layer's config has a name and says whether it is trainable, unless it is a model of old or
    of a class that leaves that out; of these, layers that it holds are the sign.
    """
    if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
        return False
    config = value.get("config")
    if isinstance(config, list):
        return bool(value["class_name"] == "Sequential")
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        return False
    if isinstance(config.get("trainable"), bool) or isinstance(config.get("layers"), list):
        return True
    return any(True for key, inner in config.items() for _ in _within(inner, (), key))


def _has_config(node: Node) -> bool:
    return isinstance(node.get("config"), dict)


def _is_operation(node: Node) -> bool:
    """An operation of a functional graph (`keras.ops.tanh`), which is no layer."""
    return str(node.get("module", "")).startswith(keras_inside.OPERATIONS_MODULE)


def class_of(node: Any) -> str:
    """The class name after the last `>` (`package>Class`); "" of what has none."""
    name = node.get("class_name") if isinstance(node, Mapping) else None
    return name.rpartition(">")[2] if isinstance(name, str) else ""


def _name(node: Node, snake: str) -> str:
    return _given_name(node) or snake


def _given_name(node: Node) -> str:
    """What the config calls a layer; "" where it does not say."""
    config = node.get("config")
    for holder in (config, node):
        if isinstance(holder, dict) and isinstance(holder.get("name"), str) and holder["name"]:
            return str(holder["name"])
    return ""


def _made_name(snake: str, index: int) -> str:
    return f"{snake}_{index}" if index else snake


def to_snake_case(name: str) -> str:
    """`SeparableConv2D` → `separable_conv2d`, by the rule `.keras` files are written with."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def with_old_names(layers: Sequence[Layer], old_names: Mapping[str, str]) -> tuple[Layer, ...]:
    """The layers, matched also by the paths they had before modernising renamed them.

    Args:
        old_names: a layer's name in the file → its name now.
    """
    if not old_names:
        return tuple(layers)
    before = {new: old for old, new in old_names.items()}

    def with_old(layer: Layer) -> Layer:
        old = ["/".join(before.get(part, part) for part in p.split("/")) for p in layer.paths]
        return replace(layer, paths=tuple(dict.fromkeys((*layer.paths, *old))))

    return tuple(map(with_old, layers))


ABSENT = object()


@dataclass(frozen=True)
class Edit:
    """Set one key of one layer's config.

    Attributes:
        pointer: the layer's node in the tree.
        key: such as `kernel_regularizer`.
        value: the new value, or ABSENT to take the key out.
    """

    pointer: Pointer
    key: str
    value: Any


def edit(root: Node, edits: Sequence[Edit]) -> Node:
    """A copy of the tree with the edits done; the tree given stays as it is."""
    root = copy.deepcopy(root)
    for change in edits:
        config = at(root, change.pointer)["config"]
        if change.value is ABSENT:
            config.pop(change.key, None)
        else:
            config[change.key] = copy.deepcopy(change.value)
    return root


def at(root: Node, pointer: Pointer) -> Node:
    """The node a pointer leads to."""
    node: Any = root
    for key in pointer:
        node = node[key]
    return node  # type: ignore[no-any-return]  # a pointer comes from walk(), so this is a node


PACKAGE = "orthwrap"


def is_ours(node: Any) -> bool:
    """True for a regularizer node that orthwrap wrote."""
    if not isinstance(node, Mapping):
        return False
    names = (str(node.get("registered_name") or ""), str(node.get("class_name") or ""))
    return any(n.startswith(f"{PACKAGE}>") for n in names) or (
        str(node.get("module") or "").partition(".")[0] == PACKAGE
    )


def unreadable(what: str, error: Exception) -> ValueFault:
    """That a node of orthwrap's, such as `constraint`, is none that this version writes."""
    why = f"it has no {error}" if isinstance(error, KeyError) else error
    return ValueFault(
        f"the config holds an orthwrap {what} that orthwrap {__version__} cannot read: {why}"
    )
