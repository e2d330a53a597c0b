"""Options that several commands share, with one wording."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from orthwrap.errors import UsageError
from orthwrap.records import AUTO

_REPORT = "Report"
_ATTACH = "What to attach"
_LOAD = "Loading with Keras, for training and converting"

# What may not be read is the file's fault, not wrong usage: opening it says so.
Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A .h5, .hdf5 or .keras model file.", readable=False),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="Where to write; the suffix says the format.",
        readable=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing OUT (never the input).")]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write the report as JSON; - for standard output.",
        rich_help_panel=_REPORT,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No report on the screen.", rich_help_panel=_REPORT)
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_REPORT)
]
NoMeasure = Annotated[
    bool, typer.Option("--no-measure", help="Skip the figures.", rich_help_panel=_REPORT)
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
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        metavar="PATTERN",
        help="Which layers: all-conv, class:Conv2D, re:REGEX, a glob on the path, PATTERN@SLOT. "
        "Repeatable. Default to attach: all-conv and all-dense.",
        rich_help_panel=_ATTACH,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", "-x", metavar="PATTERN", help="Which not. Repeatable.", rich_help_panel=_ATTACH
    ),
]
Regularizer = Annotated[
    str | None,
    typer.Option(
        "--regularizer",
        "-r",
        metavar="NAME",
        help="See `orthwrap regularizers`; also l2 or package.module:function. Default: so.",
        rich_help_panel=_ATTACH,
    ),
]
Factor = Annotated[
    str | None,
    typer.Option(
        "--factor",
        metavar="F|auto",
        help="The coefficient; auto sets it from gradients on --data. Default: the regularizer's.",
        rich_help_panel=_ATTACH,
    ),
]
FactorFor = Annotated[
    list[str] | None,
    typer.Option(
        "--factor-for",
        metavar="PATTERN=F",
        help="Another factor for some; the first match wins. Repeatable.",
        rich_help_panel=_ATTACH,
    ),
]
Option_ = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="An option of the regularizer, such as estimate=sketch. Repeatable.",
        rich_help_panel=_ATTACH,
    ),
]


def custom_objects(given: list[str] | None) -> list[str] | None:
    """`--custom-objects`, whose modules are looked for in the current folder too."""
    if given:
        look_here()
    return given or None


def look_here() -> None:
    """The user's own modules are found where they stand, after everything installed."""
    sys.path.append(str(Path.cwd()))


def parse_factor(text: str | None) -> float | str | None:
    """`--factor`; UsageError where it is no number and not auto."""
    if text is None:
        return None
    try:
        return _number_or_auto(text)
    except ValueError:
        raise UsageError(
            f"--factor {text!r} is not a number: give one like 1e-3, or auto"
        ) from None


def _number_or_auto(text: str) -> float | str:
    return text if text == AUTO else float(text)


def parse_factor_for(items: list[str] | None) -> tuple[tuple[str, float | str], ...]:
    """`PATTERN=F`, split at the last `=`; F may be auto."""
    pairs = []
    for item in items or ():
        pattern, equals, text = item.rpartition("=")
        try:
            if not equals or not pattern:
                raise ValueError
            pairs.append((pattern, _number_or_auto(text)))
        except ValueError:
            raise UsageError(
                f"--factor-for {item!r} is not PATTERN=F: write it like 'conv1*=1e-4'"
            ) from None
    return tuple(pairs)


def parse_options(items: list[str] | None) -> dict[str, Any]:
    """`KEY=VALUE`, several times."""
    options = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"--option {item!r} is not KEY=VALUE: write it like steps=5")
        options[key.replace("-", "_")] = value
    return options
