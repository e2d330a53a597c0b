"""`.keras` archives and folders: their members, sizes, orders, duplicates, links and flags."""

from __future__ import annotations

import functools
import io
import os
import struct
import warnings
import zipfile
from pathlib import Path

from tests.fuzz.values import Draw
from tests.support.samples import small_file

NAMES = (
    *("config.json", "metadata.json", "model.weights.h5", "model.weights.json", "assets/a.txt"),
    *("model.weights.npz", "../x", "/etc/x", "a/../../x", "C:\\x", "a\\..\\..\\x", ".", "", "a/"),
    *("config.json/", "CONFIG.JSON", "a\0b", "é" * 200, "x" * 3000, "\x1b[31m", "\u202e", "//a"),
    *("model_00000.weights.h5", "./config.json", "assets/../config.json"),
)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
LENGTHS = (0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
CONTENTS = (b"", b"{}", b"[]", b"null", b"\xff\xfe{}", b"x" * 999, b"[" * 5000, b'{"a":')
SHARDS = (
    b'{"weight_map": {"a": "model_00000.weights.h5"}}',
    b'{"weight_map": {"a": ["../x", "/dev/zero", 3]}}',
    b'{"weight_map": [{"a": {}}]}',
)


@functools.cache
def good() -> dict[str, bytes]:
    with zipfile.ZipFile(small_file(".keras")) as z:
        return {name: z.read(name) for name in z.namelist()}


def members(d: Draw) -> list[tuple[str, bytes]]:
    """Names and contents, some twice, some gone, some of others."""
    found = list(good().items())
    for _ in range(d.count(0, 3)):
        action = d.count(0, 5)
        if action == 0 and found:
            found.pop(d.count(0, len(found) - 1))
        elif action == 1 and found:
            found.append(d.one(found))
        elif action == 2:
            d.random.shuffle(found)
        elif action == 3 and found:
            at = d.count(0, len(found) - 1)
            found[at] = (found[at][0], d.one(CONTENTS))
        else:
            name = d.one(NAMES)
            found.append((name, d.one(SHARDS if name.endswith("s.json") else CONTENTS)))
    return found


def entry(d: Draw, name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = d.one(METHODS) if d.chance(0.2) else zipfile.ZIP_STORED
    mode = d.one((0o100644, 0o120777, 0o040755, 0o010644, 0o060644, 0)) if d.chance(0.2) else 0
    info.external_attr = mode << 16
    if d.chance(0.1):
        info.extra = d.one((b"\x01\x00\x10\x00" + b"\xff" * 16, b"\x01", b"\x99\x99\x01\x00x"))
    if d.chance(0.1):
        info.comment = b"\x1b]0;x\x07" * 9
    return info


def forged(d: Draw, data: bytes) -> bytes:
    """Fields of a member's entry or header, or of the directory's end, with other numbers."""
    marks = {b"PK\1\2": (4, 46), b"PK\3\4": (4, 30), b"PK\5\6": (4, 22)}
    mark = d.one(list(marks))
    spots = [i for i in range(len(data)) if data.startswith(mark, i)]
    if not spots:
        return data
    low, high = marks[mark]
    at = d.one(spots) + d.count(low, high - 2)
    packed = struct.pack("<I", d.one(LENGTHS))[: d.one((1, 2, 4))]
    return data[:at] + packed + data[at + len(packed) :]


def archive(d: Draw) -> bytes:
    held = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(held, "w") as z:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in members(d):
            z.writestr(entry(d, name), data)
        if d.chance(0.1):
            z.comment = b"\x1b[31m" * 100
    made = held.getvalue()
    for _ in range(d.count(0, 3) if d.rate else 0):
        made = forged(d, made)
    if d.chance(0.1):
        made = d.one((b"x" * 100 + made, made + b"x" * 100, made + made, made[: len(made) // 2]))
    return made


def write(d: Draw, folder: Path) -> Path:
    path = folder / "m.keras"
    if d.chance(0.85):
        path.write_bytes(archive(d))
        return path
    path.mkdir()
    for name, data in members(d):
        if name in good() or name.startswith(("assets/a", "model")):
            _member(d, path / name, data)
    return path


def _member(d: Draw, path: Path, data: bytes) -> None:
    """A file of an unpacked archive; or a folder, a pipe or a link."""
    path.parent.mkdir(exist_ok=True)
    if path.exists() or path.is_symlink():
        return
    kind = d.count(0, 40)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(d.one(("/dev/zero", "/etc/passwd", "../secret", path.name)))
    else:
        path.write_bytes(data)
        if d.chance(0.1):
            os.utime(path, (0, d.one((0, 2**33))))
