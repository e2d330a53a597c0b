"""`.keras` files: config.json, metadata.json and the weights, in a zip archive or in a folder."""

from __future__ import annotations

import functools
import json
import math
import zipfile
import zlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import h5py

from orthwrap.errors import FileFault
from orthwrap.model_config.layers import UNKNOWN, KernelSpec
from orthwrap.model_config.tree import Layer, Node, Step, is_of_keras, walk, with_old_names
from orthwrap.stores import hdf5
from orthwrap.stores.config import check_length, parse_config, same_json
from orthwrap.stores.faults import reading, unreadable
from orthwrap.stores.h5 import is_float, reference
from orthwrap.stores.heaps import check_heaps
from orthwrap.stores.members import Archive, Members, UnpackedFolder
from orthwrap.stores.store import ModelRecord, Unclaimed, WeightRef, likely_kernel
from orthwrap.text import first_line

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
SHARDS = "model.weights.json"  # which of several files holds which weights
PICKLES = "model.weights.npz"
_MOST_VARIABLES = 500  # of one layer that are looked at
_MAX_SHARDS = 200  # files of weights; HDF5 keeps 0.6 MB for each
_MAX_METADATA = 1 << 20  # bytes: a version and a date
_MAX_MAP = 16 << 20  # bytes of the list that says which shard holds what


def is_keras(path: Path) -> bool:
    """True for a zip archive, and for a `.keras` that lies unpacked in a folder."""
    return (path / CONFIG).is_file() if path.is_dir() else zipfile.is_zipfile(path)


class KerasStore:
    """Reads one `.keras`, packed or unpacked. Nothing in it is run or written to."""

    format = "keras"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.old_names: Mapping[str, str] = {}  # a layer's name → the one that modernising took
        self._weights: list[Any] = []  # HDF5 files: one, or several shards
        self._open: list[IO[bytes]] = []
        self._references: dict[hdf5.Key, WeightRef] = {}
        self._places: list[_Place] = []  # their roots
        self.members: Members = UnpackedFolder(path) if path.is_dir() else Archive(path)
        self._allowance = hdf5.Allowance(self.members.size)
        try:
            self._check_members()
            self.root = parse_config(self.members.read(CONFIG), path, self.members.size)
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
            # What several layers hold is saved with the one that Keras comes to first.
            found = (self._owner(p, steps) for steps in layer.ways for p in self._places)
            owners = [owner for owner in found if owner is not None]
            return [self._first(owners, spec) for spec in specs]

    def unclaimed(self, layers: Sequence[Layer], specified: Container[str]) -> list[Unclaimed]:
        with reading(self.shown), hdf5.limited_memory():
            return self._unclaimed(layers, specified)

    def _unclaimed(self, layers: Sequence[Layer], specified: Container[str]) -> list[Unclaimed]:
        others = [layer for layer in layers if not is_of_keras(layer.node)]
        if not others and is_of_keras(self.root):
            return []
        held: dict[str, Layer] = {}
        for layer in layers:
            owners = (self._owner(p, steps) for steps in layer.ways for p in self._places)
            held |= {owner.group.name.strip("/"): layer for owner in owners if owner is not None}
        found: dict[str, Unclaimed] = {}
        for file in self._weights:
            for place, dataset in hdf5.datasets(file, skip="optimizer"):
                owner, _, variable = place.rpartition("/vars/")
                if not variable or not is_float(dataset) or "_metrics" in owner.split("/")[0]:
                    continue
                nearest = _nearest(held, owner)
                if is_of_keras(self.root if nearest is None else nearest.node):
                    continue
                path = "" if nearest is None else nearest.path
                is_own = owner in held or not owner
                if not (is_own and path in specified):
                    below = found.setdefault(path, Unclaimed(nearest))
                    below.add(dataset.shape or (), is_own=is_own)
        return list(found.values())

    def close(self) -> None:
        for file in self._weights:
            file.close()
        for handle in self._open:
            handle.close()
        self.members.close()

    def write(self, target: Path, root: Node) -> None:
        """An archive in which only config.json differs."""
        self.members.copy_to(target, {CONFIG: json.dumps(root)})

    def check_copy(self, target: Path, root: Node) -> None:
        """FileFault unless the archive just written reads back as it should."""
        with zipfile.ZipFile(target) as copy:
            config = copy.read(CONFIG).decode("utf-8")
            if not self.members.is_copy(copy, {CONFIG: config}) or not same_json(config, root):
                raise FileFault(f"{target} did not read back as it was written: try again")

    # Reading

    def _check_members(self) -> None:
        names = self.members.names
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
            metadata = json.loads(self.members.read(METADATA, _MAX_METADATA))
        except (ValueError, RecursionError):
            metadata = None
        return metadata if isinstance(metadata, dict) else {}

    def _open_weights(self) -> None:
        for name in self._weight_files():
            handle = self.members.open(name)
            self._open.append(handle)
            try:
                check_heaps(handle)
                self._weights.append(hdf5.open_hdf5(handle))
                self._places.append(_Place(self._weights[-1]))
            except (FileFault, OSError, RuntimeError, ValueError) as e:
                raise FileFault(
                    f"{self.path} holds broken weights ({name}: {first_line(e)}): "
                    "copy or save it again"
                ) from e

    def _weight_files(self) -> list[str]:
        names = self.members.names
        if WEIGHTS in names:
            return [WEIGHTS]
        if SHARDS not in names:
            return []
        try:
            text = self.members.read(SHARDS, _MAX_MAP)
            check_length(text, self.path, self.members.size)
            places = json.loads(text)["weight_map"].values()
            found = {n for place in places for n in ([place] if isinstance(place, str) else place)}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise FileFault(f"{self.path}: {SHARDS} does not say where the weights are") from e
        lost = sorted(str(n) for n in found if n not in names)
        if lost:
            raise FileFault(
                f"{self.path}: {SHARDS} names {lost[0]!r:.80}, which is not there: copy the whole "
                "model"
            )
        if len(found) > _MAX_SHARDS:
            raise FileFault(
                f"{self.path} keeps its weights in {len(found)} files, and at most {_MAX_SHARDS} "
                "are read: save it again with a larger max_shard_size"
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

    def _owner(self, place: _Place, steps: Sequence[Step]) -> _Place | None:
        here: _Place | None = place
        for step in steps:
            here = None if here is None else self._down(here, step)
        return here

    def _down(self, place: _Place, step: Step) -> _Place | None:
        holder = place.child(step.attribute)
        if holder is None and step.attribute == "layers":
            holder = place.child("_layer_checkpoint_dependencies")  # 2.12 and 2.13
        if holder is None:
            return place.named(step.name)
        number = f"_{step.ordinal}" if step.ordinal else ""
        member = holder if step.ordinal is None else holder.child(f"{step.snake}{number}")
        # A mapping of layers has no variables; nor need a layer whose layers have them all.
        is_layer = member is not None and (member.is_layer or step.ordinal is not None)
        if (
            member is not None
            and is_layer
            and (not step.is_named or member.name in (None, step.name))
        ):
            return member
        # Members of a mapping or of nested lists; or what an attribute before it holds as well.
        found = holder.named(step.name) or place.named(step.name)
        return found or (holder if step.ordinal is None else None)

    def _first(self, owners: Sequence[_Place], spec: KernelSpec) -> WeightRef | None:
        for owner in owners:
            found = self._find(owner, spec)
            if found is not None:
                return found
        return None

    def _find(self, owner: _Place, spec: KernelSpec) -> WeightRef | None:
        if spec in UNKNOWN:
            found = [self._reference(owner, name) for name in owner.variables]
            return likely_kernel(None, [w for w in found if w is not None])
        for attribute in spec.attributes:
            inner = owner.child(attribute) or owner.child(attribute.removeprefix("_"))
            if inner is None:
                return None
            owner = inner
        return self._reference(owner, str(spec.index))

    def _reference(self, owner: _Place, variable: str) -> WeightRef | None:
        """A float variable of a layer's own; None where it is none."""
        dataset = hdf5.dataset(owner.group, f"vars/{variable}", self._allowance)
        if not is_float(dataset):
            return None
        return reference(dataset, self._references, self.shown)


def _nearest(held: Mapping[str, Layer], path: str) -> Layer | None:
    """The layer of the group, or of the innermost one around it."""
    while path and path not in held:
        path = path.rpartition("/")[0]
    return held.get(path)


class _Place:
    """A group in a file of weights, with what is in it: looked up once for all layers."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self._children: dict[str, _Place] = {}

    @functools.cached_property
    def _names(self) -> frozenset[bytes]:
        return frozenset(self.group.id)

    @functools.cached_property
    def name(self) -> str | None:
        """Of the layer whose weights these are; None where the file does not say."""
        own = hdf5.child_group(self.group, "vars")
        return None if own is None else hdf5.text(own, "name")

    @functools.cached_property
    def is_layer(self) -> bool:
        """Whether it is a layer's, not a list's or a mapping's of them."""
        return b"vars" in self._names

    @functools.cached_property
    def variables(self) -> list[str]:
        """Of the layer itself, in the file's order."""
        own = hdf5.child_group(self.group, "vars")
        names = [] if own is None else [name for name, _ in hdf5.members(own)]
        return sorted(names, key=lambda name: (len(name), name))[:_MOST_VARIABLES]

    @functools.cached_property
    def _by_name(self) -> dict[str | None, list[_Place]]:
        """The layers that this one holds, in lists and mappings too, by their names."""
        found: dict[str | None, list[_Place]] = {}
        seen: set[hdf5.Key] = set()  # a list may link to itself
        waiting = [self]
        while waiting:
            for name, member in hdf5.members(waiting.pop().group):
                if name == "vars" or not isinstance(member, h5py.Group):
                    continue
                key = hdf5.key_of(member)
                if key in seen:
                    continue
                seen.add(key)
                inner = _Place(member)
                if inner.is_layer:
                    found.setdefault(inner.name, []).append(inner)
                else:
                    waiting.append(inner)
        return found

    def child(self, name: str) -> _Place | None:
        """The group of this name."""
        if name not in self._children:
            if name.encode("utf-8", "surrogateescape") not in self._names:
                return None
            found = hdf5.child_group(self.group, name)
            if found is None:
                return None
            self._children[name] = _Place(found)
        return self._children[name]

    def named(self, name: str) -> _Place | None:
        """The one group whose layer has this name."""
        found = self._by_name.get(name, [])
        return found[0] if len(found) == 1 else None
