"""Texts of any length in HDF5 files: broken ones are found before the library would hang."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from orthwrap.errors import FileFault
from orthwrap.stores import heaps
from orthwrap.stores.heaps import check_heaps
from tests.support.hostile import write_keras
from tests.support.samples import nested_file, small_file

SIGNATURE = b"GCOL\x01\x00\x00\x00"


def endless(data: bytes) -> bytes:
    """The first text, not the whole heap, is free space of no bytes: the library stays there."""
    start = data.index(SIGNATURE)
    return data[: start + 16] + bytes(16) + data[start + 32 :]


def heap(*objects: tuple[int, int], size: int = 4096) -> bytes:
    """A heap of (index, size)."""
    body = b""
    for index, length in objects:
        body += struct.pack("<H6xQ", index, length)
        body += bytes(-(-length // 8) * 8 if index else max(length - 16, 0))
    return (SIGNATURE + struct.pack("<Q", size) + body).ljust(size, b"\0")[:size]


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_text_that_never_ends(tmp_path: Path, run: Any, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    source = small_file(suffix)
    if suffix == ".h5":
        path.write_bytes(endless(source.read_bytes()))
    else:
        with zipfile.ZipFile(source) as z:
            write_keras(path, source, model_weights_h5=endless(z.read("model.weights.h5")))
    for words in (("inspect", path), ("apply", path, "--no-upgrade"), ("compare", source, path)):
        done = run(*words)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert "broken" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_good_files_pass(suffix: str) -> None:
    for path in (small_file(suffix), nested_file(suffix)):
        check_heaps(path)


def test_many_texts_pass(tmp_path: Path) -> None:
    path = tmp_path / "texts.h5"
    with h5py.File(path, "w") as f:
        f["texts"] = np.array(["x" * n for n in range(3000)], dtype=object)
        f.attrs["long"] = "y" * 3_000_000
        del f["texts"]
        f["again"] = np.array(["z" * (n % 40) for n in range(5000)], dtype=object)
    check_heaps(path)


FREE = (0, 4096 - 16 - 32)


@pytest.mark.parametrize(
    "objects",
    [
        [(0, 0)],
        [(1, 10), (0, 0)],
        [(1, 10), (0, 8), (2, 8)],
        [(1, 2**64 - 16)],
        [(65535, 2**64 - 1)],
        [(1, 4096)],
        [(1, 10), (0, 4097)],
    ],
)
def test_broken_heaps(objects: list[tuple[int, int]]) -> None:
    struct_only = [(i, n if n < 10_000 else 0) for i, n in objects]
    data = bytearray(heap(*struct_only))
    index, length = objects[-1]
    if length >= 10_000:
        struct.pack_into("<H6xQ", data, 16, index, length)
    with pytest.raises(FileFault, match="broken HDF5 file"):
        check_heaps(io.BytesIO(bytes(data)))


def test_good_heaps() -> None:
    check_heaps(io.BytesIO(heap((1, 10), FREE)))
    check_heaps(io.BytesIO(heap((1, 4096 - 16 - 16 - 8))))  # too little is left for a header
    check_heaps(io.BytesIO(heap((0, 4096 - 16))))
    check_heaps(io.BytesIO(heap((0, 0))[:300]))  # cut short: the library refuses it
    check_heaps(io.BytesIO(b"GCOL"))
    check_heaps(io.BytesIO(b""))


@pytest.mark.parametrize("shift", range(-9, 2))
def test_heaps_across_the_blocks_that_are_read(shift: int) -> None:
    file = io.BytesIO(bytes(heaps._BLOCK + shift) + heap((0, 0)))
    with pytest.raises(FileFault):
        check_heaps(file)


def test_heaps_within_one_another_end() -> None:
    size = 1 << 20
    data = b"".join(
        SIGNATURE + struct.pack("<Q", size - at) + struct.pack("<H6xQ", 1, 8) + bytes(8)
        for at in range(0, size, 40)
    )[:size]
    with pytest.raises(FileFault):
        check_heaps(io.BytesIO(data))
