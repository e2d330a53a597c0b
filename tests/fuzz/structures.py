"""HDF5 files: groups, attributes, types, chunks, links, shapes, references."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.fuzz.values import STRINGS, Draw
from tests.fuzz.zips import good
from tests.support.hostile import write_keras
from tests.support.samples import small_file

TYPES = (
    *("f4", "f8", "f2", "i1", "u8", "?", "c8", "S5", ">f4", "V2", "V7"),
    *(h5py.string_dtype(), h5py.ref_dtype, h5py.regionref_dtype, h5py.vlen_dtype("f4")),
    *(np.dtype([("a", "f4"), ("b", "S3")]), np.dtype(("f4", (2,))), h5py.enum_dtype({"A": 1})),
)
SHAPES = (
    *(
        (),
        (0,),
        (1,),
        (10,),
        (3, 3, 1, 8),
        (3, 3, 8, 8),
        (8, 10),
        (1,) * 20,
        (0, 3),
        (10**4, 10**4),
    ),
    *((10**9,), (2**31, 2**31), (1000, 1000), (3, 3, 10**5, 10**5)),
)
ATTRIBUTES = (
    *("model_config", "keras_version", "backend", "layer_names", "weight_names", "name", "dtype"),
    *("training_config", "layer_names0", "weight_names0", "CLASS", "x"),
)
PARTS = ("model_weights", "conv1", "conv2", "classes", "sequential", "layers", "conv2d", "vars")
LEAVES = ("kernel", "bias", "kernel:0", "0", "1", "x")


def name(d: Draw) -> str:
    """A member's name; HDF5 takes none that is empty or holds a zero."""
    found = d.one((*PARTS, *LEAVES)) if d.chance(0.8) else d.one(STRINGS)
    return (
        found.replace("\0", "0").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        or "x"
    )


def attribute(d: Draw) -> Any:
    kind = d.count(0, 7)
    if kind == 0:
        return h5py.Empty(d.one(("f4", "S3")))
    if kind == 1:
        return np.zeros(d.one(((), (0,), (3,), (2, 2))), d.one(("f4", "i8", "?", "S4")))
    if kind == 2:
        return np.array([b"kernel", b"\xff\xfe", b"../x"][: d.count(0, 3)], "S8")
    if kind == 3:
        return ["conv1", "kernel", "sequential/conv1/kernel"][: d.count(1, 3)]
    if kind == 4:
        return b"\xff{}"
    if kind == 5:
        return np.array([(1.0, b"x")], TYPES[-3])
    if kind == 6:
        return d.one(("{}", "[]", "null", '{"class_name": "Sequential", "config": {"layers": []}}'))
    return d.one(("x" * 70_000, "3.9.0", "2.9.0", "1.2.0", "float32", "bfloat16", "theano"))


def _dataset(d: Draw, group: Any, where: str) -> None:
    dtype, shape = d.one(TYPES) if d.chance(0.5) else "f4", d.one(SHAPES)
    words: dict[str, Any] = {}
    if shape and d.chance(0.5):
        words["chunks"] = tuple(max(min(s, d.one((1, 2, 7, 1000))), 1) for s in shape)
        if d.chance(0.4):
            words["compression"] = d.one(("gzip", "lzf"))
        words |= {"shuffle": d.chance(0.2), "fletcher32": d.chance(0.2)}
        if d.chance(0.3):
            words["maxshape"] = (None,) * len(shape)
    if d.chance(0.2):
        words["fillvalue"] = 7
    made = group.create_dataset(where, shape, dtype, **words)
    if words.get("chunks") and d.chance(0.3) and 0 not in shape:
        made.id.write_direct_chunk((0,) * len(shape), d.one((b"", b"x", bytes(100))), d.count(0, 3))


def _soft(d: Draw, group: Any, where: str) -> None:
    group[where] = h5py.SoftLink(d.one(("/", "/model_weights", ".", "..", "/absent", where)))


def _external(d: Draw, group: Any, where: str) -> None:
    group[where] = h5py.ExternalLink(d.one(("/dev/zero", "/etc/passwd", "../secret", "m.h5")), "/")


def _hard(d: Draw, group: Any, where: str) -> None:
    group[where] = d.one((group, group.parent, group.file["/"]))


def _stored_outside(d: Draw, group: Any, where: str) -> None:
    group.create_dataset(where, (4,), "f4", external=[(d.one(("../secret", "/dev/zero")), 0, 16)])


def _virtual(d: Draw, group: Any, where: str) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(d.one((".", "../secret")), "k", (4,))
    group.create_virtual_dataset(where, layout)


def _named_type(d: Draw, group: Any, where: str) -> None:
    group[where] = np.dtype("f4")


def _reference(d: Draw, group: Any, where: str) -> None:
    group[where] = np.array([group.ref, h5py.Reference()], h5py.ref_dtype)


def _group(d: Draw, group: Any, where: str) -> None:
    group.create_group(where, track_order=d.chance(0.5))


MEMBERS: tuple[Callable[[Draw, Any, str], None], ...] = (
    *(_dataset, _dataset, _dataset, _group, _group, _soft, _external, _hard),
    *(_stored_outside, _virtual, _named_type, _reference),
)


def change(d: Draw, file: Any) -> None:
    """One member or attribute of a drawn group is added, replaced or removed."""
    holders = [file]
    file.visititems(lambda _, item: holders.append(item))
    holder = d.one(holders)
    if d.chance(0.4) or not isinstance(holder, h5py.Group):
        key = d.one((*list(holder.attrs), *ATTRIBUTES))
        if key in holder.attrs:
            del holder.attrs[key]
        if d.chance(0.8):
            holder.attrs[key] = attribute(d)
        return
    where = d.one(list(holder)) if len(holder) and d.chance(0.7) else name(d)
    if holder.get(where, getlink=True) is not None:
        del holder[where]
    if d.chance(0.9):
        d.one(MEMBERS)(d, holder, where)


REFUSED = (OSError, RuntimeError, ValueError, TypeError, KeyError)


def changed(d: Draw, data: bytes) -> bytes:
    """A file with several changes; HDF5 or NumPy may refuse one, and then it is left out."""
    held = io.BytesIO(data)
    with h5py.File(held, "r+") as file:
        for _ in range(d.count(1, 6)):
            try:
                change(d, file)
            except (*REFUSED, OverflowError, AttributeError):
                continue
    return held.getvalue()


def write(d: Draw, folder: Path) -> Path:
    if d.chance(0.6):
        path = folder / "m.h5"
        path.write_bytes(changed(d, small_file(".h5").read_bytes()))
        return path
    path = folder / "m.keras"
    write_keras(path, small_file(".keras"), model_weights_h5=changed(d, good()["model.weights.h5"]))
    return path
