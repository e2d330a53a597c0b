"""A model as a file describes it, and what is to be done to a copy of it, both as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from orthwrap.errors import FileFault
from orthwrap.model_config.tree import Node

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Weight(NamedTuple):
    """One weight array of a layer, under the name that the file gives it."""

    name: str
    array: NDArray[np.generic]


Transform = Callable[[list[Weight]], list[Weight]]


class WeightsView(Protocol):
    """What a rewrite may ask about a file's weights without reading them."""

    def layer_names(self) -> tuple[str, ...]:
        """The groups of the file, in its order."""

    def shapes(self, layer: str) -> Mapping[str, tuple[int, ...]]:
        """Weight name → shape, in the file's order; empty for a layer without weights."""


@dataclass(frozen=True, slots=True)
class HeldObject:
    """One object of a checkpoint: what it holds by which name, and the key of its array.

    Attributes:
        key: None where it is no variable.
    """

    children: Mapping[str, int]
    key: str | None = None


class ObjectsView(Protocol):
    """What may be asked about a checkpoint without reading its arrays."""

    def objects(self) -> Sequence[HeldObject]:
        """The objects that held the arrays; the first is the model."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Key → shape, of all arrays."""


@dataclass(frozen=True)
class Described:
    """All that is known of a stored model without reading its arrays.

    Attributes:
        format: the name of its row in the table of formats.
        config: its config; of a SavedModel, what stands around that too.
        keras_version: what the file says wrote it; "" where it does not say.
        backend: the same.
        training_config: how it was compiled, where that stands beside the config.
        training_fault: why that could not be read; None where it could, or is not there.
        groups: what stands beside the layers' weights.
        weights: of a file that keeps arrays by layer.
        checkpoint: of one that keeps them by object.
    """

    format: str
    config: Node
    keras_version: str = ""
    backend: str = ""
    training_config: dict[str, Any] | None = None
    training_fault: FileFault | None = None
    groups: frozenset[str] = frozenset()
    weights: WeightsView | None = None
    checkpoint: ObjectsView | None = None


@dataclass(frozen=True)
class WeightEdit:
    """What to do to the arrays of one top-level layer: a pure function of all of them."""

    layer: str
    transform: Transform


@dataclass(frozen=True)
class StoreEdit:
    """The same for a `.keras`, where each layer's arrays have a group of their own."""

    path: str
    transform: Transform


@dataclass(frozen=True)
class StoreMove:
    """A group of a `.keras` whose name changes, because it counts the classes before it."""

    old: str
    new_name: str


@dataclass(frozen=True)
class Edits:
    """What a copy of a model has otherwise than the file that it is made from.

    Attributes:
        model_config: the config.
        training_config: how it is compiled, where the format keeps that beside the config; None
            for not at all.
        keras_version, backend: what the copy says it was written by.
        renamed: a layer's name → its new one.
        weight_edits: of an `.h5`.
        set_aside: groups beside the layers' weights → their new names.
        store_edits, store_moves: of a `.keras`.
        placed: of a checkpoint: a `.keras` file's group → keys of its arrays, in the layer's order.
    """

    model_config: Node
    training_config: dict[str, Any] | None = None
    keras_version: str = ""
    backend: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    weight_edits: tuple[WeightEdit, ...] = ()
    set_aside: Mapping[str, str] = field(default_factory=dict)
    store_edits: tuple[StoreEdit, ...] = ()
    store_moves: tuple[StoreMove, ...] = ()
    placed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
