"""Options that several commands share, with one wording."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from orthwrap.report.view import Sort
from orthwrap.rules.rule import AttachWords
from orthwrap.stores.outputs import SUFFIXES
from orthwrap_cli.word_options import one_of

_REPORT = "Report"
_LOAD = "Loading with Keras, for training and converting"

# What may not be read is the file's fault, not wrong usage: opening it says so.
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A .h5, .hdf5 or .keras model file, a SavedModel folder, or a model.json.",
        readable=False,
    ),
]


def output_of(command: str) -> Any:
    """`--output` of a command that writes a model."""
    return typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="Where to write; the suffix says the format. Default: MODEL's name with "
        f"{SUFFIXES[command]} at its end.",
        readable=False,
    )


Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="W.h5",
        help="The file of weights, where MODEL is a model.json.",
        readable=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing OUT (never the input).")]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No report on the screen.", rich_help_panel=_REPORT),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_REPORT),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Exit with 3 where the verdict warns, or a goal was not reached; all is written.",
        rich_help_panel=_REPORT,
    ),
]
Unfold = Annotated[
    bool,
    typer.Option(
        "--unfold",
        help="Show each kernel in a row of its own, where blocks of many would share one.",
        rich_help_panel="Report",
    ),
]
SortBy = Annotated[
    Sort | None,
    typer.Option(
        "--sort",
        metavar="FIGURE",
        help="Show the kernels first whose residual, condition, sigma (the largest singular value) "
        "or parameters are most. Default: the model's order.",
        rich_help_panel="Report",
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        "--top",
        metavar="N",
        min=1,
        help="Show the N worst kernels alone, by residual or by --sort. Default: all.",
        rich_help_panel="Report",
    ),
]
NoMeasure = Annotated[
    bool,
    typer.Option("--no-measure", help="Skip the figures.", rich_help_panel=_REPORT),
]
Operator = Annotated[
    bool,
    typer.Option(
        "--operator",
        help="Add figures of each convolution itself, not of its kernel as a matrix alone; "
        "seconds for each large kernel.",
        rich_help_panel=_REPORT,
    ),
]
NoUpgrade = Annotated[
    bool,
    typer.Option("--no-upgrade", help="Leave a file of an older Keras in its own words."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Decide and report; write nothing.")]
CustomObjects = Annotated[
    list[str] | None,
    typer.Option(
        "--custom-objects",
        metavar="MODULE[:NAME]",
        help="Where the file's own classes are: package.module:Name, or package.module for all; "
        "or a module that registers a penalty of yours. Repeatable.",
        rich_help_panel=_LOAD,
    ),
]
OwnPenalties = Annotated[
    list[str] | None,
    typer.Option(
        "--custom-objects",
        metavar="MODULE",
        help="A module that registers a penalty of yours (orthwrap.register_penalty). Repeatable.",
    ),
]
UnsafeLambda = Annotated[
    bool,
    typer.Option(
        "--unsafe-lambda",
        help="Run the code of Lambda layers that the file keeps: only if you trust its maker.",
        rich_help_panel=_LOAD,
    ),
]
Target = one_of(AttachWords, "target", "Which kernels")
Exclude = one_of(AttachWords, "exclude", "Which kernels")


def custom_objects(given: list[str] | None) -> list[str] | None:
    """`--custom-objects`, whose modules are looked for in the current folder too."""
    if given:
        look_here()
    return given or None


def look_here() -> None:
    """The user's own modules are found where they stand, after everything installed."""
    sys.path.append(str(Path.cwd()))
