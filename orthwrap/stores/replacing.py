"""A file appears whole or not at all: written beside its target, then moved into place.

What is there and no regular file (a pipe, a device) is never replaced. What is written first lies
in a folder of its own, which its writer keeps locked. A writer that is killed loses the lock, so
that the next one can tell what was left behind and clear it away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

from orthwrap.errors import FileFault, PlaceFault
from orthwrap.stores.written import note
from orthwrap.text import first_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SCRATCH = "orthwrap-scratch"
_ENDING = ".tmp"
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)  # Windows has neither


@contextlib.contextmanager
def replacing(target: Path, *, like: Path | None = None) -> Iterator[Path]:
    """A temporary file near `target` to write to; moved onto it when the block ends well.

    On an exception, Ctrl-C included, it is removed and `target` is as it was. What a killed run
    left behind for the same target is removed too.

    Args:
        target: the file that is to appear or be replaced.
        like: the file whose permissions the new one gets.

    Raises:
        FileFault: the folder cannot be written to, the disk is full, or `target` is there and no
            regular file.
    """
    given, target = target, Path(os.path.realpath(target))  # a link is followed, never replaced
    check_regular(given)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(_own_folder(target.parent, f".{target.name}"))
        except OSError as e:
            raise FileFault(f"cannot write into {target.parent}: {reason(e)}") from e
        sibling = folder / target.name
        try:
            sibling.touch(exist_ok=False)
            yield sibling
            sibling.chmod(_mode(like) if like is not None else 0o666 & ~_umask())
            _to_disk(sibling)
            check_regular(given)
            sibling.replace(target)
            note(target)
        except OSError as e:
            raise FileFault(f"cannot write {target}: {reason(e)}") from e
    with contextlib.suppress(OSError):
        _to_disk(target.parent)


def check_regular(path: Path) -> None:
    """FileFault where something is at `path` that is no regular file, and so is not replaced."""
    what = what_is_at(path)
    if what is not None:
        raise FileFault(f"{path} is {what}, which is not replaced: name a regular file")


def check_place(target: Path) -> None:
    """FileFault where no file can be made beside `target`, as `replacing` will have to."""
    place = Path(os.path.realpath(target)).parent
    try:
        with _own_folder(place, f".{target.name}"):
            pass
    except OSError as e:
        raise FileFault(f"cannot write into {place}: {reason(e)}") from e


def check_folder(folder: Path, purpose: str = "") -> None:
    """FileFault unless there is such a folder to write into."""
    if folder.is_dir():
        return
    if folder.exists():
        raise FileFault(f"{folder}{purpose} is no folder: name another")
    raise FileFault(f"folder {folder}{purpose} does not exist: make it first")


def what_is_at(path: Path) -> str | None:
    """What is at `path` that is no regular file, in words; None for a file, or for nothing.

    Links are followed.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        # A link to a place where nothing is yet is as good as that place.
        return "a link in a circle" if os.path.islink(os.path.realpath(path)) else None
    return next((words for is_it, words in _KINDS if is_it(mode)), None)


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


class TextOutput:
    """A text for other programs: a file that is whole at any moment, or what is there already.

    A pipe, a terminal, `/dev/null` and this process's own descriptors (`/dev/stderr`,
    `/dev/fd/63`) are written straight through. They are opened at once, so that what cannot be is
    found before anything is done, and a pipe's reader sees its end when all is.

    Raises:
        FileFault: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sent = ""
        self._handle: int | None = None
        try:
            if is_stream(path):
                self._handle = _opened(path)
            else:
                check_place(path)
        except OSError as e:
            why = "nobody reads from it" if e.errno == errno.ENXIO else reason(e)
            raise FileFault(f"cannot write {path}: {why}") from e
        if self._handle is not None:
            weakref.finalize(self, os.close, self._handle)

    def write(self, text: str) -> None:
        """The text as it is now, as a whole; a stream gets what has been added to it.

        Raises:
            FileFault: the reader is gone, or the disk is full.
        """
        if self._handle is None:
            with replacing(self._path) as sibling:
                sibling.write_text(text, encoding="utf-8", newline="")
            return
        rest = memoryview(text.removeprefix(self._sent).encode())
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as e:
            raise FileFault(f"cannot write {self._path}: {reason(e)}") from e
        self._sent = text


def is_stream(path: Path) -> bool:
    """Whether a text for `path` is written straight through, not to a file of that name."""
    return what_is_at(path) is not None or descriptor_of(path) is not None


def descriptor_of(path: Path) -> int | None:
    """The number of this process's own descriptor that `path` stands for, as `/dev/stdout` does."""
    for _ in range(40):  # as many links as the system follows
        folder = os.path.realpath(path.parent)
        if path.name.isdecimal() and (folder == "/dev/fd" or _own_descriptors(folder)):
            return int(path.name)
        if not path.is_symlink():
            return None
        path = Path(folder, os.readlink(path))
    return None


def _own_descriptors(folder: str) -> bool:
    return re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", folder) is not None


def _opened(path: Path) -> int:
    """A handle for writing; never waits for a reader."""
    number = descriptor_of(path)
    if number is not None:
        return os.dup(number)  # opened anew, a file would be written from its beginning
    what = what_is_at(path)
    if what not in ("a pipe", "a character device"):
        raise FileFault(f"{path} is {what}, which is not written to: name a file")
    handle = os.open(path, os.O_WRONLY | _AT_ONCE)
    if _AT_ONCE:
        os.set_blocking(handle, True)
    return handle


def make_folder(path: Path) -> None:
    """A folder of the user's, with those around it; it may be there already.

    Raises:
        FileFault: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FileFault(f"cannot make folder {path}: {reason(e)}") from e


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for files that nobody needs later; those of killed runs are cleared away.

    Raises:
        FileFault: it cannot be made, or becomes full.
    """
    place = Path(tempfile.gettempdir())
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(_own_folder(place, _SCRATCH))
        except OSError as e:
            raise FileFault(f"cannot write into {place}: {reason(e)}") from e
        with named_where_full(place):
            yield folder


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def named_where_full(place: Path) -> Iterator[None]:
    """A temporary folder that has no room is named, not the file that was read."""
    try:
        yield
    except (OSError, RuntimeError) as e:  # HDF5 raises the latter where it closes a file
        if not is_out_of_room(e):
            raise
        why = os.strerror(_number(e))
        raise PlaceFault(
            f"cannot write into {place}, where temporary files lie: {why}: make room, or set "
            "TMPDIR to another folder"
        ) from e


def is_out_of_room(error: BaseException) -> bool:
    """Whether a disk, a quota or a limit on the length of files has no room for more."""
    return _number(error) in _NO_ROOM


def _number(error: BaseException) -> int:
    """The system's number, also in the words of the HDF5 library; 0 where there is none."""
    found = re.search(r"errno = (\d+)", str(error))
    return getattr(error, "errno", None) or (int(found[1]) if found else 0)


def reason(error: OSError) -> str:
    """The system's words for it, without the path."""
    return error.strerror or first_line(error)


@contextlib.contextmanager
def _own_folder(place: Path, prefix: str) -> Iterator[Path]:
    """A new folder `prefix.XXXX.tmp` in `place`, locked while it is used and then removed."""
    _clear_leftovers(place, prefix)
    folder: Path | None = None
    lock: int | None = None
    try:
        while folder is None:
            # Named before it is made: an interrupt at any moment finds what to remove.
            folder = place / f"{_short(prefix)}.{secrets.token_hex(4)}{_ENDING}"
            try:
                folder.mkdir(mode=0o700)
                lock = _lock(folder)
            except (FileExistsError, _TakenError):
                folder = None
                continue
            if not folder.is_dir():  # another run cleared it away just before it was locked
                folder = None
                if lock is not None:
                    os.close(lock)
                    lock = None
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


class _TakenError(Exception):
    """Another run holds the lock."""


def _lock(folder: Path) -> int | None:
    """A handle that holds the lock while it is open; None where there are no locks."""
    try:
        return lock(folder, os.O_NOFOLLOW if fcntl is not None else 0)
    except OSError as e:
        raise _TakenError from e


def lock(folder: Path, flags: int = 0) -> int | None:
    """A handle that holds a folder's lock while it is open, at most as long as this process lives.

    None where there are no locks: on Windows, and on some network file systems.

    Raises:
        BlockingIOError: another run holds it.
        OSError: the folder cannot be opened.
    """
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | flags)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    return handle


def unlock(handle: int) -> None:
    """Lets go of a lock, also where a child process has inherited the handle."""
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _short(prefix: str) -> str:
    """A name of a length that has room for an ending."""
    return os.fsencode(prefix)[:200].decode(errors="ignore")


def _clear_leftovers(place: Path, prefix: str) -> None:
    """Removes the folders of writers that are gone: those that nobody holds a lock on."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(place)):
            middle = entry.name.removeprefix(f"{_short(prefix)}.").removesuffix(_ENDING)
            if entry.name != f"{_short(prefix)}.{middle}{_ENDING}" or not _is_token(middle):
                continue
            if not entry.is_dir(follow_symlinks=False) or not _is_mine(entry):
                continue
            with contextlib.suppress(_TakenError):
                lock = _lock(Path(entry.path))
                if lock is not None:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    os.close(lock)


def _is_token(text: str) -> bool:
    return len(text) == 8 and all(c in "0123456789abcdef" for c in text)


def _is_mine(entry: os.DirEntry[str]) -> bool:
    return not hasattr(os, "getuid") or entry.stat(follow_symlinks=False).st_uid == os.getuid()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mode(path: Path) -> int:
    allowed = 0o666 if path.is_dir() else 0o777  # a folder's x says nothing of files
    return stat.S_IMODE(path.stat().st_mode) & allowed


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
