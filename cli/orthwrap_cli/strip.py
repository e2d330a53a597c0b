"""`orthwrap strip`."""

from __future__ import annotations

from orthwrap_cli import options as o
from orthwrap_cli.command import check_json, command, show_report


@command
def strip(
    model: o.Model,
    output: o.Output = None,
    dry_run: o.DryRun = False,
    custom_objects: o.CustomObjects = None,
    unsafe_lambda: o.UnsafeLambda = False,
    force: o.Force = False,
    json: o.Json = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Remove orthwrap's regularizers: a plain Keras file again."""
    import orthwrap

    report_to = check_json(json, model=model, output=output)
    report = orthwrap.strip(
        model,
        output,
        force=force,
        dry_run=dry_run,
        custom_objects=o.custom_objects(custom_objects),
        unsafe_lambda=unsafe_lambda,
    ).report
    show_report(report, report_to, quiet)
