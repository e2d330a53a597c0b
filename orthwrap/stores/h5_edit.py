"""An `.h5` as an edit of it is decided, and the edit done: configs, some arrays, some names.

All else in the copy, optimizer state included, keeps its bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from orthwrap.errors import FileFault
from orthwrap.stores import hdf5
from orthwrap.stores.edits import Described, Edits, Weight, WeightEdit
from orthwrap.stores.h5 import H5Store

# HDF5 keeps an attribute within an object's header, which ends at 64 KB; Keras splits longer
# lists of names into numbered attributes at this size.
_HEADER_LIMIT = 64512
# What Keras itself writes beside the layers' groups.
_TOP_LEVEL = "top_level_model_weights"


def described(store: H5Store) -> Described:
    """All that is known of the model without reading its arrays."""
    group = _weights_group(store.file)
    training, fault = None, None
    try:
        training = store.training_config()
    except FileFault as e:
        fault = e
    return Described(
        store.format,
        store.root,
        keras_version=store.text("keras_version") or "",
        backend=store.text("backend") or "",
        training_config=training,
        training_fault=fault,
        groups=frozenset(store.file),
        weights=None if group is None else LayerWeights(group, store.size),
    )


def write_edited(store: H5Store, target: Path, edits: Edits) -> None:
    """A copy of the file, brought in line with the edits."""
    shutil.copyfile(store.path, target)
    with hdf5.open_hdf5(target, "r+") as file:
        write_text(file, "model_config", json.dumps(edits.model_config))
        if edits.training_config is not None:
            write_text(file, "training_config", json.dumps(edits.training_config))
        elif "training_config" in file.attrs:
            del file.attrs["training_config"]
        for old, new in edits.set_aside.items():
            file.move(old, new)
        group = _weights_group(file)
        if group is not None and group.name == "/":
            group = into_model_weights(file)
        for holder in (file, *(() if group is None else (group,))):
            write_text(holder, "keras_version", edits.keras_version)
            write_text(holder, "backend", edits.backend)
        if group is not None:
            view = LayerWeights(group, store.size)
            for edit in edits.weight_edits:
                _edit(group, view, edit)
            _rename_groups(group, edits.renamed)


def write_compiled(path: Path, target: Path, training_config: Mapping[str, Any]) -> None:
    """A copy of a file that says otherwise how its model was compiled."""
    shutil.copyfile(path, target)
    with hdf5.open_hdf5(target, "r+") as file:
        write_text(file, "training_config", json.dumps(training_config))


class LayerWeights:
    """Names and shapes of a file's weights; arrays are read only where an edit asks for them.

    Args:
        group: of the layers.
        size: what the file holds.
    """

    def __init__(self, group: Any, size: int) -> None:
        self._group = group
        # For what the file declares, and for what is read of it to be written again: one array
        # with many names becomes many.
        self._allowance, self._copied = hdf5.Allowance(size), hdf5.Allowance(size)
        self._names = tuple(hdf5.names(group, "layer_names"))

    def layer_names(self) -> tuple[str, ...]:
        """The layers' groups, in the file's order."""
        return self._names

    def shapes(self, layer: str) -> Mapping[str, tuple[int, ...]]:
        """Weight name → shape."""
        if layer not in self._names:
            return {}
        group = _group(self._group, layer)
        return {
            name: tuple(numbers(group, name, self._allowance).shape)
            for name in hdf5.names(group, "weight_names")
        }

    def read(self, layer: str) -> list[Weight]:
        """The arrays of one layer."""
        group = _group(self._group, layer)
        return [
            Weight(name, values(group, name, self._allowance, self._copied))
            for name in hdf5.names(group, "weight_names")
        ]


def numbers(group: Any, name: str, allowance: hdf5.Allowance) -> Any:
    """A dataset of numbers inside this file, which must be there."""
    found = hdf5.dataset(group, name, allowance)
    if found is None:
        raise FileFault(f"expected a weight {name!r} in the file, found none")
    if hdf5.is_bfloat16(found):
        raise FileFault(f"weight {name!r}: expected numbers, found type {found.dtype}")
    return found


def values(group: Any, name: str, allowance: hdf5.Allowance, copied: hdf5.Allowance) -> Any:
    """A weight's array.

    Args:
        allowance: for what the file declares.
        copied: for what is read of it, to be written again.
    """
    found = numbers(group, name, allowance)
    copied.take(hdf5.bytes_of(found), name)
    return hdf5.read(found)


def write_text(holder: Any, attribute: str, text: str) -> None:
    """A text of any length: only variable-length strings may exceed an object's header."""
    if attribute in holder.attrs:
        del holder.attrs[attribute]
    holder.attrs.create(attribute, text, dtype=h5py.string_dtype())


def prune(group: Any, keep: Iterable[str]) -> None:
    """Remove groups that lost their last array."""
    kept = set(keep)
    for name in list(group):
        link = group.get(name, getlink=True)
        if name in kept or not isinstance(link, h5py.HardLink):
            continue
        child = group[name]
        if isinstance(child, h5py.Group):
            prune(child, ())
            if not len(child):
                del group[name]


def _group(group: Any, name: str) -> Any:
    found = hdf5.child_group(group, name)
    if found is None:
        raise FileFault(f"expected a group {name!r} of weights in the file, found none")
    return found


def _weights_group(file: Any) -> Any:
    """Where a full model keeps its layers: `model_weights`, or the root in early Keras 1."""
    if "model_weights" in file:
        return _group(file, "model_weights")
    return file if "layer_names" in file.attrs or "layer_names0" in file.attrs else None


def into_model_weights(file: Any) -> Any:
    """Keras 3 looks for `model_weights`; layers at the root move there."""
    names = hdf5.names(file, "layer_names")
    group = file.create_group("model_weights")
    for name in names:
        top = name.split("/")[0]
        if top in file and top not in group:
            file.move(top, f"model_weights/{top}")
    _write_names(group, "layer_names", names)
    return group


def _edit(parent: Any, view: LayerWeights, edit: WeightEdit) -> None:
    if edit.layer not in view.layer_names():
        return
    old = view.read(edit.layer)
    if not old:
        return
    new = _told_apart(edit.transform(old))
    group = _group(parent, edit.layer)
    for weight in old:
        del group[weight.name]
    for weight in new:
        group.create_dataset(weight.name, data=weight.array)
    if [weight.name for weight in old] != [weight.name for weight in new]:
        _write_names(group, "weight_names", [weight.name for weight in new])
    prune(group, {weight.name.split("/")[0] for weight in new})


def _told_apart(weights: list[Weight]) -> list[Weight]:
    """Every name once: two directions of one layer may have been named alike."""
    taken: set[str] = set()
    out = []
    for weight in weights:
        name, number = weight.name, 1
        while name in taken:
            name, number = f"{weight.name}_{number}", number + 1
        taken.add(name)
        out.append(weight._replace(name=name))
    return out


def _rename_groups(group: Any, renamed: Mapping[str, str]) -> None:
    """Layers whose names lost a '/' move out of the groups that it had made."""
    names = hdf5.names(group, "layer_names")
    changes = {name: renamed[name] for name in names if name in renamed}
    if not changes:
        return
    final = [changes.get(name, name) for name in names]
    # The deepest first: a layer "a/b/c" lies inside the group of a layer "a/b".
    for old, new in sorted(changes.items(), key=lambda change: -change[0].count("/")):
        _group(group, old)
        group.move(old, new)
    _write_names(group, "layer_names", final)
    prune(group, {*final, _TOP_LEVEL})


def _write_names(group: Any, attribute: str, names: list[str]) -> None:
    for key in [key for key in group.attrs if key.startswith(attribute)]:
        del group.attrs[key]
    encoded = np.asarray([name.encode("utf-8") for name in names], dtype=np.bytes_)
    parts = [encoded]
    while any(part.nbytes > _HEADER_LIMIT for part in parts) and len(parts) < len(names):
        parts = np.array_split(encoded, len(parts) + 1)
    if len(parts) == 1:
        group.attrs[attribute] = encoded if len(names) else np.zeros((0,))
        return
    for number, part in enumerate(parts):
        group.attrs[f"{attribute}{number}"] = part
