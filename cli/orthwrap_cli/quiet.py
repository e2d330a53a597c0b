"""TensorFlow's C++ start-up lines, kept off the screen.

They are written to file descriptor 2 before any setting can turn them off, and would bury the one
line that matters. Whatever else comes through that descriptor is passed on, by a process of its
own: with a thread of this one, the last words of a library that ends the process would be lost.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator

from orthwrap.text import PLAINLY

_CHATTER = re.compile(
    rb"WARNING: All log messages before absl::|[IW]\d{4} \d\d:\d\d:\d\d\.|[IW]0000 "
)


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """While active, informational C++ log lines do not reach standard error."""
    real = os.dup(2)
    previous = sys.stderr
    # Python's own messages go straight to the real one, which may be a terminal.
    sys.stderr = os.fdopen(real, "w", 1, previous.encoding, PLAINLY, closefd=False)
    child = _filtering(real)
    try:
        yield
    finally:
        os.dup2(real, 2)  # closes the last writing end, so the filter comes to its end
        if child is not None:
            _wait_for(child)
        sys.stderr = previous


def _filtering(real: int) -> int | None:
    """The process that stands between descriptor 2 and `real`; None where there can be none."""
    if not hasattr(os, "fork"):
        return None
    reading, writing = os.pipe()
    # Ctrl-C goes to every process of the terminal; this one ends when there is no more to read.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        child = os.fork()
    except OSError:  # no room for another process
        child = None
    if child == 0:
        try:
            for handle in (0, 1, 2, writing):
                os.close(handle)
            _pass_on(reading, real)
        finally:
            os._exit(0)
    if child is not None:
        os.dup2(writing, 2)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(writing)
    os.close(reading)
    return child


def _pass_on(reading: int, real: int) -> None:
    with os.fdopen(reading, "rb") as lines:
        for line in lines:
            if not _CHATTER.match(line):
                os.write(real, line)


def _wait_for(child: int) -> None:
    """Until all is passed on; not for long where a process left behind may still write."""
    for _ in range(100):
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.01)
