"""`orthwrap regularizers`."""

from __future__ import annotations

from orthwrap_cli import options as o
from orthwrap_cli.command import check_json, command, show


@command
def regularizers(
    custom_objects: o.OwnPenalties = None,
    json: o.Json = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """The list, with formula, default factor and source."""
    from orthwrap.report.terminal import regularizer_rows, render_regularizers
    from orthwrap.rules.custom_objects import custom_objects_of

    report_to = check_json(json)
    custom_objects_of(o.custom_objects(custom_objects))
    rows = regularizer_rows()
    show(rows, lambda width: render_regularizers(rows, width), report_to, quiet)
