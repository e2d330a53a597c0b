"""Programs of JAX, traced one after another and compiled beside each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import keras

from orthwrap.report.versions import cores

# XLA compiles one program on some cores at a time, and lets go of Python meanwhile.
_CORES_EACH = 2


def beside_each_other() -> int:
    """How many programs are compiled at a time; 0 where none is before it is called."""
    return max(1, cores() // _CORES_EACH) if keras.backend.backend() == "jax" else 0


@cache
def _compiling() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(beside_each_other())


_begun: list[Future[Any]] = []


def program(function: Callable[..., Any], *args: Any, **words: Any) -> Callable[..., Any]:
    """`jax.jit(function, **words)` for arguments like these: traced now, compiled meanwhile.

    A call waits for it, and raises `concurrent.futures.CancelledError` where it was dropped.
    """
    import jax

    lowered = jax.jit(function, **words).lower(*args)
    compiled = _compiling().submit(lowered.compile)
    _begun.append(compiled)
    return lambda *args: compiled.result()(*args)


def drop_waiting() -> bool:
    """Drops what nobody has begun to compile; False where nothing is compiled beforehand."""
    if not beside_each_other():
        return False
    while _begun:
        _begun.pop().cancel()
    return True
