"""A regularizer as a node of the config tree: read and written without Keras."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orthwrap.errors import ValueFault
from orthwrap.model_config.layout import Layout
from orthwrap.model_config.tree import PACKAGE, class_of, is_ours, unreadable
from orthwrap.penalties.of_keras import KERAS_NAMES, keras_node
from orthwrap.penalties.options import FILTER_GROUPS, Option
from orthwrap.penalties.penalty import Penalty
from orthwrap.penalties.table import PENALTIES, penalty_of_class
from orthwrap.rules.rule import FREE

MODULE = "orthwrap.regularizers"

ATTACHED = "Attached"  # the class that holds a foreign regularizer or a reference to a function


@dataclass(frozen=True)
class Attachment:
    """What orthwrap puts into one slot.

    Attributes:
        name: a penalty's name; for a foreign regularizer, what the report calls it.
        factor: its coefficient λ.
        scale, alpha: `"unit"` and 1.0, `"preserve"` and the scale measured at attach time, or
            `"free"` and 1.0, which stands for the scale of the moment.
        options: the options that differ from their defaults.
        layout: of the kernel; None on an activity.
        on: `"kernel"` or `"activity"`.
        foreign: for a regularizer that is none of our penalties: its config node, or
            `"package.module:function"`; None for a penalty.
        combined_with: the node of the foreign regularizer that is added to the penalty.
        replaced: the node of the foreign regularizer that is kept only for `strip`.
        absent: the config had no such key before, so that `strip` takes it out again.
    """

    name: str
    factor: float
    scale: str = "unit"
    alpha: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout | None = None
    on: str = "kernel"
    foreign: Any = None
    combined_with: Any = None
    replaced: Any = None
    absent: bool = False

    @property
    def is_penalty(self) -> bool:
        return self.foreign is None

    @property
    def original(self) -> Any:
        """What was in the slot before orthwrap came."""
        return self.replaced if self.combined_with is None else self.combined_with

    @property
    def penalty(self) -> Penalty | None:
        """The descriptor of the penalty; None for a foreign regularizer."""
        return PENALTIES[self.name] if self.is_penalty else None

    def option(self, option: Option) -> Any:
        """The value that holds, given or not."""
        return self.options.get(option.name, option.default)

    @property
    def shown_options(self) -> dict[str, Any]:
        """What differs from the defaults, as it was asked for."""
        groups = 1 if self.layout is None else self.layout.filter_groups
        return {**self.options, **({FILTER_GROUPS.name: groups} if groups > 1 else {})}

    @property
    def is_free(self) -> bool:
        """Whether α is that of the moment."""
        return self.scale == FREE

    @property
    def measured(self) -> dict[str, Any]:
        """What its penalty is measured by: name, α (None: that of the moment) and options."""
        alpha = None if self.is_free else self.alpha
        return {"name": self.name, "alpha": alpha, "options": self.options}

    def sides(self, layout: Layout, shape: tuple[int, ...]) -> tuple[int, int]:
        """(m, n) of the matrices that its penalty multiplies, for a kernel of this shape."""
        if self.penalty is not None and self.penalty.of_kernel:
            return shape[-2] if len(shape) > 1 else 1, shape[-1] // layout.parts
        return layout.matrices(shape)[1:]

    def to_node(self) -> dict[str, Any]:
        """The node, in Keras 3's form, which `.h5` and `.keras` files read alike."""
        config: dict[str, Any] = {"factor": self.factor}
        if self.penalty is not None:
            class_name = self.penalty.class_name
            config |= {"scale": self.scale, "alpha": self.alpha, **self.options}
            config["layout"] = None if self.layout is None else self.layout.to_config()
        else:
            class_name = ATTACHED
            config |= {"name": self.name, "regularizer": self.foreign, **self.options}
        config["on"] = self.on
        config["combined_with"] = self.combined_with
        config["replaced"] = self.replaced
        if self.absent:
            config["absent"] = True
        return {
            "module": MODULE,
            "class_name": class_name,
            "config": config,
            "registered_name": f"{PACKAGE}>{class_name}",
        }

    @classmethod
    def from_node(cls, node: Mapping[str, Any]) -> Attachment:
        """The inverse of `to_node`.

        Raises:
            ValueFault: the node is orthwrap's, but not one this version writes.
        """
        class_name = class_of(node)
        penalty = penalty_of_class(class_name)
        if penalty is None and class_name != ATTACHED:
            raise ValueFault(
                f"the config holds an orthwrap regularizer {class_name!r} whose penalty is not "
                "registered here: import the module that calls orthwrap.register_penalty "
                "(--custom-objects MODULE)"
            )
        try:
            return cls._read(penalty, dict(node.get("config") or {}))
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise unreadable(f"regularizer {class_name!r}", e) from e

    @classmethod
    def _read(cls, penalty: Penalty | None, config: dict[str, Any]) -> Attachment:
        layout = config.pop("layout", None)
        known: dict[str, Any] = {
            "factor": float(config.pop("factor")),
            "on": str(config.pop("on", "kernel")),
            "combined_with": config.pop("combined_with", None),
            "replaced": config.pop("replaced", None),
            "absent": bool(config.pop("absent", False)),
        }
        if penalty is None:
            name, foreign = str(config.pop("name")), config.pop("regularizer")
            return cls(name=name, foreign=foreign, options=config, **known)
        return cls(
            name=penalty.name,
            scale=str(config.pop("scale", "unit")),
            alpha=float(config.pop("alpha", 1.0)),
            layout=None if layout is None else Layout.from_config(layout),
            options=config,
            **known,
        )

    @property
    def label(self) -> str:
        """The name, and what it stands for where it does not say so itself."""
        if self.is_penalty or (self.name in KERAS_NAMES and self.foreign == keras_node(self.name)):
            return self.name
        meant = without_address(self.foreign) if isinstance(self.foreign, str) else None
        meant = meant or describe(self.foreign)
        return self.name if self.name == meant else f"{self.name} ({meant})"

    def __str__(self) -> str:
        words = [f"{self.label} {self.factor:g}"]
        if self.scale != "unit":
            words.append(self.scale)
        words += [f"{k}={v}" for k, v in self.shown_options.items()]
        if self.combined_with is not None:
            words.append(f"+ {describe(self.combined_with)}")
        return " ".join(words)


def check_reference(foreign: Any, found: str) -> None:
    """ValueFault where a foreign regularizer is a function that a file cannot refer to.

    Args:
        foreign: its node or reference; one with `<…>` holds in this process alone.
        found: what and where it is, for the message.
    """
    if isinstance(foreign, str) and "<" in foreign:
        raise ValueFault(
            f"a file can refer to a function only as package.module:function; {found}: "
            "give it a name in a module"
        )


def without_address(reference: str) -> str:
    """A reference to a function without a name, as a person would write it."""
    return re.sub(" at 0x[0-9a-f]+>", ">", reference)


def ours_within(tree: Any) -> set[str]:
    """What in a config tree only orthwrap can load, by registered name."""
    if isinstance(tree, Mapping):
        found = {name for v in tree.values() for name in ours_within(v)}
        name = str(tree.get("registered_name") or "")
        return found | {name} if name.startswith(f"{PACKAGE}>") else found
    if isinstance(tree, (list, tuple)):
        return {name for v in tree for name in ours_within(v)}
    return {tree} if isinstance(tree, str) and tree.startswith(f"{PACKAGE}>") else set()


def describe(node: Any) -> str:
    """A regularizer node in a word: `L2(l2=0.01)`."""
    if isinstance(node, str):
        return node
    if not isinstance(node, Mapping):
        return str(node)
    if is_ours(node):
        return str(Attachment.from_node(node))
    config = node.get("config")
    if not isinstance(config, Mapping):
        return class_of(node) or str(node.get("name", node)) if config is None else str(config)
    values = [f"{k}={v:.6g}" for k, v in config.items() if isinstance(v, float) and v]
    return f"{class_of(node)}({', '.join(values)})" if values else class_of(node)
