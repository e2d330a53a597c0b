"""A model made for the purpose: a config tree, with kernels by path. No file, no Keras."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from orthwrap.model_config.layers import KernelSpec
from orthwrap.model_config.tree import Layer, walk
from orthwrap.stores.store import ModelRecord, Unclaimed, WeightRef


class DictStore:
    """A store over a config tree, whose kernels are given by path."""

    def __init__(self, root: dict, kernels: dict[str, Any]) -> None:
        self.root, self._kernels = root, kernels
        self.record = ModelRecord(None, "memory", None, 0)

    def layers(self) -> tuple[Layer, ...]:
        return walk(self.root)

    def weights(self, layer: Layer, specs: Sequence[KernelSpec]) -> list[WeightRef | None]:
        found = []
        for spec in specs:
            array = self._kernels.get(f"{layer.path}:{spec.name}", self._kernels.get(layer.path))
            found.append(
                None if array is None else WeightRef(array.shape, lambda a=array: a, id(array))
            )
        return found

    def unclaimed(self, layers: Sequence[Layer], specified: Container[str]) -> list[Unclaimed]:
        return []

    def close(self) -> None: ...


def node(cls: str, name: str, **config: object) -> dict:
    base = {"name": name, "trainable": True, "kernel_regularizer": None}
    return {"class_name": cls, "config": {**base, **config}}


def store(*layers: dict, **kernels: Any) -> DictStore:
    root = {"class_name": "Functional", "config": {"name": "m", "layers": list(layers)}}
    return DictStore(root, kernels)
