"""Layers' paths in few columns: under a heading they share, else broken where a word ends."""

from __future__ import annotations

from collections.abc import Sequence

_SHORTEST = 12  # columns; narrower, and names would be all breaks
_ENDS = "/_-. "  # a line may end after these,
_STARTS = "@"  # and before this


def fitted(names: Sequence[tuple[str, str]], width: int) -> list[tuple[str | None, str]]:
    """For each name, a heading to go before its row (or None), and what stands in the row.

    Args:
        names: what holds the layer (`outer/inner`, or nothing) and its own name (`conv@kernel`).
        width: columns that there are.
    """
    width = max(width, _SHORTEST)
    whole = [f"{folder}/{name}" if folder else name for folder, name in names]
    if all(len(name) <= width for name in whole):
        return [(None, name) for name in whole]
    rows: list[tuple[str | None, str]] = []
    last = ""
    for folder, name in names:
        heading = broken(f"{folder}/", width) if folder and folder != last else None
        indent = "  " if folder else ""
        rows.append(
            (heading, indent + broken(name, width - len(indent)).replace("\n", "\n" + indent))
        )
        last = folder
    return rows


def broken(name: str, width: int) -> str:
    """A name in lines of at most `width`; all but the first are indented."""
    lines = []
    while len(name) > width:
        cut = next(
            (i for i in range(width, width // 3, -1) if name[i - 1] in _ENDS or name[i] in _STARTS),
            width,
        )
        lines.append(name[:cut])
        name = f"  {name[cut:]}"
    return "\n".join([*lines, name])
