"""A report as Markdown: a section for a model card, with its summary and a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath

from orthwrap.penalties.penalty import Meaning
from orthwrap.report.about import (
    SIGMAS,
    brought_up,
    column_of,
    figure_of,
    legend,
    meanings_of,
    tag_of,
    upgrade_words,
)
from orthwrap.report.judged import AT_WHICH_FACTORS
from orthwrap.report.kernel_rows import carried, sigma_range
from orthwrap.report.record import (
    CompareReport,
    Comparison,
    LayerRecord,
    Report,
    Training,
    place_of,
)
from orthwrap.report.training_rows import training_rows
from orthwrap.stores.store import ModelRecord
from orthwrap.text import counted, markdown_text

_MARK = "<!-- Written by orthwrap"
_NONE = "–"


def text_of(report: Report | CompareReport) -> str:
    """The Markdown of a report: a heading, the summary, a row for each kernel, the warnings."""
    return _compare_text(report) if isinstance(report, CompareReport) else _report_text(report)


def _report_text(report: Report) -> str:
    summary = report.summary
    done = f"{summary['regularized']} of {summary['kernels']} kernels carry a regularizer"
    if summary.get("constrained"):
        done += f", {summary['constrained']} a constraint"
    if summary["penalty_before"] is not None:
        numbers = [summary["penalty_before"], summary["penalty_after"]]
        done += f"; penalty {_moved([n for n in numbers if n is not None], '.4g')}"
        done += f" ({AT_WHICH_FACTORS})" if report.factors_moved else ""
    parts = [
        _head(report.command, report.orthwrap_version, report.output or report.model.path),
        f"`orthwrap {report.command}` of {_model(report.model)}: {done}.",
    ]
    if report.gate is not None:
        failures = [f"- {markdown_text(f'{e.place}: {e.text}')}" for e in report.gate.failures]
        parts.append("\n".join([f"{report.gate.text}.", *([""] if failures else []), *failures]))
    if report.layers:
        column = column_of(report.layers)
        columns = ("layer", "shape", "decision", "regularizer", column.word, "σ min … max", "why")
        parts.append(_table(columns, (_cells(row, column) for row in report.layers)))
        words = legend([*meanings_of(report.layers), SIGMAS])
        lines = (": ".join(filter(None, pair)) for pair in words)
        if any(row.before is not None for row in report.layers):
            parts.append("\n".join(f"- {markdown_text(line)}" for line in lines))
    if report.training is not None:
        parts.append(_training(report.training))
    if report.upgrades:
        done = ", ".join(
            f"{name} ({vintage})" for name, vintage, _ in map(upgrade_words, report.upgrades)
        )
        parts.append(f"{brought_up(report.command)}: {markdown_text(done)}.")
    return _section(parts, report)


def _cells(row: LayerRecord, column: Meaning) -> list[str]:
    last = row.after or row.before
    regularizer = row.foreign or _NONE
    if row.regularizer is not None or row.constraint is not None:
        regularizer = " ".join(words for words, _ in carried(row, ""))
    return [
        _name(row),
        _shape(row.shape),
        row.decision.replace("_", " "),
        regularizer,
        _figures(row, column),
        sigma_range(last) or _NONE,
        row.reason,
    ]


def _training(training: Training) -> str:
    found = training_rows(training)
    table = _table((found.on, *found.columns), found.rows)
    parts = [
        f"Trained for {counted(training.epochs, 'epoch')}; weights of epoch {training.kept_epoch}.",
        table,
    ]
    verdict = training.verdict
    if verdict is not None:
        lines = [verdict.line, *verdict.warnings]
        lines += [f"next: {verdict.next_step}"] if verdict.next_step else []
        parts += [markdown_text(line) for line in lines]
    return "\n\n".join(parts)


def _compare_text(report: CompareReport) -> str:
    summary = report.summary
    statuses = ("same", "changed", "reshaped", "added", "gone")
    counts = ", ".join(f"{summary[s]} {s}" for s in statuses if summary[s])
    both = f"{_model(report.before)} and {_model(report.after)}"
    rows = (
        [
            _name(row),
            _shape(row.shape_after or row.shape_before),
            row.status,
            _moved(dict.fromkeys(row.words)),
            _moved([f"{value:.3g}" for value in row.residuals if value is not None]) or _NONE,
        ]
        for row in report.layers
    )
    parts = [
        _head("compare", report.orthwrap_version, report.after.path),
        f"`orthwrap compare` of {both}: {summary['kernels']} kernels: {counts or 'none'}.",
        _table(("layer", "shape", "weights", "regularizer", "residual"), rows),
    ]
    return _section(parts, report)


def _head(command: str, version: str, path: str | None) -> str:
    title = "a model in memory" if path is None else markdown_text(PurePath(path).name)
    return f"{_MARK} {version}: {command} -->\n\n## Orthogonality of {title}"


def _model(model: ModelRecord) -> str:
    name = "a model in memory" if model.path is None else markdown_text(PurePath(model.path).name)
    version = f", Keras {markdown_text(model.keras_version)}" if model.keras_version else ""
    return f"{name} ({model.format}{version}, {model.parameters:,} parameters)"


def _section(parts: list[str], report: Report | CompareReport) -> str:
    unseen = report.not_looked_into if isinstance(report, Report) else ()
    notes = [*map(str, unseen), *report.warnings]
    if notes:
        parts.append("\n".join(f"- {markdown_text(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *(map(markdown_text, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _name(row: LayerRecord | Comparison) -> str:
    """Layer and slot, with the kernel where a slot has several."""
    place = place_of(row.path, row.slot)
    return f"{place} {row.kernel}" if row.kernel is not None and "/" in row.kernel else place


def _shape(shape: tuple[int, ...] | None) -> str:
    return _NONE if shape is None else "×".join(map(str, shape))


def _figures(row: LayerRecord, column: Meaning) -> str:
    """The figure that its regularizer is about; which that is, where it is not its column's."""
    found = [figure_of(row, figures) for figures in (row.before, row.after)]
    moved = _moved((value for value in found if value is not None), ".3g")
    return f"{tag_of(row, column)} {moved}".strip() if moved else _NONE


def _moved(values: Iterable[float] | Iterable[str], form: str = "") -> str:
    return " → ".join(format(value, form) for value in values)
