"""One checkpoint's file: written, and read as what may come from anybody.

A `.npz` of uncompressed arrays without pickles, and a line of JSON about the run. Each field, type
and size is held against what orthwrap writes before anything is made of it. By hand, because
a run that goes on is to be the same to the bit: its draws, factors, best epoch and place in the
data are what no callback of Keras's keeps.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from orthwrap.errors import FileFault
from orthwrap.stores.regular import ZipSource, held
from orthwrap.stores.replacing import replacing
from orthwrap.text import first_line

Arrays = Mapping[str, Sequence[NDArray[Any]]]

FORMAT = "orthwrap.checkpoint/1"
_GROUPS = ("model", "optimizer", "metrics", "random", "goal")
_KEY = re.compile(rf"({'|'.join(_GROUPS)})\.(0|[1-9][0-9]{{0,8}})")
_UNKNOWN_TO_NUMPY = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
_MOST = 2**32  # epochs, steps, seeds
_LONGEST = 64 << 20  # bytes of the text about a run
_MOST_PARTS = 1_000_000  # lists and objects in it


def write(path: Path, state: Mapping[str, Any], arrays: Arrays) -> None:
    """The file, whole or not at all; an empty state for arrays alone.

    Raises:
        FileFault: it cannot be written, or could not be read again.
    """
    flat: dict[str, NDArray[Any]] = {}
    types: dict[str, str] = {}
    for group, values in arrays.items():
        for i, value in enumerate(values):
            key = f"{group}.{i}"
            if value.dtype.kind == "V" or value.dtype.name in _UNKNOWN_TO_NUMPY:
                types[key] = value.dtype.name
                value = value.view(f"uint{8 * value.dtype.itemsize}")
            flat[key] = value
    text = json.dumps({"format": FORMAT, "state": state, "types": types})
    try:
        _about_in(text)
    except ValueError as e:
        raise FileFault(
            f"checkpoint {path} was not written, as it could not be read again ({first_line(e)})"
        ) from e
    with replacing(path) as sibling, sibling.open("wb") as f:
        members: dict[str, Any] = {"about": np.array(text), **flat}
        np.savez(f, **members)


def read(path: Path, *, with_arrays: bool) -> tuple[dict[str, Any], dict[str, list[NDArray[Any]]]]:
    """The state, and every group's arrays; () of arrays that were not asked for.

    Raises:
        FileFault: it is not as `write` leaves it.
    """
    try:
        if not path.is_file():
            raise ValueError("it is no regular file" if path.exists() else "it is missing")
        with ZipSource(path) as source, zipfile.ZipFile(source) as file:
            source.is_listed = True
            members = _members_of(file, held(path))
            state, types = _about_in(_text(file, members.pop("about", None)))
            arrays = _arrays_of(file, members, types) if with_arrays else {}
        return state, arrays
    except Exception as e:  # zipfile, NumPy and JSON each raise many for what is broken
        raise FileFault(
            f"checkpoint {path} cannot be read ({first_line(e)}): put a sound copy in its place, "
            "or start again in another folder"
        ) from e


# The arrays


def _members_of(file: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in file.infolist():
        name = info.filename.removesuffix(".npy")
        if name in members:
            raise ValueError(f"it holds {name!r} twice")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"its {name!r} is compressed")
        members[name] = info
    if sum(info.file_size for info in members.values()) > size:
        raise ValueError("its arrays are said to be longer than the file")
    return members


def _arrays_of(
    file: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], types: Mapping[str, str]
) -> dict[str, list[NDArray[Any]]]:
    found: dict[str, dict[int, NDArray[Any]]] = {group: {} for group in _GROUPS}
    for name, info in members.items():
        key = _KEY.fullmatch(name)
        if key is None:
            raise ValueError(f"it holds {name!r}, which is no part of a checkpoint")
        array = _array(file, info, "biufc")
        if name in types:
            array = _viewed(array, name, types[name])
        found[key[1]][int(key[2])] = array
    for name in types:
        if name not in members:
            raise ValueError(f"it lacks {name!r}")
    for group, arrays in found.items():
        if sorted(arrays) != list(range(len(arrays))):
            raise ValueError(f"it lacks arrays of {group!r}")
    return {group: [arrays[i] for i in range(len(arrays))] for group, arrays in found.items()}


def _array(file: zipfile.ZipFile, info: zipfile.ZipInfo, kinds: str) -> NDArray[Any]:
    """An array, made only once what it declares is found to be there."""
    with file.open(info) as f:
        version = npy.read_magic(f)
        if version == (1, 0):
            shape, is_fortran, dtype = npy.read_array_header_1_0(f)
        else:
            shape, is_fortran, dtype = npy.read_array_header_2_0(f)
        if dtype.kind not in kinds:
            raise ValueError(f"{info.filename!r} has the type {dtype}, which no variable has")
        declared, held = math.prod(shape) * dtype.itemsize, info.file_size - f.tell()
        if min(shape, default=0) < 0 or declared != held:
            raise ValueError(f"{info.filename!r} declares {declared} bytes and holds {held}")
        data = bytearray(f.read())
    return np.ndarray(shape, dtype, data, order="F" if is_fortran else "C")


def _viewed(array: NDArray[Any], name: str, kind: str) -> NDArray[Any]:
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, kind))  # one of a few names
    if array.dtype != np.dtype(f"uint{8 * dtype.itemsize}"):
        raise ValueError(f"{name!r} is said to be {kind}, and is {array.dtype}")
    return array.view(dtype)


# The text about the run


def _text(file: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> str:
    if info is None:
        raise ValueError("it lacks 'about'")
    if info.file_size > _LONGEST:
        raise ValueError(f"its 'about' is longer than {_LONGEST} bytes")
    array = _array(file, info, "U")
    if array.shape != ():
        raise ValueError(f"its 'about' has the shape {array.shape}")
    return str(array)


def _about_in(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The state, and the types of arrays that NumPy's files do not know.

    Raises:
        ValueError: it is not what orthwrap writes.
    """
    if text.count("{") + text.count("[") > _MOST_PARTS:
        raise ValueError(f"its 'about' has more than {_MOST_PARTS} parts")
    try:
        about = json.loads(text)
    except RecursionError as e:
        raise ValueError("its 'about' is nested too deeply") from e
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else type(about).__name__
        raise ValueError(f"its format is {found!r:.80}, not {FORMAT!r}")
    state, types = about.get("state"), about.get("types")
    if not isinstance(types, dict) or not all(v in _UNKNOWN_TO_NUMPY for v in types.values()):
        raise ValueError(f"its types are {types!r:.80}")
    if not isinstance(state, dict):
        raise ValueError(f"its state is {state!r:.80}")
    if state:
        _check_state(state)
    return state, types


def _check_state(state: Mapping[str, Any]) -> None:
    for name, is_sound in _FIELDS.items():
        if name not in state and name != "goal":  # which earlier versions did not write
            raise ValueError(f"its state lacks {name!r}")
        if name in state and not is_sound(state[name]):
            raise ValueError(f"its {name} is {state[name]!r:.80}")
    unknown = [name for name in state if name not in _FIELDS]
    if unknown:
        raise ValueError(f"its state has a field {unknown[0]!r:.80}, which orthwrap does not write")
    epoch, best = state["epoch"], state["best"]
    if best is not None and not 1 <= best[0] <= epoch:
        raise ValueError(f"its best epoch is {best[0]} of {epoch}")
    for name, values in state["history"].items():
        if len(values) > epoch:
            raise ValueError(f"its history has {len(values)} values of {name!r:.80}, not {epoch}")


def _is_whole(value: Any, most: int = _MOST) -> bool:
    return type(value) is int and 0 <= value < most


def _is_figure(value: Any) -> bool:
    """A figure of a metric may be NaN."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _is_history(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(values, list) and all(map(_is_figure, values)) for values in value.values()
    )


def _is_regularizer(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) not in ({"factor"}, {"factor", "seed", "count"}):
        return False
    factor, rest = value["factor"], (value.get("seed", 0), value.get("count", 0))
    is_factor = _is_figure(factor) and math.isfinite(factor) and factor >= 0
    return is_factor and all(_is_whole(v, 2**31) for v in rest)


def _is_best(value: Any) -> bool:
    if value is None:
        return True
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    return is_pair and _is_whole(value[0]) and _is_figure(value[1]) and math.isfinite(value[1])


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "epoch": _is_whole,
    "step": _is_whole,
    "seed": _is_whole,
    "run": lambda value: isinstance(value, dict),
    "history": _is_history,
    "regularizers": lambda value: isinstance(value, list) and all(map(_is_regularizer, value)),
    "best": _is_best,
    "goal": lambda value: value is None or isinstance(value, dict),
}
