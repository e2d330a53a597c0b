"""Options of the commands, made from tables of words."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from orthwrap.rules.words import AUTO, Unread, Word, words_of
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

    return _beginning(PENALTIES)(incomplete)


_COMPLETED = {"regularizer": _penalties}


def one_of(table: type, name: str, panel: str) -> Any:
    """The annotation of a parameter that is the option for one word, in a panel of the help."""
    return _annotation(name, words_of(table)[name], panel)


def _annotation(name: str, word: Word, panel: str | None = None) -> Any:
    kind = word.kind.option
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    option = typer.Option(
        *word.options(name),
        metavar=word.metavar or "|".join(choices) or ("N" if kind is int else None),
        help=_CHOICES.get(name, "") + word.help,
        rich_help_panel=panel or word.panel,
        autocompletion=_COMPLETED.get(name) or (_beginning(choices) if choices else None),
    )
    if kind is bool:
        return Annotated[bool, option]
    return Annotated[(str if choices or kind in _NUMBERS else kind) | None, option]


def _beginning(choices: Iterable[str]) -> Callable[[str], list[str]]:
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


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
                given[parameter] = {n: _read(n, words_of(table)[n], v) for n, v in own.items()}
            return function(**given)

        wrapped.__signature__ = signature.replace(parameters=[*first, *parameters])  # type: ignore[attr-defined]
        return wrapped

    return decorate


# What a command line gives as text and Python as something else. What cannot be read is handed on
# as `Unread`, so that it is said with all else that is wrong.


def _read(name: str, word: Word, typed: Any) -> Any:
    """The value of a word, from its option's."""
    if typed is None or typed == []:
        return None
    read = _READERS.get(name)
    if read is not None:
        return read(typed)
    option, kind = word.options(name)[0], word.kind.option
    if kind in _NUMBERS:
        try:
            return kind(typed)
        except ValueError:
            return Unread(typed, f"{option} {typed!r} is not {_NUMBERS[kind]}")
    choices = get_args(kind) if get_origin(kind) is Literal else (typed,)
    if typed in choices:
        return typed
    return Unread(typed, f"{option} {typed!r} is not known; choose one of: {', '.join(choices)}")


_NUMBERS = {int: "a whole number", float: "a number"}


def _number_or_auto(text: str) -> float | str:
    return text if text == AUTO else float(text)


def _factor(text: str) -> float | str:
    """`--factor`."""
    try:
        return _number_or_auto(text)
    except ValueError:
        return Unread(text, f"--factor {text!r} is not a number: give one like 1e-3, or auto")


def _factors(items: list[str]) -> tuple[tuple[str, float | str], ...] | Unread:
    """`PATTERN=F`, split at the last `=`; F may be auto."""
    pairs, wrong = [], []
    for item in items:
        pattern, equals, text = item.rpartition("=")
        try:
            if not equals or not pattern:
                raise ValueError
            pairs.append((pattern, _number_or_auto(text)))
        except ValueError:
            wrong.append(f"--factor-for {item!r} is not PATTERN=F: write it like 'conv1*=1e-4'")
    return Unread(" ".join(items), *wrong) if wrong else tuple(pairs)


def _options(items: list[str]) -> dict[str, Any] | Unread:
    """`KEY=VALUE`, several times."""
    options, wrong = {}, []
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            wrong.append(f"--option {item!r} is not KEY=VALUE: write it like steps=5")
        options[key.replace("-", "_")] = value
    return Unread(" ".join(items), *wrong) if wrong else options


_READERS: dict[str, Callable[[Any], Any]] = {
    "factor": _factor,
    "factor_for": _factors,
    "options": _options,
}
