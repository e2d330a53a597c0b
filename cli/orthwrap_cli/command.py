"""What every command does around its verb: errors, JSON, the screen."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import typer

from orthwrap.errors import (
    FileFault,
    Interrupted,
    OrthwrapError,
    UsageError,
    is_own_module,
    origin,
    raised_at,
)
from orthwrap.stores.written import noting
from orthwrap.text import json_text, listed, printable
from orthwrap.training.loop.interrupts import note_interrupts
from orthwrap_cli.start import raise_at_interrupts

P = ParamSpec("P")


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Turns orthwrap's errors into one line and an exit code."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        debug = bool(kwargs.get("debug"))
        raise_at_interrupts()
        note_interrupts()
        with noting() as written:
            try:
                function(*args, **kwargs)
            except OrthwrapError as e:
                _fail(e, str(e), 2 if isinstance(e, UsageError) else 1, debug)
            except KeyboardInterrupt as e:
                sys.stderr.write(f"{printable(str(e) or f'interrupted: {_stands(written)}')}\n")
                raise typer.Exit(130) from None
            except BrokenPipeError:  # the reader of our output is gone: nobody is left to tell
                raise typer.Exit(1) from None
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except Exception as e:
                _fail(e, f"{_said(e, kwargs)}; {_stands(written)}", 1, debug)

    return wrapped


def _said(error: Exception, options: Mapping[str, Any]) -> str:
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


def _stands(written: Sequence[Path]) -> str:
    """What a command that did not come to its end has put in place."""
    if not written:
        return "nothing was written"
    return f"{listed([str(place) for place in written])} had been written before"


def _fail(error: BaseException, message: str, code: int, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exception(error)
    sys.stderr.write(f"error: {printable(' '.join(message.split()))}\n")
    raise typer.Exit(code) from None


class Json:
    """Where a report goes as JSON: to standard output, to a file, or to what is there already."""

    def __init__(self, target: str) -> None:
        from orthwrap.stores.replacing import TextOutput

        self.is_stdout = target == "-" or _is_stdout(Path(target))
        if self.is_stdout and sys.__stdout__ is None:
            raise FileFault(f"--json {target}: standard output is closed: name a file")
        self._output = None if self.is_stdout else TextOutput(Path(target))

    def write(self, data: Any) -> None:
        text = json_text(data)
        if self._output is None:
            sys.stdout.write(text)
            sys.stdout.flush()  # here, where a reader that is gone is noticed
        else:
            self._output.write(text)


def check_json(target: str | None, **others: Any) -> Json | None:
    """Where the JSON is to go; None for nowhere.

    `others` are the command's own files, by their words.

    Raises:
        FileFault: it could not be written in the end, or would replace another file.
    """
    if target is None:
        return None
    from orthwrap.stores.outputs import check_apart, check_replaceable

    if target != "-":
        check_apart(
            target, "--json", {f"the {word} of this command": p for word, p in others.items()}
        )
        if not Path(target).parent.is_dir():
            raise FileFault(
                f"folder {Path(target).parent} for --json does not exist: make it first"
            )
        marks = ('"schema": "orthwrap.', '"formula"')
        check_replaceable(Path(target), "--json", "JSON of an earlier command", *marks)
    json = Json(target)
    log = others.get("log")
    if json.is_stdout and log is not None and _is_stdout(Path(log)):
        raise UsageError("--json and --log cannot both go to standard output: name a file for one")
    return json


def _is_stdout(path: Path) -> bool:
    """Whether a path, as `/dev/stdout`, is the command's own standard output."""
    from orthwrap.stores.replacing import descriptor_of

    return descriptor_of(path) == 1


def show(data: Any, renderable: Callable[[int], Any], json: Json | None, quiet: bool) -> None:
    """The report as JSON where asked for, and on the screen unless quiet.

    With `--json -`, standard output carries JSON alone and the table goes to standard error.
    """
    try:
        if json is not None:
            json.write(data)
        if not quiet:
            screen = _screen(json)
            screen.print(renderable(screen.width))
            screen.file.flush()
    except KeyboardInterrupt as e:
        written = data.get("output") if isinstance(data, dict) else None
        if written is None:
            raise
        raise Interrupted(f"interrupted: {written} is written, its report was not shown") from e


def show_report(report: Any, json: Json | None, quiet: bool) -> None:
    """A verb's report, as `show` shows things."""

    def rendered(width: int) -> Any:
        from orthwrap.report.terminal import render

        return render(report, width, choices=False)  # training has shown them as it began

    show(report.to_json(), rendered, json, quiet)


def show_result(result: Any, json: Json | None, quiet: bool, strict: bool = False) -> None:
    """A verb's report; of several processes that trained together, process 0 alone has one.

    Exits with 3 where the training's verdict does not pass a strict look.
    """
    if not result.process:
        show_report(result.report, json, quiet)
    elif not quiet:
        sys.stdout.write(f"process {result.process}: trained; process 0 has model and report\n")
    training = result.report.training
    if strict and training is not None and training.verdict and training.verdict.fails:
        raise typer.Exit(3)


def progress(json: Json | None, quiet: bool) -> Any:
    """Who shows how training goes; on standard error where `--json -` has standard output."""
    if quiet:
        return None
    from orthwrap.report.progress import TrainingProgress

    return TrainingProgress(_screen(json))


def _screen(json: Json | None) -> Any:
    from orthwrap.report.terminal import console

    return console(sys.stderr if json is not None and json.is_stdout else sys.stdout)
