"""strip: a plain Keras model again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from orthwrap.loading.loading import load_compiled
from orthwrap.model_config.tree import edit
from orthwrap.opening import opened
from orthwrap.plan.as_it_is import plan_strip
from orthwrap.report.make import make_report, noted
from orthwrap.rules.custom_objects import CustomObjects, custom_objects_of
from orthwrap.stores.outputs import PathLike, format_of
from orthwrap.surgery import changed_model, temporary_copy, write_copy
from orthwrap.survey import survey
from orthwrap.verbs.endings import Result, saved
from orthwrap.verbs.places import refuse_in_place, target_of
from orthwrap.verbs.upgrade import _still_needs


def strip(
    model: Any,
    output: PathLike | None = None,
    *,
    force: bool = False,
    in_place: bool = False,
    dry_run: bool = False,
    custom_objects: CustomObjects | None = None,
    unsafe_lambda: bool = False,
) -> Result:
    """Takes out orthwrap's regularizers and gives back what was there before them.

    Args:
        model: a path, or a `keras.Model`, of which a plain copy is made unless `in_place`.
        output: from a path, None writes `name-plain` beside the input.
        force: an existing output may be replaced (never the input).
        in_place: change the live model itself.
        dry_run: report, write nothing.
        custom_objects, unsafe_lambda: as in `apply`, where the format is converted too; and for
            a live model's regularizers that are given back.
    """
    known = custom_objects_of(custom_objects)
    is_file = isinstance(model, (str, os.PathLike))
    if is_file:
        refuse_in_place(in_place)
    with opened(model, upgrade=False) as source:
        store = source.store
        target = target_of(model, output, "strip", store, force, dry_run)
        surveyed = survey(store)
        planned = plan_strip(surveyed)
        report = make_report("strip", source, surveyed, planned, with_figures=False)
        if dry_run:
            return Result(None, None, report)
        if not is_file:
            changed, notes = changed_model(store, planned, known, in_place=in_place)
            return saved(changed, noted(report, notes), target)
        assert target is not None  # a path always has an output beside it
        root = edit(store.root, planned.edits)
        report = noted(report, _still_needs(root))
        if format_of(target) == store.format:
            write_copy(source, root, target, Path(model))
            return Result(None, target, replace(report, output=str(target)))
        with temporary_copy(source, root) as copy:
            live, notes = load_compiled(copy, known, unsafe_lambda=unsafe_lambda, shown=Path(model))
    return saved(live, noted(report, notes), target)
