"""`orthwrap strip`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orthwrap_cli import options as o
from orthwrap_cli.command import command


@command("report")
def strip(
    model: o.Model,
    output: Annotated[Path | None, o.output_of("strip")] = None,
    all: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Remove every regularizer, an L2 and those of biases and normalisation too.",
        ),
    ] = False,
    dry_run: o.DryRun = False,
    custom_objects: o.CustomObjects = None,
    unsafe_lambda: o.UnsafeLambda = False,
    force: o.Force = False,
) -> Any:
    """Remove orthwrap's regularizers: a plain Keras file again."""
    import orthwrap

    return orthwrap.strip(
        model,
        output,
        all=all,
        force=force,
        dry_run=dry_run,
        custom_objects=o.custom_objects(custom_objects),
        unsafe_lambda=unsafe_lambda,
    )
