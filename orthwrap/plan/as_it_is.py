"""The plans of the verbs that attach nothing: inspect and strip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orthwrap.errors import NoMatchError
from orthwrap.model_config.tree import ABSENT
from orthwrap.penalties.attachment import describe
from orthwrap.plan.decision import (
    ALREADY,
    EXCLUDED,
    KEPT,
    NOT_SELECTED,
    REMOVED,
    SAME,
    UNSUPPORTED,
    Decision,
    Plan,
    in_order,
)
from orthwrap.plan.explain import excludes_nothing, why_no_match
from orthwrap.plan.holding import as_it_stands
from orthwrap.plan.parsed import matching
from orthwrap.plan.reasons import IS_FROZEN, because
from orthwrap.rules.patterns import parse
from orthwrap.survey import Slot, Survey, other_slots
from orthwrap.text import listed


def plan_inspect(
    surveyed: Survey, target: Sequence[Any] | None = None, exclude: Sequence[Any] = ()
) -> Plan:
    """What each kernel carries now. With targets, the others are `not_selected`."""
    everything = target is None
    chosen = tuple(parse(t) for t in (target or ()))
    out = tuple(parse(e) for e in exclude)
    for pattern in chosen:
        if not any(matching(pattern, s) for s in (*surveyed.slots, *surveyed.activities)):
            raise NoMatchError(why_no_match(surveyed, pattern, "kernel"))
    decisions = []
    used: set[str] = set()
    for slot in (*surveyed.slots, *surveyed.activities):
        hit = next((p.text for p in chosen if matching(p, slot)), None)
        gone = next((p.text for p in out if matching(p, slot)), None)
        if gone is not None and (hit is not None or everything):
            used.add(gone)
        if slot.name == "activity" and slot.existing is None:
            continue
        if hit is None and not everything:
            decisions.append(Decision(slot, NOT_SELECTED, because("no target matches")))
        elif gone is not None:
            decisions.append(Decision(slot, EXCLUDED, because(f"matches exclude {gone}"), hit))
        else:
            found = replace(_as_it_is(slot, hit), measured=True)
            decisions.append(as_it_stands(found))
    warnings = tuple(excludes_nothing(surveyed, p) for p in out if p.text not in used)
    return Plan(tuple(in_order(surveyed, decisions)), warnings)


def unsupported(slot: Slot, rule: str | None) -> Decision:
    """A slot whose kernels cannot be regularized, whatever it carries from before."""
    idle = "" if slot.current is None or not slot.idle else f"has {slot.current}, which is idle"
    return Decision(slot, UNSUPPORTED, because(idle, slot.problem), rule, measured=True)


def _as_it_is(slot: Slot, rule: str | None) -> Decision:
    current = slot.current
    if current is not None and slot.idle:
        return unsupported(slot, rule)
    if current is not None:
        frozen = () if slot.layer.trainable else (IS_FROZEN,)
        return Decision(slot, ALREADY, (*because(f"has {current}"), *frozen), rule, current)
    if slot.existing is not None:
        return Decision(slot, KEPT, because(f"has {describe(slot.existing)}"), rule)
    if slot.problem:
        return unsupported(slot, rule)
    return Decision(slot, NOT_SELECTED, because("has no regularizer"), rule)


def plan_strip(surveyed: Survey) -> Plan:
    """Takes out every orthwrap regularizer and constraint, and gives back what was there before."""
    decisions = []
    for slot in (*surveyed.slots, *surveyed.activities):
        current = slot.current
        if current is None and slot.held is None:
            if slot.name != "activity":
                decisions.append(
                    Decision(slot, NOT_SELECTED, because("has no orthwrap regularizer"))
                )
            continue
        decided = Decision(slot, REMOVED, (), value=SAME)
        if current is not None:
            original = current.original
            back = "" if original is None else f"{describe(original)} is back"
            decided = replace(
                decided,
                reasons=because(f"had {current}", back),
                previous=str(current),
                value=ABSENT if current.absent else original,
            )
        decisions.append(_released(decided))
    return Plan(tuple(in_order(surveyed, decisions)))


def _released(decision: Decision) -> Decision:
    """The decision, and what it carries of our constraint is taken off too."""
    held = decision.slot.held
    if held is None:
        return decision
    back = "" if held.replaced is None else f"{describe(held.replaced)} is back"
    return replace(
        decision,
        reasons=(*decision.reasons, *because(f"was held {held}", back)),
        constraint_value=ABSENT if held.absent else held.replaced,
    )


def plan_strip_all(surveyed: Survey) -> Plan:
    """Takes out every regularizer, whosever it is, and gives nothing back; and our constraints."""
    slots = (*surveyed.slots, *surveyed.activities, *other_slots(surveyed))
    decisions = [d for d in (taken_out(slot) for slot in slots) if d is not None]
    return Plan(tuple(in_order(surveyed, decisions)), penalties_left(surveyed))


def taken_out(slot: Slot, rule: str | None = None) -> Decision | None:
    """What the slot carries is taken out, whosever it is; None for outputs without any."""
    if slot.existing is not None:
        current = slot.current
        had = describe(slot.existing)
        set_aside = None if current is None else current.replaced
        and_this = "" if set_aside is None else f"{describe(set_aside)} was set aside"
        reasons = because(f"had {had}", and_this)
        value = ABSENT if current is not None and current.absent else None
        return _released(Decision(slot, REMOVED, reasons, rule, previous=had, value=value))
    if slot.held is not None:
        return _released(Decision(slot, REMOVED, (), rule, value=SAME))
    if slot.name == "activity":
        return None
    return Decision(slot, NOT_SELECTED, because("has no regularizer"), rule)


def penalties_left(surveyed: Survey) -> tuple[str, ...]:
    """A note of layers whose whole work is a penalty, which taking out regularizers leaves."""
    left = [x.path for x in surveyed.layers if x.class_name == "ActivityRegularization"]
    if not left:
        return ()
    return (f"{listed(left)}: layers of the model that penalise what goes through them; they stay",)
