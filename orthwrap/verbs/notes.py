"""What a user should know of a file beside what was done to it: a note each, for the report."""

from __future__ import annotations

from typing import Any

from orthwrap.model_config.needs import code_in, references_in
from orthwrap.penalties.attachment import ours_within
from orthwrap.text import listed


def of_own_classes(root: Any) -> tuple[str, ...]:
    """A note where even without regularizers Keras cannot load the file alone."""
    names = ours_within(root)
    if not names:
        return ()
    return (
        f"it still needs `import orthwrap` to load, for {', '.join(sorted(names))}, which Keras 3 "
        "does not have",
    )


def of_code(root: Any) -> tuple[str, ...]:
    """A note where Keras runs code of the file to load it."""
    layers = code_in(root)
    if not layers:
        return ()
    return (
        f"{listed(layers)}: code that the file keeps, which Keras runs with safe_mode=False alone",
    )


def of_references(root: Any) -> tuple[str, ...]:
    """A note of each function that a file's regularizers call where they are loaded."""
    return tuple(
        f"{reference!r} (in {listed(places)}) is a function that the file does not hold: loading "
        "looks it up only where you name it with --custom-objects"
        for reference, places in references_in(root).items()
    )
