"""1. A path or a live model → its store; older files are read as modernised copies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthwrap.errors import FileFault, UsageError
from orthwrap.model_config.layers import LAYER_TYPES
from orthwrap.stores.faults import reading
from orthwrap.stores.files import check_readable, format_at, open_file
from orthwrap.stores.formats import new_suffix
from orthwrap.stores.original import Original
from orthwrap.stores.pair import is_architecture, joined
from orthwrap.stores.replacing import scratch_folder
from orthwrap.stores.store import FileStore

if TYPE_CHECKING:
    from orthwrap.upgrades import Upgrade


@dataclass(frozen=True)
class Opened:
    """A model that can be read.

    Attributes:
        store: reads it. For an older file, a modernised copy, under the file's own name.
        upgrades: what modernising did; () where there was nothing to do.
        original: the file as it stood before it was opened; None for a model in memory.
        beside: the file of its weights, where they are in one of their own; else None.
    """

    store: Any
    upgrades: tuple[Upgrade, ...] = ()
    original: Original | None = None
    beside: Original | None = None

    @property
    def path(self) -> Path:
        """What the user gave, where it was a path; a ValueError where it was a model."""
        if self.original is None:
            raise ValueError("a model in memory has no path")
        return self.original.path

    def check_unchanged(self) -> None:
        """FileFault where the file is not the one any more that was opened."""
        for file in (self.original, self.beside):
            if file is not None:
                file.check()


@contextlib.contextmanager
def opened(
    model: Any, *, upgrade: bool = True, weights: str | os.PathLike[str] | None = None
) -> Iterator[Opened]:
    """The store of a path or a live model, closed at the end.

    Args:
        model: a path (`.h5`, `.hdf5`, `.keras`, a SavedModel folder) or a `keras.Model`.
        upgrade: False reads an older file as it stands.
        weights: the file of weights that goes with a `model.json`.

    Raises:
        FileFault: the file cannot be read as a Keras model.
        ValueFault: the model is none, or has no weights yet.
    """
    if not isinstance(model, (str, os.PathLike)):
        if weights is not None:
            raise UsageError("weights go with the path of a model.json: a live model has its own")
        from orthwrap.live.live_store import LiveStore

        yield Opened(LiveStore(model))
        return
    path = Path(model)
    with contextlib.ExitStack() as stack:
        with reading(path):
            original = Original.of(path)
            beside = None if weights is None else Original.of(Path(weights))

            def new_folder() -> Path:
                return stack.enter_context(scratch_folder())

            if beside is None:
                found = _open(path, new_folder, upgrade)
            else:
                found = _open_pair(path, beside.path, new_folder, upgrade)
        try:
            yield replace(found, original=original, beside=beside)
        finally:
            found.store.close()


def _open(path: Path, new_folder: Callable[[], Path], upgrade: bool) -> Opened:
    if not upgrade:
        return Opened(open_file(path))
    found = format_at(path)
    store = found.open(path)
    if found.editing is None:
        return Opened(store)
    from orthwrap.upgrades import modernised

    try:
        edits = modernised(found.editing.described(store))
        if not edits.upgrades:
            return Opened(store)
        copy = new_folder() / f"model{new_suffix(found.name)}"
        found.editing.write_edited(store, copy, edits)
    except BaseException:
        store.close()
        raise
    store.close()
    modern = _renamed(open_file(copy), path, found.name, store.record.keras_version)
    modern.old_names = dict(edits.renamed)
    return Opened(modern, edits.upgrades)


def _open_pair(path: Path, weights: Path, new_folder: Callable[[], Path], upgrade: bool) -> Opened:
    """A `model.json` and its weights, which are made one file first."""
    check_readable(path)
    check_readable(weights)
    if not is_architecture(path):
        raise FileFault(
            f"{path} is no model.json: weights go with what model.to_json() gave, and every other "
            "file has its own"
        )
    whole = joined(path, weights, new_folder())
    try:
        found = _open(whole, new_folder, upgrade)
    except FileFault as e:
        raise type(e)(str(e).replace(str(whole), str(weights))) from e
    store = _renamed(found.store, path, found.store.format, found.store.record.keras_version)
    try:
        _check_pair(store, path, weights)
    except BaseException:
        store.close()
        raise
    return replace(found, store=store)


def _check_pair(store: FileStore, path: Path, weights: Path) -> None:
    """FileFault where a model.json has no layers, or the weights are of another model's."""
    layers = store.layers()
    if not layers:
        raise FileFault(
            f"{path} names no layers, which a class written in Python makes: build the model "
            "there, model.load_weights(file), then model.save('model.keras')"
        )
    known = [layer for layer in layers if layer.kind and LAYER_TYPES[layer.kind].kernels]
    found = (store.weights(layer, LAYER_TYPES[str(layer.kind)].kernels) for layer in known)
    if known and not any(ref is not None for refs in found for ref in refs):
        raise FileFault(
            f"{weights} has none of the kernels of {path}: give the weights that were saved of "
            "this model"
        )


def _renamed(store: FileStore, path: Path, format: str, version: str | None) -> FileStore:
    """The store under the name of the file that the user gave."""
    record = replace(store.record, path=str(path), format=format)
    store.record = record if version is None else replace(record, keras_version=version)
    return store
