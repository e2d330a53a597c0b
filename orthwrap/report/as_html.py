"""A report as one HTML page: nothing is loaded, and nothing but sorting and finding needs a script.

Names come from strangers' files: Jinja escapes each, and the page's own policy lets no script run
but ours.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from orthwrap.report.about import (
    COHERENCE,
    OPERATOR_SIGMAS,
    SIGMAS,
    brought_up,
    figure_of,
    legend,
    meaning_of,
    meanings_of,
    upgrade_words,
)
from orthwrap.report.kernel_rows import SPARK, KernelTable, is_of_numbers, is_quiet
from orthwrap.report.record import Report
from orthwrap.report.training_rows import training_rows
from orthwrap.text import counted, html_name, printable

_MORE = (
    (
        "condition",
        "the largest singular value over the least; 1 is best, above 1e3 directions are lost",
    ),
    (
        "spectrum",
        "all singular values, from the least to the largest: grey before and blue after, dashed "
        "where they would be if the kernel were orthonormal",
    ),
)


def text_of(report: Report) -> str:
    """The HTML page of a report; `Export.text` has seen that Jinja2 and matplotlib are there."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from orthwrap.report.plots import panels_of, svgs_of

    parts = {name: _part(name) for name in ("style.css", "table.js", "report.html.j2")}
    pages = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_shown
    )
    pages.filters["counted"] = counted
    pages.filters["html_name"] = lambda name: Markup(html_name(name))  # it escapes
    page = pages.from_string(parts["report.html.j2"])
    script = parts["table.js"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page.render(
        report=report,
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=Markup(parts["style.css"]),  # ours
        script=Markup(script),
        plots=[
            {"name": panel.name, "svgs": [Markup(svg) for svg in svgs_of(panel)]}  # it escapes
            for panel in panels_of(report)
        ],
        verdict=None if report.training is None else report.training.verdict,
        training=report.training,
        trained=None if report.training is None else training_rows(report.training),
        spark=[f"{side:g}" for side in SPARK],
        **_head(report),
        **_table(report),
    )


def _part(name: str) -> str:
    return (files("orthwrap.report") / "html" / name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """What is printed: no control character of a stranger's name acts, or is lost."""
    return printable(value) if type(value) is str else value


def _head(report: Report) -> dict[str, Any]:
    model = report.model
    source = PurePath(model.path).name if model.path else "Model in memory"
    keras = f"Keras {model.keras_version}" if model.keras_version else "Keras version unknown"
    return {
        "title": f"{source}: orthwrap {report.command}",
        "source": source,
        "output": None if report.output is None else PurePath(report.output).name,
        "facts": f"{model.format} · {keras} · {model.parameters:,} parameters",
        "cards": list(_cards(report)),
    }


def _cards(report: Report) -> Iterator[Mapping[str, str]]:
    summary, total = report.summary, report.model.parameters
    share = summary["regularized_parameters"] / total if total else 0.0
    yield _card(
        "kernels with a regularizer",
        f"{summary['regularized']} of {summary['kernels']}",
        f"{share:.0%} of all parameters" if summary["regularized"] else "",
    )
    if summary.get("constrained"):
        yield _card(
            "kernels with a constraint", f"{summary['constrained']} of {summary['kernels']}"
        )
    if summary["penalty_before"] is not None:
        values = [summary["penalty_before"], summary["penalty_after"]]
        yield _card("penalty", " → ".join(f"{v:.4g}" for v in values if v is not None))
    measured = [(r, r.after or r.before) for r in report.layers]
    known = [(r, f) for r, f in measured if f is not None and math.isfinite(f.residual)]
    if known:
        record, _ = max(known, key=lambda pair: figure_of(*pair) or 0.0)
        before, after = (figure_of(record, f) for f in (record.before, record.after))
        moved = [f"{v:.3g}" for v in (before, after) if v is not None]
        yield _card(f"largest {meaning_of(record).word}", " → ".join(moved), record.kernel_place)
    conditions = [(c, r.kernel_place) for r, f in known if (c := f.worst_condition) is not None]
    if conditions:
        worst, place = max(conditions, key=lambda pair: pair[0])
        yield _card("largest condition", f"{worst:.3g}" if worst < math.inf else "unbounded", place)


def _card(name: str, value: str, note: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def _table(report: Report) -> dict[str, Any]:
    table = KernelTable.of(report.layers, report.command)
    *columns, _ = table.columns  # why, which stands below the name
    rows = [
        {
            "quiet": is_quiet(r),
            "why": r.reason,
            "cells": [*table.cells(r)][:-1],
        }
        for r in report.layers
    ]
    meanings = meanings_of(report.layers)
    meanings += [m for m in (SIGMAS, OPERATOR_SIGMAS, COHERENCE) if m.word in columns]
    return {
        "rows": rows,
        "columns": [{"name": name, "number": is_of_numbers(name)} for name in columns],
        "legend": [*legend(meanings), *_MORE],
        "brought_up": brought_up(report.command),
        "upgrades": list(map(upgrade_words, report.upgrades)),
    }
