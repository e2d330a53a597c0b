"""What goes wrong while a file is read is said of the file; what goes wrong elsewhere is not."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from orthwrap.errors import FileFault, OrthwrapError
from orthwrap.stores.replacing import reason

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
    except OrthwrapError:
        raise
    except OSError as e:
        raise FileFault(f"{e.filename or path}: {reason(e)}") from e
    except _FAULTS as e:
        why = " ".join(str(e).split())[:200]
        raise FileFault(
            f"{path} cannot be read ({type(e).__name__}: {why}): it is not in a form that orthwrap "
            "knows; copy or save it again, or see with --debug where it was noticed"
        ) from e
