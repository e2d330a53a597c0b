"""The gate on a screen: the kernels that fail, worst first, and a line that says how many."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table

from orthwrap.report.gate import Gate
from orthwrap.report.signs import Text
from orthwrap.text import printable


def gate_parts(gate: Gate, table: Table) -> list[RenderableType]:
    """What to show of a gate; `table` is an empty one."""
    done = Text(gate.text, style="bold red" if gate.failures else "bold green")
    if not gate.failures:
        return [done]
    table.add_column("layer", overflow="fold")
    for header in ("figure", "value", "limit", "baseline"):
        if header == "baseline" and gate.baseline is None and gate.worse_than is None:
            continue
        table.add_column(header, justify="left" if header == "figure" else "right", no_wrap=True)
    for excess in gate.failures:
        cells = [excess.value, excess.limit, excess.baseline][: len(table.columns) - 2]
        shown = ("–" if cell is None else f"{cell:.4g}" for cell in cells)
        table.add_row(printable(excess.place), excess.figure, *shown)
    return [table, done]
