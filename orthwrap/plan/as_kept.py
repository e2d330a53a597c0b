"""A plan, once a model was made of it and it is known what a file keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orthwrap.plan.decision import CARRYING, UNSUPPORTED, Decision, Plan
from orthwrap.plan.reasons import because
from orthwrap.survey import Slot

Place = tuple[str, str]


def place_of(slot: Slot) -> Place:
    return slot.layer.path, slot.name


def carrying(planned: Plan) -> tuple[Decision, ...]:
    """The decisions by which a slot carries a regularizer or a constraint of ours."""
    return tuple(d for d in planned.decisions if d.decision in CARRYING or d.constraint is not None)


def as_kept(planned: Plan, lost: Mapping[Place, str], *, saved: bool) -> Plan:
    """The plan, saying of each slot what a file loses.

    Args:
        lost: slots that a file does not keep → the class that makes their layers.
        saved: what a file loses is not attached then; else it acts in memory.
    """

    def with_loss(decision: Decision) -> Decision:
        maker = lost.get(place_of(decision.slot))
        if maker is None or not (decision.decision in CARRYING or decision.constraint):
            return decision
        why = f"class {maker} makes this layer anew, not from its config"
        if not saved:
            reasons = because(f"a saved file loses it: {why}")
            return replace(decision, reasons=(*decision.reasons, *reasons))
        reasons = because(f"a file would not keep it: {why}")
        return Decision(
            decision.slot, UNSUPPORTED, reasons, decision.rule, measured=True, lost_to=maker
        )

    return replace(planned, decisions=tuple(map(with_loss, planned.decisions)))
