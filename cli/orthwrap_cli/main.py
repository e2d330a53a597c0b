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
    try:
        from orthwrap.text import PLAINLY
        from orthwrap_cli.commands import app
        from orthwrap_cli.quiet import without_chatter
    except Exception as e:
        if "--debug" in sys.argv:
            raise
        say(f"error: orthwrap could not be loaded ({_why(e)}): --debug shows where")
        sys.exit(1)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAINLY)
    try:
        with without_chatter():
            app()
    except OSError as e:  # of help and version: the commands see to their own
        say(f"error: {e.filename}: {e.strerror}")
        sys.exit(1)
    finally:
        end_at_interrupts()
        flush_output()


def _why(error: Exception) -> str:
    """What went wrong, and what memory the process may have where that is limited."""
    why = (str(error).splitlines() or ["not enough memory"])[0]
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except (ImportError, OSError):
        return why
    if limit == resource.RLIM_INFINITY:
        return why
    return f"{why}; the address space is limited to {limit >> 20} MB, see ulimit -v"
