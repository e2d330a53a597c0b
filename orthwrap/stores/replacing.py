"""A file appears whole or not at all: written beside its target, then moved into place.

What is written first lies in a folder of its own, which its writer keeps locked. A writer that is
killed loses the lock, so that the next one can tell what was left behind and clear it away.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orthwrap.errors import FileFault, first_line
from orthwrap.stores.written import note

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SCRATCH = "orthwrap-scratch"
_ENDING = ".tmp"


@contextlib.contextmanager
def replacing(target: Path, *, like: Path | None = None) -> Iterator[Path]:
    """A temporary file near `target` to write to; moved onto it when the block ends well.

    On an exception, Ctrl-C included, it is removed and `target` is as it was. What a killed run
    left behind for the same target is removed too.

    Args:
        target: the file that is to appear or be replaced.
        like: the file whose permissions the new one gets.

    Raises:
        FileFault: the folder cannot be written to, or the disk is full.
    """
    target = Path(os.path.realpath(target))  # a link is followed, never replaced
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
            sibling.replace(target)
            note(target)
        except OSError as e:
            raise FileFault(f"cannot write {target}: {reason(e)}") from e
    with contextlib.suppress(OSError):
        _to_disk(target.parent)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for files that nobody needs later; those of killed runs are cleared away."""
    with contextlib.ExitStack() as stack:
        place = Path(tempfile.gettempdir())
        try:
            folder = stack.enter_context(_own_folder(place, _SCRATCH))
        except OSError as e:
            raise FileFault(f"cannot write into {place}: {reason(e)}") from e
        yield folder


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
    return prefix.encode()[:200].decode(errors="ignore")


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
