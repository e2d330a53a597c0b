"""What goes wrong while a file is read is said of the file; what goes wrong elsewhere is not."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from orthwrap.errors import FileFault, OrthwrapError, PlaceFault
from orthwrap.stores.replacing import is_out_of_room, reason
from orthwrap.text import printable

# What a file of a form that no Keras writes makes the code that reads it raise.
_FAULTS = (
    *(KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError),
    *(RecursionError, RuntimeError, EOFError, AssertionError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around the reading of a file, and nothing else: what goes wrong takes one line to say.

    Raises:
        FileFault: names the file, and says what was noticed of it.
    """
    try:
        yield
    except FileFault as e:
        if isinstance(e, PlaceFault) or printable(str(path)) in str(e):
            raise
        raise FileFault(f"{path}: {e}") from e
    except OrthwrapError:
        raise
    except OSError as e:
        if is_out_of_room(e):  # no reading takes any: whoever wrote meanwhile says where
            raise
        raise FileFault(f"{e.filename or path}: {reason(e)}") from e
    except _FAULTS as e:
        if is_out_of_room(e):
            raise
        raise unreadable(path, e) from e


def unreadable(path: Path, error: Exception) -> FileFault:
    """That a file is not in a form that orthwrap reads, in words that accuse nobody."""
    why = " ".join(str(error).split())[:200]
    return FileFault(
        f"{path} is not in a form that orthwrap can read ({type(error).__name__}: {why}): copy it "
        "or save it with Keras again; --debug shows where it was noticed"
    )
