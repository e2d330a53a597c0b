"""Slots + rules → decisions with reasons. Nothing is changed here, and everything is checked.

`plan` decides, and `Plan.edits` says what to change in the config tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orthwrap.errors import NoMatchError
from orthwrap.model_config.layout import across_channels, in_filter_groups, why_no_filter_groups
from orthwrap.penalties.attachment import Attachment, describe
from orthwrap.penalties.options import ACROSS_CHANNELS, FILTER_GROUPS
from orthwrap.penalties.template import template
from orthwrap.plan.as_it_is import penalties_left, taken_out, unsupported
from orthwrap.plan.decision import (
    ALREADY,
    EXCLUDED,
    KEPT,
    NOT_SELECTED,
    REGULARIZED,
    REMOVED,
    UNSUPPORTED,
    Decision,
    Plan,
    in_order,
)
from orthwrap.plan.explain import check_targets, warnings_of
from orthwrap.plan.holding import as_it_stands, constrained
from orthwrap.plan.parsed import ParsedRule, matching, parse_rule
from orthwrap.plan.reasons import AUTO_FACTOR, IS_FROZEN, Reason, Reasons, because
from orthwrap.plan.scales import scale_problem, scaled
from orthwrap.rules.patterns import Pattern
from orthwrap.rules.rule import Rule
from orthwrap.rules.words import AUTO
from orthwrap.survey import Slot, Survey, other_slots


def plan(
    surveyed: Survey, rules: Sequence[Rule], templates: Sequence[Attachment | None] | None = None
) -> Plan:
    """A decision for every kernel.

    Args:
        surveyed: from `survey`.
        rules: the first that matches a slot wins.
        templates: for each rule, its regularizer as an attachment without layout and α; made
            from the rule's words where None. A rule that attaches none has none.

    Raises:
        NoMatchError: a target matches nothing that has a kernel, or all it chose is unsupported.
        ValueFault: a regularizer, factor or option is not valid.
        UsageError: options that contradict each other.
    """
    if templates is None:
        templates = [template(rule) if rule.attaches else None for rule in rules]
    parsed = [parse_rule(rule, t) for rule, t in zip(rules, templates, strict=True)]
    check_targets(surveyed, parsed)
    decided = (_decide(slot, parsed) for slot in (*surveyed.slots, *surveyed.activities))
    decisions = [d for d in decided if d is not None]
    taking = [p for p in parsed if p.rule.takes_out]
    others = (_decide(slot, taking) for slot in other_slots(surveyed) if taking)
    decisions += [d for d in others if d is not None and d.decision == REMOVED]
    chosen = [d for d in decisions if d.rule is not None and d.decision != EXCLUDED]
    unsupported = [d for d in chosen if d.decision == UNSUPPORTED]
    if chosen and len(unsupported) == len(chosen):
        first = unsupported[0]
        raise NoMatchError(
            f"nothing that was chosen can be regularized: {first.slot.layer.path}: {first.reason}"
        )
    left = penalties_left(surveyed) if any("*" in p.rule.target for p in taking) else ()
    return Plan(tuple(in_order(surveyed, decisions)), (*warnings_of(surveyed, parsed), *left))


def _decide(slot: Slot, parsed: Sequence[ParsedRule]) -> Decision | None:
    """None for an activity slot that no rule is about."""
    excluded: tuple[str, str] | None = None
    for p in parsed:
        target = next(
            (t for t in p.target if p.is_about(t, slot) and matching(t, slot)),
            None,
        )
        if target is None:
            continue
        out = next((x for x in p.exclude if matching(x, slot)), None)
        if out is not None:
            p.used.add(out.text)
            excluded = (target.text, out.text)
            continue
        return taken_out(slot, target.text) if p.rule.takes_out else _attach(slot, p, target)
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
    if current is not None and slot.idle:
        return unsupported(slot, rule)
    if current is not None:
        reasons = because(reason, "left as it is")
        decided = Decision(slot, ALREADY, reasons, rule, attachment=current, measured=True)
        return as_it_stands(decided)
    return as_it_stands(Decision(slot, decision, because(reason), rule))


def _attach(slot: Slot, p: ParsedRule, target: Pattern) -> Decision:
    """What a rule makes of a slot that it matches."""
    if slot.problem:
        return unsupported(slot, target.text)
    if p.template is not None:
        decided = _regularized(slot, p, p.template, target)
    else:
        current, matched = slot.current, because(f"matches {target.text}")
        kind = KEPT if current is None else ALREADY
        decided = Decision(slot, kind, matched, target.text, current, measured=True)
    asked = constrained(decided, p.rule)
    return as_it_stands(asked) if asked.constraint is None else asked


def _regularized(slot: Slot, p: ParsedRule, own: Attachment, target: Pattern) -> Decision:
    """What becomes of the slot's regularizer."""
    rule = p.rule
    attachment, auto = _with_factor(slot, p, own)
    problem = _penalty_problem(slot, attachment) or scale_problem(slot, rule, attachment)
    if problem:
        return Decision(slot, UNSUPPORTED, because(problem), target.text, measured=True)
    current = slot.current
    if current is None and slot.existing is not None and rule.existing == "keep":
        kept = because(f"keeps its {describe(slot.existing)}")
        return Decision(slot, KEPT, kept, target.text, measured=True)
    attachment, why_scale = scaled(slot, rule, _fitted(slot, attachment))
    attachment, reasons = _with_existing(slot, attachment, rule.existing)
    if not slot.layer.trainable:
        reasons = (*reasons, IS_FROZEN)
    decided = Decision(
        slot,
        REGULARIZED,
        because(f"matches {target.text}"),
        target.text,
        attachment,
        None if current is None else f"{current.name} {current.factor:g}",
        measured=True,
        value=attachment.to_node(),
        auto=auto,
        schedule=rule.schedule,
        pull=rule.pull,
    )
    changed: Reasons = ()
    if current is not None and current.to_node() == decided.value:
        decided = Decision(
            slot, ALREADY, because(f"already has {current}"), target.text, current, measured=True
        )
        decided = replace(decided, auto=auto, schedule=rule.schedule, pull=rule.pull)
    elif current is not None:
        changed = because(f"was {current}" if auto else f"{current} → {attachment}")
    text = f"factor auto: {attachment.factor:g} until training finds it"
    until = (Reason(text, AUTO_FACTOR),) if auto else ()
    return replace(decided, reasons=(*decided.reasons, *reasons, *changed, *why_scale, *until))


def _with_factor(slot: Slot, p: ParsedRule, own: Attachment) -> tuple[Attachment, bool]:
    """The rule's regularizer with the factor for this slot; whether training finds that."""
    for pattern, factor in p.factor_for:
        if matching(pattern, slot):
            p.used.add(pattern.text)
            if isinstance(factor, float):
                return replace(own, factor=factor), False
            return own, factor == AUTO
    return own, p.rule.factor == AUTO


def _fitted(slot: Slot, attachment: Attachment) -> Attachment:
    """The regularizer with the slot's layout."""
    if slot.name == "activity":
        return replace(attachment, on="activity")
    layout = slot.layout
    if attachment.option(ACROSS_CHANNELS) and layout is not None and layout.name == "depthwise":
        layout = across_channels(layout)
    groups = attachment.option(FILTER_GROUPS)
    if groups > 1 and layout is not None:
        layout = in_filter_groups(layout, groups)
    read_by = (ACROSS_CHANNELS.name, FILTER_GROUPS.name)  # which the layout now says
    options = {k: v for k, v in attachment.options.items() if k not in read_by}
    attachment = replace(attachment, options=options)
    if not attachment.is_penalty:
        return attachment
    return replace(attachment, layout=layout)


def _with_existing(slot: Slot, attachment: Attachment, existing: str) -> tuple[Attachment, Reasons]:
    """The regularizer with what is there already beside it, or set aside for `strip`; and why."""
    current = slot.current
    # What acts beside ours, and what was set aside earlier and stays so.
    active = slot.existing if current is None else current.combined_with
    set_aside = None if current is None else current.replaced
    reasons = because(slot.note)
    if active is not None and existing == "replace":
        active, set_aside = None, active
        reasons = (*reasons, *because(f"replaces its {describe(set_aside)}"))
    elif active is not None:
        reasons = (*reasons, *because(f"added to its {describe(active)}"))
    absent = slot.key not in slot.layer.config if current is None else current.absent
    return replace(attachment, combined_with=active, replaced=set_aside, absent=absent), reasons


def _penalty_problem(slot: Slot, attachment: Attachment) -> str:
    """Why the penalty cannot be asked of this slot."""
    if attachment.penalty is None or slot.layout is None:
        return ""
    weight = slot.kernels[0].weight
    assert weight is not None  # a slot without its weight has a problem already
    problem = attachment.penalty.problem(slot.layout, weight.shape)
    groups = attachment.option(FILTER_GROUPS)
    if problem or groups == 1:
        return problem
    shapes = [k.weight.shape for k in slot.kernels if k.weight is not None]
    whys = (why_no_filter_groups(slot.layout, shape, groups) for shape in shapes)
    return next(filter(None, whys), "")
