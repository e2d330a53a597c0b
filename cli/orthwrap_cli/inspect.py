"""`orthwrap inspect`."""

from __future__ import annotations

from orthwrap_cli import options as o
from orthwrap_cli.command import check_json, command, show_report


@command
def inspect(
    model: o.Model,
    target: o.Target = None,
    exclude: o.Exclude = None,
    no_upgrade: o.NoUpgrade = False,
    custom_objects: o.OwnPenalties = None,
    no_measure: o.NoMeasure = False,
    json: o.Json = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """How orthogonal is each layer, and what it carries; changes nothing."""
    import orthwrap

    report_to = check_json(json, model=model)
    report = orthwrap.inspect(
        model,
        target=target or None,
        exclude=exclude or (),
        measure=not no_measure,
        upgrade=not no_upgrade,
        custom_objects=o.custom_objects(custom_objects),
    )
    show_report(report, report_to, quiet)
