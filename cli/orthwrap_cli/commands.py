"""The commands, each from a module of its own."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from orthwrap._version import __version__
from orthwrap_cli import (
    apply,
    bench,
    check,
    compare,
    finetune,
    inspect,
    regularizers,
    strip,
    upgrade,
)
from orthwrap_cli.examples import epilog
from orthwrap_cli.word_options import with_penalties


def _without_types(flags: list[Any]) -> list[Any]:
    """Options, of which those that take no value say of no type."""
    for option in flags:
        if getattr(option, "is_flag", False) and option.metavar is None:
            option.metavar = ""
    return flags


class _Command(TyperCommand):
    """One command."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """With the choices of --regularizer, which no other command waits for."""
        for option in self.params:
            if isinstance(option, TyperOption) and option.help:
                option.help = with_penalties(option.help)
        super().format_help(ctx, formatter)

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class _Commands(TyperGroup):
    """Keeps what was typed, so that a report can say it."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.obj = shlex.join(["orthwrap", *args])
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Commands,
    name="orthwrap",
    help="Add orthogonality regularization to a Keras model you already have.",
    no_args_is_help=True,
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
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Add orthogonality regularization to a Keras model you already have."""


for _name, _function in (
    ("inspect", inspect.inspect),
    ("apply", apply.apply),
    ("finetune", finetune.finetune),
    ("strip", strip.strip),
    ("upgrade", upgrade.upgrade),
    ("compare", compare.compare),
    ("check", check.check),
    ("bench", bench.bench),
    ("regularizers", regularizers.regularizers),
):
    app.command(_name, cls=_Command, epilog=epilog(_name))(_function)
