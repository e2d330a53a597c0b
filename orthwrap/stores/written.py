"""Which files were put in place, so that a command that fails later can say what stands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_lasting: list[list[Path]] = []  # one list for each `noting` that lasts


@contextlib.contextmanager
def noting() -> Iterator[list[Path]]:
    """The files and folders put in place while it lasts, each once; filled as they are."""
    places: list[Path] = []
    _lasting.append(places)
    try:
        yield places
    finally:
        _lasting.pop()


def note(place: Path) -> None:
    """Says that a file or folder is in place."""
    for places in _lasting:
        if place not in places:
            places.append(place)
