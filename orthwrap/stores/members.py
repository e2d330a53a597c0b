"""The members of a `.keras`, from its zip archive or from a folder that holds them unpacked.

Nothing is ever unpacked by its own name, so that no name can lead out of anywhere; what could
exhaust memory or disk, or would mislead another reader of the copy, is refused. By hand, because
`zipfile` neither sets limits nor copies a member from one archive to another.
"""

from __future__ import annotations

import io
import os
import posixpath
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from orthwrap.errors import FileFault
from orthwrap.stores.regular import (
    FLOOR,
    SWELLING,
    ZipSource,
    check_holes,
    held,
    link_fault,
    open_regular,
)
from orthwrap.stores.replacing import named_where_full, reason

MAX_JSON = 256 << 20  # bytes; far above any real config, far below what would hurt
MAX_MEMBERS = 20_000  # vocabularies and other assets are files of their own, but not so many
_BLOCK = 1 << 20


class Members(Protocol):
    """What an archive and a folder offer alike."""

    names: tuple[str, ...]
    size: int  # bytes of all on disk, holes left out

    def read(self, name: str, most: int = MAX_JSON) -> bytes:
        """A small member as a whole; FileFault where it has more than `most` bytes."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """A large member as a file that can be sought in."""
        ...

    def copy_to(self, target: Path, changed: Mapping[str, str | Path]) -> None:
        """An archive of all members, those in `changed` with another text, or that of a file."""
        ...

    def is_copy(self, copy: zipfile.ZipFile, changed: Mapping[str, str]) -> bool:
        """Whether an archive just written holds the same members."""
        ...

    def close(self) -> None: ...


class Archive:
    """The members of a zip archive.

    Raises:
        FileFault: it is broken, encrypted, compressed in an unusual way, or a bomb.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._length = path.stat().st_size
        self.size = held(path)
        check_holes(path, self._length, self.size)
        self._file = ZipSource(path)
        try:
            self._zip = zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as e:
            self._file.close()
            raise FileFault(f"{path} is a broken zip archive ({e}): copy it again") from e
        except OSError as e:
            self._file.close()
            raise FileFault(f"{path} cannot be read ({reason(e)}): copy it again") from e
        except BaseException:
            self._file.close()
            raise
        self._file.is_listed = True
        try:
            self._infos = {info.filename: info for info in self._zip.infolist()}
            self.names = tuple(self._infos)
            self._check()
        except BaseException:
            self.close()
            raise

    def read(self, name: str, most: int = MAX_JSON) -> bytes:
        info = self._infos[name]
        if info.file_size > most:
            raise FileFault(
                f"{self.path}: {name} declares {info.file_size} bytes: no Keras wrote it"
            )
        return self._zip.read(info)

    def open(self, name: str) -> IO[bytes]:
        """In place where the member is stored uncompressed, else unpacked to a nameless file."""
        info = self._infos[name]
        if info.compress_type == zipfile.ZIP_STORED:
            start = _data_offset(self.path, info)
            if start + info.file_size > self._length:
                raise zipfile.BadZipFile(f"{name} is cut short")
            return io.BufferedReader(_Window(self.path, start, info.file_size))
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115  # the caller's to close
        try:
            with self._zip.open(info) as source, named_where_full(Path(tempfile.gettempdir())):
                shutil.copyfileobj(source, unpacked, _BLOCK)
                unpacked.flush()
        except BaseException:
            unpacked.close()
            raise
        return unpacked

    def copy_to(self, target: Path, changed: Mapping[str, str | Path]) -> None:
        with zipfile.ZipFile(target, "w") as out:
            out.comment = self._zip.comment
            for info in self._infos.values():
                entry = _like(info)
                if info.filename in changed:
                    _write(out, entry, changed[info.filename])
                    continue
                try:
                    with (
                        self._zip.open(info) as source,
                        out.open(entry, "w", force_zip64=info.file_size > 1 << 30) as sink,
                    ):
                        shutil.copyfileobj(source, sink, _BLOCK)
                except (zipfile.BadZipFile, zlib.error, EOFError) as e:
                    raise FileFault(
                        f"{self.path}: member {info.filename!r:.80} is damaged ({e}): copy the "
                        "file again from where it came"
                    ) from e

    def is_copy(self, copy: zipfile.ZipFile, changed: Mapping[str, str]) -> bool:
        def sums(archive: zipfile.ZipFile) -> dict[str, int]:
            return {i.filename: i.CRC for i in archive.infolist() if i.filename not in changed}

        return sums(copy) == sums(self._zip)

    def close(self) -> None:
        self._zip.close()
        self._file.close()

    def _check(self) -> None:
        infos = self._zip.infolist()
        if len(infos) > MAX_MEMBERS:
            raise FileFault(f"{self.path} has {len(infos)} members: no Keras wrote this archive")
        if len(self._infos) != len(infos):
            raise FileFault(f"{self.path} names a member twice: no Keras wrote this archive")
        for info in infos:
            what = f"{self.path}: member {info.filename!r:.80}"
            if leads_out(info.filename):
                raise FileFault(f"{what} leads out of the archive: no Keras wrote this")
            if info.flag_bits & 1:
                raise FileFault(f"{what} is encrypted: unpack and pack it again without a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FileFault(
                    f"{what} is compressed by method {info.compress_type}: pack it again with "
                    "plain zip, or save the model again"
                )
        packed, unpacked = sum(i.compress_size for i in infos), sum(i.file_size for i in infos)
        if packed > self._length or unpacked > max(FLOOR, SWELLING * self.size):
            raise FileFault(
                f"{self.path} of {self._length} bytes would unpack to {unpacked}: it is broken or "
                "made to exhaust memory"
            )


class UnpackedFolder:
    """The members of a folder.

    Raises:
        FileFault: something in it leads out of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = dict(sorted(_files(path)))
        self.names = tuple(self._files)
        self.size = sum(held(f) for f in self._files.values())
        check_holes(path, sum(f.stat().st_size for f in self._files.values()), self.size)

    def read(self, name: str, most: int = MAX_JSON) -> bytes:
        path = self._files[name]
        with open_regular(path) as f:
            data = f.read(most + 1)
        if len(data) > most:
            raise FileFault(f"{path} has more than {most} bytes: no Keras wrote it")
        return data

    def open(self, name: str) -> IO[bytes]:
        return open_regular(self._files[name])

    def copy_to(self, target: Path, changed: Mapping[str, str | Path]) -> None:
        with zipfile.ZipFile(target, "w") as out:
            for name, path in self._files.items():
                entry = _dated(path, name)
                if name in changed:
                    _write(out, entry, changed[name])
                else:
                    with open_regular(path) as source, out.open(entry, "w") as sink:
                        shutil.copyfileobj(source, sink, _BLOCK)

    def is_copy(self, copy: zipfile.ZipFile, changed: Mapping[str, str]) -> bool:
        sizes = {i.filename: i.file_size for i in copy.infolist() if i.filename not in changed}
        return sizes == {n: p.stat().st_size for n, p in self._files.items() if n not in changed}

    def close(self) -> None:
        pass


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    count = 0
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            mode = path.lstat().st_mode
            count += 1
            if count > MAX_MEMBERS:
                raise FileFault(f"{folder} holds more than {MAX_MEMBERS} files: no Keras wrote it")
            if stat.S_ISLNK(mode):
                raise link_fault(path)
            if stat.S_ISREG(mode):
                yield path.relative_to(folder).as_posix(), path
            elif not stat.S_ISDIR(mode):
                raise FileFault(f"{path} is not a regular file: no Keras wrote this folder")


def _write(out: zipfile.ZipFile, entry: zipfile.ZipInfo, content: str | Path) -> None:
    """A member of another content than it had: a text, or that of a file."""
    if isinstance(content, str):
        out.writestr(entry, content)
        return
    with content.open("rb") as source, out.open(entry, "w", force_zip64=True) as sink:
        shutil.copyfileobj(source, sink, _BLOCK)


def leads_out(name: str) -> bool:
    """Whether an archive's member would be unpacked outside the folder it is unpacked into."""
    plain = name.replace("\\", "/")
    return (
        plain.startswith("/")
        or (len(plain) > 1 and plain[1] == ":")
        or ".." in plain.split("/")
        or posixpath.normpath(plain or ".") == "."
        or "\0" in name
    )


def _dated(path: Path, name: str) -> zipfile.ZipInfo:
    """An entry for a file; its time is the nearest that an archive can hold, 1980 to 2107."""
    try:
        return zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
    except (OverflowError, ValueError, OSError):  # a time that no calendar has
        return zipfile.ZipInfo(name)


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
    with open_regular(path) as f:
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
        self._file = open_regular(path, 0)
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
        count = int(self._file.readinto(view[:length]) or 0)  # type: ignore[attr-defined]
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
