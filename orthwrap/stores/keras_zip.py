"""`.keras` archives: config.json, metadata.json and model.weights.h5 in a zip."""

from __future__ import annotations

import io
import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import h5py

from orthwrap.errors import FileFault
from orthwrap.layouts import KernelSpec
from orthwrap.records import ModelRecord
from orthwrap.stores.base import WeightRef, as_float
from orthwrap.stores.h5 import parse_config
from orthwrap.walker import Layer, Node, Step, walk, with_old_names

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
_MAX_JSON = 256 << 20  # bytes; far above any real config, far below what would hurt


class KerasStore:
    """Reads one `.keras` archive. Nothing in it is run, and it is never written to."""

    format = "keras"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.old_names: Mapping[str, str] = {}  # a layer's name → the one that modernising took
        self._weights: Any = None
        self._open: list[IO[bytes]] = []
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as e:
            raise FileFault(f"{path} is a broken zip archive ({e}): copy it again") from e
        try:
            self._check_members()
            self.root = parse_config(self._read(CONFIG), path)
            self.metadata = self._read_metadata()
            self._weights = self._open_weights()
            self.record = ModelRecord(
                path=str(path),
                format=self.format,
                keras_version=self.metadata.get("keras_version"),
                parameters=self._count_parameters(),
            )
        except (zipfile.BadZipFile, OSError, RuntimeError, KeyError, EOFError) as e:
            self.close()
            raise FileFault(f"{path} is a broken .keras archive ({e}): copy it again") from e
        except BaseException:
            self.close()
            raise

    def layers(self) -> tuple[Layer, ...]:
        return with_old_names(walk(self.root), self.old_names)

    def weights(self, layer: Layer, specs: Sequence[KernelSpec]) -> list[WeightRef | None]:
        owner = self._owner(layer)
        if owner is None:
            return [None] * len(specs)
        return [self._find(owner, spec) for spec in specs]

    def close(self) -> None:
        if self._weights is not None:
            self._weights.close()
        for handle in self._open:
            handle.close()
        self._zip.close()

    def write(self, target: Path, root: Node) -> None:
        """A copy of the archive in which only config.json differs."""
        with zipfile.ZipFile(target, "w") as out:
            out.comment = self._zip.comment
            for info in self._zip.infolist():
                entry = _like(info)
                if info.filename == CONFIG:
                    out.writestr(entry, json.dumps(root))
                    continue
                with (
                    self._zip.open(info) as source,
                    out.open(entry, "w", force_zip64=info.file_size > 1 << 31) as sink,
                ):
                    shutil.copyfileobj(source, sink, 1 << 20)

    def check_copy(self, target: Path, root: Node) -> None:
        """FileFault unless the archive just written reads back as it should."""
        with zipfile.ZipFile(target) as copy:
            sums = {i.filename: i.CRC for i in copy.infolist() if i.filename != CONFIG}
            wanted = {i.filename: i.CRC for i in self._zip.infolist() if i.filename != CONFIG}
            if sums != wanted or json.loads(copy.read(CONFIG)) != root:
                raise FileFault(f"{target} did not read back as it was written: try again")

    # Reading

    def _check_members(self) -> None:
        names = self._zip.namelist()
        if len(set(names)) != len(names):
            raise FileFault(f"{self.path} names a member twice: no Keras wrote this archive")
        missing = [n for n in (CONFIG, METADATA) if n not in names]
        if missing:
            raise FileFault(
                f"{self.path} is a zip but no .keras archive (no {', no '.join(missing)}): "
                "expected a file written by model.save('model.keras')"
            )

    def _read(self, name: str) -> bytes:
        info = self._zip.getinfo(name)
        if info.file_size > _MAX_JSON:
            raise FileFault(f"{self.path}: {name} declares {info.file_size} bytes: no real config")
        return self._zip.read(info)

    def _read_metadata(self) -> dict[str, Any]:
        try:
            metadata = json.loads(self._read(METADATA))
        except ValueError:
            metadata = None
        return metadata if isinstance(metadata, dict) else {}

    def _open_weights(self) -> Any:
        """The weights' HDF5 file, read in place where it is stored uncompressed."""
        if WEIGHTS not in self._zip.namelist():
            return None
        info = self._zip.getinfo(WEIGHTS)
        handle: IO[bytes]
        if info.compress_type == zipfile.ZIP_STORED:
            handle = _Window(self.path, _data_offset(self.path, info), info.file_size)  # type: ignore[assignment]  # an IO[bytes] in all that h5py asks of it
        else:
            handle = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the store
            with self._zip.open(info) as source:
                shutil.copyfileobj(source, handle, 1 << 20)
        self._open.append(handle)
        try:
            return h5py.File(handle, "r")
        except OSError as e:
            raise FileFault(
                f"{self.path} holds broken weights ({WEIGHTS}: {str(e).splitlines()[0]}): "
                "copy or save it again"
            ) from e

    def _count_parameters(self) -> int:
        total = 0

        def count(name: str, item: Any) -> None:
            nonlocal total
            if isinstance(item, h5py.Dataset) and not name.startswith("optimizer/"):
                total += math.prod(item.shape)

        if self._weights is not None:
            self._weights.visititems(count)
        return total

    # Where a layer's weights lie: its steps from the root, with the members of a list numbered by
    # class. Recent versions also write each layer's name; it decides where it is there.

    def _owner(self, layer: Layer) -> Any:
        group = self._weights
        for step in layer.steps:
            group = None if group is None else self._down(group, step)
        return group

    def _down(self, group: Any, step: Step) -> Any:
        holder = group.get(step.attribute)
        if holder is None and step.attribute == "layers":
            holder = group.get("_layer_checkpoint_dependencies")  # Keras 2.12 and 2.13
        if step.ordinal is None:
            return holder if isinstance(holder, h5py.Group) else _named(group, step.name)
        if not isinstance(holder, h5py.Group):
            return _named(group, step.name)
        number = f"_{step.ordinal}" if step.ordinal else ""
        member = holder.get(f"{step.snake}{number}")
        if member is not None and _name_of(member) in (None, step.name):
            return member
        return _named(holder, step.name)

    def _find(self, owner: Any, spec: KernelSpec) -> WeightRef | None:
        for attribute in spec.attributes:
            child = owner.get(attribute)
            if child is None:
                child = owner.get(attribute.removeprefix("_"))
            if child is None:
                return None
            owner = child
        dataset = owner.get(f"vars/{spec.index}")
        if not isinstance(dataset, h5py.Dataset):
            return None
        return WeightRef(tuple(dataset.shape), lambda: _values(dataset), dataset.name)


def _values(dataset: Any) -> Any:
    if dataset.attrs.get("dtype") == "bfloat16":
        import ml_dtypes

        return as_float(dataset[()].view(ml_dtypes.bfloat16))
    return as_float(dataset[()])


def _name_of(group: Any) -> str | None:
    own = group.get("vars")
    return None if own is None else own.attrs.get("name")


def _named(holder: Any, name: str) -> Any:
    """The one member of a group whose layer has this name."""
    found = [
        member
        for member in holder.values()
        if isinstance(member, h5py.Group) and _name_of(member) == name
    ]
    return found[0] if len(found) == 1 else None


def _like(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """An entry with the same name, date, attributes and compression, ready to be written."""
    entry = zipfile.ZipInfo(info.filename, info.date_time)
    entry.compress_type = info.compress_type
    entry.external_attr = info.external_attr
    entry.create_system = info.create_system
    entry.comment = info.comment
    entry.extra = b""
    return entry


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its local header, whose name and extra field vary."""
    with path.open("rb") as f:
        f.seek(info.header_offset)
        header = f.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("a member's header is not where the directory says")
    name_length = int.from_bytes(header[26:28], "little")
    extra_length = int.from_bytes(header[28:30], "little")
    return info.header_offset + 30 + name_length + extra_length


class _Window(io.RawIOBase):
    """A stretch of a file as a file of its own, so that weights are read where they lie."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._file = path.open("rb")
        self._start, self._size, self._at = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = max(min(len(view), self._size - self._at), 0)
        self._file.seek(self._start + self._at)
        count = self._file.readinto(view[:length])
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
