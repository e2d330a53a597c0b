"""`orthwrap compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orthwrap_cli import options as o
from orthwrap_cli.command import check_json, command, show


@command
def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A model file.", readable=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another one.", readable=False)],
    custom_objects: o.OwnPenalties = None,
    no_measure: o.NoMeasure = False,
    json: o.Json = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Two files, kernel by kernel: weights, figures, regularizers."""
    import orthwrap
    from orthwrap.report.terminal import render_compare

    report_to = check_json(json, before=before, after=after)
    report = orthwrap.compare(
        before,
        after,
        measure=not no_measure,
        custom_objects=o.custom_objects(custom_objects),
    )
    show(report.to_json(), lambda width: render_compare(report, width), report_to, quiet)
