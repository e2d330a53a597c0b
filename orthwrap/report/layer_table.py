"""The kernels of a report as a table on a screen, of any width: a row each, or a block's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table

from orthwrap.penalties.lorth import OPERATOR_RESIDUAL
from orthwrap.penalties.penalty import Meaning
from orthwrap.plan.decision import (
    ALREADY,
    CONSTRAINED,
    EXCLUDED,
    KEPT,
    NOT_SELECTED,
    REGULARIZED,
    REMOVED,
    UNSUPPORTED,
)
from orthwrap.report.about import (
    COHERENCE,
    OPERATOR_SIGMAS,
    SIGMAS,
    column_of,
    figure_of,
    legend,
    meanings_of,
    tag_of,
)
from orthwrap.report.fitting import broken, fitted
from orthwrap.report.folding import Block
from orthwrap.report.kernel_rows import CHOOSE_NONE, carried, is_quiet, operator_range, sigma_range
from orthwrap.report.record import Comparison, Deviation, LayerRecord, Report
from orthwrap.report.signs import Text
from orthwrap.text import printable

_STYLES = {
    REGULARIZED: "green",
    ALREADY: "cyan",
    CONSTRAINED: "green",
    KEPT: "yellow",
    REMOVED: "green",
    UNSUPPORTED: "red",
    EXCLUDED: "dim",
    NOT_SELECTED: "dim",
}
_KINDS = {"aside": "dim", "frozen": "italic yellow"}
WIDE = 120  # columns from which the reasons get a column of their own
_VERY_WIDE = 180  # columns from which each row says its share of all parameters
_NARROW = 72  # columns below which the singular values give way to the names
_BETWEEN = 3  # columns between two of a table
_FOLDED = {True: 28, False: 20}  # columns that a cell of words may take from the names; if wide


def plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)


def lines_of_block(width: int) -> int:
    """Its worst kernel stands below its name where reasons have no column."""
    return 1 if width >= WIDE else 2


def layer_table(
    report: Report, shown: Sequence[LayerRecord], lines: Sequence[LayerRecord | Block], width: int
) -> Table:
    """The table of `lines`, which are of the records that are `shown`."""
    wide = width >= WIDE
    measured = any(r.before is not None for r in shown)
    trained = any(r.after is not None for r in shown)
    column = column_of(shown) if measured else None
    beside = _beside(shown, width) if measured else []
    share = report.model.parameters if width >= _VERY_WIDE else None
    how_shown = _Columns(report.command, wide, column, trained, beside, share)
    columns = how_shown.headers()
    rows = [how_shown.cells(line) for line in lines]
    table = plain_table()
    table.add_column("layer", overflow="fold")
    for header, how in columns:
        table.add_column(header, **how)
    room = room_for(width, [header for header, _ in columns], rows)
    for record, cells, (heading, name) in zip(
        lines, rows, fitted(names_of(lines), room), strict=True
    ):
        if heading is not None:
            table.add_row(Text(heading, style="dim"))
        named = Text(name, style="dim" if _is_quiet(record) else "")
        if isinstance(record, Block) and record.worst is not None and not wide:
            worst = broken(f"  worst {printable(record.worst.path)}", max(room, 12))
            named = Text.assemble(named, "\n", (worst, "dim"))
        table.add_row(named, *cells)
    return table


def _is_quiet(line: LayerRecord | Block) -> bool:
    return is_quiet(line.records[0] if isinstance(line, Block) else line)


Cell = Callable[[Deviation | None], Text]


def _beside(shown: Sequence[LayerRecord], width: int) -> list[tuple[Meaning, Cell]]:
    """The columns of figures beside the one that regularizers are about, as there is room."""
    wide = width >= WIDE
    if not wide and (width < _NARROW or any(r.after is not None for r in shown)):
        return []
    if not any(r.before is not None and r.before.operator is not None for r in shown):
        plain: list[tuple[Meaning, Cell]] = [(SIGMAS, sigmas), (COHERENCE, _coherence)]
        return plain if wide else plain[:1]
    stretch: tuple[Meaning, Cell] = (OPERATOR_SIGMAS, _operator_sigmas)
    apart: tuple[Meaning, Cell] = (OPERATOR_RESIDUAL, _operator_residual)
    if not wide:
        return [stretch]
    own = column_of(shown) is OPERATOR_RESIDUAL
    return [(SIGMAS, sigmas), stretch, *([] if own else [apart])]


@dataclass(frozen=True)
class _Columns:
    """What stands in a row beside the layer's name.

    Attributes:
        wide: whether there is room for classes and reasons.
        figure: what the column of figures is; None where none was measured.
        beside: the other columns of figures.
        trained: whether there are figures after a training.
        parameters: of the model, where each row says its share; else None.
    """

    command: str
    wide: bool
    figure: Meaning | None
    trained: bool
    beside: Sequence[tuple[Meaning, Cell]]
    parameters: int | None

    def headers(self) -> list[tuple[str, dict[str, Any]]]:
        """What stands above `cells`, and how a column of it is set."""
        name: dict[str, Any] = {"no_wrap": True}
        words: dict[str, Any] = {"overflow": "fold"}
        figure: dict[str, Any] = {"justify": "right", "no_wrap": True}
        columns = [("class", name)] if self.wide else []
        columns.append(("shape", name))
        if self.parameters is not None:
            columns.append(("of all", figure))
        columns.append(("carries" if self.command in CHOOSE_NONE else "decision", words))
        if self.figure is not None:
            word = self.figure.word
            columns.append((word if self.wide else word.replace(" ", "\n"), figure))
            if self.trained and not self.wide:
                columns.append(("", figure))
            columns += [(meaning.word, figure) for meaning, _ in self.beside]
        return [*columns, ("why", words)] if self.wide else columns

    def cells(self, line: LayerRecord | Block) -> list[Text]:
        records = line.records if isinstance(line, Block) else (line,)
        is_block = isinstance(line, Block)
        first = records[0]
        classes = {r.class_name for r in records}
        shape = Text(f"{len(records)} kernels") if is_block else shape_text(first.shape)
        cells = [Text(" ".join(classes) if len(classes) == 1 else "", style="dim")]
        cells = [*(cells if self.wide else []), shape]
        if self.parameters is not None:
            cells.append(_share(sum(r.parameters for r in records), self.parameters))
        cells.append(self._carried(records))
        if self.figure is not None:
            cells += self._block_figures(records) if is_block else self._figures(first)
        if self.wide:
            worst = line.worst if isinstance(line, Block) else None
            why = first.reason if worst is None else f"worst {printable(worst.path)}"
            cells.append(Text("" if is_block and worst is None else why, style="dim"))
        return cells

    def _carried(self, records: Sequence[LayerRecord]) -> Text:
        """What they carry; of several that differ, how many of each."""
        if len(records) == 1:
            return _what(records[0], self.command, self.wide)
        found = [_what(replace(r, reasons=()), self.command, True) for r in records]
        counts = Counter(text.plain for text in found)
        first = {text.plain: text for text in reversed(found)}
        if len(counts) == 1:
            return found[0]
        parts = [[f"{n} ", first[plain], ", "] for plain, n in counts.most_common()]
        return Text.assemble(*[piece for part in parts for piece in part][:-1])

    def _figures(self, record: LayerRecord) -> list[Text]:
        assert self.figure is not None
        cells = [_tagged(record, self.figure)]
        if self.trained and not self.wide:
            cells.append(_gain(*(figure_of(record, f) for f in (record.before, record.after))))
        return cells + [cell(record.after or record.before) for _, cell in self.beside]

    def _block_figures(self, records: Sequence[LayerRecord]) -> list[Text]:
        """Of a block the range, or its largest before and after; beside, those of its worst."""
        before = _known(figure_of(r, r.before) for r in records)
        after = _known(figure_of(r, r.after) for r in records)
        if not before:
            empty = 1 + (self.trained and not self.wide) + len(self.beside)
            return [Text("–", style="dim"), *[Text("")] * (empty - 1)]
        if after:
            cells = [Text.assemble(("≤ ", "dim"), residual(max(before), max(after)))]
        else:
            ends = dict.fromkeys(f"{end(before):.3g}" for end in (min, max))
            cells = [Text("–".join(ends))]
        if self.trained and not self.wide:
            cells.append(_gain(max(before), max(after)) if after else Text(""))
        extremes = _extremes(records)
        return cells + [cell(extremes) for _, cell in self.beside]


def _known(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]


def _extremes(records: Sequence[LayerRecord]) -> Deviation:
    """The least and the largest figures of a block, as if they were of one kernel."""
    found = [f for r in records if (f := r.after or r.before) is not None]

    def of(name: str, end: Callable[[list[float]], float]) -> float | None:
        values = _known(getattr(f, name) for f in found)
        return end(values) if values else None

    operators = [f.operator for f in found if f.operator is not None]
    operator = None
    if operators:
        lows = _known(o.sigma_min for o in operators)
        operator = replace(
            max(operators, key=lambda o: o.norm_upper),
            sigma_min=min(lows) if lows else None,
            residual=max(_known(o.residual for o in operators), default=None),
        )
    return replace(
        found[0],
        sigma_min=of("sigma_min", min),
        sigma_max=of("sigma_max", max),
        coherence=of("coherence", max),
        operator=operator,
    )


def _share(parameters: int, total: int) -> Text:
    """Of all parameters; of a small part that it is one."""
    share = parameters / total if total else 0.0
    return Text("<0.1%" if share < 0.001 else f"{share:.1%}", style="dim")


def legend_table(shown: Sequence[LayerRecord], width: int) -> RenderableType:
    """What the figures mean that are shown."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(style="dim")
    for word, text in legend(
        [*meanings_of(shown), *(meaning for meaning, _ in _beside(shown, width))]
    ):
        table.add_row(Text(word), Text(text))
    return table


def room_for(width: int, headers: Sequence[str], rows: Sequence[Sequence[Text]]) -> int:
    """The columns that are left for names."""
    widths: list[int] = [
        max([*map(len, header.split("\n")), *(cell.cell_len for cell in cells)])
        for header, *cells in zip(headers, *rows, strict=True)
    ]
    most = _FOLDED[width >= WIDE]
    return width - sum(min(w, most) + _BETWEEN for w in widths)


def names_of(rows: Sequence[LayerRecord | Comparison | Block]) -> list[tuple[str, str]]:
    """What to call each row: what holds the layer, and its name; with the slot and the kernel
    where that is not enough.

    The slot is written as patterns have it: `lstm@recurrent`.
    """
    slots: dict[str, set[str]] = {}
    kernels: dict[tuple[str, str], set[str | None]] = {}
    for row in rows:
        slots.setdefault(row.path, set()).add(row.slot)
        kernels.setdefault((row.path, row.slot), set()).add(row.kernel)
    names = []
    for row in rows:
        folder, _, name = row.path.rpartition("/")
        if len(slots[row.path]) > 1 or (row.kernel is None and row.slot != "kernel"):
            name += f"@{row.slot}"
        if len(kernels[row.path, row.slot]) > 1:
            name += f" {row.kernel}"
        names.append((printable(folder), printable(name)))
    return names


def shape_text(shape: tuple[int, ...] | None) -> Text:
    return Text("–" if shape is None else "×".join(map(str, shape)), style="dim")


def _what(record: LayerRecord, command: str, wide: bool) -> Text:
    """What it carries; where there is no room for reasons, with what it carried before, or why."""
    kinds = {**_KINDS, "what": _STYLES[record.decision]}
    pieces = [(words, kinds[kind]) for words, kind in carried(record, command)]
    if record.previous and record.regularizer is not None and not wide:
        pieces.insert(0, (f"{record.previous} →", "dim"))
    parts: list[str | tuple[str, str]] = [part for piece in pieces for part in (" ", piece)][1:]
    if record.decision in (UNSUPPORTED, REMOVED) and record.regularizer is None and not wide:
        parts.append((f": {record.reason}", "dim"))
    return Text.assemble(*parts)


def _tagged(record: LayerRecord, column: Meaning) -> Text:
    """The figure that a row's regularizer is about, and which that is where its column's is not."""
    figure = residual(figure_of(record, record.before), figure_of(record, record.after))
    tag = tag_of(record, column)
    return Text.assemble((f"{tag} ", "dim"), figure) if tag else figure


def residual(before: float | None, after: float | None) -> Text:
    if before is None:
        return Text("–", style="dim")
    text = Text(f"{before:.3g}")
    if after is not None:
        shown = f"{after:.3g}"
        style = "bold green" if after <= before else "bold red"
        is_same = shown == text.plain
        text.append(" → ", "dim").append(shown, "" if is_same else style)
    return text


def _gain(before: float | None, after: float | None) -> Text:
    if not before or not after:
        return Text("")
    ratio = before / after
    if f"{max(ratio, 1 / ratio):.3g}" == "1":
        return Text("")
    return Text(f"÷{ratio:.3g}" if ratio >= 1 else f"×{1 / ratio:.3g}", style="dim")


def sigmas(figures: Deviation | None) -> Text:
    return _or_none(sigma_range(figures))


def _operator_sigmas(figures: Deviation | None) -> Text:
    return _or_none(operator_range(None if figures is None else figures.operator))


def _or_none(words: str) -> Text:
    return Text(words) if words else Text("–", style="dim")


def _operator_residual(figures: Deviation | None) -> Text:
    operator = None if figures is None else figures.operator
    return residual(None if operator is None else operator.residual, None)


def _coherence(figures: Deviation | None) -> Text:
    value = None if figures is None else figures.coherence
    return Text("–", style="dim") if value is None else Text(f"{value:.3f}")
