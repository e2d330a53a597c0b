"""`.npz` files → arrays in the shape a model takes. NumPy alone; Keras is not needed to check."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orthwrap.errors import FileFault, ValueFault

Array = NDArray[Any]


@dataclass(frozen=True)
class Port:
    """One input or output of a model: its name, and its shape without the batch."""

    name: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Data:
    """Training and validation arrays, one per input and output of the model.

    Attributes:
        x, y: in the order of the model's inputs and outputs; the first axis is the sample.
        x_val, y_val: the same for validation, or None.
    """

    x: tuple[Array, ...]
    y: tuple[Array, ...]
    x_val: tuple[Array, ...] | None
    y_val: tuple[Array, ...] | None

    @property
    def samples(self) -> int:
        return len(self.x[0])

    @property
    def validation_samples(self) -> int:
        return 0 if self.x_val is None else len(self.x_val[0])

    def describe(self) -> str:
        """The shapes in one line."""
        shapes = ", ".join(
            f"{part} {'×'.join(map(str, a.shape))} {a.dtype}"
            for part, arrays in (("x", self.x), ("y", self.y))
            for a in arrays
        )
        extra = f"; {self.validation_samples} more to validate" if self.x_val is not None else ""
        return f"{shapes}{extra}"


def load(source: Any, inputs: Sequence[Port], outputs: Sequence[Port]) -> Data:
    """The arrays of a source, checked against the model.

    Args:
        source: the path of a `.npz`, or a mapping from key to array. Keys: `x`, `y`, optionally
            `x_val`, `y_val`. A model of several inputs has one key per input name, or `x0, x1, …`;
            outputs likewise with `y0, y1, …`; validation keys end in `_val`.
        inputs, outputs: of the model.

    Raises:
        FileFault: the file is missing or no `.npz`.
        ValueFault: a key is missing, or a shape does not fit; both shapes are named.
    """
    arrays, where = _arrays(source)
    x = _collect(arrays, "x", inputs, "", where)
    y = _collect(arrays, "y", outputs, "", where)
    x_val = y_val = None
    if any(key.endswith("_val") for key in arrays):
        x_val = _collect(arrays, "x", inputs, "_val", where)
        y_val = _collect(arrays, "y", outputs, "_val", where)
    for arrays_of_part in ((*x, *y), (*(x_val or ()), *(y_val or ()))):
        lengths = {len(a) for a in arrays_of_part}
        if len(lengths) > 1:
            raise ValueFault(
                f"{where} has arrays of {' and '.join(map(str, sorted(lengths)))} samples: "
                "x and y must have as many"
            )
    for key, samples in (("x", x), ("x_val", x_val)):
        if samples is not None and not len(samples[0]):
            raise ValueFault(f"{where} has no samples: {key} is empty")
    return Data(x, y, x_val, y_val)


def _arrays(source: Any) -> tuple[Mapping[str, Array], str]:
    if isinstance(source, Mapping):
        return {str(k): _array(str(k), v) for k, v in source.items()}, "data"
    if isinstance(source, (tuple, list)) and len(source) in (2, 4):
        keys = ("x", "y", "x_val", "y_val")
        return {k: _array(k, v) for k, v in zip(keys, source, strict=False)}, "data"
    if not isinstance(source, (str, os.PathLike)):
        raise ValueFault(
            f"data must be the path of a .npz, a mapping or (x, y); got {type(source).__name__}"
        )
    path = Path(source)
    if path.is_dir():
        raise FileFault(f"{path} is a folder: data must be a .npz file with x and y")
    if not path.exists():
        raise FileFault(f"data file {path} does not exist: give a .npz with x and y")
    try:
        with path.open("rb") as f:  # NumPy does not close a file that it cannot read
            file = np.load(f, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise FileFault(f"{path} holds a single array: save x and y with np.savez")
            return {key: file[key] for key in file.files}, str(path)
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError) as e:
        first = (str(e).splitlines() or [""])[0]
        raise FileFault(
            f"{path} is not a .npz of plain arrays ({first}): save x and y with np.savez"
        ) from e


def _array(key: str, value: Any) -> Array:
    try:
        return np.asarray(value)
    except ValueError as e:
        raise ValueFault(f"data: {key} is no array ({e}): give samples of one shape") from e


def _collect(
    arrays: Mapping[str, Array], letter: str, ports: Sequence[Port], suffix: str, where: str
) -> tuple[Array, ...]:
    choices = [
        [p.name + suffix for p in ports],
        [f"{letter}{i}{suffix}" for i in range(len(ports))],
    ]
    if len(ports) == 1:
        choices.insert(0, [letter + suffix])
    keys = next((c for c in choices if all(k in arrays for k in c)), None)
    if keys is None:
        wanted = " or ".join(", ".join(c) for c in choices)
        raise ValueFault(f"{where} has the keys {', '.join(arrays) or '(none)'}; expected {wanted}")
    found = tuple(arrays[k] for k in keys)
    if letter == "x":
        for key, array, port in zip(keys, found, ports, strict=True):
            _check_shape(key, array, port, where)
    for key, array in zip(keys, found, strict=True):
        if array.ndim == 0 or array.dtype.kind not in "biuf":
            raise ValueFault(
                f"{where}: {key} is a {array.dtype} array of shape {array.shape}; "
                "expected numbers with the samples along the first axis"
            )
    return found


def _check_shape(key: str, array: Array, port: Port, where: str) -> None:
    got = array.shape[1:]
    fits = len(got) == len(port.shape) and all(
        want in (None, have) for want, have in zip(port.shape, got, strict=True)
    )
    if not fits:
        wanted = "×".join("?" if d is None else str(d) for d in port.shape)
        raise ValueFault(
            f"{where}: {key} has samples of shape {'×'.join(map(str, got)) or '()'}; "
            f"input {port.name!r} of the model takes {wanted or '()'}"
        )
