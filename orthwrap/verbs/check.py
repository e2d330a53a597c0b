"""check: whether every kernel keeps its limits; for pipelines."""

from __future__ import annotations

import difflib
import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orthwrap.errors import Faults, UsageError, ValueFault
from orthwrap.opening import opened
from orthwrap.plan.as_it_is import plan_inspect
from orthwrap.report.gate import FIGURES, OF_SIGMAS, Excess, Gate, Limit
from orthwrap.report.gating import (
    Key,
    concerns,
    exceeding,
    figures_in,
    key_of,
    not_held,
    worse,
    worst_first,
)
from orthwrap.report.make import make_report, with_notes
from orthwrap.report.record import Deviation, LayerRecord, Report
from orthwrap.rules.custom_objects import CustomObjects, custom_objects_of
from orthwrap.rules.patterns import chosen_by, patterns_of
from orthwrap.rules.words import Unread
from orthwrap.survey import Survey, survey
from orthwrap.text import listed
from orthwrap.verbs.measuring import measuring_of

if TYPE_CHECKING:
    from orthwrap.report.progress import MeasuringProgress


def check(
    model: Any,
    *,
    max: Mapping[str, float] | Iterable[str] = (),
    target: Any = None,
    exclude: Any = (),
    baseline: str | os.PathLike[str] | Report | None = None,
    worse_than: float | None = None,
    operator: bool = False,
    upgrade: bool = True,
    custom_objects: CustomObjects | None = None,
    progress: MeasuringProgress | bool | None = None,
) -> Report:
    """Whether every kernel keeps its limits. Changes nothing; loads no Keras for a file.

    Args:
        model: a path or a `keras.Model`, as in `inspect`.
        max: what figures may be at most, by their names in the report, or several such as
            `"residual=0.1"`: `residual`, `scaled_residual`, `condition`, …, and of the convolution
            itself `operator.norm` and so on. `"dense*:condition"` holds for kernels that the
            pattern matches.
        target: patterns of the kernels to check; None takes all.
        exclude: patterns of kernels to leave out.
        baseline: an earlier report of the model, or the JSON file that it was written to: its
            figures after training, where there are some.
        worse_than: the share by which a figure may be worse than there: 0.05, the default, is 5 %.
            The figures are those that `max` names, or else the residual.
        operator: True puts the figures of each operator into the report, and holds its norm
            against the baseline, also where no limit asks for it.
        upgrade: as in `inspect`.
        custom_objects: as in `inspect`.
        progress: as in `inspect`.

    Returns:
        The report, whose `gate` has the `failures`, worst first. Singular values and conditions
        are None in it where nothing asks for them.

    Raises:
        UsageError: there is nothing to check against.
        ValueFault: a figure that is not known, a limit that is no number, or one that is for no
            kernel.
        FileFault: the model, or the baseline, cannot be read.
        NoMatchError: a target or a limit's pattern matches nothing.
    """
    faults = Faults()
    limits = faults.of(limits_of, max)
    if limits == () and baseline is None:
        faults.add(UsageError("check needs max, such as residual=0.1, or a baseline"))
    share = faults.of(_share, worse_than, has_baseline=baseline is not None)
    faults.of(custom_objects_of, custom_objects)
    patterns = faults.of(chosen_by, target, exclude)
    faults.raise_all()
    earlier = None if baseline is None else figures_in(baseline)
    against = _figures_of(limits, operator)
    operator = operator or any(name.startswith("operator.") for name in against)
    with opened(model, upgrade=upgrade) as source:
        surveyed = survey(source.store)
        planned = plan_inspect(surveyed, *patterns)
        chosen = {limit.pattern: _chosen(surveyed, limit.pattern) for limit in limits}
        sigmas = operator or bool({*against} & {*OF_SIGMAS})
        how: dict[str, Any] = {
            "with_figures": True,
            "with_sigmas": sigmas,
            "with_operator": operator,
        }
        how["measuring"] = measuring_of(progress)
        report = make_report("check", source, surveyed, planned, **how)
    _check_used(report, limits, chosen)
    notes = [] if earlier is None else not_held(report, earlier, against)
    miss = functools.partial(worse, figures=against, share=share)
    held = _held(report, limits, chosen, earlier or {}, miss)
    place = None if baseline is None or isinstance(baseline, Report) else str(baseline)
    gate = Gate(limits, place, None if baseline is None else share, *held)
    return with_notes(replace(report, gate=gate), notes)


def _figures_of(limits: Sequence[Limit], operator: bool) -> list[str]:
    """What kernels are held against: the figures of the limits, or else the residual."""
    named = list(dict.fromkeys(limit.figure for limit in limits))
    return named or ["residual", *(["operator.norm"] if operator else [])]


def _held(
    report: Report,
    limits: Sequence[Limit],
    chosen: Mapping[str | None, set[Key] | None],
    earlier: Mapping[Key, Deviation],
    worse_than: Callable[[LayerRecord, Deviation], Iterable[Excess]],
) -> tuple[tuple[str, ...], tuple[Excess, ...]]:
    """The places that were held against something, and what they miss, worst first."""
    failures: list[Excess] = []
    checked = []
    for record in report.layers:
        own = [limit for limit in limits if _is_for(record, chosen[limit.pattern])]
        own = [limit for limit in own if concerns(record, limit.figure)]
        was = None if record.before is None else earlier.get(key_of(record))
        failures += exceeding(record, own)
        failures += [] if was is None else worse_than(record, was)
        checked += [record.kernel_place] if own or was is not None else []
    return tuple(checked), worst_first(failures)


def _share(given: float | None, *, has_baseline: bool) -> float:
    if given is None:
        return 0.05
    if isinstance(given, Unread):
        raise UsageError(*given.why)
    if not has_baseline:
        raise UsageError("worse_than is about a baseline: give one")
    if not (math.isfinite(given) and given >= 0):
        raise ValueFault(f"worse_than must be a share of at least 0, such as 0.05; got {given!r}")
    return given


def limits_of(given: Mapping[str, float] | Iterable[str]) -> tuple[Limit, ...]:
    """The limits, checked: `[PATTERN:]FIGURE=X`, split at the last `=`, then at the last `:`."""
    if isinstance(given, str):
        given = (given,)
    faults = Faults()
    if isinstance(given, Mapping):
        limits = [faults.of(_limit, name, most) for name, most in given.items()]
    else:
        limits = [faults.of(_limit_in, str(item)) for item in given]
    faults.raise_all()
    return tuple(limits)


def _limit_in(item: str) -> Limit:
    name, equals, text = item.rpartition("=")
    try:
        most = float(text)
    except ValueError:
        equals = ""
    if not equals or not name:
        raise UsageError(f"max {item!r} is not FIGURE=X: write it like residual=0.1")
    return _limit(name, most)


def _limit(name: str, most: float) -> Limit:
    pattern, colon, figure = name.rpartition(":")
    if figure not in FIGURES:
        near = difflib.get_close_matches(figure, FIGURES, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"one of {listed(list(FIGURES))}"
        raise ValueFault(f"max: figure {figure!r} is not known: {hint}")
    if colon and not pattern:
        raise ValueFault(f"max {name!r} has no pattern before the colon: leave the colon out")
    if not isinstance(most, (int, float)) or not (math.isfinite(most) and most >= 0):
        raise ValueFault(f"max: the limit of {figure} must be a number of at least 0; got {most!r}")
    patterns_of(pattern or None)
    return Limit(figure, float(most), pattern or None)


def _chosen(surveyed: Survey, pattern: str | None) -> set[Key] | None:
    """The kernels that a limit's pattern matches; None for all."""
    if pattern is None:
        return None
    planned = plan_inspect(surveyed, (pattern,))
    return {
        (kernel.layer.path, d.slot.name, kernel.spec.name)
        for d in planned.decisions
        if d.measured
        for kernel in d.slot.kernels
    }


def _is_for(record: LayerRecord, chosen: set[Key] | None) -> bool:
    return chosen is None or key_of(record) in chosen


def _check_used(
    report: Report, limits: Sequence[Limit], chosen: Mapping[str | None, set[Key] | None]
) -> None:
    """ValueFault for a limit that holds no kernel: what passes so has not been checked."""
    for limit in limits:
        records = [r for r in report.layers if _is_for(r, chosen[limit.pattern])]
        if any(concerns(r, limit.figure) for r in records):
            continue
        why = "carries a regularizer" if limit.figure == "penalty" else "has this figure"
        raise ValueFault(f"max {limit.figure}: none of the kernels that were chosen {why}")
