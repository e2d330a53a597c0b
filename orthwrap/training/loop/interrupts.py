"""Ctrl-C asks a run to end after its step; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class _RememberingHandler:
    """Raises KeyboardInterrupt, as Python does, and remembers that it did."""

    asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt


def note_interrupts() -> None:
    """For a command: a Ctrl-C is not lost where a library that is loaded or runs swallows it.

    JAX's hook of the garbage collector does.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _RememberingHandler())


def raise_swallowed() -> None:
    """KeyboardInterrupt where a Ctrl-C was swallowed since `note_interrupts`."""
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, _RememberingHandler) and handler.asked:
        raise KeyboardInterrupt


class Interrupts:
    """While active, the first SIGINT sets `asked`, and the next one raises KeyboardInterrupt.

    Entering it raises at once where one was swallowed before.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        # Only the main thread may say what a signal does.
        if threading.current_thread() is threading.main_thread():
            raise_swallowed()
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
