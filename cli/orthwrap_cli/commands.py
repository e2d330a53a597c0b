"""The commands, each from a module of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from orthwrap._version import __version__
from orthwrap_cli import apply, check, compare, finetune, inspect, regularizers, strip, upgrade

app = typer.Typer(
    name="orthwrap",
    help="Add orthogonality regularization to a Keras model you already have.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"orthwrap {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Add orthogonality regularization to a Keras model you already have."""


app.command("inspect")(inspect.inspect)
app.command("apply")(apply.apply)
app.command("finetune")(finetune.finetune)
app.command("strip")(strip.strip)
app.command("upgrade")(upgrade.upgrade)
app.command("compare")(compare.compare)
app.command("check")(check.check)
app.command("regularizers")(regularizers.regularizers)
