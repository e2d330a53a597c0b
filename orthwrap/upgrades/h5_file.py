"""Upgrading a legacy `.h5`: a copy of the file, its config attributes and some arrays replaced.

Everything else in the copy, optimizer state included, keeps its bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthwrap.errors import FileFault
from orthwrap.stores.config import check_length
from orthwrap.stores.edits import Weight, WeightEdit
from orthwrap.upgrades.ledger import Config, Modernised, Upgrade
from orthwrap.upgrades.modernise import modernise, readable_faults
from orthwrap.upgrades.rewriting import TARGET_VERSION, parse_version

if TYPE_CHECKING:
    import h5py

    from orthwrap.stores import hdf5

# HDF5 keeps an attribute within an object's header, which ends at 64 KB; Keras splits longer
# lists of names into numbered attributes at this size.
_HEADER_LIMIT = 64512
# Keras 3 has other variables in its optimizers, and where an `.h5` holds a state of any kind, it
# builds the optimizer without the model's variables: training then ends with "Unknown variable"
# (3.15, `load_model_from_hdf5`). The old state stays in the file, under a name it does not read.
STATE = "optimizer_weights"
STATE_ASIDE = "optimizer_weights_keras2"
# What Keras itself writes beside the layers' groups.
_TOP_LEVEL = "top_level_model_weights"


class H5Weights:
    """Names and shapes of a file's weights; arrays are read only where an edit asks for them."""

    def __init__(self, group: h5py.Group) -> None:
        self._group = group
        self._allowance, self._copied = allowance_of(group), allowance_of(group)
        self._names = tuple(read_names(group, "layer_names"))

    def layer_names(self) -> tuple[str, ...]:
        """The layers' groups, in the file's order."""
        return self._names

    def shapes(self, layer: str) -> Mapping[str, tuple[int, ...]]:
        """Weight name → shape."""
        if layer not in self._names:
            return {}
        group = child_group(self._group, layer)
        return {
            name: tuple(dataset(group, name, self._allowance).shape)
            for name in read_names(group, "weight_names")
        }

    def read(self, layer: str) -> list[Weight]:
        """The arrays of one layer."""
        group = child_group(self._group, layer)
        return [
            Weight(name, values(group, name, self._allowance, self._copied))
            for name in read_names(group, "weight_names")
        ]


# HDF5 is read by the stores' rules, which h5py comes with: imported where a file is read.


def read_names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names, in one attribute or in numbered ones."""
    from orthwrap.stores import hdf5

    return hdf5.names(group, attribute)


def _text(holder: h5py.Group, attribute: str) -> str:
    """An attribute that is there and should be text."""
    from orthwrap.stores import hdf5

    return hdf5.as_text(hdf5.attribute(holder, attribute), attribute)


def child_group(group: h5py.Group, name: str) -> h5py.Group:
    """A group inside this file, which must be there."""
    from orthwrap.stores import hdf5

    found = hdf5.child_group(group, name)
    if found is None:
        raise FileFault(f"expected a group {name!r} of weights in the file, found none")
    return found


def dataset(group: h5py.Group, name: str, allowance: hdf5.Allowance) -> h5py.Dataset:
    """A dataset of numbers inside this file, which must be there."""
    from orthwrap.stores import hdf5

    found = hdf5.dataset(group, name, allowance)
    if found is None:
        raise FileFault(f"expected a weight {name!r} in the file, found none")
    if hdf5.is_bfloat16(found):
        raise FileFault(f"weight {name!r}: expected numbers, found type {found.dtype}")
    return found


def allowance_of(group: h5py.Group) -> hdf5.Allowance:
    """How much the arrays of the group's file may hold together."""
    from orthwrap.stores import hdf5

    return hdf5.Allowance(os.path.getsize(group.file.filename))


def values(group: h5py.Group, name: str, allowance: hdf5.Allowance, copied: hdf5.Allowance) -> Any:
    """A weight's array.

    Args:
        allowance: for what the file declares.
        copied: for what is read of it, to be written again: one array with many names becomes many.
    """
    from orthwrap.stores import hdf5

    found = dataset(group, name, allowance)
    copied.take(hdf5.bytes_of(found), name)
    return hdf5.read(found)


def read_json(file: h5py.File, attribute: str) -> Config | None:
    """A config attribute, None where the file has none."""
    if attribute not in file.attrs:
        return None
    text = _text(file, attribute)
    path = Path(file.file.filename)
    check_length(text, path, os.path.getsize(path))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise FileFault(f"{attribute}: expected JSON, found something else") from err
    if value is None:
        return None
    if not isinstance(value, dict):
        raise FileFault(f"{attribute}: expected an object, found {type(value).__name__}")
    return value


def weights_group(file: h5py.File) -> h5py.Group | None:
    """Where a full model keeps its layers: `model_weights`, or the root in early Keras 1."""
    if "model_weights" in file:
        return child_group(file, "model_weights")
    return file if "layer_names" in file.attrs or "layer_names0" in file.attrs else None


def _version(file: h5py.File, group: h5py.Group | None, model: Config) -> str:
    """Keras 1.0 put its version only into the config, some files only beside the weights."""
    for holder in (file, group):
        if holder is not None and "keras_version" in holder.attrs:
            return _text(holder, "keras_version")
    inside = model.get("keras_version")
    return inside if isinstance(inside, str) else ""


def _backend(file: h5py.File, group: h5py.Group | None) -> str:
    for holder in (file, group):
        if holder is not None and "backend" in holder.attrs:
            return _text(holder, "backend")
    return ""


def plan_h5(source: str | Path) -> Modernised:
    """What upgrading would do to a file; nothing is written."""
    source = Path(source)
    with _broken(source), _open(source, "r") as file:
        return _plan(file, source)


def _plan(file: h5py.File, source: Path) -> Modernised:
    model = read_json(file, "model_config")
    if model is None:
        raise FileFault(f"{source}: expected a full model, found no model_config in the file")
    group = weights_group(file)
    version = _version(file, group, model)
    plan = modernise(
        model,
        training_config=read_json(file, "training_config"),
        keras_version=version,
        backend=_backend(file, group),
        weights=H5Weights(group) if group is not None else None,
    )
    if STATE not in file or STATE_ASIDE in file or parse_version(version) >= (3, 0):
        return plan
    aside = Upgrade("optimizer state", "Keras 1.0-2.15", ("training",), f"now {STATE_ASIDE}")
    return replace(plan, upgrades=(*plan.upgrades, aside), state_aside=True)


def upgrade_h5(source: str | Path, target: str | Path) -> tuple[Upgrade, ...]:
    """Write an upgraded copy to `target`, a new file; () and no file where nothing is to do."""
    source, target = Path(source), Path(target)
    plan = plan_h5(source)
    if plan.upgrades:
        apply_h5(source, target, plan)
    return plan.upgrades


def apply_h5(source: Path, target: Path, plan: Modernised) -> None:
    """Copy the file and bring the copy in line with the plan."""
    shutil.copyfile(source, target)
    with _broken(source), _open(target, "r+") as file:
        write_text(file, "model_config", json.dumps(plan.model_config))
        if plan.training_config is not None:
            write_text(file, "training_config", json.dumps(plan.training_config))
        elif "training_config" in file.attrs:
            del file.attrs["training_config"]
        if plan.state_aside:
            file.move(STATE, STATE_ASIDE)
        group = weights_group(file)
        if group is not None and group.name == "/":
            group = _into_model_weights(file)
        _say_keras_3(file)
        if group is None:
            return
        _say_keras_3(group)
        view = H5Weights(group)
        for edit in plan.weight_edits:
            with readable_faults(f"weights of layer {edit.layer!r}"):
                _edit(group, view, edit)
        _rename_groups(group, plan.renamed)


def _say_keras_3(holder: h5py.Group) -> None:
    write_text(holder, "keras_version", TARGET_VERSION)
    # Kernels that Theano had turned are turned back.
    write_text(holder, "backend", "tensorflow")


def write_text(file: h5py.Group, attribute: str, text: str) -> None:
    """A text of any length: only variable-length strings may exceed an object's header."""
    import h5py

    if attribute in file.attrs:
        del file.attrs[attribute]
    file.attrs.create(attribute, text, dtype=h5py.string_dtype("utf-8"))


def _into_model_weights(file: h5py.File) -> h5py.Group:
    """Keras 3 looks for `model_weights`; layers at the root move there."""
    names = read_names(file, "layer_names")
    group = file.create_group("model_weights")
    for name in names:
        top = name.split("/")[0]
        if top in file and top not in group:
            file.move(top, f"model_weights/{top}")
    _write_names(group, "layer_names", names)
    return group


def _edit(parent: h5py.Group, view: H5Weights, edit: WeightEdit) -> None:
    if edit.layer not in view.layer_names():
        return
    old = view.read(edit.layer)
    if not old:
        return
    new = _told_apart(edit.transform(old))
    group = child_group(parent, edit.layer)
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


def prune(group: h5py.Group, keep: Iterable[str]) -> None:
    """Remove groups that lost their last array."""
    import h5py

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


def _rename_groups(group: h5py.Group, renamed: Mapping[str, str]) -> None:
    """Layers whose names lost a '/' move out of the groups that it had made."""
    names = read_names(group, "layer_names")
    changes = {name: renamed[name] for name in names if name in renamed}
    if not changes:
        return
    final = [changes.get(name, name) for name in names]
    # The deepest first: a layer "a/b/c" lies inside the group of a layer "a/b".
    for old, new in sorted(changes.items(), key=lambda change: -change[0].count("/")):
        child_group(group, old)
        group.move(old, new)
    _write_names(group, "layer_names", final)
    prune(group, {*final, _TOP_LEVEL})


def _write_names(group: h5py.Group, attribute: str, names: list[str]) -> None:
    import numpy as np

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


@contextmanager
def _broken(source: Path) -> Iterator[None]:
    """What HDF5, or reading by its means, complains of takes one line that names the file.

    What the operating system complains of goes on.
    """
    try:
        yield
    except OSError as err:
        if err.errno:
            raise
        raise _broken_file(source, err) from err
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as err:
        raise _broken_file(source, err) from err


def _broken_file(source: Path, err: Exception) -> FileFault:
    why = " ".join(str(err).split())[:100]
    return FileFault(
        f"{source}: not all of it can be read ({type(err).__name__}: {why}): copy it again"
    )


def _open(path: Path, mode: str) -> h5py.File:
    import h5py

    if not path.is_file():
        raise FileFault(f"{path}: expected a model file, found none")
    try:
        return h5py.File(path, mode)
    except OSError as err:
        raise FileFault(
            f"{path}: expected an HDF5 file, found something else or a part of one"
        ) from err
