"""`orthwrap`: the one entry. It imports next to nothing itself, so that it can see to the rest.

A Ctrl-C while the rest is loaded, or too little memory for that, is one line as any other fault.
"""

from __future__ import annotations

import io
import os
import sys

from orthwrap_cli.start import (
    end_at_interrupts,
    flush_output,
    leave_at_interrupts,
    open_all_streams,
    say,
)


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orthwrap_cli.commands import app

    return app


def main() -> None:
    """Entry point of the `orthwrap` script and of `python -m orthwrap`."""
    leave_at_interrupts()
    open_all_streams()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The eigenvalues' many small steps lose more by waiting for one another than threads gain.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if os.environ.get("COLUMNS") == "0":  # asked of what is no terminal; nothing would be shown
        del os.environ["COLUMNS"]
    try:
        from orthwrap.text import PLAINLY
        from orthwrap_cli.commands import app
        from orthwrap_cli.quiet import without_chatter

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding=_usable(stream.encoding), errors=PLAINLY)
        with without_chatter():
            app()
    except MemoryError:
        say("error: not enough memory to load orthwrap")
        sys.exit(1)
    except Exception as e:  # before or after a command, which sees to its own
        if "--debug" in sys.argv:
            raise
        say(f"error: {_why(e)}")
        sys.exit(1)
    finally:
        end_at_interrupts()
        flush_output()


def _usable(encoding: str) -> str:
    """The encoding, or ASCII for one that takes no error handler, as `idna`."""
    from orthwrap.text import PLAINLY

    try:
        "→".encode(encoding, PLAINLY)
    except UnicodeError:
        return "ascii"
    return encoding


def _why(error: BaseException) -> str:
    """What went wrong, and what memory the process may have where that is limited."""
    while error.__cause__ is not None:  # NumPy puts a page of advice around it
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    lines = [line for line in str(error).splitlines() if line.strip()]
    why = lines[0] if lines else type(error).__name__
    why = f"orthwrap itself failed: {why}; --debug shows where"
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except Exception:  # where memory is short, nothing is sure to be loaded
        return why
    if limit == resource.RLIM_INFINITY:
        return why
    return f"{why} (it may use {limit >> 20} MB of memory: ulimit -v)"
