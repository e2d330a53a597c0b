"""Options of the commands, made from tables of words."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from orthwrap.errors import UsageError
from orthwrap.rules.words import AUTO, Word, words_of
from orthwrap.training.settings import AIM

PENALTY_NAMES = "{penalties}"
"""In a help, where the names stand of all penalties that there are once it is shown."""


def with_penalties(text: str) -> str:
    """A help as it is shown."""
    from orthwrap.penalties.table import PENALTIES

    return text.replace(PENALTY_NAMES, ", ".join(PENALTIES))


_CHOICES = {"regularizer": f"One of {PENALTY_NAMES}. "}


def _penalties(incomplete: str) -> list[str]:
    from orthwrap.penalties.table import PENALTIES

    return [name for name in PENALTIES if name.startswith(incomplete)]


_COMPLETED = {"regularizer": _penalties}


def one_of(table: type, name: str, panel: str) -> Any:
    """The annotation of a parameter that is the option for one word, in a panel of the help."""
    return _annotation(name, words_of(table)[name], panel)


def _annotation(name: str, word: Word, panel: str | None = None) -> Any:
    kind = word.kind.option
    option = typer.Option(
        *word.options(name),
        metavar=word.metavar,
        help=_CHOICES.get(name, "") + word.help,
        rich_help_panel=panel or word.panel,
        autocompletion=_COMPLETED.get(name),
    )
    return Annotated[kind if kind is bool else kind | None, option]


def _parameter(name: str, word: Word) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if word.kind.option is bool else None,
        annotation=_annotation(name, word),
    )


def with_words(**tables: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a command an option for each word of a table, in place of a parameter.

    The parameter then gets what was said, by word. The goal stands first in the help.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function, eval_str=True)
        first: list[inspect.Parameter] = []  # in the help: what a run is for
        parameters: list[inspect.Parameter] = []
        for own in signature.parameters.values():
            if own.name not in tables:
                parameters.append(own.replace(kind=inspect.Parameter.KEYWORD_ONLY))
                continue
            for name, word in words_of(tables[own.name]).items():
                if word.kind.option is not None:
                    (first if word.panel == AIM else parameters).append(_parameter(name, word))

        @functools.wraps(function)
        def wrapped(**given: Any) -> Any:
            for parameter, table in tables.items():
                own = {n: given.pop(n) for n in words_of(table) if n in given}
                given[parameter] = {n: PARSERS.get(n, _as_it_is)(v) for n, v in own.items()}
            return function(**given)

        wrapped.__signature__ = signature.replace(parameters=[*first, *parameters])  # type: ignore[attr-defined]
        return wrapped

    return decorate


# What a command line gives as text and Python as something else.


def _as_it_is(value: Any) -> Any:
    return value if value != [] else None


def _number_or_auto(text: str) -> float | str:
    return text if text == AUTO else float(text)


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


def parse_factor_for(items: list[str] | None) -> tuple[tuple[str, float | str], ...] | None:
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
    return tuple(pairs) or None


def parse_options(items: list[str] | None) -> dict[str, Any] | None:
    """`KEY=VALUE`, several times."""
    options = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"--option {item!r} is not KEY=VALUE: write it like steps=5")
        options[key.replace("-", "_")] = value
    return options or None


PARSERS: dict[str, Callable[[Any], Any]] = {
    "factor": parse_factor,
    "factor_for": parse_factor_for,
    "options": parse_options,
}
