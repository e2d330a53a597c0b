"""Slots + rules → decisions with reasons. Nothing is changed here, and everything is checked.

`plan` decides, and `Plan.edits` says what to change in the config tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orthwrap.errors import NoMatchError, UsageError, ValueFault, listed
from orthwrap.layouts import SLOT_KEYS, across_channels
from orthwrap.patterns import Candidate, Pattern, nearest, parse
from orthwrap.penalties.attachment import Attachment, describe
from orthwrap.penalties.options import ACROSS_CHANNELS, ESTIMATE
from orthwrap.penalties.template import template
from orthwrap.reasons import AUTO_FACTOR, IS_FROZEN, Reason, Reasons, because, joined
from orthwrap.records import (
    ALREADY,
    EXCLUDED,
    KEPT,
    NOT_SELECTED,
    REGULARIZED,
    REMOVED,
    UNSUPPORTED,
)
from orthwrap.rule import Rule
from orthwrap.survey import Slot, Survey
from orthwrap.walker import ABSENT, Edit
from orthwrap.words import AUTO


@dataclass(frozen=True)
class Decision:
    """What happens to one slot, and why.

    Attributes:
        reasons: why, in parts.
        attachment: what the slot carries when done; None where it carries nothing of ours.
        previous: what our regularizer replaces, in words.
        measured: its kernels' figures belong into the report.
        value: the node to write; meaningful where `decision` is regularized or removed.
        auto: training finds its factor; until then it is the rule's or the regularizer's own.
        schedule: how its factor moves in training, where its rule says so.
    """

    slot: Slot
    decision: str
    reasons: Reasons
    rule: str | None = None
    attachment: Attachment | None = None
    previous: str | None = None
    measured: bool = False
    value: Any = None
    auto: bool = False
    schedule: Any = None

    @property
    def reason(self) -> str:
        """Why, as it is shown."""
        return joined(self.reasons)


@dataclass(frozen=True)
class Plan:
    """Every slot with its decision."""

    decisions: tuple[Decision, ...]
    warnings: tuple[str, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The changes of the config tree, at every place of a shared layer."""
        return tuple(
            Edit(pointer, d.slot.key, d.value)
            for d in self.decisions
            if d.decision in (REGULARIZED, REMOVED)
            for pointer in d.slot.layer.pointers
        )

    @property
    def changes(self) -> tuple[Decision, ...]:
        return tuple(d for d in self.decisions if d.decision in (REGULARIZED, REMOVED))


@dataclass(frozen=True)
class _ParsedRule:
    rule: Rule
    target: tuple[Pattern, ...]
    exclude: tuple[Pattern, ...]
    factor_for: tuple[tuple[Pattern, float | str], ...]
    template: Attachment
    used: set[str] = field(default_factory=set)

    def place(self, pattern: Pattern) -> str:
        return "activity" if self.rule.on == "activity" or pattern.slot == "activity" else "kernel"


def plan(
    surveyed: Survey, rules: Sequence[Rule], templates: Sequence[Attachment] | None = None
) -> Plan:
    """A decision for every kernel.

    Args:
        surveyed: from `survey`.
        rules: the first that matches a slot wins.
        templates: for each rule, its regularizer as an attachment without layout and α; made
            from the rule's words where None.

    Raises:
        NoMatchError: a target matches nothing that has a kernel, or all it chose is unsupported.
        ValueFault: a regularizer, factor or option is not valid.
        UsageError: options that contradict each other.
    """
    if templates is None:
        templates = [template(rule) for rule in rules]
    parsed = [_parse(rule, t) for rule, t in zip(rules, templates, strict=True)]
    _check_targets(surveyed, parsed)
    decided = (_decide(slot, parsed) for slot in (*surveyed.slots, *surveyed.activities))
    decisions = [d for d in decided if d is not None]
    chosen = [d for d in decisions if d.rule is not None and d.decision != EXCLUDED]
    unsupported = [d for d in chosen if d.decision == UNSUPPORTED]
    if chosen and len(unsupported) == len(chosen):
        first = unsupported[0]
        raise NoMatchError(
            f"nothing that was chosen can be regularized: {first.slot.layer.path}: {first.reason}"
        )
    return Plan(tuple(_in_order(surveyed, decisions)), _warnings(surveyed, parsed))


def _parse(rule: Rule, attachment: Attachment) -> _ParsedRule:
    parsed = _ParsedRule(
        rule=rule,
        target=tuple(parse(t) for t in rule.target),
        exclude=tuple(parse(e) for e in rule.exclude),
        factor_for=tuple((parse(p), f) for p, f in rule.factor_for),
        template=attachment,
    )
    if not parsed.target:
        raise ValueFault("a rule needs at least one target pattern")
    if any(parsed.place(t) == "activity" for t in parsed.target):
        penalty = attachment.penalty
        if penalty is not None and penalty.on_outputs is None:
            raise UsageError(
                f"{penalty.name} is a penalty of kernels: choose another one with on activity"
            )
        if attachment.option(ESTIMATE) == "sketch":
            raise UsageError("estimate sketch works on kernels: leave it out with on activity")
        if attachment.scale != "unit":
            raise UsageError("scale preserve works on kernels: leave it out with on activity")
        if rule.is_auto:
            raise UsageError("factor auto works on kernels: give a number with on activity")
    return parsed


def _matching(pattern: Pattern, slot: Slot) -> bool:
    return any(pattern.matches(c) for c in slot.candidates())


def _check_targets(surveyed: Survey, parsed: Sequence[_ParsedRule]) -> None:
    """Every target that was named must match something that can carry a regularizer."""
    for p in parsed:
        empty = []
        for pattern in p.target:
            slots = surveyed.activities if p.place(pattern) == "activity" else surveyed.slots
            if not any(_matching(pattern, s) for s in slots):
                empty.append(pattern)
        # The default names two families; a model need not have both.
        is_default = p.rule.target == Rule().target
        if empty and (not is_default or len(empty) == len(p.target)):
            raise NoMatchError(_why_no_match(surveyed, empty[0], p.place(empty[0])))


def _why_no_match(surveyed: Survey, pattern: Pattern, place: str) -> str:
    leaves = [x for x in surveyed.layers if not x.is_operation]
    if not leaves:
        return (
            "the model's config holds no layers: a model that builds its own layers is changed in "
            "Python, with orthwrap.apply(model, …)"
        )
    matched = [
        layer
        for layer in leaves
        if pattern.matches_layer(Candidate(layer.paths, layer.class_name, None, None, layer))
    ]
    having = surveyed.activities if place == "activity" else surveyed.slots
    if matched:
        named = [f"{x.path} ({x.class_name})" for x in matched]
        slots = list(dict.fromkeys(s.name for s in having if s.layer in matched))
        if slots:
            return (
                f"target {pattern.text!r}: {named[0]} has no slot {pattern.slot!r}; it has "
                f"{', '.join(slots)}"
            )
        what = f"slot {pattern.slot!r}" if pattern.slot else "kernel"
        return (
            f"target {pattern.text!r} matches only layers without a {what}: {listed(named)}; "
            f"layers with kernels are: {_some([s.layer.path for s in having])}"
        )
    if not having:
        return f"target {pattern.text!r} matches nothing: no layer of this model has a kernel"
    is_slot = "@" in pattern.text and pattern.slot is None
    hint = f"; after @ stands a slot: {', '.join(SLOT_KEYS)}" if is_slot else ""
    return f"target {pattern.text!r} matches no layer; nearest: {_nearest(pattern, having)}{hint}"


def _nearest(pattern: Pattern, slots: Sequence[Slot]) -> str:
    close = nearest(
        pattern.text,
        [s.layer.path for s in slots],
        [s.layer.class_name for s in slots],
        {f for s in slots for f in s.families},
    )
    return ", ".join(close)


def _some(paths: Sequence[str]) -> str:
    unique = list(dict.fromkeys(paths))
    if not unique:
        return "none"
    return ", ".join(unique[:3]) + (", …" if len(unique) > 3 else "")


def _decide(slot: Slot, parsed: Sequence[_ParsedRule]) -> Decision | None:
    """None for an activity slot that no rule is about."""
    excluded: tuple[str, str] | None = None
    for p in parsed:
        target = next(
            (
                t
                for t in p.target
                if (p.place(t) == "activity") == (slot.name == "activity") and _matching(t, slot)
            ),
            None,
        )
        if target is None:
            continue
        out = next((x for x in p.exclude if _matching(x, slot)), None)
        if out is not None:
            p.used.add(out.text)
            excluded = (target.text, out.text)
            continue
        return _attach(slot, p, target)
    if slot.name == "activity":
        current = slot.current
        if current is None:
            return None
        return Decision(
            slot, ALREADY, because("no target matches", "left as it is"), attachment=current
        )
    if excluded is not None:
        target_text, exclude_text = excluded
        return _untouched(slot, EXCLUDED, f"matches exclude {exclude_text}", target_text)
    return _untouched(slot, NOT_SELECTED, "no target matches", None)


def _untouched(slot: Slot, decision: str, reason: str, rule: str | None) -> Decision:
    current = slot.current
    if current is not None:
        reasons = because(reason, "left as it is")
        return Decision(slot, ALREADY, reasons, rule, attachment=current, measured=True)
    return Decision(slot, decision, because(reason), rule)


def _attach(slot: Slot, p: _ParsedRule, target: Pattern) -> Decision:
    rule, attachment = p.rule, p.template
    matched = f"matches {target.text}"
    auto = rule.factor == AUTO
    for pattern, factor in p.factor_for:
        if _matching(pattern, slot):
            p.used.add(pattern.text)
            auto = factor == AUTO
            if isinstance(factor, float):
                attachment = replace(attachment, factor=factor)
            break
    if slot.name == "activity":
        attachment = replace(attachment, on="activity")
    else:
        across = attachment.option(ACROSS_CHANNELS)
        options = {k: v for k, v in attachment.options.items() if k != ACROSS_CHANNELS.name}
        layout = slot.layout
        if across and layout is not None and layout.name == "depthwise":
            layout = across_channels(layout)
        problem = slot.problem or _penalty_problem(slot, attachment)
        if problem:
            return Decision(slot, UNSUPPORTED, because(problem), target.text, measured=True)
        attachment = replace(attachment, options=options)
        if attachment.is_penalty:
            attachment = replace(attachment, layout=layout)
        if attachment.is_penalty and attachment.scale == "preserve":
            attachment = replace(attachment, alpha=slot.alpha())

    current = slot.current
    reasons = [*because(slot.note)]
    if current is None and slot.existing is not None and rule.existing == "keep":
        return Decision(
            slot, KEPT, because(f"keeps its {describe(slot.existing)}"), target.text, measured=True
        )
    # What acts beside ours, and what was set aside earlier and stays so.
    active = slot.existing if current is None else current.combined_with
    set_aside = None if current is None else current.replaced
    if active is not None and rule.existing == "replace":
        active, set_aside = None, active
        reasons += because(f"replaces its {describe(set_aside)}")
    elif active is not None:
        reasons += because(f"added to its {describe(active)}")
    attachment = replace(attachment, combined_with=active, replaced=set_aside)
    if not slot.layer.trainable:
        reasons.append(IS_FROZEN)
    text = f"factor auto: {attachment.factor:g} until training finds it"
    until = [Reason(text, AUTO_FACTOR)] if auto else []
    absent = slot.key not in slot.layer.config if current is None else current.absent
    attachment = replace(attachment, absent=absent)
    node = attachment.to_node()
    if current is not None and current.to_node() == node:
        return Decision(
            slot,
            ALREADY,
            (*because(f"already has {current}"), *reasons, *until),
            target.text,
            current,
            measured=True,
            auto=auto,
            schedule=rule.schedule,
        )
    if current is not None:
        reasons += because(f"was {current}" if auto else f"{current} → {attachment}")
    return Decision(
        slot,
        REGULARIZED,
        (*because(matched), *reasons, *until),
        target.text,
        attachment,
        None if current is None else f"{current.name} {current.factor:g}",
        measured=True,
        value=node,
        auto=auto,
        schedule=rule.schedule,
    )


def _penalty_problem(slot: Slot, attachment: Attachment) -> str:
    """Why the penalty cannot be asked of this slot."""
    if attachment.penalty is None or slot.layout is None:
        return ""
    weight = slot.kernels[0].weight
    assert weight is not None  # a slot without its weight has a problem already
    return attachment.penalty.problem(slot.layout, weight.shape)


def _in_order(surveyed: Survey, decisions: Sequence[Decision]) -> list[Decision]:
    order = {layer.path: i for i, layer in enumerate(surveyed.layers)}
    return sorted(decisions, key=lambda d: order[d.slot.layer.path])


def _warnings(surveyed: Survey, parsed: Sequence[_ParsedRule]) -> tuple[str, ...]:
    found = []
    for p in parsed:
        found += [_excludes_nothing(surveyed, x) for x in p.exclude if x.text not in p.used]
        found += [
            f"factor-for {pattern.text!r} matches nothing that was chosen"
            for pattern, _ in p.factor_for
            if pattern.text not in p.used
        ]
    return tuple(dict.fromkeys(found))


def _excludes_nothing(surveyed: Survey, pattern: Pattern) -> str:
    said = f"exclude {pattern.text!r} excludes nothing"
    if any(_matching(pattern, s) for s in (*surveyed.slots, *surveyed.activities)):
        return f"{said} that a target matches"
    return f"{said}; nearest: {_nearest(pattern, surveyed.slots)}"


# The other verbs


def plan_inspect(
    surveyed: Survey, target: Sequence[Any] | None = None, exclude: Sequence[Any] = ()
) -> Plan:
    """What each kernel carries now. With targets, the others are `not_selected`."""
    everything = target is None
    chosen = tuple(parse(t) for t in (target or ()))
    out = tuple(parse(e) for e in exclude)
    for pattern in chosen:
        if not any(_matching(pattern, s) for s in (*surveyed.slots, *surveyed.activities)):
            raise NoMatchError(_why_no_match(surveyed, pattern, "kernel"))
    decisions = []
    used: set[str] = set()
    for slot in (*surveyed.slots, *surveyed.activities):
        hit = next((p.text for p in chosen if _matching(p, slot)), None)
        gone = next((p.text for p in out if _matching(p, slot)), None)
        if gone is not None and (hit is not None or everything):
            used.add(gone)
        if slot.name == "activity" and slot.existing is None:
            continue
        if hit is None and not everything:
            decisions.append(Decision(slot, NOT_SELECTED, because("no target matches")))
        elif gone is not None:
            decisions.append(Decision(slot, EXCLUDED, because(f"matches exclude {gone}"), hit))
        else:
            decisions.append(replace(_as_it_is(slot, hit), measured=True))
    warnings = tuple(_excludes_nothing(surveyed, p) for p in out if p.text not in used)
    return Plan(tuple(_in_order(surveyed, decisions)), warnings)


def _as_it_is(slot: Slot, rule: str | None) -> Decision:
    current = slot.current
    if current is not None:
        frozen = () if slot.layer.trainable else (IS_FROZEN,)
        return Decision(slot, ALREADY, (*because(f"has {current}"), *frozen), rule, current)
    if slot.existing is not None:
        return Decision(slot, KEPT, because(f"has {describe(slot.existing)}"), rule)
    if slot.problem:
        return Decision(slot, UNSUPPORTED, because(slot.problem), rule)
    return Decision(slot, NOT_SELECTED, because("has no regularizer"), rule)


def plan_strip(surveyed: Survey) -> Plan:
    """Takes out every orthwrap regularizer and gives back what was there before it."""
    decisions = []
    for slot in (*surveyed.slots, *surveyed.activities):
        current = slot.current
        if current is None:
            if slot.name != "activity":
                decisions.append(
                    Decision(slot, NOT_SELECTED, because("has no orthwrap regularizer"))
                )
            continue
        original = current.original
        back = "" if original is None else f"{describe(original)} is back"
        decisions.append(
            Decision(
                slot,
                REMOVED,
                because(f"had {current}", back),
                previous=str(current),
                value=ABSENT if current.absent else original,
            )
        )
    return Plan(tuple(_in_order(surveyed, decisions)))
