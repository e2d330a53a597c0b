"""Opening what a stranger may have put there: a file is opened, anything else is refused at once.

A FIFO under the name of a model, an image or an archive's member would keep whoever opens it
waiting for ever, and a file of holes says that it is a terabyte long.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from pathlib import Path
from typing import IO

from orthwrap.errors import FileFault

FLOOR = 64 << 20  # bytes that any file may unpack to
SWELLING = 20  # how many times what it holds a larger one may; Keras does not compress at all
MAX_LIST = 8 << 20  # bytes of an archive's list of members

# Without waiting for a writer, and without becoming a terminal's process.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def open_regular(path: str | os.PathLike[str], buffering: int = -1) -> IO[bytes]:
    """A regular file, opened for reading; links are followed.

    Args:
        buffering: as of `open`; 0 gives the file without a buffer.

    Raises:
        FileFault: it is a folder, a FIFO, a socket or a device.
        OSError: it cannot be opened.
    """
    return open(path, "rb", buffering, opener=_opener)


def open_itself(path: Path) -> IO[bytes]:
    """As `open_regular`, but FileFault for a link: nothing outside its folder is read."""
    mode = path.lstat().st_mode  # a device may act when it is opened
    if stat.S_ISLNK(mode):
        raise link_fault(path)
    if not stat.S_ISREG(mode):
        raise _not_regular(path)
    try:
        return open(path, "rb", opener=_opener_of_no_link)
    except OSError as e:
        if e.errno == errno.ELOOP:  # it has become one
            raise link_fault(path) from e
        raise


def link_fault(path: Path) -> FileFault:
    return FileFault(
        f"{path} is a link, and nothing outside the folder is read: "
        "copy the folder with its files inside (cp -rL)"
    )


def _not_regular(path: str | Path) -> FileFault:
    return FileFault(f"{path} is not a regular file: expected one, and nothing else is opened")


def _opener_of_no_link(path: str, flags: int) -> int:
    return _opener(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _opener(path: str, flags: int) -> int:
    handle = os.open(path, flags | _AT_ONCE)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_regular(path)
    return handle


class ZipSource(io.BufferedReader):
    """An archive to give to `zipfile`, of which no endless list of members is read.

    `zipfile` reads the list at once, of whatever length the archive says it is, and makes an object
    of each member before anybody can look at them.

    Attributes:
        is_listed: set once the list was read; members may be of any size.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(open_regular(path, 0))  # type: ignore[arg-type]  # without a buffer: raw
        self.is_listed = False

    def __del__(self) -> None:
        with contextlib.suppress(ValueError):  # where nothing could be opened
            self.close()  # without a warning, as `zipfile` lets go of what it opened itself

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.is_listed and size is not None and size > MAX_LIST:
            raise FileFault(
                f"{self.name} lists its members in {size} bytes, more than any real archive"
            )
        return super().read(size)


def held(path: str | os.PathLike[str]) -> int:
    """Bytes of a regular file, holes left out; all of them where the system does not tell."""
    with open_regular(path) as file:
        return held_by(file)


def held_by(file: IO[bytes]) -> int:
    """As `held`, of an open file; its place in it is another one then."""
    handle = file.fileno()
    found = os.fstat(handle)
    blocks = getattr(found, "st_blocks", None)
    if blocks is None or blocks * 512 >= found.st_size or not hasattr(os, "SEEK_DATA"):
        return found.st_size
    return _data(handle, found.st_size)


def _data(handle: int, size: int) -> int:
    total = at = 0
    while at < size:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
            at = os.lseek(handle, start, os.SEEK_HOLE)
        except OSError as e:
            # Nothing but a hole follows, or the file system knows nothing of holes.
            return total if e.errno == errno.ENXIO else size
        total += at - start
    return total


def check_holes(path: Path, size: int, held: int) -> None:
    """FileFault where a file, or several together, are long but hold next to nothing."""
    if size > max(FLOOR, SWELLING * held):
        raise FileFault(
            f"{path} says that it has {size} bytes and holds {held}, the rest being holes: "
            "it is broken or made to exhaust the machine"
        )
