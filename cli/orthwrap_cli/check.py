"""`orthwrap check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orthwrap.errors import UsageError
from orthwrap.report.gate_formats import FORMATS
from orthwrap.rules.words import Unread
from orthwrap_cli import options as o
from orthwrap_cli.command import command

_LIMITS = "Limits"
_Max = Annotated[
    list[str] | None,
    typer.Option(
        "--max",
        metavar="[PATTERN:]FIGURE=X",
        help="What a figure of the report may be at most: residual=0.1, operator.norm=2, "
        "'dense*:condition=1e3'. Repeatable.",
        rich_help_panel=_LIMITS,
    ),
]
_Baseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="OLD.json",
        help="An earlier report (--json) of the model: no figure of --max, or else no "
        "residual, may be worse than there.",
        readable=False,
        rich_help_panel=_LIMITS,
    ),
]
_WorseThan = Annotated[
    str | None,
    typer.Option(
        "--worse-than",
        metavar="SHARE",
        help="By how much a figure may be worse than in the baseline. Default: 5%.",
        rich_help_panel=_LIMITS,
    ),
]
_Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="|".join(FORMATS),
        help="How to say it: for people, as annotations of GitHub Actions, or as JUnit's XML.",
        rich_help_panel="Report",
        autocompletion=lambda incomplete: [f for f in FORMATS if f.startswith(incomplete)],
    ),
]


@command("report", lists_kernels=False)
def check(
    model: o.Model,
    max: _Max = None,
    baseline: _Baseline = None,
    worse_than: _WorseThan = None,
    target: o.Target = None,
    exclude: o.Exclude = None,
    no_upgrade: o.NoUpgrade = False,
    custom_objects: o.OwnPenalties = None,
    operator: o.Operator = False,
    format: _Format = "text",
    screen: Any = None,
) -> Any:
    """Exit with 3 where a kernel exceeds a limit, worst first; for pipelines.

    Neither Keras nor TensorFlow is loaded, and nothing in the file is run.
    """
    import orthwrap

    if format not in FORMATS:
        raise UsageError(f"--format {format!r} is not known: one of {', '.join(FORMATS)}")
    screen.form = FORMATS[format]
    return orthwrap.check(
        model,
        max=max or (),
        baseline=baseline,
        worse_than=_share(worse_than),
        target=target or None,
        exclude=exclude or (),
        upgrade=not no_upgrade,
        custom_objects=o.custom_objects(custom_objects),
        operator=operator,
        progress=screen.progress(),
    )


def _share(text: str | None) -> Any:
    """`5%`, or `0.05`; not `5`, which may be meant as either of 5 % and five times."""
    if text is None:
        return None
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        return Unread(text, f"--worse-than {text!r} is no share: write it like 5%")
    if share >= 1 and not percent:
        why = f"--worse-than {text} may be {text}% or {share * 100:g}%: write the sign"
        return Unread(text, why)
    return share
