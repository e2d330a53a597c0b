"""A report as JSON, in its schema; the list of penalties as a list."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orthwrap.errors import FileFault
from orthwrap.report.cost_record import BenchReport
from orthwrap.report.record import CompareReport, Report
from orthwrap.stores.regular import open_regular
from orthwrap.text import first_line, json_text

_LARGEST = 1 << 28  # bytes of a report


def text_of(report: Report | CompareReport | BenchReport | Sequence[Mapping[str, Any]]) -> str:
    """The JSON of a report."""
    return json_text(report if isinstance(report, Sequence) else report.to_json())


def report_in(path: Path) -> Report:
    """The report that a JSON file holds.

    Raises:
        FileFault: the file cannot be read, or is no JSON.
        ValueFault: it is the JSON of something else.
    """
    try:
        with open_regular(path) as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise FileFault(f"{path}: larger than any report that orthwrap writes")
        data = json.loads(text)
    except OSError as e:
        raise FileFault(f"{path}: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise FileFault(f"{path}: not the JSON of a report ({first_line(e)})") from e
    return Report.from_json(data)
