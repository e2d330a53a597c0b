"""Layer classes that Keras 3 knows under another name, or no longer has."""

from __future__ import annotations

from orthwrap import keras_inside
from orthwrap.upgrades.layers.arguments import EVERY_LAYER
from orthwrap.upgrades.layers.recurrent import RECURRENT
from orthwrap.upgrades.rewriting import OldLayer

# Written by tf.keras 1.13 to 2.0 (`V1`, `V2`, `Unified`) and by aliases of tf.keras.
RENAMED_CLASSES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "LayerNormalizationV1": "LayerNormalization",
    "UnifiedLSTM": "LSTM",
    "UnifiedGRU": "GRU",
    "LSTMV1": "LSTM",
    "LSTMV2": "LSTM",
    "GRUV1": "GRU",
    "GRUV2": "GRU",
    "DenseV2": "Dense",
    "DropoutV2": "Dropout",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Convolution2DTranspose": "Conv2DTranspose",
    "Deconvolution2D": "Conv2DTranspose",
    "SeparableConvolution1D": "SeparableConv1D",
    "SeparableConvolution2D": "SeparableConv2D",
}

_GONE = {
    "LocallyConnected1D": "locally connected layers are gone",
    "LocallyConnected2D": "locally connected layers are gone",
    "DenseFeatures": "feature columns are gone",
    "MaxoutDense": "it was removed after Keras 1",
    "Highway": "it was removed after Keras 1",
    "SReLU": "it was removed after Keras 1",
    "ParametricSoftplus": "it was removed after Keras 1",
    "PeepholeLSTMCell": "it was experimental",
    "ClassMethod": "calls of TensorFlow classes cannot be translated",
    "InstanceMethod": "ragged and sparse tensors' methods cannot be translated",
    "InstanceProperty": "ragged and sparse tensors' properties cannot be translated",
}


def rename_class(layer: OldLayer) -> str | None:
    """The same class under its present name."""
    new = RENAMED_CLASSES.get(layer.class_name)
    if new is None:
        return None
    old, layer.class_name = layer.class_name, new
    return f"{old} is {new}"


def sync_batch_normalization(layer: OldLayer) -> str | None:
    """tf.keras 2.2 to 2.12 had a class of its own for it."""
    if layer.class_name != "SyncBatchNormalization":
        return None
    layer.class_name = "BatchNormalization"
    layer.config["synchronized"] = True
    return ""


def thresholded_relu(layer: OldLayer) -> str | None:
    """x where x > theta, else 0: ReLU says the same with `threshold`."""
    if layer.class_name != "ThresholdedReLU":
        return None
    layer.class_name = "ReLU"
    layer.config["threshold"] = layer.config.pop("theta", 1.0)
    return ""


def random_size(layer: OldLayer) -> str | None:
    """RandomHeight and RandomWidth acted in training only; Keras 3 has no such layer."""
    if layer.class_name not in {"RandomHeight", "RandomWidth"}:
        return None
    old = layer.class_name
    keep = {key: layer.config[key] for key in ("name", "trainable", "dtype") if key in layer.config}
    layer.class_name = "Identity"
    layer.node["config"] = keep
    return f"{old} did nothing outside training and is now Identity"


def refuse_gone(layer: OldLayer) -> str | None:
    """Classes without a successor get an error, not a file that fails later."""
    why = _GONE.get(layer.class_name)
    if why is not None:
        raise layer.fault(
            f"Keras 3 has no such layer ({why})",
            "load the model with its own Keras and replace that layer",
        )
    if layer.class_name == "SeparableConv1D" and layer.config.get("padding") == "causal":
        raise layer.fault(
            "Keras 3 has no causal padding for it",
            "put a ZeroPadding1D before it with its own Keras",
        )
    return None


def attention_causal(layer: OldLayer) -> str | None:
    """`causal` was an argument of the layer until Keras 2.9, of its call after that."""
    if layer.class_name not in {"Attention", "AdditiveAttention"} or "causal" not in layer.config:
        return None
    if layer.config.pop("causal"):
        raise layer.fault(
            "causal attention is now asked for at each call",
            "load the model with its own Keras and save it with use_causal_mask",
        )
    return "causal"


def attention_score(layer: OldLayer) -> str | None:
    """Keras 3 takes `score_mode: "dot"` in an `.h5` for its function of that name.

    It looks every string up among the functions of `keras.layers`, unless the node has a module.
    """
    if layer.class_name not in {"Attention", "AdditiveAttention"} or "module" in layer.node:
        return None
    if layer.config.get("score_mode") != "dot":
        return None
    layer.node.update(module="keras.layers", registered_name=None)
    return "score_mode is a word"


def build_config(layer: OldLayer) -> str | None:
    """Shapes to build a layer from; Keras 3 builds it when the graph calls it.

    It has other words for the shapes of attention, and takes no states among an RNN's.
    """
    shapes = layer.node.get("build_config")
    if not isinstance(shapes, dict):
        return None
    shape = shapes.get("input_shape")
    states = (
        layer.class_name in RECURRENT and isinstance(shape, list) and any(map(_is_shape, shape))
    )
    if not states and layer.class_name != "MultiHeadAttention":
        return None
    del layer.node["build_config"]
    return ""


def _is_shape(value: object) -> bool:
    return isinstance(value, (list, dict))


def batch_renormalization(layer: OldLayer) -> str | None:
    """`renorm=False` says nothing; batch renormalisation itself is gone from most of Keras 3."""
    if layer.class_name != "BatchNormalization":
        return None
    renorm = [key for key in layer.config if key.startswith("renorm")]
    if layer.config.get("renorm"):
        raise layer.fault(
            "batch renormalisation has no counterpart in Keras 3",
            "load the model with its own Keras and save it without renorm",
        )
    for key in renorm:
        del layer.config[key]
    return ", ".join(renorm) or None


# Layers that Keras's own applications bring along, with the arguments that tell them from others
# of the same name. Keras 3 still has them, beside the applications.
_APPLICATION_LAYERS = {
    "LayerScale": (keras_inside.CONVNEXT_MODULE, {"init_values", "projection_dim"}),
    "StochasticDepth": (keras_inside.CONVNEXT_MODULE, {"drop_path_rate"}),
    "CustomScaleLayer": (keras_inside.INCEPTION_RESNET_MODULE, {"scale"}),
}


def application_layer(layer: OldLayer) -> str | None:
    """A layer of one of Keras's applications, which older versions wrote without its module."""
    module, arguments = _APPLICATION_LAYERS.get(layer.class_name, ("", set()))
    if not module or layer.node.get("module") == module:
        return None
    if set(layer.config) - EVERY_LAYER - {"drop_path"} != arguments:
        return None
    layer.node.update(module=module, class_name=layer.class_name, registered_name=layer.class_name)
    layer.node.pop("build_config", None)
    return module
