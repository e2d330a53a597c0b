"""Whether a file is still the one that was opened: it is read in several goes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orthwrap.errors import FileFault
from orthwrap.stores.members import MAX_MEMBERS


@dataclass(frozen=True)
class Original:
    """The file or folder that the user gave, as it stood at some moment."""

    path: Path
    state: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, path: Path) -> Original:
        return cls(path, _state(path))

    def check(self) -> None:
        """FileFault where another file is there by now, or something was written to it."""
        if _state(self.path) != self.state:
            raise FileFault(
                f"{self.path} was changed or replaced while it was read: try again when it is whole"
            )


def _state(path: Path) -> tuple[tuple[int, ...], ...]:
    """What differs once something was written; () where nothing can be seen."""
    try:
        found = [entry.stat() for entry in itertools.islice(_parts(path), MAX_MEMBERS)]
    except OSError:
        return ()
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in found)


def _parts(path: Path) -> Iterator[Path]:
    yield path
    for place, folders, files in os.walk(path):  # nothing, where it is a file
        folders.sort()
        yield from (Path(place, name) for name in (*folders, *sorted(files)))
