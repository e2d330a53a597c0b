"""Functions that an upgraded model may need from orthwrap when it is loaded.

Only layers on which the old values cannot be had from plain Keras refer to them.
"""

from __future__ import annotations

from typing import Any

from orthwrap.upgrades.layers.hard_sigmoid import REGISTERED


def register() -> None:
    """Make the functions known to Keras; called once Keras is imported."""
    import keras

    package, name = REGISTERED.split(">")

    @keras.saving.register_keras_serializable(package=package, name=name)  # type: ignore[untyped-decorator]
    def hard_sigmoid_keras2(x: Any) -> Any:
        """clip(0.2x + 0.5, 0, 1), as Keras 1 and 2 had it."""
        return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)
