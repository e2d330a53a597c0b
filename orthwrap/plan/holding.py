"""What a rule's constraint makes of a slot, beside its regularizer or alone."""

from __future__ import annotations

import math
from dataclasses import replace

from orthwrap.penalties.attachment import describe
from orthwrap.penalties.constrained import Constrained
from orthwrap.plan.decision import CONSTRAINED, UNSUPPORTED, Decision
from orthwrap.plan.reasons import FROZEN, Reason, Reasons, about_anew, because
from orthwrap.plan.scales import LEAST, MOST, without_alpha
from orthwrap.rules.rule import AUTO_SCALE, Rule
from orthwrap.survey import Slot

NOT_WHILE_FROZEN = Reason("frozen: Keras applies no constraint while it is", FROZEN)


def constrained(decision: Decision, rule: Rule) -> Decision:
    """The decision with the constraint that the rule asks for, or with why there is none."""
    slot = decision.slot
    if rule.constrain is None or decision.decision == UNSUPPORTED:
        return decision
    found = _made(slot, rule)
    if isinstance(found, str):
        alone = decision.attachment is None
        why = because(found if alone else f"no constraint: {found}")
        decision = replace(decision, reasons=(*decision.reasons, *why))
        return replace(decision, decision=UNSUPPORTED) if alone else decision
    made, reasons = found
    if made is None:
        return replace(decision, reasons=(*decision.reasons, *reasons))
    reasons = (*decision.reasons, *reasons)
    if not slot.layer.trainable:
        reasons = about_anew(reasons, FROZEN, NOT_WHILE_FROZEN)
    changed = replace(decision, reasons=reasons, constraint=made)
    if decision.attachment is None:
        changed = replace(changed, decision=CONSTRAINED)
    if slot.held == made:
        return changed
    return replace(changed, constraint_value=made.to_node())


def _made(slot: Slot, rule: Rule) -> tuple[Constrained | None, Reasons] | str:
    """The constraint, if there is one, and why; or why the slot cannot carry one."""
    if slot.no_constraint:
        return slot.no_constraint
    current = slot.held
    own = slot.constraint if current is None else current.replaced
    if current is None and own is not None and rule.existing != "replace":
        return None, because(
            f"keeps its constraint {describe(own)}: of two in turn the last alone holds (existing "
            "replace sets it aside)"
        )
    scale = _scale(slot, rule)
    if scale is None:
        return without_alpha(slot)
    name, alpha, why = scale
    made = Constrained(
        rule.constrain,
        name,
        alpha,
        rule.every,
        slot.layout,
        replaced=own,
        absent=slot.constraint_key not in slot.layer.config if current is None else current.absent,
    )
    if current is None:
        said = f"held {made} after each step"
        set_aside = "" if own is None else f"sets its constraint {describe(own)} aside"
    else:
        said, set_aside = f"already held {made}" if current == made else f"{current} → {made}", ""
    return made, because(said, set_aside, why)


def _scale(slot: Slot, rule: Rule) -> tuple[str, float, str] | None:
    """(scale, α, why); None where α was asked for and cannot be known."""
    unit = ("unit", 1.0, "")
    if rule.scale == "unit" or (rule.scale == AUTO_SCALE and rule.constrain.name != "orthogonal"):
        return unit
    if slot.doubt:
        return unit if rule.scale == AUTO_SCALE else None
    alpha = slot.alpha()
    if rule.scale == AUTO_SCALE and (not math.isfinite(alpha) or LEAST <= alpha <= MOST):
        return unit
    why = f"scale preserve: RMS singular value {alpha:.3g}"
    return "preserve", alpha, why if rule.scale == AUTO_SCALE else ""


def as_it_stands(decision: Decision) -> Decision:
    """A decision that leaves the slot alone, with the constraint of ours that is there."""
    held = decision.slot.held
    if held is None:
        return decision
    decision = replace(decision, constraint=held)
    reasons = (*decision.reasons, *because(f"held {held} after each step"))
    if decision.attachment is not None or decision.decision == UNSUPPORTED:
        return replace(decision, reasons=reasons)
    if not decision.slot.layer.trainable:
        reasons = (*reasons, NOT_WHILE_FROZEN)
    return replace(decision, decision=CONSTRAINED, reasons=reasons, measured=True)
