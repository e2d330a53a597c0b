"""finetune: goes on training a model that carries regularizers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from orthwrap.errors import Faults, UsageError
from orthwrap.model_config.tfmot import check_wrappers
from orthwrap.opening import opened
from orthwrap.plan.as_it_is import plan_inspect
from orthwrap.report.make import make_report, with_notes
from orthwrap.rules.custom_objects import CustomObjects, custom_objects_of
from orthwrap.rules.words import documented
from orthwrap.stores.outputs import PathLike
from orthwrap.surgery import copied_model, load_planned
from orthwrap.survey import survey
from orthwrap.training.settings import Settings, TrainingWords, settings_of
from orthwrap.verbs.endings import Result, trained
from orthwrap.verbs.places import target_of
from orthwrap.verbs.training_words import job_of, pulled_twice, without_effect

if TYPE_CHECKING:
    from orthwrap.training.fit import Progress


@documented(TrainingWords)
def finetune(
    model: Any,
    data: Any,
    output: PathLike | None = None,
    *,
    weights: PathLike | None = None,
    measure: bool = True,
    force: bool = False,
    custom_objects: CustomObjects | None = None,
    unsafe_lambda: bool = False,
    progress: Progress | bool | None = None,
    **training: Unpack[TrainingWords],
) -> Result:
    """Goes on training a model that already carries regularizers.

    Args:
        model: a path, or a `keras.Model`, of which a copy is trained.
        data: as in `apply`.
        weights: as in `apply`.
        progress: as in `apply`.
        **training: how to train:
            {words}
        custom_objects: as in `apply`.
        unsafe_lambda: as in `apply`.
        output: from a path, None writes `name-tuned` beside the input.
    """
    faults = Faults()
    settings = faults.of(_settings, training, has_data=data is not None)
    known = faults.of(custom_objects_of, custom_objects)
    faults.raise_all()
    job = job_of(data, settings, progress)
    assert job is not None  # there is data
    with job.on_devices():
        with opened(model, weights=weights) as source:
            target = target_of(model, output, "finetune", source.store, force, weights=weights)
            job.check_log(model, target)
            surveyed = survey(source.store)
            check_wrappers(surveyed.layers)
            planned = plan_inspect(surveyed)
            if isinstance(model, (str, os.PathLike)):
                root = source.store.root
                made = load_planned(source, planned, root, known, unsafe_lambda)
            else:
                made = copied_model(source.store, planned, known, saved=target is not None)
            live, planned, notes = made
            report = make_report("finetune", source, surveyed, planned, with_figures=measure)
        if not any(r.carries or r.constraint for r in report.layers):
            notes = (*notes, "no kernel carries an orthwrap regularizer: use apply to attach one")
        report = with_notes(report, notes)
        report, outcome = job.train(live, job.read(live), report, with_figures=measure)
        return trained(job, live, report, outcome, target)


def _settings(training: Mapping[str, Any], *, has_data: bool) -> Settings | None:
    faults = Faults()
    if not has_data:
        faults.add(UsageError("finetune needs data (--data): what to train on"))
    for why in (*without_effect(training), *pulled_twice(training)):
        faults.add(UsageError(why))
    others = finetune.__kwdefaults__ or ()
    settings: Settings | None = faults.of(settings_of, training, has_data=True, others=others)
    faults.raise_all()
    return settings
