"""The state of one modernising run, and a layer's node while it is being rewritten."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from orthwrap.errors import FileFault
from orthwrap.model_config.tree import class_of
from orthwrap.stores.edits import StoreEdit, StoreMove, Transform, WeightsView
from orthwrap.upgrades.ledger import Config, Ledger

# Deeper nesting than any model needs; beyond it, Python's own recursion would give out.
MAX_DEPTH = 40


def parse_version(text: str) -> tuple[int, int]:
    """(major, minor) of '2.2.4-tf' and the like; (0, 0) where the file does not say."""
    found = re.match(r"\s*(\d{1,4})(?:\.(\d{1,4}))?", text)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


@dataclass
class Rewriting:
    """What every rewrite may know about the file, and where it notes what it did."""

    version: tuple[int, int]
    backend: str
    weights: WeightsView | None
    ledger: Ledger = field(default_factory=Ledger)
    renamed: dict[str, str] = field(default_factory=dict)
    needs: dict[str, None] = field(default_factory=dict)
    store_edits: list[StoreEdit] = field(default_factory=list)
    store_moves: list[StoreMove] = field(default_factory=list)


@dataclass
class OldLayer:
    """A layer's node under rewriting: `node` belongs to the copy, so it may be changed."""

    node: Config
    path: str
    run: Rewriting
    # The top-level layer that holds it in the file, by the file's own name.
    group: str = ""
    transforms: list[Transform] = field(default_factory=list)

    @property
    def class_name(self) -> str:
        """The class without its package."""
        return class_of(self.node)

    @class_name.setter
    def class_name(self, name: str) -> None:
        self.node["class_name"] = name

    @property
    def config(self) -> Config:
        """The layer's own arguments."""
        return config_of(self.node, self.path)

    def note(self, name: str, vintage: str, detail: str = "") -> None:
        """Remember that a rewrite was used here."""
        self.run.ledger.note(name, vintage, self.path, detail)

    def fault(self, found: str, advice: str) -> FileFault:
        """The one-line error of a layer that cannot be brought to Keras 3."""
        return FileFault(f"layer {self.path!r} ({self.class_name}): {found}; {advice}")


def config_of(node: Config, path: str) -> Config:
    """A node's config, which must be a dict."""
    config = node.get("config")
    if not isinstance(config, dict):
        raise FileFault(
            f"layer {path!r} ({class_of(node) or 'no class'}): expected a config of named "
            f"arguments, found {type(config).__name__}; the file is broken or not a Keras model"
        )
    return config


def name_set(text: str) -> frozenset[str]:
    """A set of names, written as prose."""
    return frozenset(text.split())


def is_layer_node(value: Any) -> bool:
    """Whether a value has the form of a serialized layer."""
    return isinstance(value, dict) and isinstance(value.get("class_name"), str)
