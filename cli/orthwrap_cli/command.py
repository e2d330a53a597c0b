"""What every command does around its verb: its report's outputs, errors, the screen."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from orthwrap.errors import (
    Interrupted,
    OrthwrapError,
    UsageError,
    backend_named,
    is_own_module,
    origin,
    raised_at,
)
from orthwrap.report.view import View
from orthwrap.stores.written import noting
from orthwrap.text import listed, printable
from orthwrap.training.loop.interrupts import note_interrupts
from orthwrap_cli import options as o
from orthwrap_cli.report_outputs import ReportOutputs, export_options
from orthwrap_cli.start import raise_at_interrupts

# The options that name a command's own files, which no report may replace.
_FILES = (
    *("model", "weights", "output", "before", "after", "baseline"),
    *("rules", "data", "validation", "log"),
)


def command(
    kind: str, *, lists_kernels: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """A command, from a function that gives back a report of this kind, or a verb's result.

    The command gets the options of the report's outputs, `--quiet` and `--debug`. What the function
    gives back is written and shown; orthwrap's errors become one line and an exit code. A parameter
    `screen` of the function is no option: it gets the `Screen`.

    Args:
        kind: `"report"`, `"compare"`, ….
        lists_kernels: False where the screen has no row for each, to be sorted or cut.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        takes_screen = "screen" in signature.parameters
        own = [p for p in signature.parameters.values() if p.name != "screen"]
        exports = export_options(kind)
        typed = inspect.Parameter("typed", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        views = _VIEWS if kind == "report" and lists_kernels else []
        options = [typed, *own, *exports, *views]
        options += [_option("quiet", o.Quiet, False), _option("debug", o.Debug, False)]

        @functools.wraps(function)
        def wrapped(*, typed: typer.Context, quiet: bool, debug: bool, **given: Any) -> None:
            asked = {option.name: given.pop(option.name) for option in exports}
            view = View(**{option.name: given.pop(option.name) for option in views})
            files = {name: given[name] for name in _FILES if name in given}
            with _errors_in_words(given, debug):
                screen = Screen(kind, ReportOutputs.checked(asked, files), quiet)
                if takes_screen:
                    given["screen"] = screen
                done = function(**given)
                screen.show(done, str(typed.obj), view)
                if _says_no(done, given):
                    raise typer.Exit(3)

        wrapped.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in options],
            return_annotation=None,
        )
        return wrapped

    return decorate


def _says_no(done: Any, given: Mapping[str, Any]) -> bool:
    """Whether a gate that was asked for says no: limits, differences, or a strict look."""
    if given.get("exit_code"):
        return bool(done.differs)
    gate = getattr(done, "gate", None)
    if gate is not None:
        return bool(gate.failures)
    verdict = getattr(done.report.training, "verdict", None) if given.get("strict") else None
    return verdict is not None and bool(verdict.fails)


def _option(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


# How a report's kernels are shown.
_VIEWS = [_option("unfold", o.Unfold, False), _option("sort", o.SortBy), _option("top", o.Top)]


@contextlib.contextmanager
def _errors_in_words(options: Mapping[str, Any], debug: bool) -> Iterator[None]:
    """What goes wrong is one line on standard error, and an exit code."""
    raise_at_interrupts()
    note_interrupts()
    with noting() as written:
        try:
            with backend_named():
                yield
        except OrthwrapError as e:
            _fail(e, e.args, 2 if isinstance(e, UsageError) else 1, debug)
        except KeyboardInterrupt as e:
            line = str(e) or f"interrupted: {_written_before(written)}"
            sys.stderr.write(f"{printable(line)}\n")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of our output is gone: nobody is left to tell
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as e:
            _fail(e, [f"{_explained(e, options)}; {_written_before(written)}"], 1, debug)


def _explained(error: Exception, options: Mapping[str, Any]) -> str:
    """An error that nobody raised on purpose, in true words: what is known of it, no more."""
    words = " ".join(str(error).split())[:300]
    place = origin(error) or raised_at(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    if isinstance(error, MemoryError):
        less = [] if options.get("no_measure", True) else ["--no-measure"]
        less += ["a smaller --batch-size"] if options.get("data") is not None else []
        advice = f"; {' or '.join(less)} takes less" if less else ""
        return f"memory ran out at {place}{f' ({words})' if words else ''}{advice}"
    if isinstance(error, RecursionError):
        return f"at {place} something is nested deeper than Python goes; --debug shows the calls"
    if isinstance(error, ImportError) and error.name and not is_own_module(error.name):
        return f"this command needs {error.name}, which cannot be imported here ({words})"
    return (
        f"orthwrap itself failed at {place} ({type(error).__name__}{f': {words}' if words else ''})"
        ": a fault of orthwrap's own; --debug shows more"
    )


def _written_before(written: Sequence[Path]) -> str:
    """What a command that did not come to its end has put in place."""
    if not written:
        return "nothing was written"
    return f"{listed([str(place) for place in written])} had been written before"


def _fail(error: BaseException, lines: Iterable[str], code: int, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exception(error)
    for line in lines:
        sys.stderr.write(f"error: {printable(' '.join(line.split()))}\n")
    raise typer.Exit(code) from None


class Screen:
    """Where a command shows what it does; on standard error where a report has standard output."""

    def __init__(self, kind: str, outputs: ReportOutputs, quiet: bool) -> None:
        self._kind = kind
        self._outputs = outputs
        self._quiet = quiet
        self.form: Callable[[Any], str] | None = None  # for programs, in place of what people read

    def show(self, done: Any, typed: str, view: View) -> None:
        """Writes a report where it was asked for, and shows it unless quiet.

        Args:
            done: a report, or a verb's result; of several processes that trained together, process
                0 alone has a report to show.
            typed: the command as it was given.
            view: how its kernels are shown.
        """
        process = getattr(done, "process", 0)
        if not process:
            report = getattr(done, "report", done)
            if self._kind in ("report", "bench"):
                report = replace(report, command_line=typed)
            self._show(report, view)
        elif not self._quiet:
            sys.stdout.write(f"process {process}: trained; process 0 has model and report\n")

    def _show(self, report: Any, view: View) -> None:
        try:
            self._outputs.write(report)
            if self.form is not None:
                stream = sys.stderr if self._outputs.take_stdout else sys.stdout
                stream.write(self.form(report))
                stream.flush()
            elif not self._quiet:
                from orthwrap.report.terminal import renderable

                screen = self._console()
                # What training chose was shown as it began.
                screen.print(renderable(report, screen.width, choices=False, view=view))
                screen.file.flush()
        except KeyboardInterrupt as e:
            written = getattr(report, "output", None)
            if written is None:
                raise
            raise Interrupted(f"interrupted: {written} is written, its report was not shown") from e

    def progress(self) -> Any:
        """Who shows how training goes; False where it is quiet."""
        if self._quiet:
            return False
        from orthwrap.report.progress import TrainingProgress

        # What programs read has no bars in it.
        return TrainingProgress(self._console(aside=self.form is not None))

    def _console(self, *, aside: bool = False) -> Any:
        from orthwrap.report.terminal import console

        return console(sys.stderr if aside or self._outputs.take_stdout else sys.stdout)
