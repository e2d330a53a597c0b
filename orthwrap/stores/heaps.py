"""Where HDF5 keeps texts of any length: global heaps, on which a broken one hangs the library.

The library walks a heap from object to object. Of one that says it has no bytes it walks on the
spot for ever, where neither Python nor a signal can reach it. So all heaps of a file are walked
here first, wherever in the file they stand.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from orthwrap.errors import FileFault
from orthwrap.stores.regular import open_regular

_SIGNATURE = b"GCOL\x01\x00\x00\x00"  # with the only version there is
_HEADER = struct.Struct("<8xQ")  # size of the heap, header included
_OBJECT = struct.Struct("<H6xQ")  # index, 0 being free space; size
_BLOCK = 1 << 20
_MOST = 300_000  # heaps and objects in them; heaps may overlap, so their sizes say little


def check_heaps(source: Path | IO[bytes]) -> None:
    """FileFault where a heap in an HDF5 file would hang the library. Reads all of the file once."""
    if isinstance(source, Path):
        with open_regular(source) as file:
            _check(file)
    else:
        _check(source)
        source.seek(0)


def _check(file: IO[bytes]) -> None:
    end = file.seek(0, 2)
    places = list(itertools.islice(_places(file), _MOST))
    left = _MOST - len(places)
    for place in places:
        left = _walk(file, place, end, left)


def _places(file: IO[bytes]) -> Iterator[int]:
    """Where the signature stands."""
    overlap = len(_SIGNATURE) - 1
    file.seek(0)
    start, block = 0, file.read(_BLOCK)
    while len(block) > overlap:
        at = block.find(_SIGNATURE)
        while at >= 0:
            yield start + at
            at = block.find(_SIGNATURE, at + 1)
        start += len(block) - overlap
        file.seek(start)
        block = file.read(_BLOCK)


def _walk(file: IO[bytes], start: int, end: int, left: int) -> int:
    """The number of objects that may still follow elsewhere."""
    file.seek(start)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return left
    (size,) = _HEADER.unpack(header)
    if size > end - start:
        return left  # the library refuses it
    at, stop = start + _HEADER.size, start + size
    while stop - at >= _OBJECT.size:
        file.seek(at)
        index, length = _OBJECT.unpack(file.read(_OBJECT.size))
        need = length if index == 0 else _OBJECT.size + -(-length // 8) * 8
        left -= 1
        if not _OBJECT.size <= need <= stop - at or left < 0:
            raise FileFault(
                f"a broken HDF5 file: its texts at byte {at} are not as any program writes them"
            )
        at += need
    return left
