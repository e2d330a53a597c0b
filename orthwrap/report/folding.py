"""Which rows of a report a screen shows: blocks of a deep network in one line each. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from orthwrap.report.about import figure_of
from orthwrap.report.record import Deviation, LayerRecord
from orthwrap.report.view import Sort, View

FOLDED = 20  # lines; of more, neighbours that are alike share one

_PART = re.compile(r"[^/_.-]+[/_.-]?|[/_.-]")
_LETTERS = re.compile(r"\D*")


@dataclass(frozen=True)
class Block:
    """Neighbours in the model's order that share the beginning of their names.

    Attributes:
        path: that beginning, as a pattern: `conv3_*`.
        records: theirs, two at least.
    """

    path: str
    records: tuple[LayerRecord, ...]
    slot: str = "kernel"
    kernel: None = None

    @property
    def worst(self) -> LayerRecord | None:
        """The one whose figure is largest now; None where none was measured."""
        known = [r for r in self.records if r.before is not None]
        return max(known, key=lambda r: figure_of(r, r.after or r.before) or 0.0, default=None)


def rows_of(
    records: Sequence[LayerRecord], view: View, lines_of_block: int = 1
) -> list[LayerRecord | Block]:
    """The rows that a view shows, sorted, cut or folded."""
    if view.sort is None and view.top is None:
        return list(records) if view.unfold else folded(records, lines_of_block=lines_of_block)
    key = view.sort or "residual"
    ordered = sorted(records, key=lambda r: (worth(r, key) is None, -(worth(r, key) or 0.0)))
    return list(ordered[: view.top])


def worth(record: LayerRecord, sort: Sort) -> float | None:
    """What a record is sorted by; None where it has no such figure."""
    figures = record.after or record.before
    if sort == "parameters":
        return float(record.parameters)
    if figures is None:
        return None
    return _figure(record, figures, sort)


def _figure(record: LayerRecord, figures: Deviation, sort: Sort) -> float | None:
    if sort == "condition":  # of a singular matrix there is none: the worst of all
        return figures.worst_condition
    return figures.sigma_max if sort == "sigma" else figure_of(record, figures)


def folded(
    records: Sequence[LayerRecord], most: int = FOLDED, lines_of_block: int = 1
) -> list[LayerRecord | Block]:
    """The records, or where they are more than `most`, blocks of them.

    Names are cut after as many of their parts as leave no more than `most` lines.
    """
    if len(records) <= most:
        return list(records)
    deepest = max(len(_PART.findall(r.path)) for r in records)
    rows: list[LayerRecord | Block] = []
    for depth in range(deepest, -1, -1):
        rows = list(_blocks(records, depth))
        if sum(lines_of_block if isinstance(row, Block) else 1 for row in rows) <= most:
            break
    return rows


def _blocks(records: Sequence[LayerRecord], depth: int) -> Iterator[LayerRecord | Block]:
    for beginning, group in groupby(records, lambda r: _beginning(r.path, depth)):
        alike = tuple(group)
        if len(alike) == 1:
            yield alike[0]
        else:
            whole = {r.path for r in alike} == {beginning}
            yield Block(beginning if whole else f"{beginning}*", alike)


def _beginning(path: str, depth: int) -> str:
    if depth:
        return "".join(_PART.findall(path)[:depth])
    found = _LETTERS.match(path)
    return found[0] if found else ""
