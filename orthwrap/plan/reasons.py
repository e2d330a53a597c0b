"""Why something was decided, as parts that are joined when they are shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# What is known anew once a model was trained.
FROZEN = "frozen"
AUTO_FACTOR = "factor auto"
SCALE = "scale"  # which one, and why, where it was to be found


class Reason(NamedTuple):
    """One part: what is said, and what it is about where another part may take its place."""

    text: str
    about: str = ""


Reasons = tuple[Reason, ...]

IS_FROZEN = Reason("frozen: Keras applies no penalty while it is", FROZEN)


def because(*texts: str) -> Reasons:
    """Parts that stay as they are; empty ones are left out."""
    return tuple(Reason(text) for text in texts if text)


def joined(reasons: Iterable[Reason]) -> str:
    """As it is shown."""
    return "; ".join(reason.text for reason in reasons)


def about_anew(reasons: Reasons, about: str, *new: Reason) -> Reasons:
    """The reasons, with `new` in place of what was said about it."""
    return (*(r for r in reasons if r.about != about), *new)
