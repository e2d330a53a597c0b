"""1. A path or a live model → its store; older files are read as modernised copies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthwrap.stores.faults import reading
from orthwrap.stores.files import format_at, open_file
from orthwrap.stores.formats import new_suffix
from orthwrap.stores.original import Original
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
    """

    store: Any
    upgrades: tuple[Upgrade, ...] = ()
    original: Original | None = None

    @property
    def path(self) -> Path:
        """What the user gave, where it was a path; a ValueError where it was a model."""
        if self.original is None:
            raise ValueError("a model in memory has no path")
        return self.original.path

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
        from orthwrap.live.live_store import LiveStore

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


def _renamed(store: FileStore, path: Path, format: str, version: str | None) -> FileStore:
    """The store under the name of the file that the user gave."""
    record = replace(store.record, path=str(path), format=format)
    store.record = record if version is None else replace(record, keras_version=version)
    return store
