"""SavedModel folders: the config of their Keras model, and their arrays; and a `.keras` of them.

Keras 2 wrote its config into the folder: TensorFlow 2.5 and later into `keras_metadata.pb`, those
before into the objects of `saved_model.pb`. The weights are a TensorFlow checkpoint. Both are read
as data: TensorFlow is not imported.
"""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from orthwrap.errors import FileFault
from orthwrap.stores import hdf5, wire
from orthwrap.stores.config import parse_json
from orthwrap.stores.edits import Described, Edits, HeldObject
from orthwrap.stores.keras_edit import edit_weights
from orthwrap.stores.keras_zip import CONFIG, METADATA, WEIGHTS
from orthwrap.stores.regular import FLOOR, SWELLING
from orthwrap.stores.replacing import scratch_folder
from orthwrap.stores.store import ModelRecord
from orthwrap.stores.tensor_bundle import Checkpoint, read_regular

GRAPH = "saved_model.pb"
KERAS_METADATA = "keras_metadata.pb"
VARIABLES = "variables"
# Far above any description of a model.
_LONGEST = 256 << 20


def is_saved_model(path: Path) -> bool:
    """True for a TensorFlow SavedModel folder."""
    return path.is_dir() and (path / GRAPH).exists()


class SavedModelFolder:
    """Reads one folder. Its layers are not told apart; a `.keras` is made of it for that."""

    format = "saved_model"

    def __init__(self, path: Path) -> None:
        self.path = path
        text = _metadata(path)
        if text is None:
            raise FileFault(
                f"{path}: a SavedModel without a Keras config (exported for serving); "
                "its layers cannot be told: `orthwrap apply` the .keras or .h5 that it comes "
                "from"
            )
        self.metadata = parse_json(text, path, len(text))
        if not isinstance(self.metadata, dict):
            raise FileFault(f"{path}: the Keras config is no object; the folder is broken")
        version = self.metadata.get("keras_version")
        version = version if isinstance(version, str) else "2"  # no other wrote such folders
        self.record = ModelRecord(str(path), self.format, version, 0)

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights' index."""
        variables = self.path / VARIABLES
        if variables.is_symlink() or not variables.is_dir():
            raise FileFault(f"{variables}: expected a folder with the model's weights, found none")
        return Checkpoint(variables / "variables")

    def objects(self) -> Sequence[HeldObject]:
        """The objects that held the arrays; the first is the model."""
        return self.checkpoint.objects()

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Key → shape, of all arrays."""
        return {k: entry.shape for k, entry in self.checkpoint.entries.items() if not entry.text}

    def close(self) -> None:
        """Nothing is held open."""


def described(store: SavedModelFolder) -> Described:
    """All that is known of the model without reading its arrays."""
    version = store.record.keras_version or ""
    return Described(store.format, store.metadata, keras_version=version, checkpoint=store)


def write_edited(store: SavedModelFolder, target: Path, edits: Edits) -> None:
    """A `.keras` with the arrays where the edits place them."""
    checkpoint = store.checkpoint
    held = checkpoint.held()
    _check_size(sum(checkpoint.entries[k].size for ks in edits.placed.values() for k in ks), held)
    with scratch_folder() as folder:
        weights = folder / WEIGHTS
        with hdf5.open_hdf5(weights, "w") as file:
            for group, keys in edits.placed.items():
                for number, key in enumerate(keys):
                    file[f"{group}/vars/{number}"] = checkpoint.array(key)
        edit_weights(weights, edits, held)
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr(CONFIG, json.dumps(edits.model_config))
            archive.writestr(METADATA, json.dumps({"keras_version": edits.keras_version}))
            archive.write(weights, WEIGHTS)


def _check_size(total: int, held: int) -> None:
    """One array may be named many times, and a file may hold less than it declares."""
    if total > max(FLOOR, SWELLING * held):
        raise FileFault(
            f"the weights take {total} bytes, and their files hold {held}: no real model"
        )


def _metadata(folder: Path) -> str | None:
    """The root object's metadata."""
    beside = folder / KERAS_METADATA
    try:
        if beside.is_symlink() or beside.exists():
            for node in wire.messages(read_regular(beside, _LONGEST), 1):
                if wire.text(wire.first(node, 3)) == "root":
                    return wire.text(wire.first(node, 5)) or None
            return None
        message: memoryview | None = read_regular(folder / GRAPH, _LONGEST)
        # SavedModel.meta_graphs → object_graph_def → nodes[0] → user_object → metadata
        for number in (2, 7, 1, 4, 3):
            message = wire.first(message, number) if message is not None else None
        found = wire.text(message)
        return found if found.lstrip().startswith("{") else None
    except wire.WireError as err:
        raise FileFault(f"{folder}: expected a SavedModel, found a broken one ({err})") from err
