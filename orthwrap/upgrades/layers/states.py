"""Arrays that old layers kept and Keras 3's do not."""

from __future__ import annotations

from collections.abc import Callable

from orthwrap.upgrades.rewriting import OldLayer


def random_state(layer: OldLayer) -> str | None:
    """tf.keras 2.5 to 2.8 saved the generator of random layers as a weight (`StateVar`)."""
    if not (layer.class_name.startswith("Random") or layer.class_name.endswith("Dropout")):
        return None
    if not _has(layer, lambda name: name.endswith(("StateVar:0", "StateVar"))):
        return None
    layer.transforms.append(lambda weights: [])
    return "random state"


def _has(layer: OldLayer, wanted: Callable[[str], bool]) -> bool:
    view = layer.run.weights
    if view is None:
        return False
    return any(wanted(weight) for weight in view.shapes(layer.group))
