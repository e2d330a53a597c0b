"""A path → the store that reads it, or one line that says why there is none."""

from __future__ import annotations

import zipfile
from pathlib import Path

from orthwrap.errors import FileFault
from orthwrap.stores.h5 import H5Store
from orthwrap.stores.keras_zip import CONFIG, KerasStore
from orthwrap.stores.regular import open_regular
from orthwrap.stores.replacing import reason

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

FileStore = H5Store | KerasStore


def open_file(path: Path) -> FileStore:
    """Opens a model file by what is in it, not by its suffix.

    Raises:
        FileFault: it is missing, a folder that is none of Keras's, neither HDF5 nor a Keras zip,
            broken, or holds weights alone.
    """
    if is_keras_folder(path):
        return KerasStore(path)
    check_readable(path)
    if is_hdf5(path):
        return H5Store(path)
    if zipfile.is_zipfile(path):
        return KerasStore(path)
    if path.stat().st_size == 0:
        raise FileFault(f"{path} is empty: expected a Keras model (.h5, .hdf5 or .keras)")
    if path.name.endswith(".weights.json"):
        raise FileFault(
            f"{path} lists files of weights only, no model: build the model in Python, "
            "model.load_weights(file), then model.save('model.keras') and use that file"
        )
    raise FileFault(
        f"{path} is neither an HDF5 file nor a .keras archive, or is cut short: "
        "save the model again with model.save('model.keras')"
    )


def is_keras_folder(path: Path) -> bool:
    """True for a `.keras` that lies unpacked in a folder."""
    return path.is_dir() and (path / CONFIG).is_file()


def check_readable(path: Path) -> None:
    """FileFault unless `path` is a file that can be read."""
    try:
        if path.is_dir():
            raise FileFault(_what_folder(path))
        if not path.exists():
            raise FileFault(f"{path} does not exist: give the path of a .h5, .hdf5 or .keras file")
        if not path.is_file():
            raise FileFault(f"{path} is not a regular file: expected .h5, .hdf5 or .keras")
        open_regular(path).close()
    except OSError as e:
        raise FileFault(f"{path} cannot be read: {reason(e)}") from e


def _what_folder(path: Path) -> str:
    if (path / "saved_model.pb").exists():
        return (
            f"{path} is a SavedModel folder, which holds no Keras 3 model: load it where it "
            "was written and save it with model.save('model.keras')"
        )
    return f"{path} is a folder: expected a model file (.h5, .hdf5 or .keras)"


def is_hdf5(path: Path) -> bool:
    """True where the file begins as HDF5 does (after a user block, if it has one).

    A zip may hold HDF5 at the very place where a user block would end.
    """
    size = path.stat().st_size
    with open_regular(path) as f:
        if f.read(4) == b"PK\x03\x04":
            return False
        offset = 0
        while offset < size:
            f.seek(offset)
            if f.read(8) == _HDF5_SIGNATURE:
                return True
            offset = 512 if offset == 0 else offset * 2
            if offset > 1 << 20:
                break
    return False
