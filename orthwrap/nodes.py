"""A regularizer as a node of the config tree: read and written without Keras."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orthwrap.catalog import PENALTIES
from orthwrap.errors import ValueFault
from orthwrap.layouts import Layout
from orthwrap.records import RegularizerRecord

PACKAGE = "orthwrap"
MODULE = "orthwrap.regularizers"

# The class that Keras loads for each penalty.
CLASS_NAMES = {
    "so": "SO",
    "dso": "DSO",
    "mc": "MC",
    "srip": "SRIP",
    "lorth": "LOrth",
    "offdiag": "OffDiag",
    "cosine": "Cosine",
    "frobenius": "Frobenius",
}
NAMES = {class_name: name for name, class_name in CLASS_NAMES.items()}
ATTACHED = "Attached"  # the class that holds a foreign regularizer or a reference to a function

OPTION_DEFAULTS: dict[str, Any] = {
    "estimate": "exact",
    "probes": 8,
    "every": 1,
    "steps": 2,
    "seed": None,
}
# Options that every penalty takes, beside those its own table names.
COMMON_OPTIONS = ("every", "across_channels")
KERAS_NAMES = ("l1", "l2", "l1_l2", "orthogonal_regularizer")


@dataclass(frozen=True)
class Attachment:
    """What orthwrap puts into one slot.

    Attributes:
        name: a penalty's name; for a foreign regularizer, what the report calls it.
        factor: its coefficient λ.
        scale, alpha: `"unit"` and 1.0, or `"preserve"` and the scale measured at attach time.
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

    def option(self, key: str) -> Any:
        return self.options.get(key, OPTION_DEFAULTS[key])

    def to_node(self) -> dict[str, Any]:
        """The node, in Keras 3's form, which `.h5` and `.keras` files read alike."""
        config: dict[str, Any] = {"factor": self.factor}
        if self.is_penalty:
            class_name = CLASS_NAMES[self.name]
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
        try:
            config = dict(node.get("config") or {})
            layout = config.pop("layout", None)
            known: dict[str, Any] = {
                "factor": float(config.pop("factor")),
                "on": str(config.pop("on", "kernel")),
                "combined_with": config.pop("combined_with", None),
                "replaced": config.pop("replaced", None),
                "absent": bool(config.pop("absent", False)),
            }
            if class_name == ATTACHED:
                return cls(
                    name=str(config.pop("name")),
                    foreign=config.pop("regularizer"),
                    options=config,
                    **known,
                )
            return cls(
                name=NAMES[class_name],
                scale=str(config.pop("scale", "unit")),
                alpha=float(config.pop("alpha", 1.0)),
                layout=None if layout is None else Layout.from_config(layout),
                options=config,
                **known,
            )
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise ValueFault(
                f"the config holds an orthwrap regularizer {class_name!r} that this version "
                f"cannot read ({e}): use the orthwrap version that wrote it"
            ) from e

    def record(self) -> RegularizerRecord:
        """As the report names it."""
        combined = None if self.combined_with is None else describe(self.combined_with)
        if not self.is_penalty:
            return RegularizerRecord(self.name, self.factor, combined_with=combined)
        return RegularizerRecord(
            name=self.name,
            factor=self.factor,
            scale=self.scale,
            alpha=self.alpha,
            estimate=self.option("estimate"),
            every=self.option("every"),
            combined_with=combined,
        )

    def __str__(self) -> str:
        words = [f"{self.name} {self.factor:g}"]
        if self.scale != "unit":
            words.append(self.scale)
        words += [f"{k}={v}" for k, v in self.options.items()]
        if self.combined_with is not None:
            words.append(f"+ {describe(self.combined_with)}")
        return " ".join(words)


def class_of(node: Mapping[str, Any]) -> str:
    """The class name after the last `>`."""
    return str(node.get("class_name", "")).rpartition(">")[2]


def is_ours(node: Any) -> bool:
    """True for a regularizer node that orthwrap wrote."""
    if not isinstance(node, Mapping):
        return False
    names = (str(node.get("registered_name") or ""), str(node.get("class_name") or ""))
    return any(n.startswith(f"{PACKAGE}>") for n in names) or (
        str(node.get("module") or "").partition(".")[0] == PACKAGE
    )


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
        return class_of(node) if config is None else str(config)
    values = [f"{k}={v:.6g}" for k, v in config.items() if isinstance(v, float) and v]
    return f"{class_of(node)}({', '.join(values)})" if values else class_of(node)


def keras_node(name: str) -> dict[str, Any]:
    """One of Keras's own regularizers with coefficient 1, which the factor then scales."""
    configs: dict[str, tuple[str, dict[str, Any]]] = {
        "l1": ("L1", {"l1": 1.0}),
        "l2": ("L2", {"l2": 1.0}),
        "l1_l2": ("L1L2", {"l1": 1.0, "l2": 1.0}),
        "orthogonal_regularizer": ("OrthogonalRegularizer", {"factor": 1.0, "mode": "rows"}),
    }
    class_name, config = configs[name]
    return {
        "module": "keras.regularizers",
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a penalty, converted and checked, without those at their default.

    Raises:
        ValueFault: an option the penalty does not take, or a value out of range.
    """
    allowed = (*PENALTIES[name].options, *COMMON_OPTIONS)
    checked: dict[str, Any] = {}
    for key, value in options.items():
        if key not in allowed:
            raise ValueFault(
                f"regularizer {name!r} takes no option {key!r}; it takes: {', '.join(allowed)}"
            )
        converted = _convert(key, value)
        if converted != OPTION_DEFAULTS.get(key, False):
            checked[key] = converted
    return checked


def _convert(key: str, value: Any) -> Any:
    if key == "estimate":
        if value not in ("exact", "sketch"):
            raise ValueFault(f"option estimate={value!r} must be exact or sketch")
        return value
    if key == "across_channels":
        if str(value).lower() in ("true", "false", "1", "0"):
            return str(value).lower() in ("true", "1")
        raise ValueFault(f"option across_channels={value!r} must be true or false")
    if key == "seed" and value is None:
        return None
    try:
        number = int(value)
        if number != float(value):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueFault(f"option {key}={value!r} must be a whole number") from None
    lowest = 0 if key == "seed" else 1
    if number < lowest:
        raise ValueFault(f"option {key}={value!r} must be at least {lowest}")
    return number
