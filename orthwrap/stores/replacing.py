"""A file appears whole or not at all: written beside its target, then moved into place."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orthwrap.errors import FileFault


@contextlib.contextmanager
def replacing(target: Path, *, like: Path | None = None) -> Iterator[Path]:
    """A temporary sibling of `target` to write to; moved onto it when the block ends well.

    On an exception, Ctrl-C included, the sibling is removed and `target` is as it was.

    Args:
        target: the file that is to appear or be replaced.
        like: the file whose permissions the new one gets.

    Raises:
        FileFault: the folder cannot be written to, or the disk is full.
    """
    target = Path(os.path.realpath(target))  # a link is followed, never replaced
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name}.", suffix=f".tmp{target.suffix}", dir=target.parent
        )
        os.close(handle)
    except OSError as e:
        raise FileFault(f"cannot write into {target.parent}: {reason(e)}") from e
    sibling = Path(name)
    try:
        yield sibling
        sibling.chmod(_mode(like) if like is not None else 0o666 & ~_umask())
        with sibling.open("rb") as f:
            os.fsync(f.fileno())
        sibling.replace(target)
    except OSError as e:
        raise FileFault(f"cannot write {target}: {reason(e)}") from e
    finally:
        sibling.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """The system's words for it, without the path."""
    return error.strerror or str(error)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
