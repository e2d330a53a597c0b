"""The formats that models are stored in: one row each, and all else follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orthwrap.stores import h5_edit, keras_edit, saved_model
from orthwrap.stores.edits import Described, Edits
from orthwrap.stores.h5 import H5Store, is_hdf5
from orthwrap.stores.keras_zip import KerasStore, is_keras
from orthwrap.stores.saved_model import SavedModelFolder, is_saved_model


class Editing(Protocol):
    """How a file is brought up to date; a module of two functions."""

    def described(self, store: Any, /) -> Described:
        """All that is known of an opened model without reading its arrays."""

    def write_edited(self, store: Any, target: Path, edits: Edits, /) -> None:
        """Writes a copy in line with the edits; `target` lies in a scratch folder."""


@dataclass(frozen=True)
class Format:
    """A format of model files.

    Attributes:
        name: in reports.
        recognises: whether what is at a path is of it, by what is there and not by its suffix.
        open: its store, which reads the file and writes copies with another config.
        editing: brings older files up to date; None where no older Keras wrote any.
        suffixes: of its files, the first for new ones; () where none are written.
        becomes: the format of edited copies where it is not its own; such a file is read by
            bringing it up to date alone.
    """

    name: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path], Any]
    editing: Editing | None = None
    suffixes: tuple[str, ...] = ()
    becomes: str | None = None


# In the order in which they are tried.
FORMATS: tuple[Format, ...] = (
    Format("saved_model", is_saved_model, SavedModelFolder, saved_model, becomes="keras"),
    Format("h5", is_hdf5, H5Store, h5_edit, suffixes=(".h5", ".hdf5")),
    Format("keras", is_keras, KerasStore, keras_edit, suffixes=(".keras",)),
)


def suffixes() -> dict[str, str]:
    """Suffix → the name of the format that it stands for."""
    return {suffix: row.name for row in FORMATS for suffix in row.suffixes}


def new_suffix(name: str) -> str:
    """The suffix of new files of a format, or of what it becomes."""
    row = next(row for row in FORMATS if row.name == name)
    return row.suffixes[0] if row.becomes is None else new_suffix(row.becomes)


def suffix_list() -> str:
    """All suffixes in words: `.h5, .hdf5 or .keras`."""
    *others, last = suffixes()
    return f"{', '.join(others)} or {last}"
