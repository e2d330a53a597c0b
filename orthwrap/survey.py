"""2. A store → every slot of every layer that could carry a regularizer, with its kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orthwrap.model_config.blocks import scale_of
from orthwrap.model_config.layers import (
    LAYER_TYPES,
    PUBLIC_NAMES,
    SLOT_KEYS,
    UNKNOWN,
    KernelSpec,
    attention_layout,
    family_of,
)
from orthwrap.model_config.layout import Layout
from orthwrap.model_config.tree import Layer, class_of, is_ours
from orthwrap.penalties.attachment import Attachment
from orthwrap.penalties.constrained import Constrained, is_our_constraint
from orthwrap.rules.patterns import Candidate
from orthwrap.stores.store import Store, Unclaimed, WeightRef

KEY_END = "_regularizer"
CONSTRAINT_END = "_constraint"


@dataclass(frozen=True)
class Kernel:
    """One kernel of a slot. `layout` is its own; the slot's is the one the regularizer carries."""

    layer: Layer
    spec: KernelSpec
    weight: WeightRef | None
    layout: Layout | None


@dataclass(frozen=True)
class Slot:
    """One place in a layer's config where a regularizer can sit, and the kernels it acts on.

    Attributes:
        layer: the layer whose config holds the slot.
        name: kernel, depthwise, pointwise, recurrent, embeddings or activity; of a slot that only
            `strip --all` knows, its key without `_regularizer`: bias, gamma, ….
        kernels: one as a rule; four for attention; both directions where they share a config.
        layout: None where there is none.
        problem: why the slot cannot carry an orthogonality penalty; "" where it can.
        idle: why Keras applies no penalty to its kernels, whatever the slot carries; mostly "".
        note: what the user should know of the layout, such as that rank decided it.
        existing: the node in the slot now, or None.
        families: the shorthands it belongs to.
        constraint: the node of the constraint beside it, or None.
    """

    layer: Layer
    name: str
    kernels: tuple[Kernel, ...]
    layout: Layout | None
    problem: str
    note: str
    existing: Any
    families: tuple[str, ...]
    idle: str = ""
    constraint: Any = None

    @property
    def constraint_key(self) -> str:
        return f"{self.name}{CONSTRAINT_END}"

    @property
    def held(self) -> Constrained | None:
        """The orthwrap constraint in the slot, if there is one."""
        return (
            Constrained.from_node(self.constraint) if is_our_constraint(self.constraint) else None
        )

    @property
    def no_constraint(self) -> str:
        """Why it cannot carry a constraint, where it can a regularizer; "" where it can."""
        layer, key = self.layer, self.constraint_key
        if key in layer.config or layer.class_name in (
            layer.kind,
            PUBLIC_NAMES.get(str(layer.kind)),
        ):
            return ""
        return f"the config of class {layer.class_name} has no {key}"

    @property
    def key(self) -> str:
        return SLOT_KEYS.get(self.name, f"{self.name}{KEY_END}")

    @property
    def current(self) -> Attachment | None:
        """The orthwrap regularizer in the slot, if there is one."""
        return Attachment.from_node(self.existing) if is_ours(self.existing) else None

    @property
    def doubt(self) -> str:
        """Why it is not known for sure which weight is the kernel; "" where it is."""
        return next((k.weight.doubt for k in self.kernels if k.weight is not None), "")

    def alpha(self) -> float:
        """The RMS singular value over the slot's kernels."""
        squares, singular_values = 0.0, 0
        for kernel in self.kernels:
            assert kernel.weight is not None
            assert kernel.layout is not None
            count, m, n = kernel.layout.matrices(kernel.weight.shape)
            size = count * min(m, n)
            squares += _scale(kernel.weight, kernel.layout) ** 2 * size
            singular_values += size
        return math.sqrt(squares / singular_values)

    def candidates(self) -> tuple[Candidate, ...]:
        """What patterns are held against; several where a slot has several families."""
        paths = tuple(dict.fromkeys(p for k in self.kernels for p in k.layer.matched))
        return tuple(
            Candidate(paths or self.layer.matched, self.layer.class_name, self.name, f, self.layer)
            for f in (self.families or (None,))
        )


def _scale(weight: WeightRef, layout: Layout) -> float:
    return weight.once(("scale", layout), lambda: scale_of(weight.array(), layout))


@dataclass(frozen=True)
class Unseen:
    """Weights that could be kernels, in a class that was not looked into.

    Attributes:
        path: of the layer that holds them; "" for the model itself.
        weights: how many numbers they are.
        reason: why it was not looked into.
        advice: what to do for it.
    """

    path: str
    class_name: str
    weights: int
    reason: str
    advice: str

    def __str__(self) -> str:
        where = self.path or "the model"
        return (
            f"{where} ({self.class_name}, {self.weights:,} weights) was not looked into: "
            f"{self.reason}; {self.advice}"
        )


@dataclass(frozen=True)
class Survey:
    """What a model offers: its layers, and every slot that could carry an orthwrap regularizer."""

    layers: tuple[Layer, ...]
    slots: tuple[Slot, ...]
    activities: tuple[Slot, ...]
    unseen: tuple[Unseen, ...] = ()

    @property
    def layer_count(self) -> int:
        return sum(not (layer.is_operation or layer.is_container) for layer in self.layers)


def other_slots(surveyed: Survey) -> tuple[Slot, ...]:
    """Slots that carry a regularizer and are not surveyed: of biases, normalisation, strangers."""
    known = {
        (slot.layer.pointers or slot.layer.path, slot.key)
        for slot in (*surveyed.slots, *surveyed.activities)
    }
    found = []
    for layer in surveyed.layers:
        for key, value in layer.config.items() if layer.twin is None else ():
            place = (layer.pointers or layer.path, key)
            if key.endswith(KEY_END) and value is not None and place not in known:
                name = key.removesuffix(KEY_END)
                found.append(Slot(layer, name, (), None, "", "", value, ()))
    return tuple(found)


def survey(store: Store, *, is_tried: bool = False) -> Survey:
    """Every slot of every layer of a store, shared layers once.

    Args:
        is_tried: the model is made by Keras, which shows what classes of others keep.
    """
    layers = store.layers()
    if is_tried:
        layers = tuple(replace(layer, made_by="", held_by="") for layer in layers)
    slots: dict[tuple[Any, str], Slot] = {}
    activities = []
    for layer in layers:
        if layer.is_operation or layer.class_name == "InputLayer":
            continue
        found = _slots_of(store, layer)
        for slot in found:
            # A layer that only the live model knows has no place in the config.
            place = (layer.pointers[0] if layer.pointers else layer.path, slot.name)
            twin = slots.get(place)
            slots[place] = slot if twin is None else _merge(twin, slot)
        if layer.twin is None and (not layer.is_container or layer.class_name in _WRAPPERS):
            families = tuple(dict.fromkeys(f for s in found for f in s.families))
            existing = layer.config.get(SLOT_KEYS["activity"])
            problem = _no_config(layer) or _lost(layer)
            activities.append(Slot(layer, "activity", (), None, problem, "", existing, families))
    specified = {k.layer.path for slot in slots.values() for k in slot.kernels}
    held = [below for below in store.unclaimed(layers, specified) if below.has_matrix]
    unseen = tuple(_unseen(store, below) for below in held)
    return Survey(layers, tuple(slots.values()), tuple(activities), unseen)


def _unseen(store: Store, below: Unclaimed) -> Unseen:
    layer = below.layer
    name = class_of(store.root) if layer is None else layer.class_name
    if below.is_own and layer is not None and layer.twin is None:
        reason = f"class {name} is not known, and its config has no kernel_regularizer"
    else:
        reason = f"the config of class {name} does not hold the layers that have them"
    advice = (
        f"give {name} a kernel_regularizer that its add_weight and get_config use, or the layers "
        "that it is made of in its config"
    )
    if store.record.format != "memory":
        advice = "load the model in Python and orthwrap.apply(model, …), which sees its layers"
    return Unseen("" if layer is None else layer.path, name, below.parameters, reason, advice)


_WRAPPERS = ("TimeDistributed", "Bidirectional")


def _specs_of(layer: Layer) -> tuple[KernelSpec, ...]:
    if layer.kind is not None:
        kernels = LAYER_TYPES[layer.kind].kernels
        return tuple(k for k in kernels if not k.when or layer.config.get(k.when))
    if not layer.is_container and "kernel_regularizer" in layer.config:
        return UNKNOWN
    return ()


def _slots_of(store: Store, layer: Layer) -> list[Slot]:
    specs = _specs_of(layer)
    if not specs:
        return []
    weights = store.weights(layer, specs)
    by_slot: dict[str, list[tuple[KernelSpec, WeightRef | None]]] = {}
    for spec, weight in zip(specs, weights, strict=True):
        by_slot.setdefault(spec.slot, []).append((spec, weight))
    return [_slot(layer, name, found) for name, found in by_slot.items()]


def _slot(layer: Layer, name: str, found: Sequence[tuple[KernelSpec, WeightRef | None]]) -> Slot:
    kernels, problems = [], []
    for spec, weight in found:
        layout = _layout_of(layer, spec, weight)
        if isinstance(layout, str):
            problems.append(layout)
        kernels.append(Kernel(layer, spec, weight, None if isinstance(layout, str) else layout))
    layout_or_problem: Layout | str | None = None if problems else _slot_layout(kernels)
    if isinstance(layout_or_problem, str):
        problems.append(layout_or_problem)
        layout_or_problem = None
    idle = _special(layer)
    problem = idle or _lost(layer) or (problems[0] if problems else "")
    family = family_of(kernels[0].spec, kernels[0].layout)
    return Slot(
        layer=layer,
        name=name,
        kernels=tuple(kernels),
        layout=layout_or_problem,
        problem=problem,
        note=_note(layer, kernels),
        existing=layer.config.get(SLOT_KEYS[name]),
        families=() if family is None else (family,),
        idle=idle,
        constraint=layer.config.get(f"{name}{CONSTRAINT_END}"),
    )


def _layout_of(layer: Layer, spec: KernelSpec, weight: WeightRef | None) -> Layout | str:
    """How a kernel becomes matrices, or why that is not known."""
    if weight is None:
        return f"its {spec.name} was not found among the weights"
    if len({len(w.shape) for w in weight.candidates}) > 1:
        return f"{weight.doubt}, and they differ in their axes"
    layout = spec.layout(layer.config, weight.shape)
    if isinstance(layout, Layout) and not layout.fits(weight.shape):
        return f"its {spec.name} of shape {weight.shape} does not fit a {layout.name} layer"
    return layout


def _note(layer: Layer, kernels: Sequence[Kernel]) -> str:
    """What is assumed of a layer, and of which of its weights is the kernel."""
    kind = ""
    if layer.kind is None:
        kind = f"class {layer.class_name} is not known: layout by its kernel's rank"
    elif layer.kind != layer.class_name:
        kind = f"class {layer.class_name} has the layout of {layer.kind}"
    doubt = next((k.weight.doubt for k in kernels if k.weight is not None), "")
    held = f"kept if class {layer.held_by} makes it from this config" if layer.held_by else ""
    return "; ".join(note for note in (kind, doubt, held) if note)


def _slot_layout(kernels: Sequence[Kernel]) -> Layout | str | None:
    if len(kernels) == 1:
        return kernels[0].layout
    shapes = [k.weight.shape for k in kernels if k.weight is not None]
    return attention_layout(shapes[:-1], shapes[-1])


def _no_config(layer: Layer) -> str:
    """Why nothing can be put into a layer's config; "" where it can."""
    if isinstance(layer.node.get("config"), Mapping):
        return ""
    return "its config holds no arguments by name, among which a regularizer would stand"


def _lost(layer: Layer) -> str:
    """Why a regularizer in a layer's config would be lost where the model is made of that."""
    if not layer.made_by:
        return ""
    return (
        f"class {layer.made_by} has a get_config of its own, so that its layers are not made from "
        "the list in this file: load it in Python, where orthwrap.apply(model, …) tries what it "
        "keeps"
    )


def _special(layer: Layer) -> str:
    """Why a kernel is not one to regularize, from the layer's config."""
    config = layer.config
    if _no_config(layer):
        return _no_config(layer)
    policy = config.get("dtype")
    quantized = isinstance(policy, Mapping) and "Quantized" in str(policy.get("class_name"))
    if quantized or config.get("quantization_config") is not None:
        return "its kernel is quantized: regularize before quantizing"
    if config.get("lora_rank") is not None:
        return (
            "its kernel has LoRA factors, which Keras would hand the regularizer: merge them first"
        )
    return ""


def _merge(first: Slot, twin: Slot) -> Slot:
    """Two layers that share one config: one slot, the kernels of both."""
    return replace(
        first,
        kernels=(*first.kernels, *twin.kernels),
        problem=first.problem or twin.problem,
        note=first.note or "one config serves both directions",
    )
