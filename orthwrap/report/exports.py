"""The forms of a report, one line each; and a report saved in one of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orthwrap.errors import FileFault, ValueFault
from orthwrap.report.export import Export, check_installed
from orthwrap.stores.outputs import check_replaceable
from orthwrap.stores.replacing import TextOutput, check_folder

_REPORTS = ("report", "compare")

_ROWS = (
    Export(
        *("json", "JSON", "Write the report as JSON", (".json",)),
        marks=('"schema": "orthwrap.', '"formula"'),
        kinds=(*_REPORTS, "bench", "regularizers"),
        renderer="orthwrap.report.as_json:text_of",
    ),
    Export(
        *("csv", "CSV", "Write the report as CSV, a row for each kernel", (".csv",)),
        marks=("path,slot,kernel,class_name,shape",),
        kinds=_REPORTS,
        renderer="orthwrap.report.as_csv:text_of",
    ),
    Export(
        *("md", "Markdown", "Write the report as Markdown, a section for a model card", (".md",)),
        marks=("<!-- Written by orthwrap",),
        kinds=_REPORTS,
        renderer="orthwrap.report.as_markdown:text_of",
    ),
    Export(
        *("html", "HTML", "Write the report as one HTML page, with its plots", (".html", ".htm")),
        marks=("<!-- Written by orthwrap",),
        kinds=("report",),
        renderer="orthwrap.report.as_html:text_of",
        needs=("jinja2", "matplotlib"),
    ),
)

EXPORTS = {export.word: export for export in _ROWS}
"""Each form, by its word. A new one is a file with its renderer, and a row above."""


def exports_of(kind: str) -> list[Export]:
    """The forms that a kind of report has."""
    return [export for export in EXPORTS.values() if kind in export.kinds]


def save(report: Any, path: str | os.PathLike[str]) -> None:
    """Saves a report in the form that the suffix says; see `Report.save`."""
    target = Path(path)
    fitting = exports_of(report.kind)
    export = next((e for e in fitting if target.suffix in e.suffixes), None)
    if export is None:
        known = ", ".join(suffix for e in fitting for suffix in e.suffixes)
        raise ValueFault(f"a report is saved as one of {known}; got {str(path)!r}")
    opened_for(export, target, "report").write(export.text(report))


def opened_for(export: Export, path: Path, word: str) -> TextOutput:
    """Where a report is to be written, checked before anything is done.

    Args:
        word: what messages call it, such as `--json`.

    Raises:
        ValueFault: packages that this form needs are not installed.
        FileFault: it cannot be written, or is a file that no earlier report was written to.
    """
    check_installed(f"{word}: {export.name}", export.needs)
    check_folder(path.parent, f" for {word}")
    if path.is_dir():
        raise FileFault(f"{word} {path} is a folder: name a file")
    check_replaceable(path, word, f"{export.name} of an earlier command", *export.marks)
    return TextOutput(path)
