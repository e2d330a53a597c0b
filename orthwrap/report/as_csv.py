"""A report as CSV: a row for each kernel."""

from __future__ import annotations

import csv
import dataclasses
import io
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from orthwrap.penalties.conv_operator import OperatorFigures
from orthwrap.report.record import CompareReport, Comparison, Deviation, LayerRecord, Report
from orthwrap.text import csv_cell

Row = TypeVar("Row", LayerRecord, Comparison)
Columns = dict[str, Callable[[Row], Any]]

_FIGURES = tuple(
    f.name for f in dataclasses.fields(Deviation) if f.name not in ("spectrum", "operator")
)
_OPERATOR = tuple(field.name for field in dataclasses.fields(OperatorFigures))


def _own(*names: str) -> Columns[Any]:
    return {name: operator.attrgetter(name) for name in names}


def _of(part: str, names: Iterable[str], prefix: str = "") -> Columns[Any]:
    """Columns of what a row has, or has not, as its `part`."""
    return {prefix + name: _getter(part, name) for name in names}


def _getter(part: str, name: str) -> Callable[[Any], Any]:
    def get(row: Any) -> Any:
        for step in (*part.split("."), name):
            row = getattr(row, step, None)
        return row

    return get


def _matrices(index: int) -> Callable[[LayerRecord], int | None]:
    return lambda row: None if row.matrices is None else row.matrices[index]


_LAYERS: Columns[LayerRecord] = {
    **_own("path", "slot", "kernel", "class_name", "shape", "layout"),
    **{name: _matrices(i) for i, name in enumerate(("count", "rows", "columns"))},
    **_own("decision", "reason", "trainable", "rule"),
    "regularizer": lambda row: row.regularizer and row.regularizer.name,
    **_of("regularizer", ("factor", "scale", "alpha", "estimate", "every", "combined_with")),
    **_own("previous", "foreign", "constraint"),
    **_of("before", _FIGURES, "before_"),
    **_of("after", _FIGURES, "after_"),
}
_COMPARISONS: Columns[Comparison] = {
    **_own("path", "slot", "kernel", "class_name", "shape_before", "shape_after", "status"),
    **_own("weight_change", "regularizer_before", "regularizer_after"),
    **_own("constraint_before", "constraint_after"),
    **_of("before", _FIGURES, "before_"),
    **_of("after", _FIGURES, "after_"),
}


def text_of(report: Report | CompareReport) -> str:
    """The CSV of a report: a line of names, then one for each kernel."""
    names, rows = rows_of(report)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(map(_cell, row) for row in rows)
    return text.getvalue()


def rows_of(report: Report | CompareReport) -> tuple[list[str], list[list[Any]]]:
    """The names of the columns, and the values of each kernel."""
    if isinstance(report, CompareReport):
        return list(_COMPARISONS), _rows(_COMPARISONS, report.layers)
    columns = dict(_LAYERS)
    for when in ("before", "after"):
        if any(getattr(getattr(row, when), "operator", None) for row in report.layers):
            columns |= _of(f"{when}.operator", _OPERATOR, f"{when}_operator_")
    return list(columns), _rows(columns, report.layers)


def _rows(columns: Columns[Row], rows: Iterable[Row]) -> list[list[Any]]:
    return [[value(row) for value in columns.values()] for row in rows]


def _cell(value: Any) -> str:
    """Numbers so that they are read back the same; nothing for what there is not."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return csv_cell(value) if isinstance(value, str) else repr(value)
