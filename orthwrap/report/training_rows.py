"""Losses, metrics and residuals of a training, before and after, as rows of any table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orthwrap.report.record import Training


@dataclass(frozen=True)
class TrainingRows:
    """A table: its first heading, those beside it, and rows with as many cells."""

    on: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def training_rows(training: Training) -> TrainingRows:
    """What a training changed; with a control, beside it."""
    control = training.control
    sides = [training.metrics_before, training.metrics_after]
    columns: tuple[str, ...] = ("before", "after")
    if control is not None:
        sides.insert(1, control.metrics)
        columns = ("original", "control", "orthogonal")
    rows = [
        (name.replace("_", " "), *(_shown(side.get(name), ".4f") for side in sides))
        for name in in_order(training.metrics_before)
    ]
    rows += [
        (name, *(_shown(value, ".3g") for value in values))
        for name, *values in _residuals(training)
    ]
    where = "validation data" if training.held_out else "training data"
    return TrainingRows(f"on {where}", columns, tuple(rows))


def in_order(metrics: Mapping[str, float]) -> Iterator[str]:
    """Task loss and penalty first, then what adds up to them, then the rest."""
    first = [n for n in ("task_loss", "penalty", "own_penalty", "loss") if n in metrics]
    yield from first
    yield from (n for n in metrics if n not in first)


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _residuals(training: Training) -> Iterator[tuple[str, float, float | None, float]]:
    """(name, original, control, after) of what is shown of the residuals beside a control."""
    verdict, control = training.verdict, training.control
    if verdict is None or control is None or not verdict.kernels:
        return
    others = [control.residuals.get(k.path) for k in verdict.kernels]
    known = [r for r in others if r is not None]
    pairs = [(k.before, k.after) for k in verdict.kernels]
    for name, of in (("median residual", statistics.median), ("largest residual", max)):
        whole = of(known) if len(known) == len(pairs) else None
        yield name, of([b for b, _ in pairs]), whole, of([a for _, a in pairs])
