"""TensorFlow checkpoints, read as data: no TensorFlow, and no code of the file's.

`variables.index` is a sorted table in LevelDB's form (table_format.md of google/leveldb): names,
and for each a message that says where its bytes lie in which `variables.data-…` file
(tensor_bundle.proto of tensorflow/tensorflow). One more entry is the graph of the objects that
held the arrays (trackable_object_graph.proto). What is declared is held against the files' sizes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from orthwrap.errors import FileFault
from orthwrap.stores import wire
from orthwrap.stores.edits import HeldObject
from orthwrap.stores.regular import held_by, open_itself

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# DataType of types.proto → NumPy's name, and bytes of a number.
_TYPES = {
    1: ("float32", 4),
    2: ("float64", 8),
    3: ("int32", 4),
    4: ("uint8", 1),
    5: ("int16", 2),
    6: ("int8", 1),
    8: ("complex64", 8),
    9: ("int64", 8),
    10: ("bool", 1),
    17: ("uint16", 2),
    19: ("float16", 2),
    22: ("uint32", 4),
    23: ("uint64", 8),
}
_STRING = 7
_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER, _TRAILER = 48, 5
# Far above the largest models, whose index and graph of objects have some megabytes.
_LONGEST_INDEX = _LONGEST_NAMES = _LONGEST_GRAPH = 32 << 20
_MOST_ARRAYS = 200_000
_MOST_OBJECTS = 300_000
_MOST_LINKS = 500_000
_MOST_SHARDS = 9_999
_MOST_AXES = 32


def _opened(path: Path) -> IO[bytes]:
    """A file of the folder to read, which must be one: nothing outside, no device, no pipe."""
    try:
        return open_itself(path)
    except FileNotFoundError as err:
        raise FileFault(f"{path}: expected a SavedModel's file, found none") from err


def read_regular(path: Path, longest: int) -> memoryview:
    """A whole file of at most `longest` bytes."""
    with _opened(path) as file:
        if os.fstat(file.fileno()).st_size > longest:
            raise FileFault(f"{path}: too long for a model's description")
        return memoryview(file.read())


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an array's bytes are: `dtype` is None for what is no array of numbers."""

    dtype: str | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    text: bool = False


class Checkpoint:
    """A checkpoint's index; arrays are read one by one.

    Attributes:
        entries: by key.

    Raises:
        FileFault: a file is missing, broken, a link or no regular file, or declares more than
            the files hold.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        index = Path(f"{prefix}.index")
        with _whole(index):
            found = _table(read_regular(index, _LONGEST_INDEX))
            header = found.pop("", None)
            if header is None or wire.number(header, 2):
                raise wire.WireError("no header of a little-endian checkpoint")
            self._shards = wire.number(header, 1)
            if not 0 < self._shards <= _MOST_SHARDS:
                raise wire.WireError(f"{self._shards} data files")
            self.entries = {key: _entry(value) for key, value in found.items()}

    def array(self, key: str) -> NDArray[np.generic]:
        """One array."""
        import numpy as np

        entry = self.entries[key]
        if entry.dtype is None:
            raise FileFault(f"{self._prefix}: {key!r:.200} is no array of numbers")
        return np.frombuffer(self._bytes(key, entry), entry.dtype).reshape(entry.shape)

    def objects(self) -> list[HeldObject]:
        """The objects that held the arrays; the first is the model."""
        with _whole(Path(f"{self._prefix}.index")):
            entry = self.entries.get(OBJECT_GRAPH)
            if entry is None or not entry.text or entry.shape != ():
                raise wire.WireError("no graph of objects in it")
            if entry.size > _LONGEST_GRAPH:
                raise wire.WireError("a graph of more objects than any model's")
            data = memoryview(self._bytes(OBJECT_GRAPH, entry))
            length, start = wire.varint(data, 0)
            graph = data[start + 4 :]  # a checksum stands between
            if length != len(graph):
                raise wire.WireError("a graph of objects of another length")
            nodes: list[HeldObject] = []
            links = 0
            for message in wire.messages(graph, 1):
                nodes.append(_node(message))
                links += len(nodes[-1].children)
                if len(nodes) > _MOST_OBJECTS or links > _MOST_LINKS:
                    raise wire.WireError("a graph of more objects than any model's")
            if any(not 0 <= n < len(nodes) for node in nodes for n in node.children.values()):
                raise wire.WireError("a graph that names objects which it does not hold")
            return nodes

    def held(self) -> int:
        """Bytes that the data files really hold on disk."""
        total = 0
        for shard in range(self._shards):
            with _opened(self._shard(shard)) as file:
                total += held_by(file)
        return total

    def _shard(self, number: int) -> Path:
        return Path(f"{self._prefix}.data-{number:05d}-of-{self._shards:05d}")

    def _bytes(self, key: str, entry: Entry) -> bytes:
        if entry.shard >= self._shards:
            raise FileFault(f"{self._prefix}: {key!r:.200} lies in a data file that is not there")
        path = self._shard(entry.shard)
        with _opened(path) as file:
            if entry.offset + entry.size > os.fstat(file.fileno()).st_size:
                raise FileFault(
                    f"{path}: {key!r:.200} reaches beyond the file's end: copy it again"
                )
            file.seek(entry.offset)
            data = file.read(entry.size)
        if len(data) != entry.size:
            raise FileFault(f"{path} was changed while it was read")
        return data


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except wire.WireError as err:
        raise FileFault(f"{path}: expected a checkpoint, found a broken one ({err})") from err


def _table(data: memoryview) -> dict[str, memoryview]:
    """Names and values of a LevelDB table."""
    if len(data) < _FOOTER or data[-8:] != _MAGIC:
        raise wire.WireError("no table")
    footer = data[-_FOOTER:]
    _, place = wire.varint(footer, 0)
    _, place = wire.varint(footer, place)
    found: dict[str, memoryview] = {}
    names = blocks = 0
    for _, handle in _block(data, footer[place:]):
        blocks += wire.varint(handle, wire.varint(handle, 0)[1])[0]
        if blocks > len(data):
            raise wire.WireError("blocks that overlap")
        for name, value in _block(data, handle):
            names += len(name)
            key = wire.text(memoryview(name))
            if key in found or names > _LONGEST_NAMES or len(found) >= _MOST_ARRAYS:
                raise wire.WireError("names that are too many, too long, or twice the same")
            found[key] = value
    return found


def _block(data: memoryview, handle: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Names and values of one block; each name says how much of the one before it goes on."""
    offset, place = wire.varint(handle, 0)
    size, _ = wire.varint(handle, place)
    if offset + size + _TRAILER > len(data) or size < 4:
        raise wire.WireError("a block reaches beyond the end")
    block = data[offset : offset + size]
    if data[offset + size]:
        raise wire.WireError("a compressed block")
    restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 - 4 * restarts
    if end < 0:
        raise wire.WireError("a block without an end")
    place, key = 0, b""
    while place < end:
        shared, place = wire.varint(block, place)
        own, place = wire.varint(block, place)
        length, place = wire.varint(block, place)
        if shared > len(key) or place + own + length > end:
            raise wire.WireError("a name or a value reaches beyond its block")
        key = key[:shared] + bytes(block[place : place + own])
        yield key, block[place + own : place + own + length]
        place += own + length


def _entry(message: memoryview) -> Entry:
    shape = wire.first(message, 2)
    dims = () if shape is None else tuple(wire.number(d, 1) for d in wire.messages(shape, 2))
    if len(dims) > _MOST_AXES:
        raise wire.WireError(f"an array of {len(dims)} axes")
    kind, size = wire.number(message, 1), wire.number(message, 5)
    dtype, itemsize = _TYPES.get(kind, (None, 0))
    if next(wire.messages(message, 7), None) is not None:
        dtype = None  # a variable in parts, each an entry of its own
    elif dtype is not None and math.prod(dims) * itemsize != size:
        raise wire.WireError("an array whose shape and size disagree")
    shard, offset = wire.number(message, 3), wire.number(message, 4)
    return Entry(dtype, dims, shard, offset, size, kind == _STRING)


def _node(message: memoryview) -> HeldObject:
    children = {
        wire.text(wire.first(child, 2)): wire.number(child, 1)
        for child in wire.messages(message, 1)
    }
    keys = [
        wire.text(wire.first(attribute, 3))
        for attribute in wire.messages(message, 2)
        if wire.text(wire.first(attribute, 1)) == "VARIABLE_VALUE"
    ]
    return HeldObject(children, keys[0] if keys else None)
