"""What is decided for each slot, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orthwrap.model_config.tree import Edit
from orthwrap.penalties.attachment import Attachment
from orthwrap.penalties.constrained import Constrained
from orthwrap.plan.reasons import Reasons, joined
from orthwrap.survey import Slot, Survey

# Decisions. A kernel has exactly one of them.
REGULARIZED = "regularized"
ALREADY = "already"
KEPT = "kept"
EXCLUDED = "excluded"
NOT_SELECTED = "not_selected"
UNSUPPORTED = "unsupported"
REMOVED = "removed"
# It carries a constraint of ours, and no regularizer.
CONSTRAINED = "constrained"
# The kernel carries an orthwrap regularizer once the command is done.
CARRYING = (REGULARIZED, ALREADY)

SAME = object()
"""What stands for a key of the config that is not written."""


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
        pull: how hard its kernels are pulled instead, where its rule says so.
        lost_to: the class that does not make its layer from the config, so that it carries
            nothing; "" where that is not so.
        constraint: the constraint of ours that the slot carries when done, or None.
        constraint_value: the node to write for it, or SAME.
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
    pull: float | None = None
    lost_to: str = ""
    constraint: Constrained | None = None
    constraint_value: Any = SAME

    @property
    def changes_regularizer(self) -> bool:
        return self.decision in (REGULARIZED, REMOVED) and self.value is not SAME

    @property
    def changes_constraint(self) -> bool:
        return self.constraint_value is not SAME

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What it changes in the config tree, at every place of a shared layer."""
        values = [(self.slot.key, self.value)] if self.changes_regularizer else []
        if self.changes_constraint:
            values.append((self.slot.constraint_key, self.constraint_value))
        return tuple(Edit(at, *value) for value in values for at in self.slot.layer.pointers)

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
        return tuple(edit for d in self.decisions for edit in d.edits)

    @property
    def changes(self) -> tuple[Decision, ...]:
        return tuple(d for d in self.decisions if d.changes_regularizer or d.changes_constraint)


def in_order(surveyed: Survey, decisions: Sequence[Decision]) -> list[Decision]:
    order = {layer.path: i for i, layer in enumerate(surveyed.layers)}
    return sorted(decisions, key=lambda d: order[d.slot.layer.path])
