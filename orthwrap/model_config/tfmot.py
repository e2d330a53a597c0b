"""Wrappers of TensorFlow's model optimization toolkit (tfmot), which Keras 3 does not have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orthwrap.errors import ValueFault
from orthwrap.model_config.tree import Layer, class_of

_PACKAGE = "tensorflow_model_optimization"
_BEFORE = "use the float model, as it was before quantize_model, and quantize the result"
_STRIPPED = "call tfmot.{}.strip_{} on the model first, and save that"
_WAYS = {  # by class
    "PruneLowMagnitude": _STRIPPED.format("sparsity.keras", "pruning"),
    "ClusterWeights": _STRIPPED.format("clustering.keras", "clustering"),
    "QuantizeLayer": _BEFORE,
    "QuantizeAnnotate": "use the model as it was before quantize_annotate_layer",
    "QuantizeWrapper": _BEFORE,
    "QuantizeWrapperV2": _BEFORE,
}
_OTHERS = "use the model as it was before tfmot wrapped it"


def check_wrappers(layers: Iterable[Layer]) -> None:
    """ValueFault where a layer is wrapped by tfmot, with the way back to the model itself."""
    for text in told_of(layers):
        raise ValueFault(text)


def told_of(layers: Iterable[Layer]) -> tuple[str, ...]:
    """A line for each of tfmot's wrappers: which layers it is around, and the way out."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        if _is_wrapper(layer):
            found.setdefault(layer.class_name, []).append(layer.path)
    return tuple(_line(name, paths) for name, paths in found.items())


def _is_wrapper(layer: Layer) -> bool:
    node = layer.node
    if str(node.get("module") or "").partition(".")[0] == _PACKAGE:
        return True
    # An .h5 says no module. A layer by one of these names that holds no other is someone else's.
    inner = layer.config.get("layer")
    return class_of(node) in _WAYS and (layer.is_container or isinstance(inner, dict))


def _line(name: str, paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    way = _WAYS.get(name, _OTHERS)
    return f"{paths[0]}{more}: {name} is a wrapper of tfmot, which Keras 3 lacks: {way}"
