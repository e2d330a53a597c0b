"""`orthwrap finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from orthwrap.training.settings import TrainingWords
from orthwrap_cli import options as o
from orthwrap_cli import training_options as t
from orthwrap_cli.command import command
from orthwrap_cli.word_options import with_words


@command("report")
@with_words(training=TrainingWords)
def finetune(
    model: o.Model,
    output: Annotated[Path | None, o.output_of("finetune")] = None,
    weights: o.Weights = None,
    data: t.Data = None,
    training: Any = None,
    custom_objects: o.CustomObjects = None,
    unsafe_lambda: o.UnsafeLambda = False,
    force: o.Force = False,
    strict: o.Strict = False,
    no_measure: o.NoMeasure = False,
    screen: Any = None,
) -> Any:
    """Go on training a model that already carries regularizers."""
    import orthwrap

    t.prepare(data, training)
    return orthwrap.finetune(
        model,
        data,
        output,
        weights=weights,
        **training,
        force=force,
        custom_objects=o.custom_objects(custom_objects),
        unsafe_lambda=unsafe_lambda,
        measure=not no_measure,
        progress=screen.progress(),
    )
