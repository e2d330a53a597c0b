"""TensorFlow's C++ start-up lines, kept off the screen.

They are written to file descriptor 2 before any setting can turn them off, and would bury the one
line that matters. Whatever else comes through that descriptor, a crash's last words among it, is
passed on.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator

from orthwrap.text import PLAINLY

_CHATTER = re.compile(
    rb"WARNING: All log messages before absl::|[IW]\d{4} \d\d:\d\d:\d\d\.|[IW]0000 "
)


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """While active, informational C++ log lines do not reach standard error."""
    try:
        real = os.dup(2)
    except OSError:  # standard error is closed: there is nothing to keep clean
        yield
        return
    reading, writing = os.pipe()
    previous = sys.stderr
    # Python's own messages go straight to the real one, which may be a terminal.
    encoding = getattr(previous, "encoding", None)
    sys.stderr = os.fdopen(real, "w", 1, encoding, PLAINLY, closefd=False)
    os.dup2(writing, 2)
    os.close(writing)
    thread = threading.Thread(target=_pass_on, args=(reading, real), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(real, 2)  # closes the last writing end, so the thread comes to its end
        thread.join(timeout=1)
        sys.stderr = previous


def _pass_on(reading: int, real: int) -> None:
    with os.fdopen(reading, "rb") as lines:
        for line in lines:
            if not _CHATTER.match(line):
                os.write(real, line)
