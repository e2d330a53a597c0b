"""`python -m orthwrap` imports the package before it runs `__main__`: this is its first line."""

from __future__ import annotations

import sys


def _is_run() -> bool:
    """Whether Python was started with `-m orthwrap` and is about to run it."""
    words = sys.orig_argv
    return sys.argv[:1] == ["-m"] and words[words.index("-m") + 1 :][:1] == ["orthwrap"]


if _is_run():
    from orthwrap_cli.start import leave_at_interrupts

    leave_at_interrupts()
