"""`orthwrap inspect`."""

from __future__ import annotations

from typing import Any

from orthwrap_cli import options as o
from orthwrap_cli.command import command


@command("report")
def inspect(
    model: o.Model,
    weights: o.Weights = None,
    target: o.Target = None,
    exclude: o.Exclude = None,
    no_upgrade: o.NoUpgrade = False,
    custom_objects: o.OwnPenalties = None,
    no_measure: o.NoMeasure = False,
    operator: o.Operator = False,
    screen: Any = None,
) -> Any:
    """How orthogonal is each layer, and what it carries; changes nothing."""
    import orthwrap

    return orthwrap.inspect(
        model,
        weights=weights,
        target=target or None,
        exclude=exclude or (),
        measure=not no_measure,
        operator=operator,
        progress=screen.progress() if operator else None,
        upgrade=not no_upgrade,
        custom_objects=o.custom_objects(custom_objects),
    )
