"""Where a `.keras` file keeps a layer's arrays: groups named after classes, counted in order.

Keras 2.12 to 2.15 and Keras 3 walk a model's layers and name each group after the class, with a
number from the second on: `layers/dense`, `layers/dense_1`; layers inside layers are below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from orthwrap.upgrades.arrays.weights import GATES


def snake_case(name: str) -> str:
    """Conv2DTranspose → conv2d_transpose."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


@dataclass
class Names:
    """Group names of one container, given out in order."""

    used: dict[str, int] = field(default_factory=dict)

    def next(self, class_name: str) -> str:
        """The name of the next layer's group."""
        name = snake_case(class_name)
        number = self.used.get(name, -1) + 1
        self.used[name] = number
        return f"{name}_{number}" if number else name


def of_inner(
    class_name: str, key: str, stores: tuple[str, ...], names: Names, inner: str, only: bool
) -> tuple[str, ...]:
    """Groups of a layer inside a layer; Bidirectional keeps its one layer twice."""
    return tuple(_inner(class_name, key, stores, names, inner, only))


def _inner(
    class_name: str, key: str, stores: tuple[str, ...], names: Names, inner: str, only: bool
) -> Iterator[str]:
    name = names.next(inner) if key == "cells" else ""
    for store in stores:
        if class_name == "Bidirectional":
            if key == "layer":
                yield f"{store}/forward_layer"
            if key == "backward_layer" or only:
                yield f"{store}/backward_layer"
        elif key == "cells":
            yield f"{store}/cells/{name}"
        else:
            yield f"{store}/{key}"


def of_arrays(class_name: str, stores: tuple[str, ...]) -> tuple[str, ...]:
    """Groups that hold the arrays themselves: a recurrent layer's are its cell's."""
    if class_name in GATES and not class_name.endswith("Cell"):
        return tuple(f"{store}/cell" for store in stores)
    return stores
