"""What every command does around its verb: errors, JSON, the screen."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import typer

from orthwrap.errors import (
    FileFault,
    OrthwrapError,
    UsageError,
    is_own_module,
    listed,
    origin,
    printable,
    raised_at,
)
from orthwrap.outputs import check_apart, check_replaceable
from orthwrap.stores.written import noting
from orthwrap.training.interrupts import note_interrupts

P = ParamSpec("P")


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Turns orthwrap's errors into one line and an exit code."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        debug = bool(kwargs.get("debug"))
        note_interrupts()
        with noting() as written:
            try:
                function(*args, **kwargs)
            except OrthwrapError as e:
                _fail(e, str(e), 2 if isinstance(e, UsageError) else 1, debug)
            except KeyboardInterrupt as e:
                sys.stderr.write(f"{str(e) or f'interrupted: {_stands(written)}'}\n")
                raise typer.Exit(130) from None
            except BrokenPipeError:
                # The reader of our output is gone; there is nobody left to tell.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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


def check_json(target: str | None, **others: Any) -> None:
    """FileFault where the JSON could not be written in the end, or would replace another file.

    `others` are the command's own files, by their words.
    """
    if target is None or target == "-":
        return
    check_apart(target, "--json", {f"the {word} of this command": p for word, p in others.items()})
    if not Path(target).parent.is_dir():
        raise FileFault(f"folder {Path(target).parent} for --json does not exist: make it first")
    marks = ('"schema": "orthwrap.', '"formula"')
    check_replaceable(Path(target), "--json", "JSON of an earlier command", *marks)


def show(data: Any, renderable: Callable[[int], Any], json_target: str | None, quiet: bool) -> None:
    """The report as JSON where asked for, and on the screen unless quiet.

    With `--json -`, standard output carries JSON alone and the table goes to standard error.
    """
    if json_target is not None:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        # Half a character, as a broken name may have, is written as JSON escapes it.
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        if json_target == "-":
            sys.stdout.write(text)
        else:
            from orthwrap.stores.replacing import replacing

            with replacing(Path(json_target)) as sibling:
                sibling.write_text(text, encoding="utf-8")
    if not quiet:
        from orthwrap.render.terminal import console

        screen = console(sys.stderr if json_target == "-" else sys.stdout)
        screen.print(renderable(screen.width))


def show_report(report: Any, json_target: str | None, quiet: bool) -> None:
    """A verb's report, as `show` shows things."""

    def rendered(width: int) -> Any:
        from orthwrap.render.terminal import render

        return render(report, width, choices=False)  # training has shown them as it began

    show(report.to_json(), rendered, json_target, quiet)


def show_result(result: Any, json_target: str | None, quiet: bool) -> None:
    """A verb's report; of several processes that trained together, process 0 alone has one."""
    if not result.process:
        show_report(result.report, json_target, quiet)
    elif not quiet:
        sys.stdout.write(f"process {result.process}: trained; process 0 has model and report\n")


def progress(json_target: str | None, quiet: bool) -> Any:
    """Who shows how training goes; on standard error where `--json -` has standard output."""
    if quiet:
        return None
    from orthwrap.render.progress import TrainingProgress
    from orthwrap.render.terminal import console

    return TrainingProgress(console(sys.stderr if json_target == "-" else sys.stdout))
