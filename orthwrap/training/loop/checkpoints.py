"""Checkpoints: all that a run needs to go on, each in one file that is whole or not there.

A checkpoint holds every variable of the model, its optimizer and its metrics as it stands, bit for
bit, and a line about the run. NumPy alone; Keras is not needed.
"""

from __future__ import annotations

import contextlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orthwrap.errors import FileFault, ValueFault
from orthwrap.stores.replacing import lock, make_folder, reason, unlock
from orthwrap.training.loop import checkpoint_file
from orthwrap.training.loop.checkpoint_file import Arrays

_NAME = re.compile(r"checkpoint-([0-9]{8,})\.npz")
_BEST = re.compile(r"best-[0-9]{8,}\.npz")


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
        goal: how far its kernels came, and how hard they are pulled; None where that is not told.
    """

    epoch: int
    step: int
    seed: int
    run: Mapping[str, Any]
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    regularizers: Sequence[Mapping[str, Any]] = ()
    best: tuple[int, float] | None = None
    goal: Mapping[str, Any] | None = None

    @property
    def place(self) -> str:
        """In words."""
        if self.step:
            return f"in epoch {self.epoch + 1}, after step {self.step}"
        return f"after epoch {self.epoch}"


class CheckpointFolder:
    """The checkpoints of one run: the last one, and the weights of its best epoch.

    From `open` to `close`, or to the end of the process, no other run can open it. A context
    manager, which closes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> CheckpointFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def is_locked(self) -> bool:
        """Whether it is kept from other runs; there are systems without locks."""
        return self._lock is not None

    def open(self, *, resume: bool) -> State | None:
        """Makes the folder; what the last checkpoint says of its run where one is gone on with.

        Raises:
            FileFault: the folder cannot be made, is that of a run that is still going on, holds the
                checkpoints of another run, or a checkpoint that cannot be read.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileFault(f"{self.path} is a file: --checkpoint-dir takes a folder")
        make_folder(self.path)
        try:
            self._lock = lock(self.path)
        except BlockingIOError as e:
            raise FileFault(
                f"another run is writing its checkpoints to {self.path}: wait for its end, or give "
                "another folder"
            ) from e
        except OSError as e:
            raise FileFault(f"cannot open folder {self.path}: {reason(e)}") from e
        try:
            return self._state(resume)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Other runs may open it."""
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None

    def _state(self, resume: bool) -> State | None:
        last = self._last()
        if last is None:
            return None
        if not resume:
            raise FileFault(
                f"{self.path} holds checkpoints of an earlier run: go on from them with --resume, "
                "or give another folder"
            )
        state, _ = checkpoint_file.read(last, with_arrays=False)
        if not state:
            raise FileFault(f"checkpoint {last} tells nothing of its run: give another folder")
        best = state.pop("best")
        return State(**state, best=None if best is None else (best[0], best[1]))

    def write(self, state: State, arrays: Arrays, best: Arrays | None = None) -> None:
        """One more checkpoint; those before it are removed once it is on the disk.

        `best` are the weights of a new best epoch.
        """
        if best is not None and state.best is not None:
            file = self._best(state.best[0])
            if file.is_symlink():  # it would be followed out of the folder
                file.unlink()
            checkpoint_file.write(file, {}, best)
        number = 1 + max((_number(p) for p in self._all()), default=0)
        new = self.path / f"checkpoint-{number:08}.npz"
        checkpoint_file.write(new, asdict(state), arrays)
        keep = {new.name}
        if state.best is not None:
            keep.add(self._best(state.best[0]).name)
        for old in [*self._all(), *self._all(_BEST)]:
            if old.name not in keep:
                with contextlib.suppress(OSError):
                    old.unlink()

    def read(self) -> dict[str, list[NDArray[Any]]]:
        """The variables of the last checkpoint, by group.

        Raises:
            FileFault: it cannot be read, or is gone.
        """
        last = self._last()
        if last is None:
            raise FileFault(f"the checkpoint in {self.path} is gone: start again")
        return checkpoint_file.read(last, with_arrays=True)[1]

    def read_best(self, epoch: int) -> dict[str, list[NDArray[Any]]]:
        """The variables of the best epoch."""
        return checkpoint_file.read(self._best(epoch), with_arrays=True)[1]

    def _best(self, epoch: int) -> Path:
        return self.path / f"best-{epoch:08}.npz"

    def _all(self, name: re.Pattern[str] = _NAME) -> list[Path]:
        return [p for p in self.path.iterdir() if name.fullmatch(p.name)]

    def _last(self) -> Path | None:
        return max(self._all(), key=_number, default=None)


def check_same_run(
    state: State, run: Mapping[str, Any], folder: Path, steps: int | None = None
) -> None:
    """ValueFault where a checkpoint is that of another run, whose epochs have so many steps."""
    for key, value in run.items():
        before = state.run.get(key)
        if before != json.loads(json.dumps(value)):
            raise ValueFault(
                f"the checkpoint in {folder} is of a run with {key} {before}; this one has "
                f"{value}: go on with the same, or give another folder"
            )
    if steps is not None and state.step >= steps:
        raise ValueFault(
            f"the checkpoint in {folder} is of step {state.step} of an epoch, which has {steps}: "
            "give another folder"
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
