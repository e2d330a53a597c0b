"""upgrade: an old file in the words of Keras 3."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from orthwrap.errors import ValueFault
from orthwrap.loading.loading import load_compiled
from orthwrap.model_config.needs import code_in
from orthwrap.opening import opened
from orthwrap.penalties.attachment import ours_within
from orthwrap.plan.as_it_is import plan_inspect
from orthwrap.report.make import make_report, noted
from orthwrap.rules.custom_objects import CustomObjects, custom_objects_of
from orthwrap.stores.outputs import PathLike, format_of
from orthwrap.stores.replacing import replacing
from orthwrap.surgery import temporary_copy, write_copy
from orthwrap.survey import survey
from orthwrap.text import listed
from orthwrap.verbs.endings import Result, saved
from orthwrap.verbs.places import target_of


def upgrade(
    model: PathLike,
    output: PathLike | None = None,
    *,
    force: bool = False,
    custom_objects: CustomObjects | None = None,
    unsafe_lambda: bool = False,
) -> Result:
    """Brings an old file to Keras 3, and does nothing else.

    Args:
        model: a `.h5`, `.hdf5` or `.keras` file, or a SavedModel folder.
        output: None writes `name-keras3` beside the input, a `.keras` for a SavedModel. Where
            there is nothing to do, the output is a copy.
        force: an existing output may be replaced (never the input).
        custom_objects, unsafe_lambda: as in `apply`, where the format is converted too.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise ValueFault("upgrade takes the path of a file: a live model is of Keras 3 already")
    known = custom_objects_of(custom_objects)
    path = Path(model)
    with opened(path) as source:
        store = source.store
        target = target_of(path, output, "upgrade", store, force)
        surveyed = survey(store)
        report = make_report(
            "upgrade", source, surveyed, plan_inspect(surveyed), with_figures=False
        )
        report = noted(report, (*_still_needs(store.root), *_still_holds(store.root)))
        if format_of(target) == store.format:
            if store.path.is_dir():
                write_copy(source, store.root, target, path)
            else:
                with replacing(target, like=path) as sibling:
                    shutil.copyfile(store.path, sibling)
                    source.check_unchanged()
            return Result(None, target, replace(report, output=str(target)))
        with temporary_copy(source, store.root) as copy:
            live, notes = load_compiled(copy, known, unsafe_lambda=unsafe_lambda, shown=Path(model))
    return saved(live, noted(report, notes), target)


def _still_needs(root: Any) -> tuple[str, ...]:
    """A note where even without regularizers Keras cannot load the file alone."""
    names = ours_within(root)
    if not names:
        return ()
    return (
        f"it still needs `import orthwrap` to load, for {', '.join(sorted(names))}, which Keras 3 "
        "does not have",
    )


def _still_holds(root: Any) -> tuple[str, ...]:
    """A note where Keras runs code of the file to load it."""
    layers = code_in(root)
    if not layers:
        return ()
    return (
        f"{listed(layers)}: code that the file keeps, which Keras runs with safe_mode=False alone",
    )
