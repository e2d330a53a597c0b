"""`orthwrap finetune`."""

from __future__ import annotations

from typing import Any

from orthwrap.errors import UsageError
from orthwrap.training.settings import TrainingWords
from orthwrap_cli import options as o
from orthwrap_cli import training_options as t
from orthwrap_cli.command import check_json, command, progress, show_result
from orthwrap_cli.word_options import with_words


@command
@with_words(training=TrainingWords)
def finetune(
    model: o.Model,
    output: o.Output = None,
    data: t.Data = None,
    training: Any = None,
    custom_objects: o.CustomObjects = None,
    unsafe_lambda: o.UnsafeLambda = False,
    force: o.Force = False,
    strict: o.Strict = False,
    no_measure: o.NoMeasure = False,
    json: o.Json = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Go on training a model that already carries regularizers."""
    import orthwrap

    if data is None:
        raise UsageError("finetune needs --data: what to train on")
    report_to = check_json(
        json,
        model=model,
        output=output,
        data=data,
        validation=training["validation"],
        log=training["log"],
    )
    t.prepare(data, training)
    result = orthwrap.finetune(
        model,
        data,
        output,
        **training,
        force=force,
        custom_objects=o.custom_objects(custom_objects),
        unsafe_lambda=unsafe_lambda,
        measure=not no_measure,
        progress=progress(report_to, quiet),
    )
    show_result(result, report_to, quiet, strict)
