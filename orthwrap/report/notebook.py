"""A report in a notebook: what a cell shows, and its rows as a data frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import PurePath
from typing import Any

from orthwrap.errors import ValueFault
from orthwrap.report.as_csv import rows_of
from orthwrap.report.folding import Block, folded
from orthwrap.report.kernel_rows import (
    COMPARED,
    SPARK,
    Cell,
    KernelTable,
    carried,
    compared_cells_of,
    is_of_numbers,
    is_quiet,
)
from orthwrap.report.record import CompareReport, LayerRecord, Report
from orthwrap.stores.store import ModelRecord
from orthwrap.text import html_name, printable

_MOST = 60  # rows that a cell shows
# Of middle lightness, so that they are read on white and on black.
_STYLE = """
.orthwrap table {border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5em 0;}
.orthwrap th, .orthwrap td {padding: .25em .7em; text-align: left; vertical-align: middle;}
.orthwrap tr {border-bottom: 1px solid #8883; background: none;}
.orthwrap th, .orthwrap td {white-space: nowrap;}
.orthwrap td.name {font-weight: 600; white-space: normal; overflow-wrap: break-word;}
.orthwrap th.n, .orthwrap td.n {text-align: right;} .orthwrap p {margin: .3em 0;}
.orthwrap .soft {opacity: .65;} .orthwrap .down {color: #23915a;} .orthwrap .up {color: #cd4b3e;}
.orthwrap .note {color: #aa780a;}
.orthwrap svg path {fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke;}
.orthwrap .old {stroke: #9aa3ae;} .orthwrap .new {stroke: #3f6fe0;}
.orthwrap .aim {stroke: #8889; stroke-width: 1; stroke-dasharray: 3 3;}
"""


def html_of(report: Report | CompareReport) -> str:
    """The report as a table, every name escaped; it loads nothing and runs nothing."""
    if isinstance(report, CompareReport):
        title = f"{_name(report.before)} ↔ {_name(report.after)}"
        counts = ", ".join(f"{n} {_word(what)}" for what, n in report.summary.items() if n)
        table = _table(COMPARED, [list(compared_cells_of(row)) for row in report.layers])
        parts = [_head("compare", title, ""), table, _paragraph(counts)]
    else:
        parts = _report_parts(report)
    parts += [_paragraph(f"warning: {w}", "note") for w in report.warnings]
    return f'<div class="orthwrap"><style>{_STYLE}</style>{"".join(parts)}</div>'


def frame_of(report: Report | CompareReport) -> Any:
    """A row for each kernel; see `Report.to_frame`."""
    try:
        import pandas
    except ImportError:
        raise ValueFault("a data frame needs pandas: pip install pandas") from None
    names, rows = rows_of(report)
    return pandas.DataFrame(rows, columns=names)


def _report_parts(report: Report) -> list[str]:
    title = _name(report.model)
    if report.output is not None:
        title += f" → {PurePath(report.output).name}"
    facts = f"{report.model.format} · {report.model.parameters:,} parameters"
    shown = [r for r in report.layers if not is_quiet(r)] or report.layers
    table = KernelTable.of(shown, report.command)
    *columns, _ = table.columns  # all but why
    lines_of = shown if len(shown) <= _MOST else folded(shown)
    rows = [_cells(line, table)[: len(columns)] for line in lines_of[:_MOST]]
    summary = report.summary
    lines = [f"{summary['regularized']} of {summary['kernels']} kernels carry a regularizer"]
    if summary.get("constrained"):
        lines[0] += f", {summary['constrained']} a constraint"
    if blocks := [line for line in lines_of if isinstance(line, Block)]:
        lines.append(
            f"{sum(len(b.records) for b in blocks)} kernels in {len(blocks)} blocks, each with the "
            "figures of its worst; report.to_frame() has all"
        )
    if len(lines_of) > _MOST:
        lines.append(f"the first {_MOST} are shown; report.to_frame() has all")
    parts = [_head(report.command, title, facts), _table(columns, rows)]
    if report.gate is not None:
        failures = [f"{e.place}: {e.text}" for e in report.gate.failures]
        parts.append(f"<p><b>{_text(report.gate.text)}</b></p>")
        parts += [_paragraph(failure, "up") for failure in failures[:_MOST]]
    verdict = None if report.training is None else report.training.verdict
    if verdict is not None:
        parts.append(f"<p><b>{_text(verdict.line)}</b></p>")
        lines += [f"next: {verdict.next_step}"] if verdict.next_step else []
        parts += [_paragraph(w, "up") for w in verdict.warnings]
    return [*parts, *map(_paragraph, lines)]


def _cells(line: LayerRecord | Block, table: KernelTable) -> list[Cell]:
    """Of a block, the figures of its worst kernel, which is named."""
    if not isinstance(line, Block):
        return list(table.cells(line))
    worst = line.worst or line.records[0]
    _, _, _, *figures = table.cells(worst)
    held = (" ".join(words for words, _ in carried(r, table.command)) for r in line.records)
    size = f"{len(line.records)} kernels, worst {worst.path}"
    return [Cell(line.path, "name"), Cell(size), Cell(", ".join(dict.fromkeys(held))), *figures]


def _text(words: str) -> str:
    return escape(printable(words))


def _word(name: str) -> str:
    return name.replace("_", " ")


def _name(model: ModelRecord) -> str:
    return PurePath(model.path).name if model.path else "model in memory"


def _head(command: str, title: str, facts: str) -> str:
    return (
        f'<p><b>orthwrap {command}</b> {_text(title)} <span class="soft">{_text(facts)}</span></p>'
    )


def _paragraph(words: str, kind: str = "soft") -> str:
    return f'<p class="{kind}">{_text(words)}</p>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    heads = "".join(f'<th class="{"n" if is_of_numbers(c) else ""}">{c}</th>' for c in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _cell(cell: Cell) -> str:
    inside = html_name(cell.text) if cell.kind == "name" else _text(cell.text)
    if cell.after:
        inside += f' → <span class="{cell.moved}">{_text(cell.after)}</span>'
    if cell.lines:
        width, height = SPARK
        size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
        paths = "".join(f'<path class="{kind}" d="{d}"/>' for kind, d in cell.lines)
        inside = f"<svg {size}>{paths}</svg>"
    return f'<td class="{cell.kind}">{inside}</td>'
