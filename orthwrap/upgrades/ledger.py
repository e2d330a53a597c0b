"""What modernising gives back: what was done, and what is still to do to the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orthwrap.stores.edits import Edits

Config = dict[str, Any]

# What an upgraded file says of itself, so that it is not upgraded again: any Keras 3 reads it.
TARGET_VERSION = "3.0.0"


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
class Modernised(Edits):
    """A model's config in the words of Keras 3, and the edits that its weights still need.

    There is nothing to do where `upgrades` is empty.
    """

    keras_version: str = TARGET_VERSION
    # Kernels that Theano had turned are turned back.
    backend: str = "tensorflow"
    upgrades: tuple[Upgrade, ...] = ()
    needs_orthwrap: tuple[str, ...] = ()


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
