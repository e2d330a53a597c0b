"""Classes that are none of Keras's: those of users, in which anything may be raised."""

from __future__ import annotations

from collections.abc import Iterator

import keras


def is_keras(module: str) -> bool:
    return module.partition(".")[0] == "keras"


def in_class(error: BaseException) -> tuple[str, BaseException]:
    """Names the class of a layer, none of Keras's, in whose method an error was raised.

    As ` in class Own`, the innermost of several, and what was raised there; "" and the error itself
    where there is none. Keras wraps errors in others, which tell neither.
    """
    found, raised = "", error
    for left in _chain(error):
        trace = left.__traceback__
        while trace is not None:
            first = trace.tb_frame.f_code.co_varnames[:1]  # self or cls, by whatever name
            owner = next((trace.tb_frame.f_locals.get(name) for name in first), None)
            cls = owner if isinstance(owner, type) else type(owner)
            if issubclass(cls, keras.Layer) and not is_keras(cls.__module__):
                found, raised = f" in class {cls.__name__}", left
            trace = trace.tb_next
    return found, raised


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    seen: set[int] = set()
    left: BaseException | None = error
    while left is not None and id(left) not in seen:
        seen.add(id(left))
        yield left
        left = left.__cause__ or left.__context__
