"""strip: a plain Keras model again."""

from __future__ import annotations

import os
from typing import Any

from orthwrap.errors import Faults
from orthwrap.model_config.tree import edit
from orthwrap.opening import opened
from orthwrap.plan.as_it_is import plan_strip, plan_strip_all
from orthwrap.report.make import make_report, with_notes
from orthwrap.rules.custom_objects import CustomObjects, custom_objects_of
from orthwrap.stores.outputs import PathLike
from orthwrap.surgery import changed_model, save, write_changed
from orthwrap.survey import survey
from orthwrap.verbs import notes
from orthwrap.verbs.endings import Result, finished
from orthwrap.verbs.places import refuse_in_place, target_of


def strip(
    model: Any,
    output: PathLike | None = None,
    *,
    all: bool = False,
    force: bool = False,
    in_place: bool = False,
    dry_run: bool = False,
    custom_objects: CustomObjects | None = None,
    unsafe_lambda: bool = False,
) -> Result:
    """Takes out orthwrap's regularizers and gives back what was there before them; or all of them.

    Args:
        model: a path, or a `keras.Model`, of which a plain copy is made unless `in_place`.
        output: from a path, None writes `name-plain` beside the input.
        all: take out every regularizer (an L2 too), those of biases and normalisation included, and
            give nothing back.
        force: an existing output may be replaced (never the input).
        in_place: change the live model itself.
        dry_run: report, write nothing.
        custom_objects: as in `apply`, where the format is converted too; and for a live model's
            regularizers that are given back.
        unsafe_lambda: as in `apply`, where the format is converted too.
    """
    is_file = isinstance(model, (str, os.PathLike))
    faults = Faults()
    known = faults.of(custom_objects_of, custom_objects)
    faults.of(refuse_in_place, in_place and is_file)
    faults.raise_all()
    with opened(model, upgrade=False) as source:
        target = target_of(model, output, "strip", source.store, force, dry_run)
        surveyed = survey(source.store)
        planned = plan_strip_all(surveyed) if all else plan_strip(surveyed)
        report = make_report("strip", source, surveyed, planned, with_figures=False)
        if dry_run:
            return finished(None, report, None)
        if is_file:
            assert target is not None  # a path always has an output beside it
            root = edit(source.store.root, planned.edits)
            report = with_notes(report, notes.of_own_classes(root))
            plain, found = write_changed(source, root, target, known, unsafe_lambda)
        else:
            plain, _, found = changed_model(source.store, planned, known, in_place=in_place)
            save(plain, target)
    return finished(plain, with_notes(report, found), target)
