"""The Keras regularizers: layout + penalty + factor + scale, registered under `orthwrap>…`.

A file that carries one of these classes loads wherever orthwrap is imported, in either order with
Keras; `orthwrap.strip` makes a plain Keras file of it again. This module's name stands in users'
files, and every class is an attribute of it: `SO`, `DSO`, …, and those of registered penalties.
"""

from __future__ import annotations

from orthwrap.regularizers.base import _Regularizer
from orthwrap.regularizers.classes import (
    CLASSES,
    OrthogonalityRegularizer,
    attachment_of,
    from_attachment,
    regularizer,
)
from orthwrap.regularizers.foreign import Attached, check_callable, import_reference

__all__ = [
    "CLASSES",
    "Attached",
    "OrthogonalityRegularizer",
    "_Regularizer",
    "attachment_of",
    "check_callable",
    "from_attachment",
    "import_reference",
    "regularizer",
]


def __getattr__(name: str) -> type[OrthogonalityRegularizer]:
    for cls in CLASSES.values():
        if cls.__name__ == name:
            return cls
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(cls.__name__ for cls in CLASSES.values())]
