"""What modernising gives back: what was done, and what is still to do to the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orthwrap.stores.edits import StoreEdit, StoreMove, WeightEdit

if TYPE_CHECKING:
    pass

Config = dict[str, Any]


@dataclass(frozen=True)
class Upgrade:
    """One rewrite that was used, as the report shows it."""

    name: str
    vintage: str
    layers: tuple[str, ...]
    detail: str = ""

    def to_json(self) -> Config:
        """The report's form."""
        return {"name": self.name, "vintage": self.vintage, "layers": list(self.layers)}


@dataclass(frozen=True)
class Modernised:
    """A model's config in the words of Keras 3, and the edits that its weights still need."""

    model_config: Config
    training_config: Config | None
    upgrades: tuple[Upgrade, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    weight_edits: tuple[WeightEdit, ...] = ()
    needs_orthwrap: tuple[str, ...] = ()
    # Set the optimizer's state aside; see `h5_file.STATE_ASIDE`.
    state_aside: bool = False
    store_edits: tuple[StoreEdit, ...] = ()
    store_moves: tuple[StoreMove, ...] = ()


class Ledger:
    """Collects which rewrite touched which layer, in the order of first use."""

    def __init__(self) -> None:
        # What the whole model is called, whose path is empty.
        self.root = "model"
        self._layers: dict[tuple[str, str], dict[str, None]] = {}
        self._details: dict[tuple[str, str], dict[str, None]] = {}

    def note(self, name: str, vintage: str, layer: str, detail: str = "") -> None:
        """Remember that rewrite `name` was used on `layer`."""
        key = (name, vintage)
        self._layers.setdefault(key, {})[layer or self.root] = None
        details = self._details.setdefault(key, {})
        if detail:
            details[detail] = None

    def upgrades(self) -> tuple[Upgrade, ...]:
        """One record per rewrite."""
        return tuple(
            Upgrade(name, vintage, tuple(layers), "; ".join(self._details[name, vintage]))
            for (name, vintage), layers in self._layers.items()
        )
