"""Legacy `.h5`/`.hdf5` model files: the config in an attribute, weights by layer and name."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py

from orthwrap.errors import FileFault
from orthwrap.layouts import KernelSpec
from orthwrap.records import ModelRecord
from orthwrap.stores.base import WeightRef, as_float
from orthwrap.walker import Layer, Node, walk, with_old_names


class H5Store:
    """Reads one `.h5` file. Nothing in it is run, and it is never written to."""

    format = "h5"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.old_names: Mapping[str, str] = {}  # a layer's name → the one that modernising took
        try:
            self._file = h5py.File(path, "r")
        except OSError as e:
            raise FileFault(
                f"{path} is a broken HDF5 file ({_plain(e)}): copy or save it again"
            ) from e
        try:
            self.root = self._read_config()
            self.record = ModelRecord(
                path=str(path),
                format=self.format,
                keras_version=self._text("keras_version"),
                parameters=self._count_parameters(),
            )
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as e:
            self.close()
            raise FileFault(f"{path} is a broken HDF5 file ({_plain(e)}): copy it again") from e
        except BaseException:
            self.close()
            raise

    @property
    def attributes(self) -> dict[str, str | None]:
        """The attributes that say where the file comes from."""
        return {name: self._text(name) for name in ("keras_version", "backend")}

    def layers(self) -> tuple[Layer, ...]:
        return with_old_names(walk(self.root), self.old_names)

    def weights(self, layer: Layer, specs: Sequence[KernelSpec]) -> list[WeightRef | None]:
        top = self._group_of(layer)
        if top is None:
            return [None] * len(specs)
        names = self._weight_names(top)
        return [self._find(top, names, layer, spec) for spec in specs]

    def close(self) -> None:
        self._file.close()

    def write(self, target: Path, root: Node) -> None:
        """A copy of the file in which only the config attribute differs."""
        shutil.copyfile(self.path, target)
        with h5py.File(target, "r+") as f:
            # A fixed-length attribute ends at 64 KB; a variable-length string does not.
            f.attrs.create("model_config", json.dumps(root), dtype=h5py.string_dtype())

    def check_copy(self, target: Path, root: Node) -> None:
        """FileFault unless the file just written reads back as it should."""
        with h5py.File(target, "r") as f:
            if json.loads(f.attrs["model_config"]) != root:
                raise FileFault(f"{target} did not read back as it was written: try again")

    # Reading

    def _text(self, name: str) -> str | None:
        holders = [self._file]
        if isinstance(self._file.get("model_weights"), h5py.Group):
            holders.append(self._file["model_weights"])
        for holder in holders:
            value = holder.attrs.get(name)
            if value is not None:
                return value.decode("utf-8") if isinstance(value, bytes) else str(value)
        return None

    def _read_config(self) -> Node:
        value = self._file.attrs.get("model_config")
        if value is None:
            raise FileFault(self._why_no_config())
        text = value.decode("utf-8") if isinstance(value, bytes) else value
        return parse_config(text, self.path)

    def _why_no_config(self) -> str:
        if (
            "layer_names" in self._file.attrs
            or "layers" in self._file
            or "_layer_checkpoint_dependencies" in self._file
        ):
            return (
                f"{self.path} holds weights only, no model: build the model in Python, "
                "model.load_weights(file), then model.save('model.keras') and use that file"
            )
        return (
            f"{self.path} is an HDF5 file but no Keras model (it has no model_config): "
            "expected a file written by model.save"
        )

    def _model_weights(self) -> Any:
        """The group of weights; Keras 1 could put the layers at the root."""
        group = self._file.get("model_weights")
        return group if isinstance(group, h5py.Group) else self._file

    def _count_parameters(self) -> int:
        weights = self._model_weights()
        total = 0
        for name in names_of(weights, "layer_names"):
            group = weights.get(name)
            if isinstance(group, h5py.Group):
                for weight in names_of(group, "weight_names"):
                    dataset = group.get(weight)
                    if isinstance(dataset, h5py.Dataset):
                        total += math.prod(dataset.shape)
        return total

    # Where a layer's weights lie: `model_weights/<top-level layer>/<weight name>`. The names below
    # the top level differ by version, so they are compared by their ends.

    def _group_of(self, layer: Layer) -> Any:
        group = self._model_weights().get(layer.steps[0].name)
        return group if isinstance(group, h5py.Group) else None

    def _weight_names(self, group: Any) -> list[str]:
        return names_of(group, "weight_names")

    def _find(
        self, group: Any, names: Sequence[str], layer: Layer, spec: KernelSpec
    ) -> WeightRef | None:
        wanted = spec.name.split("/")  # ["kernel"], or ["query", "kernel"]
        of_kind = [n for n in names if _parts(n)[-len(wanted) :] == wanted]
        if len(layer.steps) == 1 and len(of_kind) == 1:
            return self._ref(group, of_kind[0])
        if len(layer.steps) == 1 and not of_kind and spec.index < len(names):
            return self._ref(group, names[spec.index])  # Keras 1: `dense_1_W`, by order
        best = _best_match(of_kind, layer, len(wanted))
        return None if best is None else self._ref(group, best)

    def _ref(self, group: Any, name: str) -> WeightRef | None:
        dataset = group.get(name)
        if not isinstance(dataset, h5py.Dataset):
            return None
        return WeightRef(tuple(dataset.shape), lambda: as_float(dataset[()]), dataset.name)


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


def names_of(group: Any, attribute: str) -> list[str]:
    """A list of names kept in an attribute, which Keras splits where it grows too large."""
    return [
        name.decode("utf-8") if isinstance(name, bytes) else str(name)
        for chunk in _chunks(group, attribute)
        for name in chunk
    ]


def _chunks(group: Any, attribute: str) -> Iterator[Any]:
    if attribute in group.attrs:
        yield group.attrs[attribute]
        return
    i = 0
    while f"{attribute}{i}" in group.attrs:
        yield group.attrs[f"{attribute}{i}"]
        i += 1


def parse_config(text: Any, path: Path) -> Node:
    """The config tree from its JSON; FileFault where it is none."""
    try:
        root = json.loads(text)
    except (ValueError, TypeError, RecursionError) as e:
        raise FileFault(
            f"{path} holds a config that is not JSON ({_plain(e)}): copy it again"
        ) from e
    if not isinstance(root, dict) or "class_name" not in root or "config" not in root:
        raise FileFault(f"{path} holds a config without class_name and config: no Keras model")
    return root


def _plain(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
