"""Keras's own regularizers that can be had by name, beside the penalties."""

from __future__ import annotations

from typing import Any

# Class and config, with coefficient 1, which the factor then scales.
_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "l1": ("L1", {"l1": 1.0}),
    "l2": ("L2", {"l2": 1.0}),
    "l1_l2": ("L1L2", {"l1": 1.0, "l2": 1.0}),
    "orthogonal_regularizer": ("OrthogonalRegularizer", {"factor": 1.0, "mode": "rows"}),
}

KERAS_NAMES = tuple(_CLASSES)
KERAS_FACTOR = 1e-2  # the default


def keras_node(name: str) -> dict[str, Any]:
    """The node of one with coefficient 1."""
    class_name, config = _CLASSES[name]
    return {
        "module": "keras.regularizers",
        "class_name": class_name,
        "config": dict(config),
        "registered_name": None,
    }
