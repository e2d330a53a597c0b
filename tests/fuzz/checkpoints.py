"""Folders of checkpoints: what they say of a run, their arrays, their names."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.values import STRINGS, Draw

NAMES = ("about", "model.0", "model.1", "optimizer.0", "metrics.0", "best.0", "x", "a.b.c", ".")


def state(d: Draw) -> Any:
    """What a checkpoint says of its run."""
    best = d.one((None, [1, 0.5], [d.scalar(), d.scalar()], [10**9, 0.1], ["../../../x", 1]))
    regularizer = {"factor": 0.1, "seed": [0, 1], "count": 3}
    fields: dict[str, Any] = {
        "epoch": d.count(0, 3),
        "step": d.count(0, 3),
        "seed": 7,
        "run": d.slips({"model": "x", "batch size": 32, "loss": "mse"}),
        "history": d.slips({"loss": [0.5, 0.4], "val_loss": [0.6, 0.5]}),
        "regularizers": d.slip([d.slips(regularizer)]),
        "best": d.slip(best),
    }
    return d.slip(d.slips(fields))


def about(d: Draw) -> Any:
    types = {d.one(NAMES): d.one(("bfloat16", "float32", "O", *STRINGS))} if d.chance(0.4) else {}
    said = {"format": "orthwrap.checkpoint/1", "state": state(d), "types": d.slip(types)}
    return d.slip(d.slips(said))


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


def checkpoint(d: Draw) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as z:
        text = json.dumps(about(d))
        if not d.chance(d.rate):
            said = io.BytesIO()
            np.save(said, np.array(text[: d.count(0, 40)] if d.chance(d.rate) else text))
            z.writestr("about.npy", said.getvalue())
        for name in dict.fromkeys(d.many(lambda: d.one(NAMES[1:]), 5)):
            z.writestr(f"{name}.npy" if d.chance(0.9) else name, array(d))
    data = held.getvalue()
    if d.chance(d.rate):
        at = d.count(0, len(data) - 1)
        data = d.one((data[:at], data[:at] + bytes([d.count(0, 255)]) + data[at + 1 :]))
    return data


def write(d: Draw, folder: Path) -> Path:
    """A folder as a run leaves it, or nearly so."""
    place = folder / "run"
    place.mkdir()
    for number in d.many(lambda: d.one((1, 2, 3, 99999999)), 2) or [1]:
        (place / f"checkpoint-{number:08}.npz").write_bytes(checkpoint(d))
    if d.chance(0.6):
        (place / f"best-{d.one((1, 2, 10**8)):08}.npz").write_bytes(checkpoint(d))
    if d.chance(0.1):
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
