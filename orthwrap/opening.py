"""1. A path or a live model → its store; older files are read as modernised copies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthwrap.errors import FileFault
from orthwrap.stores.faults import reading
from orthwrap.stores.files import FileStore, is_keras_folder, open_file
from orthwrap.stores.original import Original
from orthwrap.stores.replacing import scratch_folder

if TYPE_CHECKING:
    from orthwrap.upgrades import Upgrade


@dataclass(frozen=True)
class Opened:
    """A model that can be read.

    Attributes:
        store: reads it. For an older file, a modernised copy, under the file's own name.
        upgrades: what modernising did; () where there was nothing to do.
        original: the file as it stood before it was opened; None for a model in memory.
    """

    store: Any
    upgrades: tuple[Upgrade, ...] = ()
    original: Original | None = None

    def check_unchanged(self) -> None:
        """FileFault where the file is not the one any more that was opened."""
        if self.original is not None:
            self.original.check()


@contextlib.contextmanager
def opened(model: Any, *, upgrade: bool = True) -> Iterator[Opened]:
    """The store of a path or a live model, closed at the end.

    Args:
        model: a path (`.h5`, `.hdf5`, `.keras`, a SavedModel folder) or a `keras.Model`.
        upgrade: False reads an older file as it stands.

    Raises:
        FileFault: the file cannot be read as a Keras model.
        ValueFault: the model is none, or has no weights yet.
    """
    if not isinstance(model, (str, os.PathLike)):
        from orthwrap.live.store import LiveStore

        yield Opened(LiveStore(model))
        return
    path = Path(model)
    with contextlib.ExitStack() as stack:
        with reading(path):
            original = Original.of(path)
            found = _open(path, lambda: stack.enter_context(scratch_folder()), upgrade)
        try:
            yield replace(found, original=original)
        finally:
            found.store.close()


def _open(path: Path, new_folder: Callable[[], Path], upgrade: bool) -> Opened:
    if is_saved_model(path):
        if not upgrade:
            raise FileFault(
                f"{path} is a SavedModel folder, which is read only by bringing it up to Keras 3: "
                "use `orthwrap upgrade` first, or leave --no-upgrade out"
            )
        from orthwrap.upgrades.saved_model import read_config, upgrade_saved_model

        _, version = read_config(path)
        copy = new_folder() / "model.keras"
        upgrades = upgrade_saved_model(path, copy)
        return Opened(_renamed(open_file(copy), path, "saved_model", version), upgrades)
    store = open_file(path)
    source = path
    version = store.record.keras_version or ""
    if not upgrade or version.startswith("3."):
        return Opened(store)
    from orthwrap.upgrades import apply_h5, plan_h5, plan_keras_zip, upgrade_keras_zip

    try:
        if is_keras_folder(path):
            source = new_folder() / "packed.keras"
            store.write(source, store.root)
        plan = plan_h5(source) if store.format == "h5" else plan_keras_zip(source)
        if not plan.upgrades:
            return Opened(store)
        copy = new_folder() / f"model.{store.format}"
        if store.format == "h5":
            apply_h5(source, copy, plan)
        else:
            upgrade_keras_zip(source, copy)
    except BaseException:
        store.close()
        raise
    store.close()
    modern = _renamed(open_file(copy), path, store.format, store.record.keras_version)
    modern.old_names = dict(plan.renamed)
    return Opened(modern, plan.upgrades)


def _renamed(store: FileStore, path: Path, format: str, version: str | None) -> FileStore:
    """The store under the name of the file that the user gave."""
    record = replace(store.record, path=str(path), format=format)
    store.record = record if version is None else replace(record, keras_version=version)
    return store


def is_saved_model(path: Path) -> bool:
    """True for a TensorFlow SavedModel folder."""
    return path.is_dir() and (path / "saved_model.pb").exists()
