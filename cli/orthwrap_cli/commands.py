"""The commands, each from the module of its name."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from orthwrap._version import __version__
from orthwrap_cli.examples import EXAMPLES, epilog

_MARKUP: Any = "markdown"


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
        from orthwrap_cli.word_options import with_penalties

        for option in self.params:
            if isinstance(option, TyperOption) and option.help:
                option.help = with_penalties(option.help)
        super().format_help(ctx, formatter)

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class _WhenAsked(Mapping[str, Any]):
    """The commands by name. Each is imported when it is asked for: none waits for another's."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in EXAMPLES:
            raise KeyError(name)
        if name not in self._made:
            function = getattr(importlib.import_module(f"orthwrap_cli.{name}"), name)
            alone = typer.Typer(add_completion=False, rich_markup_mode=_MARKUP)
            alone.command(name, cls=_Command, epilog=epilog(name))(function)
            self._made[name] = get_command(alone)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(EXAMPLES)

    def __len__(self) -> int:
        return len(EXAMPLES)


class _Commands(TyperGroup):
    """Keeps what was typed, so that a report can say it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _WhenAsked()  # type: ignore[assignment]  # nothing is added to them

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
    rich_markup_mode=_MARKUP,
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
