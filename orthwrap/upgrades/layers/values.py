"""Values inside a layer's config: initializers, dtype policies, arrays, axes, activations."""

from __future__ import annotations

from typing import Any

from orthwrap.model_config.tree import class_of
from orthwrap.upgrades.rewriting import OldLayer

# tf.keras 1.13 to 2.0 wrote the versioned name of some functions.
_OLD_ACTIVATIONS = {"softmax_v2": "softmax", "swish_v1": "swish", "relu_v2": "relu"}


def plain_arrays(layer: OldLayer) -> str | None:
    """Keras 2.1 to 2.3 wrote a NumPy value as {"type": "ndarray", "value": 0.3}."""
    done = []
    for key, value in layer.config.items():
        if isinstance(value, dict) and set(value) == {"type", "value"}:
            layer.config[key] = value["value"]
            done.append(key)
    return ", ".join(done) or None


def initializer_dtype(layer: OldLayer) -> str | None:
    """TensorFlow 1.x and 2.0 wrote `dtype` into initializers; the layer's own decides."""
    done = []
    for key, value in layer.config.items():
        if not (key.endswith("_initializer") and isinstance(value, dict)):
            continue
        inner = value.get("config")
        if isinstance(inner, dict) and "dtype" in inner:
            del inner["dtype"]
            done.append(key)
    return ", ".join(done) or None


def old_activations(layer: OldLayer) -> str | None:
    """Names of activation functions that Keras 3 does not know."""
    done = []
    for key in ("activation", "recurrent_activation"):
        old = layer.config.get(key)
        if isinstance(old, str) and old in _OLD_ACTIVATIONS:
            layer.config[key] = _OLD_ACTIVATIONS[old]
            done.append(f"{old} is {layer.config[key]}")
    return ", ".join(done) or None


def activation_layers(layer: OldLayer) -> str | None:
    """A layer used as an activation is found by its module, which old files do not give."""
    done = []
    for key in ("activation", "recurrent_activation"):
        value = layer.config.get(key)
        if not (isinstance(value, dict) and class_of(value)):
            continue
        inner = value.get("config")
        if class_of(value) == "LeakyReLU" and isinstance(inner, dict) and "alpha" in inner:
            inner["negative_slope"] = inner.pop("alpha")
            done.append(key)
        if "module" not in value:
            value["module"] = "keras.layers"
            value.setdefault("registered_name", None)
            done.append(key)
    return ", ".join(dict.fromkeys(done)) or None


def dtype_policy(layer: OldLayer) -> str | None:
    """tf.keras 2.1 and later wrote mixed-precision policies as objects of its own classes."""
    value = layer.config.get("dtype")
    if not isinstance(value, dict) or class_of(value) not in {
        "Policy",
        "PolicyV1",
        "DTypePolicy",
    }:
        return None
    module = value.get("module")
    if isinstance(module, str) and module == "keras" and class_of(value) == "DTypePolicy":
        return None
    inner = value.get("config")
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str):
        raise layer.fault("a dtype policy without a name", "the file is broken")
    if name in {"infer", "_infer"}:
        del layer.config["dtype"]
    else:
        layer.config["dtype"] = name
    return f"policy {name}"


# Keras 3 reads the axis of an `.h5` node as one number, and drops a longer list without a word;
# a node that names its module is read by the newer code, which keeps it.
_WITH_AXES = {
    "BatchNormalization",
    "LayerNormalization",
    "Softmax",
    "UnitNormalization",
    "Normalization",
}


def axis_list(layer: OldLayer) -> str | None:
    """`axis` as a list: one entry becomes a number, several are kept from being dropped."""
    if layer.class_name not in _WITH_AXES:
        return None
    axis: Any = layer.config.get("axis")
    if not isinstance(axis, (list, dict)):
        return None
    if isinstance(axis, dict):
        # tf.keras 1.x wrapped lists: {"class_name": "ListWrapper", "items": [3]} and the like.
        items = axis.get("items", axis.get("config"))
        if not isinstance(items, list):
            raise layer.fault("an axis of unknown form", "the file is broken")
        axis = layer.config["axis"] = list(items)
    if len(axis) == 1:
        layer.config["axis"] = axis[0]
        return f"axis {axis[0]}"
    if "module" in layer.node:
        return None
    if layer.class_name == "BatchNormalization":
        raise layer.fault(
            f"normalises over axes {axis}, Keras 3's over one only",
            "load the model with its own Keras and replace that layer",
        )
    layer.node["module"] = "keras.layers"
    layer.node.setdefault("registered_name", None)
    return f"axes {axis}"
