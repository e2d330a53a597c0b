"""Folders of checkpoints: what they say of a run, their arrays, their names."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from orthwrap.training.loop.checkpoints import CheckpointFolder, State
from tests.fuzz.values import Draw

NAMES = ("model.7", "metrics.0", "best.0", "x", "a.b.c", ".")


def sound(d: Draw, place: Path) -> None:
    """A folder as a run leaves it."""
    best = d.one((None, (1, 0.5)))
    arrays = {
        "model": [np.ones((2, 3), "float32"), np.zeros(4, "int64")],
        "optimizer": [np.array(3)] * d.count(0, 2),
    }
    regularizers = [{"factor": 0.1}] * d.count(0, 2)
    history = {"loss": [0.5, 0.4], "val_loss": [0.6, 0.5]}
    run = {"model": "x", "batch size": 32, "loss": "mse", "rho": [0.1, "all"], "samples": None}
    state = State(2, d.count(0, 3), 7, run, history, regularizers, best)
    for _ in range(d.count(1, 2)):
        CheckpointFolder(place).write(state, arrays, None if best is None else arrays)


def changed(d: Draw, path: Path) -> None:
    """The file with slips in what it says, with other arrays, or with damage."""
    with zipfile.ZipFile(path) as z:
        found = {name: z.read(name) for name in z.namelist()}
    said = json.loads(str(np.load(io.BytesIO(found.pop("about.npy")))))
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as z:
        if not d.chance(d.rate):
            text = json.dumps(slipped(d, said))
            packed = io.BytesIO()
            np.save(packed, np.array(text[: d.count(0, 40)] if d.chance(d.rate) else text))
            z.writestr("about.npy", packed.getvalue())
        for name, data in found.items():
            if not d.chance(d.rate):
                z.writestr(name, array(d) if d.chance(d.rate * 2) else data)
        for name in dict.fromkeys(d.many(lambda: d.one(NAMES), 2) if d.chance(d.rate) else ()):
            z.writestr(f"{name}.npy", array(d))
    data = held.getvalue()
    if d.chance(d.rate):
        at = d.count(0, len(data) - 1)
        data = d.one((data[:at], data[:at] + bytes([d.count(0, 255)]) + data[at + 1 :]))
    path.write_bytes(data)


def slipped(d: Draw, tree: Any) -> Any:
    """A tree with a slip here and there."""
    if isinstance(tree, dict):
        tree = d.slips({key: slipped(d, value) for key, value in tree.items()})
        if "best" in tree and d.chance(d.rate * 2):
            tree["best"] = d.one(([d.scalar(), d.scalar()], [10**9, 0.1], ["../../../x", 1], [1]))
    elif isinstance(tree, list):
        tree = [slipped(d, value) for value in tree]
    return d.slip(tree)


def array(d: Draw) -> bytes:
    """A `.npy`: sound, or with a header that lies, or one that wants pickles."""
    held = io.BytesIO()
    kind = d.count(0, 6)
    if kind == 0:
        np.save(held, np.array([{"a": 1}], dtype=object))
    elif kind == 1:
        header = {"descr": "<f4", "fortran_order": d.junk(1), "shape": d.junk(1)}
        held.write(_npy(repr(header)))
    elif kind == 2:
        shape = d.one(((10**12,), (0,), (2**40, 2**40), (-1,)))
        held.write(_npy(repr({"descr": "<f4", "fortran_order": False, "shape": shape})))
    else:
        dtype = d.one(("float32", "int64", "bool", "uint16", "<U3", "complex64", "M8[s]"))
        np.save(held, np.zeros(d.one(((), (2,), (2, 3), (0, 4))), dtype))
    data = held.getvalue()
    return data[: d.count(0, len(data))] if d.chance(d.rate) else data


def _npy(header: str) -> bytes:
    text = header.encode("utf-8", "replace")
    return b"\x93NUMPY\x01\x00" + min(len(text), 65535).to_bytes(2, "little") + text


def write(d: Draw, folder: Path) -> Path:
    """A folder as a run leaves it, or nearly so."""
    place = folder / "run"
    place.mkdir()
    sound(d, place)
    for path in sorted(place.iterdir()):
        changed(d, path)
    if d.chance(d.rate):
        last = max(place.glob("checkpoint-*"))
        last.rename(place / d.one(("checkpoint-99999999.npz", "best-99999999.npz", "x")))
    if d.chance(d.rate):
        _odd(d, place / d.one(("checkpoint-00000009.npz", "best-00000001.npz", "other")))
    return place


def _odd(d: Draw, path: Path) -> None:
    """A folder, a pipe or a link where a file is expected."""
    path.unlink(missing_ok=True)
    kind = d.count(0, 3)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    else:
        path.symlink_to(d.one(("/dev/zero", "../secret", "checkpoint-00000001.npz", path.name)))
