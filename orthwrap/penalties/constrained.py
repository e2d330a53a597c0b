"""A constraint as a node of the config tree: read and written without Keras."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orthwrap.errors import ValueFault
from orthwrap.model_config.layout import Layout
from orthwrap.model_config.tree import PACKAGE, class_of, is_ours, unreadable
from orthwrap.penalties.options import EVERY
from orthwrap.rules.constrain import Constrain
from orthwrap.rules.rule import SCALES_HELD

# Users' files name both.
CONSTRAINTS = "orthwrap.constraints"
CLASS_NAME = "OrthogonalityConstraint"


def is_our_constraint(node: Any) -> bool:
    """True for a constraint node that orthwrap wrote."""
    return is_ours(node) and class_of(node) == CLASS_NAME


@dataclass(frozen=True)
class Constrained:
    """What orthwrap puts into the `…_constraint` of one slot.

    Attributes:
        to: what singular values are held to.
        scale, alpha: `"unit"` and 1.0, or `"preserve"` and the scale measured at attach time, in
            units of which they are.
        every: it acts at one update of the optimizer in so many.
        layout: of the kernel; None goes by its rank.
        replaced: the node of the user's own constraint, kept only for `strip`.
        absent: the config had no such key before, so that `strip` takes it out again.
    """

    to: Constrain
    scale: str = "unit"
    alpha: float = 1.0
    every: int = 1
    layout: Layout | None = None
    replaced: Any = None
    absent: bool = False

    def __post_init__(self) -> None:
        if self.scale not in SCALES_HELD:
            raise ValueFault(
                f"scale={self.scale!r} is not known; choose one of: {', '.join(SCALES_HELD)}"
            )
        if not 0 < self.alpha < math.inf:
            raise ValueFault(f"alpha={self.alpha!r} must be a finite number above 0")
        try:
            EVERY.convert(self.every)
        except ValueError as e:
            raise ValueFault(f"every={self.every!r} {e}") from None

    def to_config(self) -> dict[str, Any]:
        """JSON-ready, the words of the Keras class."""
        config: dict[str, Any] = {
            "constrain": str(self.to),
            "scale": self.scale,
            "alpha": self.alpha,
            "every": self.every,
            "layout": None if self.layout is None else self.layout.to_config(),
            "replaced": self.replaced,
        }
        return {**config, "absent": True} if self.absent else config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Constrained:
        """The inverse of `to_config`; ValueFault, or what a config of others may raise."""
        config = dict(config)
        layout = config.pop("layout", None)
        return cls(
            Constrain.parse(config.pop("constrain")),
            alpha=float(config.pop("alpha", 1.0)),
            layout=layout
            if layout is None or isinstance(layout, Layout)
            else Layout.from_config(layout),
            **config,
        )

    def to_node(self) -> dict[str, Any]:
        """The node, in Keras 3's form, which `.h5` and `.keras` files read alike."""
        return {
            "module": CONSTRAINTS,
            "class_name": CLASS_NAME,
            "config": self.to_config(),
            "registered_name": f"{PACKAGE}>{CLASS_NAME}",
        }

    @classmethod
    def from_node(cls, node: Mapping[str, Any]) -> Constrained:
        """The inverse of `to_node`; ValueFault where this version does not write such a one."""
        try:
            return cls.from_config(node["config"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
            raise unreadable("constraint", e) from e

    def __str__(self) -> str:
        words = [str(self.to)]
        if self.scale != "unit":
            words.append(self.scale)
        if self.every != 1:
            words.append(f"every={self.every}")
        return " ".join(words)
