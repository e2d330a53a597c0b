"""Reports as rich tables, for terminals of any width."""

from __future__ import annotations

import io
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text as RichText

from orthwrap.penalties.options import EVERY
from orthwrap.penalties.table import PENALTIES
from orthwrap.plan.decision import (
    EXCLUDED,
    NOT_SELECTED,
    REMOVED,
)
from orthwrap.report.about import (
    PRESERVED,
    RESIDUAL,
    SCALED_RESIDUAL,
    brought_up,
    figure_of,
    meaning_of,
    upgrade_words,
)
from orthwrap.report.cost_record import BenchReport
from orthwrap.report.cost_table import cost_parts
from orthwrap.report.fitting import fitted
from orthwrap.report.folding import Block, rows_of
from orthwrap.report.gate_table import gate_parts
from orthwrap.report.going_on import going_on
from orthwrap.report.judged import AT_WHICH_FACTORS, arrived, judged, kept, with_repeats
from orthwrap.report.kernel_rows import is_quiet, rounded_up
from orthwrap.report.layer_table import (
    WIDE,
    layer_table,
    legend_table,
    lines_of_block,
    names_of,
    plain_table,
    residual,
    room_for,
    shape_text,
    sigmas,
)
from orthwrap.report.record import (
    CompareReport,
    Comparison,
    LayerRecord,
    Report,
    Training,
)
from orthwrap.report.signs import Text
from orthwrap.report.training_rows import training_rows
from orthwrap.report.view import View
from orthwrap.stores.store import ModelRecord
from orthwrap.text import PLAINLY, counted, plainly, printable


def render(
    report: Report, width: int, *, choices: bool = True, view: View | None = None
) -> RenderableType:
    """A report for a terminal of `width` columns.

    Args:
        view: which kernels are shown, and how; None is the default view.
        choices: False leaves out what was chosen to train with, for who has seen that before.
    """
    parts: list[RenderableType] = [_head(report.command, report.model, report.output)]
    if report.gate is not None:
        notes = [Group(*(_note(w) for w in report.warnings))] if report.warnings else []
        return _paragraphs([*parts, *gate_parts(report.gate, plain_table()), *notes])
    shown = _shown(report)
    lines = rows_of(shown, view or View(), lines_of_block(width))
    if shown:
        parts.append(layer_table(report, shown, lines, width))
        parts += _left_out(shown, lines)
    hidden = len(report.layers) - len(shown)
    parts.append(_verdict(report, hidden))
    if any(r.before is not None for r in shown):
        parts.append(legend_table(shown, width))
    if report.upgrades:
        parts.append(_upgrades(report.command, report.upgrades, width))
    if report.training is not None:
        parts.append(_training(report, report.training, choices))
    if report.not_looked_into:
        count = len(report.not_looked_into)
        was = "was" if count == 1 else "were"
        head = Text(f"{counted(count, 'layer')} {was} not looked into", style="yellow")
        parts.append(Group(head, *(_note(str(u)) for u in report.not_looked_into)))
    if report.warnings:
        parts.append(Group(*(_note(w) for w in report.warnings)))
    more = going_on(report)
    if more:
        parts.append(Group(*(Text(line, style="dim") for line in more)))
    if report.training is not None and report.training.verdict is not None:
        parts.append(judged(report.training.verdict))
    return _paragraphs(parts)


def _paragraphs(parts: Sequence[RenderableType]) -> RenderableType:
    """Parts with a blank line between them."""
    return _Trimmed(Group(parts[0], *(line for part in parts[1:] for line in (Text(""), part))))


class _Trimmed:
    """What is inside, without spaces at the ends of lines: whoever copies it has none either."""

    def __init__(self, inside: RenderableType) -> None:
        self._inside = inside

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in console.render_lines(self._inside, options, pad=False):
            while line and not line[-1].text.strip(" "):
                line.pop()
            if line:
                yield from line[:-1]
                yield Segment(line[-1].text.rstrip(" "), line[-1].style)
            yield Segment.line()


def render_compare(report: CompareReport, width: int) -> RenderableType:
    """A comparison for a terminal of `width` columns."""
    head = Text.assemble(
        ("orthwrap compare", "bold"),
        "  ",
        _model_name(report.before),
        (" ↔ ", "dim"),
        _model_name(report.after),
    )
    wide = width >= WIDE
    driven = {row.driven for row in report.layers if any(r is not None for r in row.residuals)}
    figure_word = (SCALED_RESIDUAL if driven == {"scaled_residual"} else RESIDUAL).word
    headers = ["weights", figure_word, "regularizer"]
    if wide:
        headers = ["shape", *headers, "σ min … max"]
    table = plain_table()
    table.add_column("layer", overflow="fold")
    for header in headers:
        figure = header in (figure_word, "σ min … max")
        table.add_column(
            header, justify="right" if figure else "left", no_wrap=header != "regularizer"
        )
    rows = [_compare_cells(row, wide) for row in report.layers]
    room = room_for(width, headers, rows)
    for cells, (heading, name) in zip(rows, fitted(names_of(report.layers), room), strict=True):
        if heading is not None:
            table.add_row(Text(heading, style="dim"))
        table.add_row(name, *cells)
    s = report.summary
    total = ", ".join(
        f"{s[k]} {k}" for k in ("same", "changed", "reshaped", "added", "gone") if s[k]
    )
    foot = Text(f"{counted(s['kernels'], 'kernel')}: {total or 'none'}; {_differ(report)}")
    notes = [Group(*(_note(w) for w in report.warnings))] if report.warnings else []
    left_out = Text("biases and other weights are not compared", style="dim")
    is_scaled = any(row.driven == "scaled_residual" for row in report.layers)
    legend = [Text(PRESERVED.text, style="dim")] if is_scaled else []
    return _paragraphs([head, table, Group(foot, left_out, *legend), *notes])


def _differ(report: CompareReport) -> str:
    """`2 regularizers differ`; of constraints only where there are some."""
    said = [_changed(report.summary["regularizers_changed"], "regularizer")]
    if any(row.constraint_before or row.constraint_after for row in report.layers):
        said.append(_changed(report.summary["constraints_changed"], "constraint"))
    return ", ".join(said)


def _changed(count: int, what: str) -> str:
    if not count:
        return f"the same {what}s"
    return f"{counted(count, what)} {'differs' if count == 1 else 'differ'}"


def render_regularizers(rows: Iterable[Mapping[str, Any]], width: int) -> RenderableType:
    """The list of penalties; where there is no room for more columns, options and source below."""
    wide = width >= WIDE
    table = plain_table()
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("times factor", no_wrap=wide)
    table.add_column("minimum", no_wrap=True)
    table.add_column("factor", justify="right", no_wrap=True)
    if wide:
        table.add_column("options", overflow="fold")
        table.add_column("source", overflow="fold", ratio=1)
    for row in rows:
        options = ", ".join(row["options"]) or "–"
        cells = [row["name"], row["formula"], row["minimum"], f"{row['factor']:g}"]
        table.add_row(*cells, *([options, row["source"]] if wide else []))
        if not wide:
            for words in (row["source"], f"options: {options}"):
                table.add_row("", Text(words, style="dim"))
    foot = Text(
        "W is fan-in × fan-out, G the smaller of WᵀW and WWᵀ. Squared norms, no ½, summed over a "
        "kernel's matrices and over layers: factors published for other conventions do not "
        "transfer. Keras's l1, l2, l1_l2 (factor 0.01) and package.module:function fit as well.",
        style="dim",
    )
    return _paragraphs([table, foot])


def regularizer_rows() -> list[dict[str, Any]]:
    """The list of penalties as data."""
    return [
        {
            "name": p.name,
            "formula": p.formula,
            "minimum": p.minimum,
            "factor": p.default_factor,
            "options": [option.name for option in (*p.special_options, EVERY)],
            "convention": p.convention,
            "source": p.source,
        }
        for p in PENALTIES.values()
    ]


# Parts


def _head(command: str, model: ModelRecord, output: str | None) -> RenderableType:
    title = Text.assemble(("orthwrap ", "bold"), (command, "bold"), "  ", _model_name(model))
    if output is not None:
        title.append(" → ", "dim").append(_short_path(output), "bold green")
    version = f"Keras {model.keras_version}" if model.keras_version else "Keras version unknown"
    facts = Text(f"{model.format} · {version} · {model.parameters:,} parameters", style="dim")
    return Group(title, facts)


def _model_name(model: ModelRecord) -> Text:
    return Text(_short_path(model.path) if model.path else "model in memory", style="bold cyan")


def _short_path(path: str) -> str:
    """The path as the user would name it from where they stand."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return path


def _shown(report: Report) -> list[LayerRecord]:
    """What is worth a row: where little was chosen, what was not is counted, not listed."""
    if report.command == "strip":
        return [r for r in report.layers if r.decision == REMOVED]
    if report.command == "upgrade":
        return []
    loud = [r for r in report.layers if not is_quiet(r)]
    return loud or list(report.layers)


def _left_out(
    shown: Sequence[LayerRecord], lines: Sequence[LayerRecord | Block]
) -> list[RenderableType]:
    """What has no row of its own, in a line."""
    blocks = [line for line in lines if isinstance(line, Block)]
    if blocks:
        folded = sum(len(block.records) for block in blocks)
        return [
            Text(
                f"{folded} kernels in {counted(len(blocks), 'block')}; --unfold shows all",
                style="dim",
            )
        ]
    left = len(shown) - len(lines)
    return [Text(f"{counted(left, 'more kernel')} not shown", style="dim")] if left else []


def _verdict(report: Report, hidden: int) -> RenderableType:
    counts = Counter(r.decision for r in report.layers)
    summary = report.summary
    lines = [_done(report, counts), *_overall(report)]
    if summary["penalty_before"] is not None:
        line = Text(f"penalty {summary['penalty_before']:.4g}")
        if summary["penalty_after"] is not None:
            line.append(f" → {summary['penalty_after']:.4g}")
        if report.factors_moved:
            line.append(f" ({AT_WHICH_FACTORS})", style="dim")
        lines.append(line)
    frozen = sum(1 for r in report.layers if r.carries and not r.trainable)
    if frozen:
        lines.append(Text(_frozen(frozen, summary["regularized"]), style="yellow"))
    quiet = counts[NOT_SELECTED] + counts[EXCLUDED]
    if hidden and quiet and report.command not in ("strip", "upgrade"):
        lines.append(Text(_hidden(report.command, counts), style="dim"))
    return Group(*lines)


def _overall(report: Report) -> list[Text]:
    """All that was measured, in a line: how much of the model it is, and the worst of it."""
    figures = [(r, f) for r in report.layers if (f := r.after or r.before) is not None]
    known = [(r, v) for r, f in figures if (v := figure_of(r, f)) is not None and math.isfinite(v)]
    if len(known) < 2 or report.command == "strip":
        return []
    worst, value = max(known, key=lambda pair: pair[1])
    text = Text(f"{counted(report.layer_count, 'layer')}, {len(figures)} kernels measured", "dim")
    if report.model.parameters:
        share = sum(r.parameters for r, _ in figures) / report.model.parameters
        text.append(f" ({share:.0%} of all parameters)")
    text.append(f"; {meaning_of(worst).word} at most {value:.3g}: {worst.kernel_place}")
    norms = [f.operator.norm_upper for _, f in figures if f.operator is not None]
    if len(norms) == len(figures):
        text.append(f"; product of all norms at most {rounded_up(math.prod(norms))}")
    return [text]


def _done(report: Report, counts: Mapping[str, int]) -> Text:
    """What the command did, or what it found, in a line."""
    summary = report.summary
    if report.command in ("apply", "finetune", "inspect"):
        if summary["regularized"]:
            return _carriers(report)
        if summary.get("constrained"):
            return Text(f"{_held(summary)} a constraint", style="bold green")
    if report.command == "upgrade":
        done = len(report.upgrades)
        text = counted(done, "rewrite") if done else "nothing to do: a copy"
        return Text(text, style="bold green")
    if report.command == "strip":
        removed = counts[REMOVED]
        text = f"{counted(removed, 'regularizer')} removed" if removed else "nothing to remove"
        if any(r.decision == REMOVED and r.previous is None for r in report.layers):
            text = f"regularizers and constraints of {counted(removed, 'kernel')} removed"
        return Text(text, style="bold green")
    count = summary["kernels"]
    kernels = "1 kernel carries no" if count == 1 else f"{count} kernels, none carries an"
    return Text(f"{kernels} orthwrap regularizer")


def _held(summary: Mapping[str, Any]) -> str:
    held = summary["constrained"]
    carry = "carries" if held == 1 else "carry"
    return f"{held} of {counted(summary['kernels'], 'kernel')} {carry}"


def _frozen(frozen: int, regularized: int) -> str:
    if frozen > 1:
        return f"{frozen} of them are frozen: Keras applies no penalty while they are"
    one = "it is" if regularized == 1 else "1 of them is"
    return f"{one} frozen: Keras applies no penalty while it is"


def _carriers(report: Report) -> Text:
    """How many kernels, and outputs of layers, carry a regularizer."""
    summary, total = report.summary, report.model.parameters
    outputs = sum(r.carries and r.slot == "activity" for r in report.layers)
    kernels = summary["regularized"] - outputs
    # Of those that `inspect` was not asked about, it does not say what they carry.
    unseen = sum(r.decision in (NOT_SELECTED, EXCLUDED) for r in report.layers)
    known = summary["kernels"] - (unseen if report.command == "inspect" else 0)
    text = Text()
    if kernels:
        share = summary["regularized_parameters"] / total if total else 0.0
        text.append(f"{kernels} of {counted(known, 'kernel')}", "bold green")
        text.append(f" {'carries' if kernels == 1 else 'carry'} a regularizer")
        text.append(f" ({'<1%' if share < 0.005 else f'{share:.0%}'} of all parameters)")
    if summary.get("constrained"):
        text.append(f", {summary['constrained']} a constraint")
    if outputs:
        text.append(", and " if kernels else "")
        text.append(f"the outputs of {counted(outputs, 'layer')}", "bold green")
        text.append("" if kernels else " carry a regularizer")
    return text


def _hidden(command: str, counts: Mapping[str, int]) -> str:
    """What became of the kernels that have no row."""
    left, excluded = counts[NOT_SELECTED], counts[EXCLUDED]
    if command == "finetune":
        verb = "carries" if left == 1 else "carry"
        return f"{counted(left, 'other kernel')} {verb} no regularizer"
    parts = [f"{counted(left, 'kernel')} not selected"] if left else []
    if excluded:
        parts.append(f"{excluded} excluded" if parts else f"{counted(excluded, 'kernel')} excluded")
    return ", ".join(parts)


def _upgrades(command: str, upgrades: Iterable[Mapping[str, Any]], width: int) -> RenderableType:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(style="dim", no_wrap=width >= WIDE, max_width=None if width >= WIDE else 20)
    table.add_column(style="dim", overflow="fold")
    for upgrade in upgrades:
        name, vintage, layers = upgrade_words(upgrade)
        table.add_row(f"  {name}", vintage, printable(layers))
    return Group(Text(brought_up(command), style="bold"), table)


def _training(report: Report, training: Training, with_choices: bool) -> RenderableType:
    head = Text(f"Trained for {counted(training.epochs, 'epoch')}", style="bold")
    head.append(arrived(training) + kept(training))
    parts: list[RenderableType] = [head]
    if with_choices:
        parts += [Padding(Text(c, style="dim"), (0, 0, 0, 2)) for c in training.choices]
        parts.append(Text(""))
    else:
        parts.append(Text(""))  # the head is no sentence that the table ends
    parts.append(_figures(training))
    if training.repeats is not None:
        parts += [Text(""), with_repeats(training.repeats, plain_table())]
    if report.factors_moved:
        parts.append(Text(f"{AT_WHICH_FACTORS.capitalize()}.", style="dim"))
    return Group(*parts)


def _figures(training: Training) -> Table:
    """Losses and metrics before and after; with a control, beside it."""
    found = training_rows(training)
    table = plain_table()
    table.add_column(found.on)
    for column in found.columns:
        table.add_column(column, justify="right")
    for row in found.rows:
        table.add_row(*row)
    return table


def _note(warning: str) -> RenderableType:
    return Text.assemble(("warning: ", "bold yellow"), warning)


def _compare_cells(row: Comparison, wide: bool) -> list[Text]:
    cells: list[Text] = []
    if wide:
        cells.append(shape_text(row.shape_after or row.shape_before))
    style = {"same": "dim", "changed": "", "reshaped": "red", "added": "green", "gone": "red"}[
        row.status
    ]
    change = f" {row.weight_change:.2%}" if row.status == "changed" and row.weight_change else ""
    cells.append(Text(f"{row.status}{change}", style=style))
    cells.append(residual(*row.residuals))
    was, now = row.words
    if was == now:
        cells.append(Text(was, style="dim"))
    else:
        cells.append(Text.assemble((was, "dim"), (" → ", "dim"), (now, "green")))
    if wide:
        cells.append(sigmas(row.after or row.before))
    return cells


def console(file: Any = None) -> Console:
    """A console whose colours follow the terminal and NO_COLOR; pipes get plain text."""
    made = _SafeConsole(file=file, highlight=False, soft_wrap=False, markup=False, emoji=False)
    if made.width < 1:  # COLUMNS=0, where a terminal's size was asked for and there is none
        made.width = 80
    return made


def text_of(report: Report | CompareReport) -> str:
    """A report as the commands show it, at 100 columns."""
    return as_text(lambda width: renderable(report, width))


def renderable(
    report: Report | CompareReport | BenchReport | list[Any],
    width: int,
    *,
    choices: bool = True,
    view: View | None = None,
) -> RenderableType:
    """What a command ends with, for a terminal of `width` columns; the rest as for `render`."""
    if isinstance(report, Report):
        return render(report, width, choices=choices, view=view)
    if isinstance(report, CompareReport):
        return render_compare(report, width)
    if isinstance(report, BenchReport):
        parts = cost_parts(report, plain_table(), width)
        notes = [Group(*map(_note, report.warnings))] if report.warnings else []
        return _paragraphs([_head("bench", report.model, None), *parts, *notes])
    return render_regularizers(report, width)


def as_text(rendered: Callable[[int], RenderableType], width: int = 100) -> str:
    """What a console of `width` columns would show, without colours, in signs of `sys.stdout`."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    buffer = io.TextIOWrapper(io.BytesIO(), encoding, PLAINLY, newline="")
    screen = _SafeConsole(
        file=buffer,
        width=width,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,  # in a notebook too, where rich would display it
        highlight=False,
        markup=False,
        emoji=False,
    )
    screen.print(rendered(width))
    buffer.seek(0)
    return "\n".join(line.rstrip() for line in buffer.read().splitlines())


class _SafeConsole(Console):
    """A console that shows control characters in a stranger's names instead of obeying them.

    What its encoding lacks is shown in plain signs.
    """

    def render_str(self, text: str, **how: Any) -> RichText:
        return super().render_str(plainly(text, self.encoding), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
                continue
            text = "\n".join(printable(line) for line in segment.text.split("\n"))
            if plainly(text, self.encoding) != text:  # the laying out has left one column for it
                text = plainly(text.replace("…", "."), self.encoding)
            yield segment if text == segment.text else Segment(text, segment.style)
