"""What a command sees to before anything else is loaded.

So it imports only what Python has loaded by itself: a Ctrl-C before that is beyond reach.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the public one loads enum first
import io
import os
import sys


def leave_at_interrupts() -> None:
    """While modules are loaded, Ctrl-C ends the process at once, in one line.

    Raised as an exception it would end in a traceback of whatever is loaded just then, or be
    swallowed there.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def leave(number: int, frame: object) -> None:
    """Ends the process as Ctrl-C does, before anything has been begun."""
    say("interrupted: nothing was written")
    os._exit(130)


def end_at_interrupts() -> None:
    """All is done and said: from here on Ctrl-C ends the process without a word."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def say(line: str) -> None:
    """One line on standard error, past whatever may be wrong with the stream."""
    try:
        handle = 2 if sys.stderr is None else sys.stderr.fileno()
        os.write(handle, f"{line}\n".encode("ascii", "backslashreplace"))
    except (OSError, ValueError):
        pass


def raise_at_interrupts() -> None:
    """From here on Ctrl-C is an exception, as Python has it: what was begun is cleared away."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _StandardOutput(io.FileIO):
    """Descriptor 1; what goes wrong there is said to have gone wrong there."""

    def __init__(self) -> None:
        super().__init__(1, "w", closefd=False)

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as e:
            e.filename = "standard output"
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # once is enough
            raise


def open_all_streams() -> None:
    """No stream is missing: a file opened later would get its number, and others' words."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    before = sys.stdout
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_StandardOutput()),
        getattr(before, "encoding", None),
        line_buffering=getattr(before, "line_buffering", False),
    )
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def flush_output() -> None:
    """What is still to be printed; exits with 1 where it cannot be.

    Python would find that as it ends, in words and with an exit code of its own.
    """
    try:
        sys.stdout.flush()
    except OSError as e:
        if not isinstance(e, BrokenPipeError):  # there, nobody is left to tell
            say(f"error: {e.filename}: {e.strerror}")
        sys.exit(1)
