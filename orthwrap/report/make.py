"""Plan → report: one record for each kernel, with its figures."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from orthwrap._version import __version__
from orthwrap.model_config.calls import first_alone
from orthwrap.model_config.convolution import Convolution
from orthwrap.model_config.layout import Layout
from orthwrap.opening import Opened
from orthwrap.penalties.attachment import Attachment, describe
from orthwrap.penalties.cheapest import taken
from orthwrap.penalties.constrained import Constrained
from orthwrap.penalties.conv_operator import OperatorFigures
from orthwrap.penalties.options import ESTIMATE, EVERY, PRECISION, PROBES
from orthwrap.plan.decision import KEPT, Decision, Plan
from orthwrap.plan.reasons import FROZEN, IS_FROZEN, about_anew
from orthwrap.report.measure import EXACT_LIMIT, measure, together
from orthwrap.report.measure_operator import measure_operator
from orthwrap.report.record import (
    ConstraintRecord,
    Deviation,
    LayerRecord,
    RegularizerRecord,
    Report,
    finite,
)
from orthwrap.report.versions import versions
from orthwrap.stores.store import Store, WeightRef
from orthwrap.survey import Kernel, Survey, survey
from orthwrap.text import listed
from orthwrap.upgrades.rewriting import parse_version

Measuring = Callable[[int], AbstractContextManager[Callable[[str], None]]]
"""Shows how far the operators' figures are: from how many there will be → who is told of each."""
_LOOKING = ("inspect", "apply", "finetune")  # what is there, is said


def make_report(
    command: str,
    source: Opened,
    surveyed: Survey,
    planned: Plan,
    *,
    with_figures: bool,
    with_sigmas: bool = True,
    with_operator: bool = False,
    measuring: Measuring | None = None,
) -> Report:
    """The plan as a report, with each kernel's figures as they are now.

    Args:
        command: the verb.
        source: the model, and what was done to read it.
        with_figures: False leaves every `before` null.
        with_sigmas: False leaves singular values and conditions null, which saves half the time.
        with_operator: the figures of the convolutions themselves as well.
        measuring: shows how far those are.
    """
    pairs = [(d, kernel) for d in planned.decisions for kernel in d.slot.kernels or (None,)]
    records = [_record(d, kernel) for d, kernel in pairs]
    if with_figures:
        jobs = {
            i: functools.partial(figures, kernel, d.attachment, with_sigmas=with_sigmas)
            for i, (d, kernel) in enumerate(pairs)
            if kernel is not None and d.measured
        }
        found = together(list(jobs.values()), [_rows(records[i]) for i in jobs])
        for i, deviation in zip(jobs, found, strict=True):
            records[i] = replace(records[i], before=deviation)
        if with_operator:
            records = _with_operators(records, pairs, measuring or _unseen)
    source.check_unchanged()  # all that is shown has been read
    return Report(
        command=command,
        model=source.store.record,
        layers=tuple(records),
        layer_count=surveyed.layer_count,
        orthwrap_version=__version__,
        upgrades=tuple(u.to_json() for u in source.upgrades),
        warnings=(
            *planned.warnings,
            *_lost_calls(source.store, surveyed),
            *_lacking(records),
            *_estimated(records),
        ),
        versions=versions(),
        not_looked_into=surveyed.unseen if command in _LOOKING else (),
    )


def _unseen(total: int) -> AbstractContextManager[Callable[[str], None]]:
    return contextlib.nullcontext(lambda place: None)


def _with_operators(
    records: Sequence[LayerRecord],
    pairs: Sequence[tuple[Decision, Kernel | None]],
    measuring: Measuring,
) -> list[LayerRecord]:
    """The records with the figures of their operators beside those of their matrices."""
    chosen = [
        (i, kernel, attachment, before)
        for i, (kernel, attachment) in enumerate((k, d.attachment) for d, k in pairs)
        if kernel is not None and (before := records[i].before) is not None
    ]
    with measuring(len(chosen)) as tell:

        def job(i: int, *what: Any) -> OperatorFigures | None:
            found = operator_of(*what)
            tell(records[i].place)
            return found

        jobs = [functools.partial(job, *row) for row in chosen]
        found = together(jobs, [_rows(records[i]) for i, *_ in chosen])
    made = list(records)
    for (i, _, _, before), operator in zip(chosen, found, strict=True):
        made[i] = replace(records[i], before=replace(before, operator=operator))
    return with_products(made, "before")


def with_products(records: Sequence[LayerRecord], when: str) -> list[LayerRecord]:
    """Both kernels of a separable convolution with the bound of their product."""
    bounds: dict[str, dict[str, float]] = {}
    for record in records:
        figures = getattr(record, when)
        if figures is not None and figures.operator is not None:
            bounds.setdefault(record.path, {})[record.slot] = figures.operator.norm_upper
    made = list(records)
    for i, record in enumerate(records):
        both = bounds.get(record.path, {})
        figures = getattr(record, when)
        if figures is None or figures.operator is None or set(both) != {"depthwise", "pointwise"}:
            continue
        operator = replace(figures.operator, product_upper=both["depthwise"] * both["pointwise"])
        made[i] = replace(record, **{when: replace(figures, operator=operator)})
    return made


def with_notes(report: Report, notes: Sequence[str]) -> Report:
    """The report with more warnings."""
    return replace(report, warnings=(*report.warnings, *notes))


def _lost_calls(store: Store, surveyed: Survey) -> list[str]:
    """A warning of layers whose calls the file does not tell apart."""
    version = parse_version(store.record.keras_version or "")
    found = first_alone(store.root, surveyed.layers, version)
    if not found:
        return []
    return [
        f"{listed(found)}: called more than once, and the file has the first call's result in "
        "every place, as Keras 3.2 wrote it: outputs may not be those of the model that was "
        "saved; to be sure, build the model in Python and load the file's weights into it"
    ]


# Of the largest singular value: what float32 can tell from 0, with room.
_LACKING = 1e-7


def _lacks_a_direction(record: LayerRecord) -> bool:
    """Whether it is held to singular values above 0 and has some that are 0 to rounding."""
    figures, held = record.before, record.constraint
    if held is None or held.low == 0 or figures is None or figures.sigma_min is None:
        return False
    return figures.sigma_min <= _LACKING * (figures.sigma_max or 0.0)


def _lacking(records: Sequence[LayerRecord]) -> list[str]:
    """A warning of kernels that are held to singular values above 0 and lack a direction."""
    found = [r.place for r in records if _lacks_a_direction(r)]
    if not found:
        return []
    return [
        f"{listed(found)}: rank-deficient, so that no nearest kernel is the only one: what is "
        "lacking stays 0 or comes out as rounding has it, until training fills it"
    ]


def _estimated(records: Sequence[LayerRecord]) -> list[str]:
    """A warning of those figures that are estimates."""
    large = [r.path for r in records if _was_estimated(r)]
    if not large:
        return []
    return [
        f"{', '.join(large)}: more than {EXACT_LIMIT} singular values, so the residual and the "
        "largest are estimated and the smallest is left out"
    ]


def _was_estimated(record: LayerRecord) -> bool:
    if record.before is None or record.matrices is None:
        return False
    return record.before.sigma_min is None and min(record.matrices[1:]) > EXACT_LIMIT


def _rows(record: LayerRecord) -> int:
    return 0 if record.matrices is None else min(record.matrices[1:])


def _record(decision: Decision, kernel: Kernel | None) -> LayerRecord:
    slot = decision.slot
    layer = slot.layer if kernel is None else kernel.layer
    weight: WeightRef | None = None if kernel is None else kernel.weight
    if weight is not None and not weight.is_known:
        weight = None
    layout = None if kernel is None or weight is None else _layout_of(kernel, decision.attachment)
    attachment = decision.attachment
    return LayerRecord(
        path=layer.path,
        class_name=layer.class_name,
        slot=slot.name,
        kernel=None if kernel is None else kernel.spec.name,
        shape=None if weight is None else weight.shape,
        layout=None if layout is None else layout.name,
        matrices=None if layout is None or weight is None else layout.matrices(weight.shape),
        decision=decision.decision,
        reasons=decision.reasons,
        trainable=layer.trainable,
        rule=decision.rule,
        regularizer=None if attachment is None else regularizer_record(attachment, kernel),
        previous=decision.previous,
        foreign=_left_of_others(decision),
        constraint=None if decision.constraint is None else constraint_record(decision.constraint),
        strides=() if kernel is None else _strides(kernel.layout),
    )


def _strides(layout: Layout | None) -> tuple[int, ...]:
    return layout.strides if layout is not None and any(s > 1 for s in layout.strides) else ()


def _estimate(attachment: Attachment, kernel: Kernel | None) -> str:
    """`exact` or `sketch`, where `auto` is settled."""
    estimate = str(attachment.option(ESTIMATE))
    if estimate != "auto" or kernel is None or kernel.weight is None:
        return estimate
    layout = _layout_of(kernel, attachment)
    if layout is None:
        return estimate
    return taken(*attachment.sides(layout, kernel.weight.shape), attachment.option(PROBES))


def regularizer_record(attachment: Attachment, kernel: Kernel | None = None) -> RegularizerRecord:
    """A regularizer as reports have it.

    Args:
        kernel: which it is of, where `estimate` auto is to be settled.
    """
    other = attachment.combined_with
    combined = None if other is None else describe(other)
    if not attachment.is_penalty:
        return RegularizerRecord(attachment.label, attachment.factor, combined_with=combined)
    return RegularizerRecord(
        name=attachment.name,
        factor=attachment.factor,
        scale=attachment.scale,
        alpha=None if attachment.is_free else attachment.alpha,
        estimate=_estimate(attachment, kernel),
        every=attachment.option(EVERY),
        precision=attachment.option(PRECISION),
        combined_with=combined,
        options=_options(attachment),
    )


def constraint_record(constrained: Constrained) -> ConstraintRecord:
    """A constraint of ours as reports have it."""
    to, own = constrained.to, constrained.replaced
    scale, every = (constrained.scale, constrained.alpha), constrained.every
    return ConstraintRecord(
        to.name, to.low, to.high, *scale, every, None if own is None else describe(own)
    )


def _options(attachment: Attachment) -> dict[str, Any]:
    """What is said of its options; a file may hold anything under their names."""
    assert attachment.penalty is not None
    names = {o.name for o in attachment.penalty.options} - {ESTIMATE.name, EVERY.name}
    return {
        name: finite(value)
        for name, value in attachment.shown_options.items()
        if name in names and isinstance(value, (str, int, float))
    }


def _left_of_others(decision: Decision) -> str | None:
    slot = decision.slot
    existing = slot.constraint if slot.existing is None else slot.existing
    return describe(existing) if decision.decision == KEPT and existing is not None else None


def _layout_of(kernel: Kernel, attachment: Attachment | None) -> Layout | None:
    """The layout the regularizer reads the kernel by; the kernel's own where there is none."""
    if attachment is None or attachment.layout is None or kernel.weight is None:
        return kernel.layout
    return attachment.layout.for_shape(kernel.weight.shape)


def figures(
    kernel: Kernel, attachment: Attachment | None, *, with_sigmas: bool = True
) -> Deviation | None:
    """The figures of one kernel, with the penalty of the attachment if it has one."""
    if kernel.weight is None or not kernel.weight.is_known:
        return None
    layout = _layout_of(kernel, attachment)
    if layout is None:
        return None
    regularizer = None
    if attachment is not None and attachment.is_penalty and attachment.on == "kernel":
        regularizer = attachment.measured
    weight = kernel.weight
    asked = (layout, repr(regularizer), with_sigmas)
    how = {"with_sigmas": with_sigmas}
    return weight.once(asked, lambda: measure(weight.array(), layout, regularizer, **how))


def operator_of(
    kernel: Kernel, attachment: Attachment | None, figures: Deviation
) -> OperatorFigures | None:
    """The figures of a kernel's operator, from those of its matrices."""
    weight, layout = kernel.weight, kernel.layout
    if weight is None or layout is None:
        return None
    if layout != _layout_of(kernel, attachment):
        figures = measure(weight.array(), layout)
    convolution = Convolution.of(layout, kernel.layer.config, kernel.spec.slot, weight.shape)
    return weight.once(convolution, lambda: measure_operator(weight.array(), convolution, figures))


def with_trained(report: Report, trained: Store, *, with_figures: bool) -> Report:
    """The report once its model was trained: factors as they are now, figures, what is frozen."""
    now = {
        (kernel.layer.path, slot.name, kernel.spec.name): (kernel, slot.current)
        for slot in survey(trained).slots
        for kernel in slot.kernels
    }
    layers = []
    for record in report.layers:
        found = now.get((record.path, record.slot, record.kernel or ""))
        if found is not None:
            record = _as_trained(record, *found, with_figures)
        layers.append(record)
    layers = with_products(layers, "after")
    inactive = [r.path for r in layers if r.carries and not r.trainable]
    if inactive:
        paths = list(dict.fromkeys(inactive))
        report = with_notes(report, [f"frozen, so that their penalty is inactive: {listed(paths)}"])
    held = [r.place for r in layers if r.constraint is not None and not r.trainable]
    if held:
        report = with_notes(
            report, [f"frozen, so that their constraint is inactive: {listed(held)}"]
        )
    return replace(report, layers=tuple(layers))


def _as_trained(
    record: LayerRecord, kernel: Kernel, attachment: Attachment | None, with_figures: bool
) -> LayerRecord:
    if record.carries and record.trainable != kernel.layer.trainable:
        frozen = () if kernel.layer.trainable else (IS_FROZEN,)
        record = replace(record, reasons=about_anew(record.reasons, FROZEN, *frozen))
    if record.regularizer is not None and attachment is not None:
        record = replace(record, regularizer=regularizer_record(attachment, kernel))
    if record.before is not None and with_figures:
        after = figures(kernel, attachment)
        if after is not None and record.before.operator is not None:
            after = replace(after, operator=operator_of(kernel, attachment, after))
        record = replace(record, after=after)
    return replace(record, trainable=kernel.layer.trainable)
