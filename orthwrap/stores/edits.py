"""What is to be done to a file's arrays, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

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
