"""Legacy `.h5`/`.hdf5` model files: the config in an attribute, weights by layer and name."""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from orthwrap.errors import FileFault
from orthwrap.model_config.layers import UNKNOWN, KernelSpec
from orthwrap.model_config.tree import Layer, Node, is_of_keras, walk, with_old_names
from orthwrap.stores import hdf5
from orthwrap.stores.config import parse_config, parse_json, same_json
from orthwrap.stores.faults import reading, unreadable
from orthwrap.stores.heaps import check_heaps
from orthwrap.stores.regular import check_holes, held, open_regular
from orthwrap.stores.store import Known, ModelRecord, Unclaimed, WeightRef, likely_kernel
from orthwrap.text import first_line

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MOST_COMPARED = 500  # weights of one group whose names are compared one by one


def is_hdf5(path: Path) -> bool:
    """True where the file begins as HDF5 does (after a user block, if it has one).

    A zip may hold HDF5 at the very place where a user block would end.
    """
    if not path.is_file():
        return False
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


class H5Store:
    """Reads one `.h5` file. Nothing in it is run, and it is never written to."""

    format = "h5"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.old_names: Mapping[str, str] = {}  # a layer's name → the one that modernising took
        self._indexes: dict[hdf5.Key, _Index] = {}  # of each group's weights, made once
        self._references: dict[hdf5.Key, WeightRef] = {}
        self._top: Any = None
        self._parts = 0  # of all names in them
        length, self.size = path.stat().st_size, held(path)
        check_holes(path, length, self.size)
        try:
            check_heaps(path)
            self.file = hdf5.open_hdf5(path)
        except FileFault as e:
            raise FileFault(f"{path} is {e}: copy or save it again") from e
        except OSError as e:
            raise FileFault(
                f"{path} is a broken HDF5 file ({first_line(e)}): copy or save it again"
            ) from e
        self._allowance = hdf5.Allowance(self.size)
        try:
            self.root = self._read_config()
            with hdf5.limited_memory():
                parameters = self._count_parameters()
            self.record = ModelRecord(
                path=str(path),
                format=self.format,
                keras_version=self.text("keras_version"),
                parameters=parameters,
            )
        except (OSError, RuntimeError) as e:
            self.close()
            raise FileFault(f"{path} is a broken HDF5 file ({first_line(e)}): copy it again") from e
        except (KeyError, ValueError, TypeError) as e:
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
            top = self._group_of(layer)
            if top is None:
                return [None] * len(specs)
            index = self._index_of(top)
            return [self._find(top, index, layer, spec) for spec in specs]

    def unclaimed(self, layers: Sequence[Layer], specified: Container[str]) -> list[Unclaimed]:
        with reading(self.shown), hdf5.limited_memory():
            return self._unclaimed(layers, specified)

    def _unclaimed(self, layers: Sequence[Layer], specified: Container[str]) -> list[Unclaimed]:
        by_top: dict[str, list[Layer]] = {}
        for layer in layers:
            for steps in layer.ways:
                by_top.setdefault(steps[0].name, []).append(layer)
        found: dict[str, Unclaimed] = {}
        if not is_of_keras(self.root):
            tops = hdf5.names(self._model_weights(), "layer_names")
            for name in dict.fromkeys(tops):
                if name not in by_top:
                    self._add_below(found, hdf5.child_group(self._model_weights(), name))
        for inside in by_top.values():
            group = self._group_of(inside[0])
            if group is None or all(is_of_keras(layer.node) for layer in inside):
                continue
            by_name = {layer.name: layer for layer in reversed(inside)}
            for weight in self._index_of(group).names[:_MOST_COMPARED]:
                owners = _parts(weight)[:-1]
                layer = next((by_name[n] for n in reversed(owners) if n in by_name), inside[0])
                is_own = not owners or owners[-1] == layer.name or not layer.steps[-1].is_named
                if not (is_of_keras(layer.node) or (is_own and layer.path in specified)):
                    self._add(found, layer, group, weight, is_own=is_own)
        return list(found.values())

    def _add_below(self, found: dict[str, Unclaimed], group: Any) -> None:
        """A layer that the config does not name, to what the model holds."""
        names = () if group is None else self._index_of(group).names
        for weight in names[:_MOST_COMPARED]:
            self._add(found, None, group, weight, is_own=False)

    def _add(
        self,
        found: dict[str, Unclaimed],
        layer: Layer | None,
        group: Any,
        weight: str,
        *,
        is_own: bool,
    ) -> None:
        dataset = hdf5.child(group, weight)
        if isinstance(dataset, h5py.Dataset) and is_float(dataset):
            below = found.setdefault("" if layer is None else layer.path, Unclaimed(layer))
            below.add(dataset.shape or (), is_own=is_own)

    def close(self) -> None:
        self.file.close()

    def write(self, target: Path, root: Node) -> None:
        """A copy of the file in which only the config attribute differs."""
        shutil.copyfile(self.path, target)
        with hdf5.open_hdf5(target, "r+") as f:
            # A fixed-length attribute ends at 64 KB; a variable-length string does not.
            f.attrs.create("model_config", json.dumps(root), dtype=h5py.string_dtype())

    def check_copy(self, target: Path, root: Node) -> None:
        """FileFault unless the file just written reads back as it should."""
        with hdf5.open_hdf5(target) as f:
            if not same_json(hdf5.text(f, "model_config"), root):
                raise FileFault(f"{target} did not read back as it was written: try again")

    # Reading

    def text(self, name: str) -> str | None:
        """An attribute of the file or of its weights; None where neither has it."""
        for holder in (self.file, hdf5.child_group(self.file, "model_weights")):
            if holder is not None and (value := hdf5.text(holder, name)) is not None:
                return value
        return None

    def training_config(self) -> dict[str, Any] | None:
        """How the model was compiled; None where the file does not say.

        Raises:
            FileFault: it is no object, no JSON, or too long.
        """
        text = hdf5.text(self.file, "training_config")
        if text is None:
            return None
        found = parse_json(text, self.shown, self.size)
        if found is not None and not isinstance(found, dict):
            raise FileFault(f"training_config: expected an object, found {type(found).__name__}")
        return found

    def _read_config(self) -> Node:
        text = hdf5.text(self.file, "model_config")
        if text is None:
            raise FileFault(self._why_no_config())
        return parse_config(text, self.path, self.size)

    def _why_no_config(self) -> str:
        if (
            "layer_names" in self.file.attrs
            or "layers" in self.file
            or "_layer_checkpoint_dependencies" in self.file
        ):
            return (
                f"{self.path} holds weights only, no model: `orthwrap upgrade model.json --weights "
                f"{self.path.name}` makes one file of them and of what model.to_json() gave; or "
                "build the model in Python, model.load_weights(file), model.save('model.keras')"
            )
        return (
            f"{self.path} is an HDF5 file but no Keras model (it has no model_config): "
            "expected a file written by model.save"
        )

    def _model_weights(self) -> Any:
        """The group of weights; Keras 1 could put the layers at the root."""
        if self._top is None:
            group = hdf5.child_group(self.file, "model_weights")
            self._top = self.file if group is None else group
        return self._top

    def _count_parameters(self) -> int:
        weights = self._model_weights()
        total = 0
        looked_up = 0
        for name in dict.fromkeys(hdf5.names(weights, "layer_names")):
            group = hdf5.child_group(weights, name)
            names = () if group is None else dict.fromkeys(self._index_of(group).names)
            looked_up += 1 + len(names)
            if looked_up > hdf5.MAX_OBJECTS:
                raise FileFault("the file holds more weights than any model has")
            for weight in names:
                dataset = hdf5.child(group, weight)
                if isinstance(dataset, h5py.Dataset):
                    total += math.prod(dataset.shape or ())
        return total

    # Where a layer's weights lie: `model_weights/<top-level layer>/<weight name>`. The names below
    # the top level differ by version, so they are compared by their ends.

    def _group_of(self, layer: Layer) -> Any:
        if not all(step.is_named for step in layer.steps[1:]):
            return None  # below the top, weights are found by names alone
        top = layer.steps[0]
        name = top.name if top.is_named else self._groups_by_order.get(top.name)
        return None if name is None else hdf5.child_group(self._model_weights(), name)

    @functools.cached_property
    def _groups_by_order(self) -> dict[str, str]:
        """The groups of layers that the config does not name: in the file they are in its order."""
        tops = [layer.steps[0] for layer in self.layers() if len(layer.steps) == 1]
        named = {top.name for top in tops if top.is_named}
        left = [n for n in hdf5.names(self._model_weights(), "layer_names") if n not in named]
        made_up = [top.name for top in tops if not top.is_named]
        return dict(zip(made_up, left, strict=True)) if len(made_up) == len(left) else {}

    def _index_of(self, group: Any) -> _Index:
        key = hdf5.key_of(group)
        if key not in self._indexes:
            names = hdf5.names(group, "weight_names")
            self._parts += sum(name.count("/") + 1 for name in names)
            if self._parts > hdf5.MAX_PARTS:
                raise FileFault("the file names more weights than any model has")
            self._indexes[key] = _Index(names)
        return self._indexes[key]

    def _find(self, group: Any, index: _Index, layer: Layer, spec: KernelSpec) -> WeightRef | None:
        if spec in UNKNOWN:
            return self._likely(group, index, layer, spec)
        is_top = len(layer.steps) == 1
        names = (spec.name, *spec.also)
        for name in names:
            found = self._called(group, index, layer, name, is_alone=is_top)
            if found is not None:
                return found
        has_names = any(index.of_kind(tuple(name.split("/"))) for name in names)
        if is_top and not has_names and spec.index < len(index.names):
            return self._ref(group, index.names[spec.index])  # Keras 1: `dense_1_W`, by order
        # A wrapper's own name may stand where the layer's should.
        tail = tuple(spec.name.split("/"))
        best = _best_match(index.of_kind(tail)[:_MOST_COMPARED], layer, len(tail))
        return None if best is None else self._ref(group, best)

    def _called(
        self, group: Any, index: _Index, layer: Layer, name: str, *, is_alone: bool
    ) -> WeightRef | None:
        """The weight of this name that is the layer's, by the names around it."""
        tail = tuple(name.split("/"))  # ("kernel",), or ("query", "kernel")
        of_kind = index.of_kind(tail)
        if is_alone and len(of_kind) == 1:
            return self._ref(group, of_kind[0])
        best = _best_match(index.of_kind(tail, layer.steps[-1].name), layer, len(tail))
        return None if best is None else self._ref(group, best)

    def _likely(
        self, group: Any, index: _Index, layer: Layer, spec: KernelSpec
    ) -> WeightRef | None:
        """The kernel of a class that is not known."""
        is_top = len(layer.steps) == 1
        named = self._called(group, index, layer, spec.name, is_alone=is_top)
        names = index.names if is_top else index.owned_by(layer.steps[-1].name)
        found = [hdf5.dataset(group, name, self._allowance) for name in names[:_MOST_COMPARED]]
        own = [self._ref(group, n) for n, d in zip(names, found, strict=False) if is_float(d)]
        return likely_kernel(named, [w for w in own if w is not None])

    def _ref(self, group: Any, name: str) -> WeightRef | None:
        dataset = hdf5.dataset(group, name, self._allowance)
        return None if dataset is None else reference(dataset, self._references, self.shown)


def is_float(dataset: Any) -> bool:
    """Whether a dataset holds floats: what counts, or says yes and no, is no kernel."""
    return dataset is not None and (dataset.dtype.kind not in "iub" or hdf5.is_bfloat16(dataset))


def reference(dataset: Any, known: dict[hdf5.Key, WeightRef], path: Path) -> WeightRef:
    """A dataset of the file at `path` as a weight, which is read when asked for.

    The same one for all of its names.
    """
    key = hdf5.key_of(dataset)
    if key not in known:
        slices = hdf5.Slices(dataset, path)
        # Block by block, a chunk that several blocks touch would be unpacked for each of them.
        blocks = None if slices.is_chunked else slices
        known[key] = WeightRef(slices.shape, lambda: slices[()], key, blocks, Known())
    return known[key]


def group_of_arrays(path: Path, *groups: str) -> tuple[list[str], list[Any]] | None:
    """Names and arrays that stand beside the layers, in the first group that there is.

    None where a file has none of the groups.
    """
    size = held(path)
    allowance, copied = hdf5.Allowance(size), hdf5.Allowance(size)
    with hdf5.open_hdf5(path) as file:
        found = (hdf5.child_group(file, name) for name in groups)
        group = next((g for g in found if g is not None), None)
        if group is None:
            return None
        names, arrays = hdf5.names(group, "weight_names"), []
        for name in names:
            dataset = hdf5.dataset(group, name, allowance)
            if dataset is not None:
                copied.take(hdf5.bytes_of(dataset), name)
                arrays.append(np.asarray(hdf5.read(dataset)))
    return names, arrays


class _Index:
    """A group's weight names, by what they end with and by the names around that."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._by_tail: dict[tuple[tuple[str, ...], str | None], list[str]] = {}
        for name in names:
            parts = _parts(name)
            for length in range(1, min(len(parts), 2) + 1):
                tail = tuple(parts[-length:])
                for owner in {None, *parts[:-length]}:
                    self._by_tail.setdefault((tail, owner), []).append(name)

    def owned_by(self, owner: str) -> list[str]:
        """The names that have this one right before their last part."""
        return [name for name in self.names if _parts(name)[-2:-1] == [owner]]

    def of_kind(self, tail: tuple[str, ...], owner: str | None = None) -> list[str]:
        """The names that end so; with `owner`, those that also have it before the end."""
        return self._by_tail.get((tail, owner), [])


def _best_match(names: Sequence[str], layer: Layer, tail: int) -> str | None:
    """The weight whose path agrees best with the layer's, if one agrees better than the rest.

    A weight is named by some of the layers around it: `outer/inner/conv/kernel`, `conv/kernel:0`,
    `bidirectional_1/forward_gru/kernel:0`. How many trailing layer names agree decides; where
    none does (a wrapper's own name stands there instead), a single weight of the kind is it.
    """
    places = [path.split("/") for path in layer.paths]
    scored = [(max(_agreement(_parts(n)[:-tail], place) for place in places), n) for n in names]
    if not scored:
        return None
    top = max(score for score, _ in scored)
    best = [n for score, n in scored if score == top]
    if len(best) == 1 and (top > (0, 0) or len(names) == 1):
        return best[0]
    return None


def _agreement(owners: Sequence[str], place: Sequence[str]) -> tuple[int, int]:
    """(whether the layer's own name is there, how many of the names around it are)."""
    if place[-1] in owners:
        rest = owners[: len(owners) - 1 - list(reversed(owners)).index(place[-1])]
        around = sum(1 for name in place[:-1] if name in rest)
        # Extra owners (a cell within its layer) are fine; foreign ones around are not.
        return 2, around
    return 0, sum(1 for name in place[:-1] if name in owners)


def _parts(weight_name: str) -> list[str]:
    """`conv2d_1_1/kernel:0` → ["conv2d_1_1", "kernel"]."""
    return (
        weight_name.rpartition(":")[0].split("/") if ":" in weight_name else weight_name.split("/")
    )
