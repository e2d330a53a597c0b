"""Checkpoints by themselves: every bit comes back, and a broken one is one line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import orthwrap
from orthwrap.stores import replacing
from orthwrap.training.loop import checkpoint_file
from orthwrap.training.loop.checkpoints import CheckpointFolder, State

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


STATE = State(2, 3, 7, {"model": "m"}, {"loss": [1.0, 0.5]}, ({"factor": 0.1},), (1, 0.25))


def arrays() -> dict[str, Sequence[Any]]:
    return {
        "model": [
            np.arange(6, dtype="float32").reshape(2, 3),
            np.asarray([1.5, -0.0], ml_dtypes.bfloat16),
            np.zeros((0, 4), "float16"),
            np.asarray(3, "int64"),
        ],
        "optimizer": [],
        "metrics": [np.asarray([True, False])],
    }


def check_equal(found: Mapping[str, Sequence[Any]], expected: Mapping[str, Sequence[Any]]) -> None:
    for group, values in expected.items():
        assert len(found.get(group, ())) == len(values)
        for a, b in zip(found.get(group, ()), values, strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes()


def test_checkpoint_gives_back_every_bit(tmp_path: Path) -> None:
    with CheckpointFolder(tmp_path / "c") as folder:
        assert folder.open(resume=True) is None
        folder.write(STATE, arrays(), best=arrays())
    again = CheckpointFolder(tmp_path / "c")
    state = again.open(resume=True)
    assert json.loads(json.dumps(vars(state))) == json.loads(json.dumps(vars(STATE)))
    check_equal(again.read(), arrays())
    check_equal(again.read_best(1), arrays())


def test_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path / "c")
    folder.open(resume=False)
    folder.write(STATE, arrays())

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(replacing, "_to_disk", full)
    with pytest.raises(orthwrap.FileFault, match="No space left on device"):
        folder.write(STATE, arrays())
    monkeypatch.undo()
    assert len(list((tmp_path / "c").iterdir())) == 1
    check_equal(CheckpointFolder(tmp_path / "c").read(), arrays())


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_broken_checkpoint_is_an_error_of_one_line(cut: int, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.write(STATE, arrays())
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(orthwrap.FileFault, match="cannot be read") as caught:
        CheckpointFolder(tmp_path).open(resume=True)
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_file, "FORMAT", "orthwrap.checkpoint/0")
    CheckpointFolder(tmp_path).write(STATE, arrays())
    monkeypatch.undo()
    with pytest.raises(orthwrap.FileFault, match="its format is"):
        CheckpointFolder(tmp_path).open(resume=True)
