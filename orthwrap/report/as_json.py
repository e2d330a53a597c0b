"""A report as JSON, in its schema; the list of penalties as a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orthwrap.report.record import CompareReport, Report
from orthwrap.text import json_text


def text_of(report: Report | CompareReport | Sequence[Mapping[str, Any]]) -> str:
    """The JSON of a report."""
    return json_text(report if isinstance(report, Sequence) else report.to_json())
