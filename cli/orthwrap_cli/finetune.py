"""`orthwrap finetune`."""

from __future__ import annotations

from orthwrap.errors import UsageError
from orthwrap_cli import options as o
from orthwrap_cli.run import check_json, command, progress, show_report


@command
def finetune(
    model: o.Model,
    data: o.Data = None,
    output: o.Output = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    seed: o.Seed = None,
    custom_objects: o.CustomObjects = None,
    unsafe_lambda: o.UnsafeLambda = False,
    force: o.Force = False,
    no_measure: o.NoMeasure = False,
    json: o.Json = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Go on training a model that already carries regularizers."""
    from orthwrap import verbs

    if data is None:
        raise UsageError("finetune needs --data FILE.npz")
    check_json(json)
    report = verbs.finetune(
        model,
        data,
        output,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        force=force,
        custom_objects=o.custom_objects(custom_objects),
        unsafe_lambda=unsafe_lambda,
        measure=not no_measure,
        progress=progress(json, quiet),
    ).report
    show_report(report, json, quiet)
