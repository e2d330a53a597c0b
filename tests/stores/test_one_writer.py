"""Whatever is written is written into a folder of its own, and moved into place from there."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support.upgrade_helpers import write_h5

# Runs a verb and prints each path that Python or h5py opens for writing, makes or renames.
WATCHED = """
import os, sys, tempfile
import h5py, numpy, orthwrap

def said(kind, path):
    if not isinstance(path, int):
        print(kind, os.path.abspath(os.fsdecode(path)), flush=True)

def watch(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        said("write", args[0])
    elif event == "os.mkdir":
        said("folder", args[0])
    elif event == "os.rename":
        said("moved", args[1])

class File(h5py.File):
    def __init__(self, name, mode="r", *args, **words):
        if mode != "r":
            said("write", name)
        super().__init__(name, mode, *args, **words)

h5py.File = File
tempfile.gettempdir()  # tries whether it can be written to
sys.addaudithook(watch)
verb, source, target = sys.argv[1:]
getattr(orthwrap, verb)(source, target)
"""


def h5(folder: Path, version: str = "2.3.1") -> Path:
    layers: list[Any] = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 5], "name": "in"}},
        {"class_name": "Dense", "config": {"name": "d", "units": 3, "activation": "hard_sigmoid"}},
    ]
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}
    weights = [("d/kernel:0", np.ones((5, 3), "float32")), ("d/bias:0", np.ones(3, "float32"))]
    return write_h5(folder / "m.h5", config, {"d": weights}, version)


def archive(folder: Path, version: str = "2.13.1") -> Path:
    old, new = h5(folder), folder / "m.keras"
    with h5py.File(old) as file:
        config = json.loads(file.attrs["model_config"])
        arrays = [file["model_weights/d/d"][name][()] for name in ("kernel:0", "bias:0")]
    with h5py.File(folder / "w.h5", "w") as file:
        for number, array in enumerate(arrays):
            file[f"layers/dense/vars/{number}"] = array
    with zipfile.ZipFile(new, "w") as made:
        made.writestr("config.json", json.dumps(config))
        made.writestr("metadata.json", json.dumps({"keras_version": version}))
        made.write(folder / "w.h5", "model.weights.h5")
    return new


SOURCES: dict[str, Callable[[Path], Path]] = {
    "h5": lambda folder: h5(folder, "3.5.0"),
    "keras": lambda folder: archive(folder, "3.5.0"),
    "old h5": h5,
    "old keras": archive,
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("verb", ["apply", "upgrade"])
def test_all_is_written_apart_and_moved_into_place(kind: str, verb: str, tmp_path: Path) -> None:
    source = SOURCES[kind](tmp_path)
    target = tmp_path / "out" / f"new{source.suffix}"
    target.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, verb, str(source), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = [line.split(" ", 1) for line in done.stdout.splitlines()]
    written = {Path(path) for what, path in events if what == "write"}
    assert written
    folders = [Path(path) for what, path in events if what == "folder"]
    assert all(path.name.endswith(".tmp") for path in folders), folders
    apart = {folder for folder in folders if not folder.exists()}  # and cleared away
    assert len(apart) == len(set(folders))
    assert not [path for path in written if not apart & set(path.parents)]
    assert [path for what, path in events if what == "moved"] == [str(target)]
    assert [path.name for path in target.parent.iterdir()] == [target.name]
