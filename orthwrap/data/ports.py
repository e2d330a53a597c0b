"""What a model takes and gives, as data is checked against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orthwrap.errors import ValueFault

Array = NDArray[Any]

_BLOCK = 2**24  # bytes that are looked at at once


@dataclass(frozen=True)
class Port:
    """One input or output of a model: its name, and its shape without the batch."""

    name: str
    shape: tuple[int | None, ...]


class NotFinite(NamedTuple):
    """Samples whose x holds NaN or infinity.

    Attributes:
        samples: how many, of those that were looked at.
        first: the number of the first in the arrays, from 0; in a stream, in its first batch.
        x: the first of them, as a batch of one.
    """

    samples: int
    first: int
    x: tuple[Array, ...]


def not_finite(arrays: Sequence[Array], rows: Array | None = None) -> NotFinite | None:
    """Which rows of arrays hold NaN or infinity, looked for block by block; None for none.

    Args:
        rows: those that count; None for all.
    """
    odd = np.zeros(len(arrays[0]), bool)
    for array in arrays:
        if array.dtype.kind != "f":
            continue
        step = max(1, _BLOCK * len(array) // max(1, array.nbytes))
        for start in range(0, len(array), step):
            block = array[start : start + step]
            is_finite = np.isfinite(block)
            if not is_finite.all():
                odd[start : start + step] |= ~is_finite.reshape(len(block), -1).all(axis=1)
    numbers = np.flatnonzero(odd) if rows is None else np.sort(rows[odd[rows]])
    if not numbers.size:
        return None
    first = int(numbers[0])
    return NotFinite(len(numbers), first, tuple(a[first : first + 1] for a in arrays))


def check_input(key: str, array: Array, port: Port, where: str) -> None:
    """The samples of an array against the input that they go to.

    Raises:
        ValueFault: they do not fit; both shapes are named.
    """
    got = array.shape[1:]
    fits = len(got) == len(port.shape) and all(
        want in (None, have) for want, have in zip(port.shape, got, strict=True)
    )
    if not fits:
        raise ValueFault(
            f"{where}: {key} has samples of shape {shape_text(got) or '()'}; "
            f"input {port.name!r} of the model takes {shape_text(port.shape) or '()'}"
        )


def check_numbers(key: str, array: Array, where: str) -> None:
    """Raises ValueFault for text, objects, complex numbers and scalars."""
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise ValueFault(
            f"{where}: {key} is a {array.dtype} array of shape {array.shape}; "
            "expected numbers with the samples along the first axis"
        )


def check_lengths(where: str, x: Sequence[Array], y: Sequence[Array], suffix: str = "") -> None:
    """Raises ValueFault where not all arrays have as many samples; says which have how many."""
    several = [
        (name + suffix, len(array))
        for letter, arrays in (("x", x), ("y", y))
        for name, array in zip(numbered(letter, len(arrays)), arrays, strict=True)
    ]
    if len({length for _, length in several}) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in several)
        raise ValueFault(f"{where}: {found} samples: x and y must have as many")


def shape_text(shape: Sequence[int | None]) -> str:
    """A shape as `3×?`."""
    return "×".join("?" if d is None else str(d) for d in shape)


def numbered(part: str, count: int) -> list[str]:
    """Names of so many arrays: `x` of one, `x0`, `x1` of two."""
    return [f"{part}{i if count > 1 else ''}" for i in range(count)]


def shapes(part: str, arrays: Sequence[Array], samples: int) -> str:
    """So many samples of arrays as `x0 6×4 float32, x1 6×9 uint8`."""
    return ", ".join(
        f"{name} {shape_text((samples, *a.shape[1:]))} {a.dtype}"
        for name, a in zip(numbered(part, len(arrays)), arrays, strict=True)
    )


def as_model_takes(parts: Sequence[Any]) -> Any:
    """One tensor alone, several as a tuple: tf.data would stack a list."""
    return parts[0] if len(parts) == 1 else tuple(parts)


def trained_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which Keras gets an array: floats in its own, others as they are."""
    import keras

    return np.dtype(keras.config.floatx()) if dtype.kind == "f" else dtype
