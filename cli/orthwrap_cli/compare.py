"""`orthwrap compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orthwrap_cli import options as o
from orthwrap_cli.command import command


@command("compare")
def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A model file.", readable=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another one.", readable=False)],
    custom_objects: o.OwnPenalties = None,
    no_measure: o.NoMeasure = False,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="Exit with 3 where a kernel, a regularizer or a constraint differs.",
            rich_help_panel="Report",
        ),
    ] = False,
) -> Any:
    """Two files, kernel by kernel: weights, figures, regularizers, constraints."""
    import orthwrap

    return orthwrap.compare(
        before,
        after,
        measure=not no_measure,
        custom_objects=o.custom_objects(custom_objects),
    )
