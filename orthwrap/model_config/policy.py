"""The dtype policy that a model was made under: configs of layers name theirs, a model's none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from orthwrap.model_config.tree import Node, walk

MIXED = "mixed_float16"  # the one whose loss is scaled
_POLICIES = ("float16", "bfloat16", "float32", "float64", MIXED, "mixed_bfloat16")


def policies_in(root: Node) -> tuple[str, ...]:
    """The policies that the model may have been made under, the likeliest first.

    That is the one which its config names; else the commonest among its layers, of two equally
    common ones the mixed one, as heads often are float32 of their own.
    """
    config = root.get("config")
    own = _name(config) if isinstance(config, Mapping) else None
    layers = [layer for layer in walk(root) if layer.class_name != "InputLayer"]
    named = [name for layer in layers if (name := _name(layer.config)) is not None]
    counted = Counter(named)
    ordered = sorted(counted, key=lambda name: (counted[name], "mixed" in name), reverse=True)
    return tuple(dict.fromkeys((*([] if own is None else [own]), *ordered)))


def _name(config: Mapping[str, Any]) -> str | None:
    """The policy of a layer's config; None where it names none, or one that is not Keras's."""
    dtype = config.get("dtype")
    if isinstance(dtype, Mapping):
        inner = dtype.get("config")
        if not isinstance(inner, Mapping):
            return None
        dtype = inner.get("name") or inner.get("source_name")
    return dtype if dtype in _POLICIES else None
