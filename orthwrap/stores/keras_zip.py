"""`.keras` files: config.json, metadata.json and the weights, in a zip archive or in a folder."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import h5py

from orthwrap.errors import FileFault
from orthwrap.model_config.layers import KernelSpec
from orthwrap.model_config.tree import Layer, Node, Step, walk, with_old_names
from orthwrap.stores import hdf5
from orthwrap.stores.base import ModelRecord, WeightRef
from orthwrap.stores.config import parse_config, same_json
from orthwrap.stores.faults import reading, unreadable
from orthwrap.stores.h5 import reference
from orthwrap.stores.heaps import check_heaps
from orthwrap.stores.members import Archive, Members, UnpackedFolder
from orthwrap.text import first_line

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
SHARDS = "model.weights.json"  # which of several files holds which weights
PICKLES = "model.weights.npz"
_MAX_SHARDS = 1000


class KerasStore:
    """Reads one `.keras`, packed or unpacked. Nothing in it is run or written to."""

    format = "keras"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.old_names: Mapping[str, str] = {}  # a layer's name → the one that modernising took
        self._weights: list[Any] = []  # HDF5 files: one, or several shards
        self._open: list[IO[bytes]] = []
        self._named: dict[tuple[int, str], dict[str, list[Any]]] = {}
        self._members: Members = UnpackedFolder(path) if path.is_dir() else Archive(path)
        self._allowance = hdf5.Allowance(self._members.size)
        try:
            self._check_members()
            self.root = parse_config(self._members.read(CONFIG), path, self._members.size)
            self.metadata = self._read_metadata()
            self._open_weights()
            version = self.metadata.get("keras_version")
            with hdf5.limited_memory():
                parameters = self._count_parameters()
            self.record = ModelRecord(
                path=str(path),
                format=self.format,
                keras_version=version if isinstance(version, str) else None,
                parameters=parameters,
            )
        except (zipfile.BadZipFile, zlib.error, EOFError) as e:
            self.close()
            raise FileFault(
                f"{path} is a broken .keras archive ({first_line(e)}): copy it again"
            ) from e
        except (RuntimeError, KeyError, ValueError, TypeError) as e:
            self.close()
            raise unreadable(path, e) from e
        except BaseException:
            self.close()
            raise

    @property
    def shown(self) -> Path:
        """The file that errors name: of a modernised copy, the one that the user gave."""
        return Path(self.record.path or self.path)

    def layers(self) -> tuple[Layer, ...]:
        with reading(self.shown):
            return with_old_names(walk(self.root), self.old_names)

    def weights(self, layer: Layer, specs: Sequence[KernelSpec]) -> list[WeightRef | None]:
        with reading(self.shown), hdf5.limited_memory():
            found = (self._owner(file, layer) for file in self._weights)
            owners = [owner for owner in found if owner is not None]
            return [self._first(owners, spec) for spec in specs]

    def close(self) -> None:
        for file in self._weights:
            file.close()
        for handle in self._open:
            handle.close()
        self._members.close()

    def write(self, target: Path, root: Node) -> None:
        """An archive in which only config.json differs."""
        self._members.copy_to(target, {CONFIG: json.dumps(root)})

    def check_copy(self, target: Path, root: Node) -> None:
        """FileFault unless the archive just written reads back as it should."""
        with zipfile.ZipFile(target) as copy:
            config = copy.read(CONFIG).decode("utf-8")
            if not self._members.is_copy(copy, {CONFIG: config}) or not same_json(config, root):
                raise FileFault(f"{target} did not read back as it was written: try again")

    # Reading

    def _check_members(self) -> None:
        names = self._members.names
        missing = [n for n in (CONFIG, METADATA) if n not in names]
        if missing and not self.path.is_dir():
            raise FileFault(
                f"{self.path} is a zip but no .keras archive (no {', no '.join(missing)}): "
                "expected a file written by model.save('model.keras')"
            )
        if missing:
            raise FileFault(f"{self.path} is a folder without {' and '.join(missing)}: no model")
        if PICKLES in names and WEIGHTS not in names:
            raise FileFault(
                f"{self.path} keeps its weights in {PICKLES}, as pickles, which are not opened and "
                "which Keras itself does not read back: save the model again as .keras or .h5"
            )

    def _read_metadata(self) -> dict[str, Any]:
        try:
            metadata = json.loads(self._members.read(METADATA))
        except (ValueError, RecursionError):
            metadata = None
        return metadata if isinstance(metadata, dict) else {}

    def _open_weights(self) -> None:
        for name in self._weight_files():
            handle = self._members.open(name)
            self._open.append(handle)
            try:
                check_heaps(handle)
                self._weights.append(hdf5.open_hdf5(handle))
            except (FileFault, OSError, RuntimeError, ValueError) as e:
                raise FileFault(
                    f"{self.path} holds broken weights ({name}: {first_line(e)}): "
                    "copy or save it again"
                ) from e

    def _weight_files(self) -> list[str]:
        names = self._members.names
        if WEIGHTS in names:
            return [WEIGHTS]
        if SHARDS not in names:
            return []
        try:
            places = json.loads(self._members.read(SHARDS))["weight_map"].values()
            found = {n for place in places for n in ([place] if isinstance(place, str) else place)}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise FileFault(f"{self.path}: {SHARDS} does not say where the weights are") from e
        lost = sorted(str(n) for n in found if n not in names)
        if lost or len(found) > _MAX_SHARDS:
            raise FileFault(
                f"{self.path}: {SHARDS} names {lost[0] if lost else 'too many files'!r:.80}, which "
                "is not there: copy the whole model"
            )
        return sorted(found)

    def _count_parameters(self) -> int:
        return sum(
            math.prod(dataset.shape or ())
            for file in self._weights
            for _, dataset in hdf5.datasets(file, skip="optimizer")
        )

    # Where a layer's weights lie: its steps from the root, with the members of a list numbered by
    # class. Recent versions also write each layer's name; it decides where it is there.

    def _owner(self, file: Any, layer: Layer) -> Any:
        group = file
        for step in layer.steps:
            group = None if group is None else self._down(group, step)
        return group

    def _down(self, group: Any, step: Step) -> Any:
        holder = hdf5.child_group(group, step.attribute)
        if holder is None and step.attribute == "layers":
            holder = hdf5.child_group(group, "_layer_checkpoint_dependencies")  # 2.12 and 2.13
        if step.ordinal is None:
            return holder if holder is not None else self._by_name(group, step.name)
        if holder is None:
            return self._by_name(group, step.name)
        number = f"_{step.ordinal}" if step.ordinal else ""
        member = hdf5.child_group(holder, f"{step.snake}{number}")
        if member is not None and _name_of(member) in (None, step.name):
            return member
        return self._by_name(holder, step.name)

    def _by_name(self, holder: Any, name: str) -> Any:
        """The one member of a group whose layer has this name."""
        key = (holder.file.id.id, holder.name)
        if key not in self._named:
            by_name: dict[str, list[Any]] = {}
            for _, member in hdf5.members(holder):
                own = _name_of(member) if isinstance(member, h5py.Group) else None
                if own is not None:
                    by_name.setdefault(own, []).append(member)
            self._named[key] = by_name
        found = self._named[key].get(name, [])
        return found[0] if len(found) == 1 else None

    def _first(self, owners: Sequence[Any], spec: KernelSpec) -> WeightRef | None:
        for owner in owners:
            found = self._find(owner, spec)
            if found is not None:
                return found
        return None

    def _find(self, owner: Any, spec: KernelSpec) -> WeightRef | None:
        for attribute in spec.attributes:
            inner = hdf5.child_group(owner, attribute)
            if inner is None:
                inner = hdf5.child_group(owner, attribute.removeprefix("_"))
            if inner is None:
                return None
            owner = inner
        dataset = hdf5.dataset(owner, f"vars/{spec.index}")
        return None if dataset is None else reference(dataset, self._allowance, self.shown)


def _name_of(group: Any) -> str | None:
    own = hdf5.child_group(group, "vars")
    return None if own is None else hdf5.text(own, "name")
