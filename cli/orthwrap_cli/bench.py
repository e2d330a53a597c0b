"""`orthwrap bench`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orthwrap_cli import options as o
from orthwrap_cli.command import command


@command("bench")
def bench(
    model: o.Model,
    weights: o.Weights = None,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", min=1, help="Samples of a training step.")
    ] = 32,
    target: o.Target = None,
    exclude: o.Exclude = None,
    regularizer: Annotated[
        list[str] | None,
        typer.Option(
            "--regularizer",
            "-r",
            metavar="NAME",
            help="Measure this penalty alone. Repeatable. Default: all, and constraints.",
        ),
    ] = None,
    constrain: Annotated[
        list[str] | None,
        typer.Option(
            "--constrain",
            metavar="WHAT",
            help="Measure this constraint, as apply takes it, alone or beside -r. Repeatable.",
        ),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Measure each within a step of its own, not beside it; each is compiled.",
        ),
    ] = False,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            metavar="S",
            help="Begin nothing more after so long. What there was no time for is named.",
        ),
    ] = 60.0,
    custom_objects: o.CustomObjects = None,
    unsafe_lambda: o.UnsafeLambda = False,
    screen: Any = None,
) -> Any:
    """What each penalty and constraint would cost on your model and device, as a share of a step.

    The training step is the model's own, on a batch that is made up. MODEL is not changed.
    """
    import orthwrap

    return orthwrap.bench(
        model,
        weights=weights,
        batch=batch,
        target=target or None,
        exclude=exclude or (),
        regularizer=regularizer or None,
        constrain=constrain or None,
        whole=whole,
        seconds=seconds,
        custom_objects=o.custom_objects(custom_objects),
        unsafe_lambda=unsafe_lambda,
        progress=screen.progress(),
    )
