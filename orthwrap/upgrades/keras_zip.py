"""Upgrading a `.keras` of Keras 2.12 to 2.15 or tf_keras: a zip with a config and its weights."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthwrap.errors import FileFault
from orthwrap.stores.edits import StoreEdit, StoreMove, Weight
from orthwrap.upgrades.h5_file import allowance_of, prune, values
from orthwrap.upgrades.ledger import Config, Modernised, Upgrade
from orthwrap.upgrades.modernise import modernise_keras_config, readable_faults
from orthwrap.upgrades.rewriting import TARGET_VERSION

if TYPE_CHECKING:
    import h5py

    from orthwrap.stores import hdf5

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
_OLD_CONTAINER = "_layer_checkpoint_dependencies"
# A config of this size describes a model that no machine can hold.
_LONGEST_CONFIG = 256 * 2**20
_LARGE = 32 * 2**20
_MOST_SWELLING = 100


def plan_keras_zip(source: str | Path) -> Modernised:
    """What upgrading would do to a file; nothing is written."""
    with _open(Path(source)) as archive:
        return _plan(archive, Path(source))


def _plan(archive: zipfile.ZipFile, source: Path) -> Modernised:
    return modernise_keras_config(_json(archive, CONFIG, source), _json(archive, METADATA, source))


def upgrade_keras_zip(source: str | Path, target: str | Path) -> tuple[Upgrade, ...]:
    """Write an upgraded copy to `target`, a new file; () and no file where nothing is to do."""
    source, target = Path(source), Path(target)
    with _open(source) as archive, _readable(source):
        _refuse_bombs(archive, source)
        plan = _plan(archive, source)
        if plan.upgrades:
            with zipfile.ZipFile(target, "w") as new:
                for entry in archive.infolist():
                    _copy(archive, entry, new, plan, target.parent)
    return plan.upgrades


@contextmanager
def _readable(source: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as err:
        why = f"{type(err).__name__}: {' '.join(str(err).split())[:100]}"
        raise FileFault(f"{source}: not all of it can be read ({why}): copy it again") from err


def _refuse_bombs(archive: zipfile.ZipFile, source: Path) -> None:
    """Keras stores its members as they are; one that swells a hundredfold is no model."""
    seen: set[str] = set()
    for entry in archive.infolist():
        if entry.filename in seen:
            raise FileFault(f"{source}: two members named {entry.filename!r:.80}")
        seen.add(entry.filename)
        if entry.file_size > _LARGE and entry.file_size > _MOST_SWELLING * entry.compress_size:
            raise FileFault(f"{source}: {entry.filename!r:.80} unpacks to {entry.file_size} bytes")


def _copy(
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    new: zipfile.ZipFile,
    plan: Modernised,
    folder: Path,
) -> None:
    """One member, edited where the plan says so."""
    if entry.is_dir():
        return
    if entry.filename == CONFIG:
        new.writestr(entry, json.dumps(plan.model_config))
    elif entry.filename == METADATA:
        metadata = json.loads(archive.read(entry))
        new.writestr(entry, json.dumps({**metadata, "keras_version": TARGET_VERSION}))
    elif entry.filename == WEIGHTS and (plan.store_edits or plan.store_moves):
        # In a file beside the target: weights may be larger than memory.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".orthwrap-") as scratch:
            weights = Path(scratch) / WEIGHTS
            with archive.open(entry) as member, weights.open("wb") as file:
                shutil.copyfileobj(member, file)
            edit_weights(weights, plan)
            member_info = zipfile.ZipInfo(entry.filename, entry.date_time)
            member_info.compress_type = entry.compress_type
            with (
                weights.open("rb") as file,
                new.open(member_info, "w", force_zip64=True) as member_out,
            ):
                shutil.copyfileobj(file, member_out)
    else:
        with archive.open(entry) as member, new.open(entry, "w") as member_out:
            shutil.copyfileobj(member, member_out)


def _open(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise FileFault(f"{path}: expected a model file, found none")
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as err:
        raise FileFault(f"{path}: expected a .keras archive, found something else") from err


def _json(archive: zipfile.ZipFile, name: str, source: Path) -> Config:
    try:
        entry = archive.getinfo(name)
    except KeyError as err:
        raise FileFault(f"{source}: expected {name} in the archive, found none") from err
    if entry.file_size > _LONGEST_CONFIG:
        raise FileFault(f"{source}: {name} is too long for a model's config")
    try:
        value = json.loads(archive.read(entry))
    except (ValueError, RecursionError, zipfile.BadZipFile, OSError, NotImplementedError) as err:
        raise FileFault(f"{source}: {name} is not readable as JSON") from err
    if not isinstance(value, dict):
        raise FileFault(f"{source}: {name} holds no object")
    return value


def edit_weights(path: Path, plan: Modernised) -> None:
    """Bring a file of weights in line with the plan."""
    import h5py

    try:
        with h5py.File(path, "r+") as file:
            edit_store(file, plan.store_edits, plan.store_moves)
    except OSError as err:
        if err.errno:
            raise
        raise FileFault(f"{WEIGHTS}: expected HDF5, found something else") from err


def edit_store(file: h5py.File, edits: Iterable[StoreEdit], moves: Iterable[StoreMove]) -> None:
    """Replace arrays, then give groups their new names."""
    allowance, copied = allowance_of(file), allowance_of(file)
    for edit in edits:
        with readable_faults(f"weights in {edit.path!r}"):
            _edit(file, edit, allowance, copied)
    # Groups inside a group move before it does; all leave their names before any takes one.
    ordered = sorted(moves, key=lambda move: -move.old.count("/"))
    waiting: list[tuple[str, str]] = []
    for move in ordered:
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


def _group(file: h5py.File, path: str) -> Any:
    """A group, an empty one where the file has none: layers without weights have no group."""
    import h5py

    here: Any = file
    for part in path.split("/"):
        link = here.get(part, getlink=True, default=None)
        if not isinstance(link, h5py.HardLink) or not isinstance(here[part], h5py.Group):
            return {}
        here = here[part]
    return here


def _as_in(file: h5py.File, path: str) -> str:
    """2.12 and 2.13 named the container of layers after another attribute of the model."""
    if "layers" not in file and _OLD_CONTAINER in file:
        return path.replace("layers/", f"{_OLD_CONTAINER}/")
    return path


def _edit(
    file: h5py.File, edit: StoreEdit, allowance: hdf5.Allowance, copied: hdf5.Allowance
) -> None:
    group = _group(file, f"{_as_in(file, edit.path)}/vars")
    if not len(group):
        return
    names = sorted(group, key=lambda name: (len(name), name))
    old = [Weight(name, values(group, name, allowance, copied)) for name in names]
    new = edit.transform(old)
    for weight in old:
        del group[weight.name]
    for weight in new:
        group.create_dataset(weight.name, data=weight.array)
