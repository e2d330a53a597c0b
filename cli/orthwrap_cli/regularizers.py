"""`orthwrap regularizers`."""

from __future__ import annotations

from typing import Any

from orthwrap_cli import options as o
from orthwrap_cli.command import command


@command("regularizers")
def regularizers(
    custom_objects: o.OwnPenalties = None,
) -> Any:
    """The list, with formula, default factor and source."""
    from orthwrap.report.terminal import regularizer_rows
    from orthwrap.rules.custom_objects import custom_objects_of

    custom_objects_of(o.custom_objects(custom_objects))
    return regularizer_rows()
