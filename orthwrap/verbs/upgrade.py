"""upgrade: an old file in the words of Keras 3."""

from __future__ import annotations

import os

from orthwrap.errors import ValueFault
from orthwrap.model_config.tfmot import check_wrappers
from orthwrap.opening import opened
from orthwrap.plan.as_it_is import plan_inspect
from orthwrap.report.make import make_report, with_notes
from orthwrap.rules.custom_objects import CustomObjects, custom_objects_of
from orthwrap.stores.outputs import PathLike
from orthwrap.surgery import write_changed
from orthwrap.survey import survey
from orthwrap.verbs import notes
from orthwrap.verbs.endings import Result, finished
from orthwrap.verbs.places import target_of


def upgrade(
    model: PathLike,
    output: PathLike | None = None,
    *,
    weights: PathLike | None = None,
    force: bool = False,
    custom_objects: CustomObjects | None = None,
    unsafe_lambda: bool = False,
) -> Result:
    """Brings an old file to Keras 3, and does nothing else.

    Args:
        model: a `.h5`, `.hdf5` or `.keras` file, a SavedModel folder, or a `model.json`.
        output: None writes `name-keras3` beside the input, a `.keras` for a SavedModel. Where
            there is nothing to do, the output is a copy.
        weights: the file of weights that goes with a `model.json`, what `model.to_json()` gave.
        force: an existing output may be replaced (never the input).
        custom_objects: as in `apply`, where the format is converted too.
        unsafe_lambda: as in `apply`, where the format is converted too.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise ValueFault("upgrade takes the path of a file: a live model is of Keras 3 already")
    known = custom_objects_of(custom_objects)
    with opened(model, weights=weights) as source:
        store = source.store
        target = target_of(model, output, "upgrade", store, force, weights=weights)
        surveyed = survey(store)
        check_wrappers(surveyed.layers)
        report = make_report(
            "upgrade", source, surveyed, plan_inspect(surveyed), with_figures=False
        )
        report = with_notes(report, (*notes.of_own_classes(store.root), *notes.of_code(store.root)))
        modern, found = write_changed(source, store.root, target, known, unsafe_lambda)
    return finished(modern, with_notes(report, found), target)
