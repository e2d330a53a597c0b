"""A `.keras` as an edit of it is decided, and the edit done: config, metadata, arrays in groups."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py

from orthwrap.errors import FileFault
from orthwrap.stores import hdf5
from orthwrap.stores.edits import Described, Edits, StoreEdit, StoreMove, Weight
from orthwrap.stores.h5_edit import prune, values
from orthwrap.stores.keras_zip import CONFIG, METADATA, WEIGHTS, KerasStore
from orthwrap.stores.replacing import scratch_folder

_OLD_CONTAINER = "_layer_checkpoint_dependencies"


def described(store: KerasStore) -> Described:
    """All that is known of the model without reading its arrays."""
    return Described(store.format, store.root, keras_version=store.record.keras_version or "")


def write_edited(store: KerasStore, target: Path, edits: Edits) -> None:
    """An archive of all members, brought in line with the edits."""
    changed: dict[str, str | Path] = {
        CONFIG: json.dumps(edits.model_config),
        METADATA: json.dumps({**store.metadata, "keras_version": edits.keras_version}),
    }
    members = store.members
    with ExitStack() as stack:
        if WEIGHTS in members.names and (edits.store_edits or edits.store_moves):
            # In a file of their own: weights may be larger than memory.
            changed[WEIGHTS] = weights = stack.enter_context(scratch_folder()) / WEIGHTS
            with members.open(WEIGHTS) as member, weights.open("wb") as file:
                shutil.copyfileobj(member, file)
            edit_weights(weights, edits, members.size)
        members.copy_to(target, changed)


def edit_weights(path: Path, edits: Edits, size: int) -> None:
    """Replaces arrays in a file of weights, then gives groups their new names.

    Args:
        size: what the file that they come from holds.
    """
    with hdf5.open_hdf5(path, "r+") as file:
        allowance, copied = hdf5.Allowance(size), hdf5.Allowance(size)
        for edit in edits.store_edits:
            _edit(file, edit, allowance, copied)
        _move(file, edits.store_moves)


def _edit(file: Any, edit: StoreEdit, allowance: hdf5.Allowance, copied: hdf5.Allowance) -> None:
    group = _group(file, f"{_as_in(file, edit.path)}/vars")
    if not len(group):
        return
    names = sorted(group, key=lambda name: (len(name), name))
    new = edit.transform([Weight(name, values(group, name, allowance, copied)) for name in names])
    for name in names:
        del group[name]
    for weight in new:
        group.create_dataset(weight.name, data=weight.array)


def _move(file: Any, moves: Iterable[StoreMove]) -> None:
    """Groups inside a group move before it does; all leave their names before any takes one."""
    waiting: list[tuple[str, str]] = []
    for move in sorted(moves, key=lambda move: -move.old.count("/")):
        old = _as_in(file, move.old)
        parent, _, name = old.rpartition("/")
        if name in _group(file, parent):
            file.move(old, f"{parent}/~{move.new_name}")
            waiting.append((f"{parent}/~{move.new_name}", f"{parent}/{move.new_name}"))
    for old, new in waiting:
        parent, _, name = new.rpartition("/")
        if name in _group(file, parent):
            prune(_group(file, parent), set(_group(file, parent)) - {name})
        if name in _group(file, parent):
            raise FileFault(f"{WEIGHTS}: two layers' weights would share the group {new!r}")
        file.move(old, new)


def _group(file: Any, path: str) -> Any:
    """A group, an empty one where the file has none: layers without weights have no group."""
    here: Any = file
    for part in path.split("/"):
        link = here.get(part, getlink=True, default=None)
        if not isinstance(link, h5py.HardLink) or not isinstance(here[part], h5py.Group):
            return {}
        here = here[part]
    return here


def _as_in(file: Any, path: str) -> str:
    """2.12 and 2.13 named the container of layers after another attribute of the model."""
    if "layers" not in file and _OLD_CONTAINER in file:
        return path.replace("layers/", f"{_OLD_CONTAINER}/")
    return path
