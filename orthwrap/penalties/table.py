"""The one list of penalties, and where another one is added."""

from __future__ import annotations

from collections.abc import Callable

from orthwrap.errors import ValueFault
from orthwrap.penalties import band, cosine, dso, frobenius, lorth, mc, offdiag, so, spectral, srip
from orthwrap.penalties.of_keras import KERAS_NAMES
from orthwrap.penalties.penalty import Penalty

# By name, in the order in which they are shown.
PENALTIES: dict[str, Penalty] = {
    penalty.name: penalty
    for penalty in (
        so.PENALTY,
        dso.PENALTY,
        mc.PENALTY,
        srip.PENALTY,
        lorth.PENALTY,
        offdiag.PENALTY,
        cosine.PENALTY,
        frobenius.PENALTY,
        spectral.PENALTY,
        band.PENALTY,
    )
}

_OURS = frozenset(PENALTIES)
# What `orthwrap.regularizers` holds besides, under a class's name.
_OTHER_CLASSES = ("Attached", "OrthogonalityRegularizer")

_followers: list[Callable[[Penalty], object]] = []


def register_penalty(penalty: Penalty) -> Penalty:
    """Adds a penalty of one's own, which is then known by its name wherever `so` is.

    A file that carries it (as class `orthwrap>` with its `class_name`) is read and loaded only
    where it was registered. One of the same name that was registered before gives way.

    Raises:
        ValueFault: one of orthwrap's or Keras's regularizers has its name, or another its class's.
    """
    others = (p.class_name for p in PENALTIES.values() if p.name != penalty.name)
    if (
        penalty.name in _OURS
        or penalty.name in KERAS_NAMES
        or penalty.class_name in (*others, *_OTHER_CLASSES)
    ):
        raise ValueFault(
            f"penalty {penalty.name!r} of class {penalty.class_name!r}: a regularizer of that "
            "name or class is there already; give it another name and class_name"
        )
    PENALTIES[penalty.name] = penalty
    for follow in _followers:
        follow(penalty)
    return penalty


def with_each_penalty(follow: Callable[[Penalty], object]) -> None:
    """Calls `follow` with every penalty there is, and with each that is registered later."""
    for penalty in PENALTIES.values():
        follow(penalty)
    _followers.append(follow)


def with_pull() -> str:
    """The penalties that have a pull, as a choice in words: `so, dso or lorth`."""
    *names, last = (p.name for p in PENALTIES.values() if p.pull is not None)
    return f"{', '.join(names)} or {last}"


def penalty_of_class(class_name: str) -> Penalty | None:
    """The penalty whose Keras class has this name; None where none is registered."""
    return next((p for p in PENALTIES.values() if p.class_name == class_name), None)
