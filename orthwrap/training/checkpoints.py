"""Checkpoints: all that a run needs to go on, each in one file that is whole or not there.

A checkpoint is a `.npz`: every variable of the model, its optimizer and its metrics as it stands,
bit for bit, and a line of JSON about the run. NumPy alone; Keras is not needed.
"""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orthwrap.errors import FileFault, ValueFault, first_line
from orthwrap.stores.replacing import replacing

Arrays = Mapping[str, Sequence[NDArray[Any]]]

_NAME = re.compile(r"checkpoint-(\d{8})\.npz")
_FORMAT = "orthwrap.checkpoint/1"


@dataclass(frozen=True)
class State:
    """Where a run stands.

    Attributes:
        epoch: epochs that are done.
        step: steps that are done in the epoch after them; 0 between two epochs.
        seed: what the order of samples and all that is random is drawn from.
        run: what may not change from one part of a run to the next, in words: the model, the data,
            the batch size, ….
        history: the figures of each epoch so far.
        regularizers: of each regularizer its factor before any schedule, and what its random
            draws go on from.
        best: the best epoch so far and its figure; None where there is none.
    """

    epoch: int
    step: int
    seed: int
    run: Mapping[str, Any]
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    regularizers: Sequence[Mapping[str, Any]] = ()
    best: tuple[int, float] | None = None

    @property
    def place(self) -> str:
        """In words."""
        if self.step:
            return f"in epoch {self.epoch + 1}, after step {self.step}"
        return f"after epoch {self.epoch}"


class Folder:
    """The checkpoints of one run: the last one, and the weights of its best epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, *, resume: bool) -> State | None:
        """Makes the folder; what the last checkpoint says of its run where one is gone on with.

        Raises:
            FileFault: the folder cannot be made, holds the checkpoints of another run, or a
                checkpoint that cannot be read.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileFault(f"{self.path} is a file: --checkpoint-dir takes a folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise FileFault(f"cannot make folder {self.path}: {e.strerror}") from e
        last = self._last()
        if last is None:
            return None
        if not resume:
            raise FileFault(
                f"{self.path} holds checkpoints of an earlier run: go on from them with --resume, "
                "or give another folder"
            )
        return _read_state(last)

    def write(self, state: State, arrays: Arrays, best: Arrays | None = None) -> None:
        """One more checkpoint; those before it are removed once it is on the disk.

        `best` are the weights of a new best epoch.
        """
        if best is not None and state.best is not None:
            _write(self._best(state.best[0]), {}, best)
        number = 1 + max((_number(p) for p in self._all()), default=0)
        _write(self.path / f"checkpoint-{number:08}.npz", asdict(state), arrays)
        keep = {f"checkpoint-{number:08}.npz"}
        if state.best is not None:
            keep.add(self._best(state.best[0]).name)
        for old in [*self._all(), *self.path.glob("best-*.npz")]:
            if old.name not in keep:
                with contextlib.suppress(OSError):
                    old.unlink()

    def read(self) -> dict[str, list[NDArray[Any]]]:
        """The variables of the last checkpoint."""
        last = self._last()
        assert last is not None  # its state was read before
        return _read_arrays(last)

    def read_best(self, epoch: int) -> dict[str, list[NDArray[Any]]]:
        """The variables of the best epoch."""
        return _read_arrays(self._best(epoch))

    def _best(self, epoch: int) -> Path:
        return self.path / f"best-{epoch:08}.npz"

    def _all(self) -> list[Path]:
        return [p for p in self.path.iterdir() if _NAME.fullmatch(p.name)]

    def _last(self) -> Path | None:
        return max(self._all(), key=_number, default=None)


def check_same_run(state: State, run: Mapping[str, Any], folder: Path) -> None:
    """ValueFault where a checkpoint is that of another run."""
    for key, value in run.items():
        before = state.run.get(key)
        if before != json.loads(json.dumps(value)):
            raise ValueFault(
                f"the checkpoint in {folder} is of a run with {key} {before}; this one has "
                f"{value}: go on with the same, or give another folder"
            )


def fingerprint(arrays: Sequence[NDArray[Any]]) -> str:
    """What tells two models or data sets apart."""
    check = 0
    for array in arrays:
        check = zlib.crc32(repr((array.shape, array.dtype.str)).encode(), check)
        check = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data, check)
    return f"{check:08x}"


def checksum(value: Any) -> str:
    """What tells two values apart by what they print."""
    return f"{zlib.crc32(repr(value).encode()):08x}"


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else 0


def _write(path: Path, state: Mapping[str, Any], arrays: Arrays) -> None:
    flat: dict[str, NDArray[Any]] = {}
    types: dict[str, str] = {}
    for group, values in arrays.items():
        for i, value in enumerate(values):
            key = f"{group}.{i}"
            if value.dtype.kind == "V" or value.dtype.name in ("bfloat16", "float8_e4m3fn"):
                types[key] = value.dtype.name  # NumPy's files do not know these types
                value = value.view(f"uint{8 * value.dtype.itemsize}")
            flat[key] = value
    text = json.dumps({"format": _FORMAT, "state": state, "types": types})
    with replacing(path) as sibling, sibling.open("wb") as f:
        np.savez(f, allow_pickle=False, about=np.array(text), **flat)


def _read(path: Path, *, with_arrays: bool) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    try:
        with path.open("rb") as f, np.load(f, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["format"] != _FORMAT:
                raise ValueError(f"its format is {about['format']}")
            keys = [k for k in file.files if k != "about"] if with_arrays else []
            return about, {key: file[key] for key in keys}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as e:
        raise FileFault(
            f"checkpoint {path} cannot be read ({first_line(e)}): remove it and start again"
        ) from e


def _read_state(path: Path) -> State:
    state = _read(path, with_arrays=False)[0]["state"]
    best = state.pop("best")
    return State(**state, best=None if best is None else (best[0], best[1]))


def _read_arrays(path: Path) -> dict[str, list[NDArray[Any]]]:
    about, flat = _read(path, with_arrays=True)
    groups: dict[str, list[NDArray[Any]]] = {}
    for key, value in flat.items():
        if key in about["types"]:
            value = value.view(np.dtype(about["types"][key]))
        groups.setdefault(key.partition(".")[0], []).append(value)
    return groups
