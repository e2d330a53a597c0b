"""What every store offers."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from orthwrap.model_config.layers import KernelSpec
from orthwrap.model_config.tree import Layer, Node

T = TypeVar("T")


class Known:
    """What was computed before; of two threads that ask for the same, one waits for the other."""

    def __init__(self) -> None:
        self._found: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def get(self, what: Any, compute: Callable[[], T]) -> T:
        with self._lock:
            if what not in self._found:
                self._found[what] = compute()
            return self._found[what]  # type: ignore[no-any-return]  # of this compute


@dataclass(frozen=True)
class WeightRef:
    """A weight that was found: its shape now, its values when asked for.

    Attributes:
        shape: as stored.
        read: the values, in a NumPy float dtype.
        key: equal for two references to the same stored array.
        slices: something with a shape that reads only what it is indexed with; None where the
            array is in memory anyway, or is better read as a whole.
        known: what was computed of the values, where they cannot change.
        candidates: all that could be meant, where that is more than one.
        is_known: it is known which of those; else this is the first of them.
    """

    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]
    key: Any
    slices: Any = None
    known: Known | None = None
    candidates: tuple[WeightRef, ...] = ()
    is_known: bool = True

    @property
    def doubt(self) -> str:
        """Why it is not sure to be the kernel; "" where it is."""
        if not self.candidates:
            return ""
        return f"{len(self.candidates)} weights could be its kernel, and a file need not say which"

    def array(self) -> Any:
        """What can be indexed like the array, without all of it being read where that is so."""
        return self.read() if self.slices is None else self.slices

    def once(self, what: Any, compute: Callable[[], T]) -> T:
        """What is computed of the values: once, however many layers have the weight."""
        return compute() if self.known is None else self.known.get(what, compute)


@dataclass
class Unclaimed:
    """What a layer of others, or the model, holds that no layer of the config accounts for.

    Attributes:
        layer: None for the model itself.
        parameters: of all these weights.
        has_matrix: one of them has two axes or more, so that it could be a kernel.
        is_own: they are the layer's own, not those of layers within it.
    """

    layer: Layer | None
    parameters: int = 0
    has_matrix: bool = False
    is_own: bool = True

    def add(self, shape: Sequence[int], *, is_own: bool) -> None:
        self.parameters += math.prod(shape)
        self.has_matrix |= len(shape) >= 2
        self.is_own &= is_own


def likely_kernel(named: WeightRef | None, own: Sequence[WeightRef]) -> WeightRef | None:
    """The kernel of a layer whose class is not known: its one weight of two axes and more.

    Args:
        named: the weight that is called so, where names are known.
        own: all float weights that belong to the layer itself.
    """
    matrices = [w for w in own if len(w.shape) >= 2]
    if len(matrices) < 2:
        return named if named is not None else next(iter(matrices), None)
    return replace(named or matrices[0], candidates=tuple(matrices), is_known=named is not None)


class Store(Protocol):
    """A model's config tree and named weights."""

    root: Node
    record: ModelRecord

    def layers(self) -> tuple[Layer, ...]:
        """Every layer, in the config's order."""
        ...

    def weights(self, layer: Layer, specs: Sequence[KernelSpec]) -> list[WeightRef | None]:
        """The weights of a layer, one for each spec; None where one cannot be found."""
        ...

    def unclaimed(self, layers: Sequence[Layer], specified: Container[str]) -> list[Unclaimed]:
        """The weights that belong to none of the layers, by who holds them.

        Args:
            layers: from `layers`.
            specified: paths of layers whose own weights are known.
        """
        ...

    def close(self) -> None:
        """Lets go of the file."""
        ...


class FileStore(Store, Protocol):
    """A store that reads a file, and writes copies of it.

    Attributes:
        format: the name of its row in the table of formats.
        path: of the file.
        old_names: a layer's name → the one that modernising took, which rules may still use.
    """

    format: str
    path: Path
    old_names: Mapping[str, str]

    def write(self, target: Path, root: Node) -> None:
        """A copy of the file in which only the config differs."""
        ...

    def check_copy(self, target: Path, root: Node) -> None:
        """FileFault unless the copy just written reads back as it should."""
        ...


def as_float(array: Any) -> NDArray[Any]:
    """float16 and bfloat16 widen to float32, everything else stays."""
    values = np.asarray(array)
    if values.dtype == np.float16 or values.dtype.name == "bfloat16":
        return values.astype(np.float32)
    return values


@dataclass(frozen=True)
class ModelRecord:
    """The model a report speaks of."""

    path: str | None
    format: str
    keras_version: str | None
    parameters: int
