"""A path → the format of what is there and its store, or one line that says why there is none."""

from __future__ import annotations

from pathlib import Path

from orthwrap.errors import FileFault
from orthwrap.stores import formats
from orthwrap.stores.formats import Format, suffix_list
from orthwrap.stores.pair import is_architecture
from orthwrap.stores.regular import open_regular
from orthwrap.stores.replacing import reason
from orthwrap.stores.store import FileStore


def open_file(path: Path) -> FileStore:
    """The store of a model file, told by what is in it, not by its suffix.

    Raises:
        FileFault: it is missing, a folder that is none of Keras's, neither HDF5 nor a Keras zip,
            broken, holds weights alone, or is read only by bringing it up to date.
    """
    found = format_at(path)
    if found.becomes is not None:
        raise FileFault(
            f"{path} is of the format {found.name}, which is read only by bringing it up to Keras "
            "3: use `orthwrap upgrade` first, or leave --no-upgrade out"
        )
    store: FileStore = found.open(path)
    return store


def format_at(path: Path) -> Format:
    """The format of what is at a path; FileFault where it is none that is read."""
    if not path.is_dir():
        check_readable(path)
    found = next((row for row in formats.FORMATS if row.recognises(path)), None)
    if found is None:
        raise FileFault(_why_none(path))
    return found


def _why_none(path: Path) -> str:
    if _is_checkpoint(path):
        return (
            f"{path} is a TensorFlow checkpoint, which holds weights only: build the model in "
            "Python, model.load_weights(prefix), model.save('model.keras'), then `orthwrap apply "
            "model.keras`"
        )
    if path.is_dir():
        return f"{path} is a folder: expected a model file ({suffix_list()})"
    if path.stat().st_size == 0:
        return f"{path} is empty: expected a Keras model ({suffix_list()})"
    if path.name.endswith(".weights.json"):
        return (
            f"{path} lists files of weights only, no model: build the model in Python, "
            "model.load_weights(file), model.save('model.keras'), then `orthwrap apply model.keras`"
        )
    if is_architecture(path):
        return (
            f"{path} describes a model without its weights: `orthwrap upgrade {path.name} "
            "--weights W.h5` makes one file of both (apply, inspect and finetune take --weights "
            "too; weights= in Python)"
        )
    return (
        f"{path} is neither an HDF5 file nor a .keras archive, or is cut short: "
        "save the model again with model.save('model.keras')"
    )


def _is_checkpoint(path: Path) -> bool:
    """By the names that TensorFlow gives: `weights.index` beside `weights.data-00000-of-00001`."""
    if path.is_dir():
        return (path / "checkpoint").is_file()
    return path.suffix == ".index" or path.suffix.startswith(".data-")


def check_readable(path: Path) -> None:
    """FileFault unless `path` is a file that can be read."""
    try:
        if not path.exists():
            raise FileFault(f"{path} does not exist: give the path of a {suffix_list()} file")
        if not path.is_file():
            raise FileFault(f"{path} is not a regular file: expected {suffix_list()}")
        open_regular(path).close()
    except OSError as e:
        raise FileFault(f"{path} cannot be read: {reason(e)}") from e
