"""`orthwrap upgrade`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from orthwrap_cli import options as o
from orthwrap_cli.command import command


@command("report")
def upgrade(
    model: o.Model,
    output: Annotated[Path | None, o.output_of("upgrade")] = None,
    weights: o.Weights = None,
    custom_objects: o.CustomObjects = None,
    unsafe_lambda: o.UnsafeLambda = False,
    force: o.Force = False,
) -> Any:
    """Bring an old file to Keras 3, nothing else."""
    import orthwrap

    return orthwrap.upgrade(
        model,
        output,
        weights=weights,
        force=force,
        custom_objects=o.custom_objects(custom_objects),
        unsafe_lambda=unsafe_lambda,
    )
