"""Arrays, from a `.npz` or from memory, by the names of a model's inputs and outputs."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orthwrap.data.ports import (
    Array,
    NotFinite,
    Port,
    as_model_takes,
    check_input,
    check_lengths,
    check_numbers,
    not_finite,
    shapes,
    trained_dtype,
)
from orthwrap.errors import FileFault, OrthwrapError, ValueFault
from orthwrap.stores.regular import ZipSource, held
from orthwrap.text import first_line

KINDS = (
    "the path of a .npz or of a folder of images, package.module:function, arrays (x, y), a "
    "mapping, a tf.data.Dataset, a PyDataset, a DataLoader, or a function that returns one of these"
)


_FLOOR = 1 << 30  # bytes that any .npz may unpack to
_SWELLING = 100  # how many times its size a larger one may; np.savez does not compress at all
_ZIP, _NPY = b"PK", b"\x93NUMPY"  # how files of NumPy begin


class Found(NamedTuple):
    """Arrays in the order of the model's inputs and outputs; y is () without labels."""

    x: tuple[Array, ...]
    y: tuple[Array, ...]
    x_val: tuple[Array, ...] | None
    y_val: tuple[Array, ...] | None


@dataclass(frozen=True)
class ArrayRows:
    """Arrays that are taken row by row, never copied whole."""

    arrays: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.arrays[0])

    def describe(self, samples: int) -> str:
        return shapes("x", self.arrays, samples)

    def batches(self, rows: Any, batch_size: int) -> Any:
        import tensorflow as tf

        numbers = tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)
        return numbers.map(gatherer(self.arrays))

    def read(self, rows: Array) -> Any:
        return as_model_takes(rows_of(self.arrays, rows))

    def not_finite(self, rows: Array | None) -> NotFinite | None:
        return not_finite(self.arrays, rows)

    def explain(self, error: BaseException) -> OrthwrapError | None:
        return None


def rows_of(arrays: Sequence[Array], rows: Array) -> list[Array]:
    """Those rows of each array, as they are trained on."""
    return [a[rows].astype(trained_dtype(a.dtype), copy=False) for a in arrays]


def gatherer(arrays: Sequence[Array]) -> Callable[[Any], Any]:
    """A tf.data function from row numbers to those rows of each array.

    NumPy takes the rows: TensorFlow would first make a tensor of the whole array, on the GPU if
    there is one.
    """
    import tensorflow as tf

    dtypes = [trained_dtype(a.dtype) for a in arrays]

    def gather(numbers: Any) -> Any:
        found = tf.numpy_function(
            functools.partial(rows_of, arrays), [numbers], dtypes, stateful=False
        )
        for part, array in zip(found, arrays, strict=True):
            part.set_shape((numbers.shape[0], *array.shape[1:]))
        return as_model_takes(found)

    return tf.autograph.experimental.do_not_convert(gather)  # type: ignore[no-any-return]


def find_arrays(
    source: Any, inputs: Sequence[Port], outputs: Sequence[Port], labelled: bool
) -> Found:
    """The arrays of a source, checked against the model.

    Args:
        source: the path of a `.npz`, a mapping from key to array, `(x, y)` or
            `(x, y, x_val, y_val)`. Keys: `x`, `y`, optionally `x_val`, `y_val`. A model of several
            inputs has one key per input name, or `x0, x1, …`; outputs likewise with `y0, y1, …`;
            validation keys end in `_val`. Only the members that are needed are read.
        inputs, outputs: of the model.
        labelled: whether y is needed; else it is left alone.

    Raises:
        FileFault: the file is missing or no `.npz`.
        ValueFault: a key is missing, or a shape does not fit; both shapes are named.
    """
    with _opened(source) as (keys, read, where):

        def collect(letter: str, suffix: str) -> tuple[Array, ...]:
            ports = inputs if letter == "x" else outputs
            return _collect(keys, read, letter, ports, suffix, where)

        x = collect("x", "")
        y = collect("y", "") if labelled else ()
        x_val = y_val = None
        names = {port.name for port in (*inputs, *outputs)}  # which may end so themselves
        if any(key.endswith("_val") for key in keys if key not in names):
            x_val = collect("x", "_val")
            y_val = collect("y", "_val") if labelled else ()
    check_lengths(where, x, y)
    check_lengths(where, x_val or (), y_val or (), "_val")
    for key, samples in (("x", x), ("x_val", x_val)):
        if samples is not None and not len(samples[0]):
            raise ValueFault(f"{where} has no samples: {key} is empty")
    return Found(x, y, x_val, y_val)


@contextlib.contextmanager
def _opened(source: Any) -> Iterator[tuple[list[str], Callable[[str], Array], str]]:
    """The keys of a source, what reads one, and what to call the source."""
    if isinstance(source, (tuple, list)) and len(source) in (2, 4):
        source = dict(zip(("x", "y", "x_val", "y_val"), source, strict=False))
    if isinstance(source, Mapping):
        given = {str(key): value for key, value in source.items()}
        yield list(given), lambda key: _array(key, given[key]), "data"
        return
    if not isinstance(source, (str, os.PathLike)):
        raise ValueFault(f"data must be {KINDS}; got {_what(source)}")
    path = Path(source)
    if not path.exists():
        raise FileFault(
            f"data {path} does not exist: give a .npz with x and y, a folder of images, or "
            "module:function"
        )
    with contextlib.ExitStack() as stack:
        with _plain(path):
            # NumPy does not close a file that it cannot read.
            file = _load(path, stack.enter_context(ZipSource(path)))

        def read(key: str) -> Array:
            with _plain(path):
                return np.asarray(file[key])

        yield list(file.files), read, str(path)


def _load(path: Path, source: ZipSource) -> Any:
    """The members of a `.npz`, none of them read yet."""
    start = source.read(len(_NPY))
    if start.startswith(_NPY):
        raise FileFault(f"{path} holds a single array: save x and y with np.savez")
    if not start.startswith(_ZIP):
        # NumPy would take it for pickled objects, and say how to run them.
        raise FileFault(
            f"{path} is no .npz file: give a .npz with x and y (np.savez), a folder of "
            "images, or module:function"
        )
    source.seek(0)
    file = np.load(source, allow_pickle=False)
    source.is_listed = True
    size, on_disk = sum(i.file_size for i in file.zip.infolist()), held(path)
    if size > max(_FLOOR, _SWELLING * on_disk):
        raise FileFault(
            f"{path} of {on_disk} bytes would unpack to {size}: it is broken or made to exhaust "
            "memory; where the data is so, save it with np.savez, which does not compress"
        )
    return file


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[None]:
    """Whatever a broken or hostile `.npz` makes NumPy raise is said in one line."""
    try:
        yield
    except OrthwrapError:
        raise
    except MemoryError as e:
        raise FileFault(f"{path} declares arrays that do not fit into memory ({e})") from e
    except Exception as e:  # of zipfile, zlib, lzma, ast and NumPy, each with its own
        first = first_line(e)
        if "allow_pickle" in first:
            first = "it holds objects"
        raise FileFault(
            f"{path} is not a .npz of plain arrays ({first}): save x and y with np.savez"
        ) from e


def _what(source: Any) -> str:
    """What was given, in a few words."""
    kind = type(source).__name__
    if isinstance(source, (tuple, list)):
        return f"a {kind} of {len(source)}"
    return "a single array" if isinstance(source, np.ndarray) else kind


def _array(key: str, value: Any) -> Array:
    try:
        return np.asarray(value)
    except ValueError as e:
        raise ValueFault(f"data: {key} is no array ({e}): give samples of one shape") from e


def _collect(
    keys: Sequence[str],
    read: Callable[[str], Array],
    letter: str,
    ports: Sequence[Port],
    suffix: str,
    where: str,
) -> tuple[Array, ...]:
    choices = [
        [p.name + suffix for p in ports],
        [f"{letter}{i}{suffix}" for i in range(len(ports))],
    ]
    if len(ports) == 1:
        choices.insert(0, [letter + suffix])
    chosen = next((c for c in choices if all(k in keys for k in c)), None)
    if chosen is None:
        wanted = " or ".join(", ".join(c) for c in choices)
        hint = "; without labels, distill" if letter == "y" and not suffix else ""
        raise ValueFault(
            f"{where} has the keys {', '.join(keys) or '(none)'}; expected {wanted}{hint}"
        )
    found = tuple(read(k) for k in chosen)
    if letter == "x":
        for key, array, port in zip(chosen, found, ports, strict=True):
            check_input(key, array, port, where)
    for key, array in zip(chosen, found, strict=True):
        check_numbers(key, array, where)
    return found
