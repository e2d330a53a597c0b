"""Records held against limits, and against an earlier report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orthwrap.errors import FileFault, ValueFault
from orthwrap.report.as_json import report_in
from orthwrap.report.gate import Excess, Limit
from orthwrap.report.record import Deviation, LayerRecord, Report
from orthwrap.text import first_line, listed

Key = tuple[str, str, str | None]  # path, slot, kernel

_MORE_IS_BETTER = ("sigma_min", "operator.sigma_min", "operator.stable_rank")
_NOISE = 1e-6  # by which a figure may differ between machines


def key_of(record: LayerRecord) -> Key:
    return record.path, record.slot, record.kernel


def figure_named(figures: Deviation, name: str) -> float | None:
    """A figure by its name in `FIGURES`; None where it has no finite value."""
    part, _, last = name.rpartition(".")
    holder = figures.operator if part else figures
    value = getattr(holder, {"norm": "norm_upper"}.get(last, last), None)
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def concerns(record: LayerRecord, figure: str) -> bool:
    """Whether a kernel has such a figure at all, be it unknown."""
    if record.before is None:
        return False
    if figure == "penalty":
        return record.regularizer is not None
    if figure == "operator.product_upper":
        return figure_named(record.before, figure) is not None
    # One column has no angle to another.
    return figure != "coherence" or record.matrices is None or min(record.matrices[1:]) > 1


def exceeding(record: LayerRecord, limits: Sequence[Limit]) -> Iterator[Excess]:
    """The limits that a kernel does not keep."""
    for limit in limits:
        if record.before is None or not concerns(record, limit.figure):
            continue
        value = figure_named(record.before, limit.figure)
        if value is None or value > limit.most:
            yield _excess(record, limit.figure, value, limit.most)


def worse(
    record: LayerRecord, earlier: Deviation, figures: Sequence[str], share: float
) -> Iterator[Excess]:
    """The figures of a kernel that are worse than they were, by more than a share of them."""
    for figure in figures:
        if record.before is None or not concerns(record, figure):
            continue
        value, was = figure_named(record.before, figure), figure_named(earlier, figure)
        if was is None:
            continue
        at_least = figure in _MORE_IS_BETTER
        limit = was / (1 + share) - _NOISE if at_least else was * (1 + share) + _NOISE
        if value is None or (value < limit if at_least else value > limit):
            yield _excess(record, figure, value, limit, was)


def _excess(
    record: LayerRecord,
    figure: str,
    value: float | None,
    limit: float,
    baseline: float | None = None,
) -> Excess:
    which = (record.path, record.slot, record.kernel, record.kernel_place)
    return Excess(*which, figure, value, limit, baseline)


def worst_first(failures: Sequence[Excess]) -> tuple[Excess, ...]:
    """By what factor they miss their limits; the others stay in the model's order."""
    return tuple(sorted(failures, key=lambda excess: -excess.severity))


def figures_in(baseline: Any) -> dict[Key, Deviation]:
    """The last figures of each kernel in an earlier report."""
    report = baseline if isinstance(baseline, Report) else _read(Path(baseline))
    try:
        found = {key_of(r): r.after or r.before for r in report.layers}
    except TypeError as e:
        raise FileFault(f"{baseline}: a kernel's name in it is none ({first_line(e)})") from e
    figures = {key: last for key, last in found.items() if last is not None}
    if not figures:
        raise ValueFault(
            "the baseline has no figures: it was written with --no-measure, or by another command "
            "than inspect, apply, finetune and check"
        )
    return figures


def _read(path: Path) -> Report:
    try:
        return report_in(path)
    except ValueFault as e:
        raise FileFault(f"{path}: {first_line(e)}") from e


def not_held(report: Report, earlier: Mapping[Key, Deviation], against: Sequence[str]) -> list[str]:
    """What could not be held against the baseline; ValueFault where nothing could."""
    here = {key_of(r): r for r in report.layers if r.before is not None}
    both = [key for key in here if key in earlier]
    if not both:
        raise ValueFault("the baseline has none of the kernels that were chosen: of another model?")
    notes = []
    new = [here[key].place for key in here if key not in earlier]
    if new:
        notes.append(f"not in the baseline, so not held against it: {listed(new)}")
    all_keys = {key_of(r) for r in report.layers}
    gone = [key[0] for key in earlier if key not in all_keys]
    if gone:
        notes.append(f"in the baseline, and not in the model: {listed(list(dict.fromkeys(gone)))}")
    for figure in against:
        having = [k for k in both if concerns(here[k], figure)]
        unknown = [here[k].place for k in having if figure_named(earlier[k], figure) is None]
        if unknown and len(unknown) == len(having):
            words = "--operator --json" if figure.startswith("operator.") else "--json"
            raise ValueFault(
                f"the baseline has no {figure}: write it with orthwrap inspect {words}"
            )
        if unknown:
            notes.append(f"{figure} has no value in the baseline: {listed(unknown)}")
    return notes
