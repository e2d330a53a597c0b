"""Which scale a kernel is driven to, where its own RMS singular value α decides."""

from __future__ import annotations

import math
from dataclasses import replace

from orthwrap.penalties.attachment import Attachment
from orthwrap.plan.reasons import SCALE, Reason, Reasons
from orthwrap.rules.rule import AUTO_SCALE, Rule
from orthwrap.survey import Slot

# α in here is near enough to 1 for singular values to be driven there.
LEAST, MOST = 0.8, 1.25


def scaled(slot: Slot, rule: Rule, attachment: Attachment) -> tuple[Attachment, Reasons]:
    """A slot's attachment with scale and α, and why; an object keeps the scale that it has.

    Args:
        attachment: with its layout and place, as the slot will carry it.
    """
    penalty = attachment.penalty
    if penalty is None:
        return attachment, ()
    if not _is_auto(rule):
        measured = attachment.scale == "preserve"
        return replace(attachment, alpha=slot.alpha()) if measured else attachment, ()
    if attachment.on == "activity":
        return attachment, _because("unit: of outputs")
    if not penalty.concerns_alpha:
        return attachment, _because(f"unit: the minimum of {penalty.name} is the same at any")
    if penalty.says_scale:
        return attachment, _because(f"unit: {penalty.name} has a target of its own")
    if slot.doubt:
        return attachment, _because("unit: the kernel's own is not known")
    alpha = slot.alpha()
    if not math.isfinite(alpha):
        return attachment, _because("unit: the kernel's RMS singular value is no finite number")
    said = f"RMS singular value {alpha:.3g}"
    if LEAST <= alpha <= MOST:
        return attachment, _because(f"unit: {said}, within {LEAST:g} to {MOST:g}")
    found = replace(attachment, scale="preserve", alpha=alpha)
    return found, _because(f"preserve: {said}, outside {LEAST:g} to {MOST:g}")


def scale_problem(slot: Slot, rule: Rule, attachment: Attachment) -> str:
    """Why α cannot be taken; "" where it can, or where it is not asked for."""
    if not slot.doubt or attachment.penalty is None or _is_auto(rule):
        return ""
    return without_alpha(slot) if attachment.scale == "preserve" else ""


def without_alpha(slot: Slot) -> str:
    """Why nothing can be held at the scale of a kernel that is not known for sure."""
    return f"{slot.doubt}, so scale preserve has no α"


def _is_auto(rule: Rule) -> bool:
    """Whether the scale is to be found; an object keeps the one that it has."""
    return rule.scale == AUTO_SCALE and isinstance(rule.regularizer, str)


def _because(text: str) -> Reasons:
    return (Reason(f"scale {text}", SCALE),)
