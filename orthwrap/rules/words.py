"""A word that the user may say: its type, default, help and check stand in one place.

A table of words is a `TypedDict` whose fields are annotated with a `Word` each. What a type checker
reads of it is the Python keyword. `words_of` gives the rest to whoever makes the options of a
command, the keys of a rules file, a docstring or the documentation; `Said` checks the values.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, cast, get_type_hints

from orthwrap.errors import Faults, UsageError, ValueFault

T = TypeVar("T")

# The factor that training finds out from the gradients of task and penalty.
AUTO = "auto"


@dataclass(frozen=True)
class Kind:
    """What values a word takes.

    Attributes:
        option: the type that a command's option has.
        check: (the word as spoken, a value) → the value as it is kept; ValueFault where it is none.
        in_file: what a value in a rules file must be, in words, and the types for it.
    """

    option: Any
    check: Callable[[str, Any], Any] = lambda name, value: value
    in_file: tuple[str, tuple[type, ...]] = ("a text", (str,))


@dataclass(frozen=True)
class Word:
    """One word.

    Attributes:
        help: a sentence or two, as `--help` shows it.
        kind: what values it takes.
        default: what is taken where it was not said.
        panel: the part of `--help` it stands in.
        flags: short forms of the option, or another name for it.
        metavar: what `--help` calls its value.
        python: what Python takes beyond that, for docstrings.
    """

    help: str
    kind: Kind
    default: Any = None
    panel: str = ""
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    python: str = ""

    def options(self, name: str) -> tuple[str, ...]:
        """What a command calls it: a long option, which its flags may say otherwise, first."""
        own = [flag for flag in self.flags if flag.startswith("--")]
        short = [flag for flag in self.flags if not flag.startswith("--")]
        return (*(own or [f"--{name.replace('_', '-')}"]), *short)

    @property
    def doc(self) -> str:
        """What a docstring says of it."""
        return " ".join(text for text in (self.help.replace("--", ""), self.python) if text)


@cache
def words_of(table: type) -> dict[str, Word]:
    """The words of a table, by name, in its order."""
    hints = get_type_hints(table, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


def spoken(name: str) -> str:
    """A keyword in a sentence, which is for readers of commands and of Python alike."""
    return name.replace("_", " ")


class Unread(str):
    """What was typed for a word, and could not be read; who takes the word says so.

    Args:
        why: what is wrong with it, as an error says it.
    """

    why: tuple[str, ...]

    def __new__(cls, typed: str, *why: str) -> Unread:
        made = super().__new__(cls, typed)
        made.why = why
        return made


Contradiction = tuple[tuple[str, ...], str]
"""The words that contradict each other, and what is said of it."""


class Said:
    """What was said in the words of a table, checked; never changed.

    Raises:
        TypeError: a word that the table does not have.
        ValueFault: values that their words do not take; one line for each.
        UsageError: words that contradict each other, or that could not be read.
    """

    TABLE: ClassVar[type]

    def __init__(self, **given: Any) -> None:
        words = words_of(self.TABLE)
        unknown = [name for name in given if name not in words]
        if unknown:
            raise TypeError(f"unexpected keyword {unknown[0]!r}; there are: {', '.join(words)}")
        faults = Faults()
        wrong = set()
        for name, word in words.items():
            value = given.get(name, word.default)
            if value is None:
                value = word.default
            kept = None if value is None else faults.of(_checked, word, spoken(name), value)
            if kept is None and value is not None:
                wrong.add(name)
                kept = _kept(word, name)
            object.__setattr__(self, name, kept)
        self.settle(given)
        for about, why in self.contradictions(given):
            if wrong.isdisjoint(about):
                faults.add(UsageError(why))
        faults.raise_all()

    def settle(self, given: Mapping[str, Any]) -> None:
        """Defaults that hang together with other words."""

    def contradictions(self, given: Mapping[str, Any]) -> Iterator[Contradiction]:
        """What of the words does not go together; those whose values are at fault do not count."""
        return iter(())

    def replace(self, **given: Any) -> Self:
        """The same with some words said otherwise."""
        return type(self)(**{**vars(self), **given})

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} has no word {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is not changed: use replace({name}=…)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is not changed")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]  # values may be lists and arrays

    def __repr__(self) -> str:
        words = words_of(self.TABLE)
        given = [f"{n}={v!r}" for n, v in vars(self).items() if v != _kept(words[n], n)]
        return f"{type(self).__name__}({', '.join(given)})"


def _checked(word: Word, name: str, value: Any) -> Any:
    if isinstance(value, Unread):
        raise UsageError(*value.why)
    return word.kind.check(name, value)


def _kept(word: Word, name: str) -> Any:
    return None if word.default is None else word.kind.check(spoken(name), word.default)


def documented(*tables: type) -> Callable[[T], T]:
    """Lists the words of some tables, or its own, in place of `{words}` in a docstring."""

    def with_words(thing: T) -> T:
        lines = str(thing.__doc__).split("\n")
        at = next(i for i, line in enumerate(lines) if line.strip() == "{words}")
        indent = lines[at].partition("{")[0]
        listed = [
            f"{indent}`{name}`: {word.doc}"
            for table in tables or (cast(type, thing),)
            for name, word in words_of(table).items()
        ]
        thing.__doc__ = "\n".join([*lines[:at], *listed, *lines[at + 1 :]])
        return thing

    return with_words


# The kinds of values.

anything = Kind(str)
text = Kind(str)
flag = Kind(bool, lambda name, value: bool(value))
path = Kind(Path, lambda name, value: Path(value))


def whole(lowest: int) -> Kind:
    """A whole number of at least `lowest` that fits 32 bits."""

    def check(name: str, value: Any) -> int:
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not (is_whole and lowest <= value < 2**32):
            limit = " and below 2**32" if is_whole and value > 0 else ""
            raise ValueFault(f"{name} {value!r} must be a whole number of at least {lowest}{limit}")
        return int(value)

    return Kind(int, check, ("a whole number", (int,)))


def _positive(name: str, value: Any) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value > 0):
        raise ValueFault(f"{name} {value!r} must be a finite number above 0")
    return float(value)


positive = Kind(float, _positive, ("a number", (int, float)))


def _share(name: str, value: Any) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and 0 <= value < 1):
        raise ValueFault(f"{name} {value!r} must be at least 0 and below 1, as 0.005 is")
    return float(value)


share = Kind(float, _share)


def between_0_and_1(example: float) -> Kind:
    """A number between 0 and 1, both left out."""

    def check(name: str, value: Any) -> float:
        if not _positive(name, value) < 1:
            raise ValueFault(f"{name} {value!r} must lie between 0 and 1, as {example:g} does")
        return float(value)

    return Kind(float, check)


def choice(*names: str) -> Kind:
    """One of some names."""

    def check(name: str, value: Any) -> str:
        if value not in names:
            raise ValueFault(f"{name} {value!r} is not known; choose one of: {', '.join(names)}")
        return str(value)

    return Kind(Literal[names], check)


def _several(name: str, value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


several = Kind(list[str], _several)


def _patterns(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) or callable(value):
        value = (value,)
    if not isinstance(value, Iterable):
        raise ValueFault(f"{name} must be a pattern or several; got {value!r}")
    from orthwrap.rules.patterns import patterns_of  # NumPy, for which no help waits

    patterns = tuple(value)
    patterns_of(patterns)
    return patterns


patterns = Kind(list[str], _patterns, ("a list of patterns", (str, list)))


def check_factor(value: Any) -> float:
    """The factor as a float; a finite number of at least 0, else ValueFault."""
    try:
        if isinstance(value, bool):
            raise TypeError
        factor = float(value)
    except (TypeError, ValueError):
        raise ValueFault(f"factor {value!r} is not a number; give one like 1e-3") from None
    if not math.isfinite(factor) or factor < 0:
        raise ValueFault(
            f"factor {value!r} must be a finite number of at least 0; give one like 1e-3"
        )
    return factor


def _factor_or_auto(name: str, value: Any) -> float | str:
    return AUTO if isinstance(value, str) and value == AUTO else check_factor(value)


factor = Kind(str, _factor_or_auto, ("a number, or auto", (str, int, float)))


def _pairs(name: str, value: Any) -> tuple[tuple[Any, float | str], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    try:
        if isinstance(pairs, str):
            raise TypeError
        split = [(pattern, factor) for pattern, factor in pairs]
    except (TypeError, ValueError):
        raise ValueFault(
            f"{name} must be a mapping or pairs of pattern and factor; got {value!r}"
        ) from None
    from orthwrap.rules.patterns import patterns_of

    patterns_of([pattern for pattern, _ in split])
    return tuple((pattern, _factor_or_auto(name, factor)) for pattern, factor in split)


factors_by_pattern = Kind(list[str], _pairs, ("a table", (dict,)))


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueFault(f"{name} must be a mapping, as {{'steps': 5}}; got {value!r}")
    return value


mapping = Kind(list[str], _mapping, ("a table", (dict,)))
