"""Reading HDF5 files from strangers: whatever is looked up lies in the file and is of sane size.

HDF5 lets a name lead out of the file (soft and external links, external and virtual datasets) and
lets a few bytes declare terabytes. Every lookup here goes by hard links alone, and every size is
held against the size of the file before anything is read. By hand, because neither h5py nor the
HDF5 library can be told to refuse either.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from orthwrap.errors import FileFault
from orthwrap.stores.faults import reading
from orthwrap.stores.regular import FLOOR, SWELLING
from orthwrap.stores.store import as_float

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

MAX_TEXT = 256 << 20  # bytes of one attribute; far above any real config
MAX_OBJECTS = 50_000  # links in all groups of one file, its optimizer's left out
MAX_PARTS = 500_000  # of all names in lists of names, between slashes
FEW_CHUNKS = 4096  # that any dataset may be cut into
CHUNK = 4096  # bytes; more chunks must be of that size. Those that h5py chooses are of 8 KB to 1 MB
MAX_DEPTH = 100  # groups within groups
_NUMBERS = "fiub"
_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3  # the filters that HDF5 itself always has

# What the HDF5 library may allocate while it reads structures, or, beside the numbers themselves, a
# dataset. A forged length makes it clear gigabytes before it finds that the text is not there.
_STRUCTURES = 512 << 20
_limited = threading.RLock()
_depth = 0


@contextlib.contextmanager
def limited_memory(extra: int = _STRUCTURES) -> Iterator[None]:
    """While it lasts, the process may grow by `extra` bytes; where the system can say so.

    The limit is the whole process's, so it is set for a short time only: some calls of HDF5.
    Within another one, it changes nothing.
    """
    global _depth
    with _limited:
        used = _address_space() if _depth == 0 else None
        _depth += 1
        try:
            if resource is None or used is None:
                yield
                return
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            if soft != resource.RLIM_INFINITY and soft <= used + extra:
                yield
                return
            resource.setrlimit(resource.RLIMIT_AS, (used + extra, hard))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        finally:
            _depth -= 1


def _address_space() -> int | None:
    try:
        with open("/proc/self/statm", "rb") as f:
            return int(f.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, AttributeError, IndexError):
        return None


def open_hdf5(source: Path | IO[bytes], mode: str = "r") -> h5py.File:
    """Opens a file or a file object; OSError where it is none."""
    with limited_memory():
        return h5py.File(source, mode)


Key = tuple[int, int]


def key_of(found: Any) -> Key:
    """Equal for the same group or dataset under two names: hard links are no copies."""
    info = h5py.h5o.get_info(found.id)
    return int(info.fileno), int(info.addr)


class Allowance:
    """How many bytes a file's arrays may declare: a multiple of what the file itself holds.

    Args:
        size: what it holds.
    """

    def __init__(self, size: int) -> None:
        self.limit = max(FLOOR, SWELLING * size)
        self._left = self.limit
        self._admitted: set[Key] = set()

    def admit(self, found: Any) -> None:
        """Checks a dataset, once however many names it has.

        Raises:
            FileFault: its numbers lie elsewhere, are none, do not unpack to what it declares, or
                are far more, with those admitted before, than the file holds.
        """
        key = key_of(found)
        if key in self._admitted:
            return
        _check_kind(found)
        chunk = math.prod(found.chunks or (1,)) * int(found.dtype.itemsize)
        declared = max(bytes_of(found), _chunk_count(found) * chunk)
        if declared > self.limit:
            raise FileFault(
                f"weight {found.name!r:.80} declares the shape {found.shape}, which does not fit: "
                "far more than the file holds; it is broken or made to exhaust memory"
            )
        self.take(declared, found.name)
        _check_chunks(found)
        _check_filters(found, chunk)
        self._admitted.add(key)

    def take(self, size: int, what: str) -> None:
        """FileFault where the arrays handed out so far would exceed the limit."""
        self._left -= size
        if self._left < 0:
            raise FileFault(
                f"weight {what!r:.80} and those before it declare more than {self.limit >> 20} MB, "
                f"far more than the file holds: it is broken or made to exhaust memory"
            )


# Lookups


def child(group: Any, name: str) -> Any:
    """The group or dataset of this name within the file; None where there is none.

    Args:
        group: where to begin.
        name: one name or several with `/` between them.

    Raises:
        FileFault: the name leads to another place or another file.
    """
    here = group.id
    with limited_memory():
        for part in name.split("/"):
            try:
                encoded = part.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:  # half a character: no name in a file has one
                return None
            if not part or part == "." or not isinstance(here, h5py.h5g.GroupID):
                return None
            if not here.links.exists(encoded):
                return None
            if here.links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
                raise FileFault(
                    f"{part!r:.80} in the file is a link to another place, which is not followed: "
                    "copy the model with its weights inside"
                )
            here = h5py.h5o.open(here, encoded)
    return _wrapped(here)


def _wrapped(identifier: Any) -> Any:
    if isinstance(identifier, h5py.h5g.GroupID):
        return h5py.Group(identifier)
    return h5py.Dataset(identifier) if isinstance(identifier, h5py.h5d.DatasetID) else None


def child_group(group: Any, name: str) -> Any:
    """The group of this name within the file; None where there is none."""
    found = child(group, name)
    return found if isinstance(found, h5py.Group) else None


def members(group: Any) -> Iterator[tuple[str, Any]]:
    """(name, group or dataset) of a group's own members; links elsewhere are passed over."""
    found: list[tuple[bytes, int]] = []
    group.id.links.iterate(lambda name, link: found.append((name, link.type)), info=True)
    for encoded, kind in found:
        if kind == h5py.h5l.TYPE_HARD:
            with limited_memory():
                item = _wrapped(h5py.h5o.open(group.id, encoded))
            if item is not None:
                yield encoded.decode("utf-8", "surrogateescape"), item


def datasets(root: Any, *, skip: str = "") -> Iterator[tuple[str, Any]]:
    """(path, dataset) of every dataset below a group, each once, cycles or not.

    Args:
        skip: a member of the root that is left out.

    Raises:
        FileFault: more objects, or deeper groups, than any model has.
    """
    seen: set[int] = set()
    links = 0
    waiting = [("", root, 0)]
    while waiting:
        prefix, group, depth = waiting.pop()
        links += len(group.id)
        if links > MAX_OBJECTS or depth > MAX_DEPTH:
            raise FileFault("the file holds more groups, or deeper ones, than any model has")
        for name, item in members(group):
            if not prefix and name == skip:
                continue
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append((f"{prefix}{name}/", item, depth + 1))
            else:
                yield f"{prefix}{name}", item


# Attributes


def attribute(holder: Any, name: str) -> Any:
    """An attribute of text or numbers; None where there is none.

    Raises:
        FileFault: it is too large, or of a kind that no Keras writes.
    """
    if name not in holder.attrs:
        return None
    with limited_memory():
        found = holder.attrs.get_id(name)
    if found.shape is None:
        return None
    dtype = found.dtype
    size = math.prod(found.shape) * dtype.itemsize
    is_text = h5py.check_string_dtype(dtype) is not None
    if size > MAX_TEXT or not (is_text or dtype.kind in _NUMBERS):
        raise FileFault(
            f"attribute {name!r:.80} of {size} bytes, type {dtype}: no Keras wrote this file"
        )
    with limited_memory():
        return holder.attrs[name]


def text(holder: Any, name: str) -> str | None:
    """An attribute that is one text; None where there is none.

    Raises:
        FileFault: it is something else.
    """
    value = attribute(holder, name)
    if value is None:
        return None
    return as_text(value, name)


def as_text(value: Any, what: str) -> str:
    """A value that should be text."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as e:
            raise FileFault(f"{what}: expected text, found other bytes") from e
    if isinstance(value, str):
        return value
    raise FileFault(f"{what}: expected text, found {type(value).__name__}")


def names(holder: Any, name: str) -> list[str]:
    """A list of names kept in an attribute, which Keras splits where it grows too large."""
    first = attribute(holder, name)
    chunks = [first]
    if first is None:
        chunks = []
        while f"{name}{len(chunks)}" in holder.attrs:
            chunks.append(attribute(holder, f"{name}{len(chunks)}"))
    return [as_text(x, name) for chunk in chunks for x in _listed(chunk)]


def _listed(value: Any) -> list[Any]:
    is_list = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
    return list(value) if is_list and np.ndim(value) == 1 else []


# Arrays


def dataset(group: Any, name: str, allowance: Allowance) -> Any:
    """The dataset of this name, with numbers of sane size within the file; None without one.

    Raises:
        FileFault: see `Allowance.admit`.
    """
    found = child(group, name)
    if not isinstance(found, h5py.Dataset):
        return None
    with limited_memory():
        allowance.admit(found)
    return found


def _check_kind(found: Any) -> None:
    """FileFault unless a dataset holds numbers, within the file."""
    name = found.name
    if found.external or found.is_virtual:
        raise FileFault(
            f"weight {name!r:.80} keeps its data in another file, which is not opened: "
            "copy the model with its weights inside"
        )
    if found.shape is None or not _is_numbers(found):
        raise FileFault(f"weight {name!r:.80}: expected numbers, found type {found.dtype}")


def bytes_of(found: Any) -> int:
    """What a dataset declares to hold."""
    return math.prod(int(d) for d in found.shape) * int(found.dtype.itemsize)


def _is_numbers(found: Any) -> bool:
    dtype = found.dtype
    return dtype.kind in _NUMBERS or is_bfloat16(found)


def is_bfloat16(found: Any) -> bool:
    """True for the two-byte blobs in which Keras stores bfloat16."""
    dtype = found.dtype
    if dtype.kind != "V" or dtype.itemsize != 2 or dtype.fields or dtype.subdtype:
        return False
    return text(found, "dtype") == "bfloat16"


def _chunk_count(found: Any) -> int:
    """Of the grid that a dataset declares, whether anything was written or not; 1 without."""
    chunks = found.chunks or found.shape
    return math.prod(-(-int(d) // int(c)) for d, c in zip(found.shape, chunks, strict=True) if c)


def _check_chunks(found: Any) -> None:
    """FileFault where a dataset is cut so small that the pieces cost more than the numbers.

    For each chunk that a reading touches, there or not, HDF5 takes 3 KB of memory.
    """
    count = _chunk_count(found)
    if count > max(FEW_CHUNKS, bytes_of(found) // CHUNK):
        raise FileFault(
            f"weight {found.name!r:.80} of shape {found.shape} is cut into {count} chunks, far "
            "more than any real model: save the model again with Keras"
        )


def _check_filters(found: Any, chunk: int) -> None:
    """Compressed chunks must have filters that HDF5 itself has, and unpack to what they declare.

    HDF5 would load any other filter as a plugin, and unpacks a chunk however large it gets.
    """
    plist = found.id.get_create_plist()
    codes = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if not codes:
        return
    ordered = [c for c in (_SHUFFLE, _DEFLATE, _FLETCHER) if c in codes]
    if codes != ordered:
        raise FileFault(
            f"weight {found.name!r:.80} is compressed in a way that is not read (filters {codes}): "
            "save the model again with Keras"
        )
    if _DEFLATE not in codes:
        return
    for place in _places(found):
        info = found.id.get_chunk_info_by_coord(place)
        if info.byte_offset is None:
            continue  # never written
        if info.size > chunk + 1024:
            raise FileFault(f"weight {found.name!r:.80} has chunks larger than it declares")
        mask, packed = found.id.read_direct_chunk(place)
        if mask:
            continue  # stored as it is
        unpacked = zlib.decompressobj()
        try:
            size = len(unpacked.decompress(packed, chunk + 1))
        except zlib.error as e:
            raise FileFault(f"weight {found.name!r:.80} cannot be unpacked ({e})") from e
        if size != chunk:
            raise FileFault(f"weight {found.name!r:.80} unpacks to other than it declares")


def _places(found: Any) -> Iterator[tuple[int, ...]]:
    """Where each chunk of a dataset begins."""
    axes = (range(0, int(d), int(c)) for d, c in zip(found.shape, found.chunks, strict=True))
    return itertools.product(*axes)


def read(found: Any, index: Any = ()) -> Any:
    """A dataset's numbers, as NumPy has them, in memory bounded by what was admitted."""
    with limited_memory(bytes_of(found) + _STRUCTURES):
        return found[index]


class Slices:
    """A dataset as an array that is read where it is indexed, in a NumPy float dtype.

    Args:
        found: the dataset.
        path: of the file that errors name.

    Attributes:
        shape: of the whole.
        is_chunked: each index reads all chunks that it touches, so it is better read as a whole.

    Indexing raises FileFault where the numbers cannot be read.
    """

    def __init__(self, found: Any, path: Path) -> None:
        self._dataset, self._path = found, path
        self._bfloat16 = is_bfloat16(found)
        self.shape: tuple[int, ...] = tuple(found.shape)
        self.is_chunked = found.chunks is not None

    def __getitem__(self, index: Any) -> Any:
        with reading(self._path):
            values = read(self._dataset, index)
        if self._bfloat16:
            import ml_dtypes

            values = values.view(ml_dtypes.bfloat16)
        return as_float(values)
