"""`--data`, and what training with it needs of the process before anything is loaded."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from orthwrap_cli.options import look_here

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Fine-tune on a .npz with x and y, a folder of class folders of images, or what "
        "package.module:function gives.",
        rich_help_panel="Data",
    ),
]


def prepare(data: str | None, training: dict[str, Any]) -> None:
    """The user's modules can be imported, and a run that is to be repeatable is."""
    if any(source is not None and ":" in source for source in (data, training["validation"])):
        look_here()
    repeats = training["seed"] is not None or training["checkpoint_dir"] is not None
    if repeats and "tensorflow" not in sys.modules:
        # A sum in another order is another number; TensorFlow reads this as it is loaded.
        os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
