"""What orthwrap raises. One base class, so that callers need to know one name.

Whatever else comes out of orthwrap is a fault of its own. In Python it goes through as it is, so
that nothing is hidden from the caller; a command says in one line that orthwrap itself failed, and
where.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from orthwrap.text import printable

_LONGEST = 2000
_MOST = 10  # faults that are told at once
_BACKENDS = ("tensorflow", "jax", "torch")  # that train


def origin(error: BaseException) -> str:
    """The module and line of orthwrap's that an error came through last; "" for none.

    Such as `orthwrap.survey, line 97`.
    """
    place = ""
    for module, line in _calls(error):
        if is_own_module(module):
            place = f"{module}, line {line}"
    return place


def is_own(error: BaseException) -> bool:
    """Whether an error was raised in a line of orthwrap's, and not in what that line called.

    What is written in C, such as most of NumPy, counts as the line that called it.
    """
    calls = list(_calls(error))
    return bool(calls) and is_own_module(calls[-1][0])


def raised_at(error: BaseException) -> str:
    """The module and line in which an error was raised; "" where that is not known."""
    calls = [f"{module}, line {line}" for module, line in _calls(error)]
    return calls[-1] if calls else ""


def _calls(error: BaseException) -> Iterator[tuple[str, int]]:
    """(module, line) of each call that an error came through, the innermost last."""
    trace = error.__traceback__
    while trace is not None:
        yield str(trace.tb_frame.f_globals.get("__name__", "?")), trace.tb_lineno
        trace = trace.tb_next


def is_own_module(module: str) -> bool:
    """Whether a module, by its dotted name, is orthwrap's."""
    return module.partition(".")[0] in ("orthwrap", "orthwrap_cli")


class OrthwrapError(Exception):
    """Base of every error orthwrap raises on purpose.

    The message is one line: what was expected, what was found (with the layer's path where
    there is one), and what to do next. Of several faults at once, it is a line for each.

    Attributes:
        args: the lines.
        model: what a training run that went wrong had trained so far; None where there is nothing.
    """

    model: Any = None

    def __init__(self, *faults: str) -> None:
        super().__init__(*map(_one_line, faults))

    def __str__(self) -> str:
        return "\n".join(self.args)


def _one_line(message: str) -> str:
    message = printable(" ".join(line.strip() for line in message.splitlines()))
    return message if len(message) <= _LONGEST else message[: _LONGEST - 1] + "…"


@contextlib.contextmanager
def backend_named() -> Iterator[None]:
    """While active, an import of Keras that fails for want of its backend says which there are.

    Raises:
        OrthwrapError: in place of what Keras raises.
    """
    try:
        yield
    except (ModuleNotFoundError, ValueError) as e:
        wanted = e.name if isinstance(e, ModuleNotFoundError) else os.environ.get("KERAS_BACKEND")
        is_unknown = str(e).startswith("Unable to import backend")  # Keras's words
        is_missing = isinstance(e, ModuleNotFoundError) and wanted in _BACKENDS
        if "keras" in sys.modules or not (is_unknown or is_missing):
            raise
        what = "is none of Keras's backends" if is_unknown else "is not installed here"
        there = [name for name in _BACKENDS if is_installed(name)]
        if there:
            advice = f"installed: {', '.join(there)}: set KERAS_BACKEND={there[0]}"
        else:
            advice = f"nor is another backend: install one of {', '.join(_BACKENDS)}"
        raise OrthwrapError(f"Keras's backend is {wanted}, which {what}; {advice}") from e


def is_installed(package: str) -> bool:
    """Whether there is such a package; it is not imported."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


class ValueFault(OrthwrapError, ValueError):
    """A value is at fault: an unknown name, a negative factor, data of the wrong shape."""


class NoMatchError(ValueFault):
    """A pattern matches nothing that can be regularized."""


class FileFault(OrthwrapError):
    """A file is missing, broken, of another kind, or must not be written."""


class PlaceFault(FileFault):
    """There is no room where temporary files lie; the file that was read is not at fault."""


class RebuildError(OrthwrapError):
    """A model cannot be rebuilt from its config."""


class UsageError(OrthwrapError):
    """Options contradict each other; the command line exits with 2."""


class WrongWords(UsageError, ValueFault):
    """Several at once, of which some contradict each other and of others a value is at fault."""


class Faults:
    """What is wrong with what was said: found one by one, raised as one error."""

    def __init__(self) -> None:
        self._found: list[OrthwrapError] = []

    def add(self, fault: OrthwrapError) -> None:
        self._found.append(fault)

    def of(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """What a function gives; None where it finds a fault, which is kept."""
        try:
            return function(*given, **named)
        except OrthwrapError as e:
            self.add(e)
            return None

    def raise_all(self) -> None:
        """The one that there is, or all as one.

        Of several kinds it is a ValueFault, or a UsageError if any of them is.
        """
        if not self._found:
            return
        if len(self._found) == 1:
            raise self._found[0]
        lines = list(dict.fromkeys(line for fault in self._found for line in fault.args))
        if len(lines) > _MOST:
            lines[_MOST:] = [f"and {len(lines) - _MOST} more"]
        raise self._kind()(*lines) from self._found[0]

    def _kind(self) -> type[OrthwrapError]:
        first, *others = {type(fault) for fault in self._found}
        if not others:
            return first
        kinds = {isinstance(fault, UsageError) for fault in self._found}
        return WrongWords if len(kinds) > 1 else UsageError if kinds == {True} else ValueFault


class Interrupted(KeyboardInterrupt):
    """The user ended a training run; the message says what was saved, and how to go on.

    Attributes:
        model: what the run had trained so far; None where a checkpoint has it.
    """

    model: Any = None
