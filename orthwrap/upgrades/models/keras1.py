"""Keras 1 (2015 to 2017): its words for layers and arguments, and its weight layouts.

The names are those of keras-team/keras 1.2.2; the correspondence is the one that Keras 2's own
`legacy/interfaces.py` and weight loader applied.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orthwrap.stores.edits import Transform, Weight
from orthwrap.upgrades.layers.recurrent import weights_fault
from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.rewriting import OldLayer, name_set

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ARGUMENTS = {
    "W_regularizer": "kernel_regularizer",
    "U_regularizer": "recurrent_regularizer",
    "b_regularizer": "bias_regularizer",
    "W_constraint": "kernel_constraint",
    "U_constraint": "recurrent_constraint",
    "b_constraint": "bias_constraint",
    "init": "kernel_initializer",
    "inner_init": "recurrent_initializer",
    "inner_activation": "recurrent_activation",
    "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
    "bias": "use_bias",
    "nb_filter": "filters",
    "border_mode": "padding",
    "subsample": "strides",
    "atrous_rate": "dilation_rate",
}
_RATED = ("Dropout", "GaussianDropout", *(f"SpatialDropout{n}D" for n in (1, 2, 3)))
_OWN_ARGUMENTS: dict[str, dict[str, str]] = {
    **{name: {"p": "rate"} for name in _RATED},
    "GaussianNoise": {"sigma": "stddev"},
    "UpSampling1D": {"length": "size"},
    "PReLU": {"init": "alpha_initializer"},
    "Embedding": {
        "init": "embeddings_initializer",
        "W_regularizer": "embeddings_regularizer",
        "W_constraint": "embeddings_constraint",
    },
    "BatchNormalization": {"beta_init": "beta_initializer", "gamma_init": "gamma_initializer"},
    "MaxPooling1D": {"pool_length": "pool_size", "stride": "strides"},
    "AveragePooling1D": {"pool_length": "pool_size", "stride": "strides"},
}
_WITH_UNITS = {"Dense", "TimeDistributedDense", "SimpleRNN", "GRU", "LSTM"}
_KERNEL_SIZES = {
    "Convolution1D": ("filter_length",),
    "AtrousConvolution1D": ("filter_length",),
    "Convolution2D": ("nb_row", "nb_col"),
    "AtrousConvolution2D": ("nb_row", "nb_col"),
    "Deconvolution2D": ("nb_row", "nb_col"),
    "SeparableConvolution2D": ("nb_row", "nb_col"),
    "ConvLSTM2D": ("nb_row", "nb_col"),
    "Convolution3D": ("kernel_dim1", "kernel_dim2", "kernel_dim3"),
}
_CLASSES = {
    "TimeDistributedDense": "Dense",
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Deconvolution2D": "Conv2DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
}
# 1.2 left `dim_ordering` out of these layers' configs; they followed the machine's setting.
_ORDERING_UNSAID = (
    {f"{kind}{n}D" for kind in ("UpSampling", "ZeroPadding", "Cropping") for n in (2, 3)}
) | {"SpatialDropout2D", "SpatialDropout3D"}
_INITIALIZERS = {
    "uniform": "random_uniform",
    "normal": "random_normal",
    "zero": "zeros",
    "one": "ones",
    "lecun_uniform": "lecun_uniform",
    "glorot_normal": "glorot_normal",
    "glorot_uniform": "glorot_uniform",
    "he_normal": "he_normal",
    "he_uniform": "he_uniform",
    "orthogonal": "orthogonal",
    "identity": "identity",
}
_CONSTRAINTS = {
    "MaxNorm": {"m": "max_value", "axis": "axis"},
    "UnitNorm": {"axis": "axis"},
    "NonNeg": {},
}
_MERGES = {
    "sum": "Add",
    "mul": "Multiply",
    "ave": "Average",
    "max": "Maximum",
    "concat": "Concatenate",
    "dot": "Dot",
    "cos": "Dot",
}
_SIGNS_OF_KERAS_1 = name_set(
    """nb_filter nb_row border_mode output_dim W_regularizer b_regularizer dim_ordering inner_init
    inner_activation subsample"""
)


def looks_like_keras_1(class_name: str, config: Config) -> bool:
    """Whether a layer's config uses words that only Keras 1 used."""
    found = _SIGNS_OF_KERAS_1 & config.keys()
    return bool(found - {"output_dim"}) or ("output_dim" in found and class_name == "Dense")


def ordering_of(node: Any, depth: int = 0) -> str | None:
    """The first `dim_ordering` that a tree names."""
    if depth > 60:
        return None
    if isinstance(node, dict):
        own = node.get("dim_ordering")
        if own in {"th", "tf"}:
            return str(own)
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            if isinstance(item, (dict, list)) and (found := ordering_of(item, depth + 1)):
                return found
    return None


def convert(layer: OldLayer, ordering: str | None, theano: bool) -> str:
    """A Keras 1 layer in the words of Keras 2, and its arrays in Keras 2's layout."""
    name, config = layer.class_name, layer.config
    own_ordering = config.pop("dim_ordering", None)
    if own_ordering in {"th", "tf"}:
        config["data_format"] = _data_format(own_ordering)
    elif name in _ORDERING_UNSAID and ordering is not None:
        config["data_format"] = _data_format(ordering)
    if name == "InputLayer":
        config.setdefault("dtype", config.pop("input_dtype", None) or "float32")
    config.pop("input_dtype", None)
    _kernel_sizes(layer)
    if name in _WITH_UNITS and "output_dim" in config:
        config["units"] = config.pop("output_dim")
    if "subsample_length" in config:
        config["strides"] = _listed(config.pop("subsample_length"))
    if "atrous_rate" in config and name == "AtrousConvolution1D":
        config["atrous_rate"] = _listed(config["atrous_rate"])
    own_names = _OWN_ARGUMENTS.get(name, {})
    for old in list(config):
        new = own_names.get(old) or _ARGUMENTS.get(old)
        if new is not None:
            config[new] = config.pop(old)
    _drop_runtime_arguments(layer)
    _values(layer)
    _by_class(layer)
    layer.class_name = _CLASSES.get(layer.class_name, layer.class_name)
    transform = _weights(layer, theano)
    if transform is not None:
        layer.transforms.append(transform)
    return name if name == layer.class_name else f"{name} is {layer.class_name}"


def _by_class(layer: OldLayer) -> None:
    """What single classes said in another way, or what no later Keras has."""
    name, config = layer.class_name, layer.config
    if name == "Merge":
        _merge(layer)
    elif name == "BatchNormalization":
        if config.pop("mode", 0) != 0:
            raise layer.fault(
                "its mode is gone since Keras 2", "only mode=0 normalises as later versions do"
            )
    elif name == "ZeroPadding2D":
        config["padding"] = _padding_2d(layer, config.get("padding"))
    elif name == "Deconvolution2D":
        config.pop("output_shape", None)
    if config.get("padding") == "full":
        raise layer.fault("border_mode 'full' is gone since Keras 2", "there is no equivalent")


def _data_format(ordering: str) -> str:
    return "channels_first" if ordering == "th" else "channels_last"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _kernel_sizes(layer: OldLayer) -> None:
    keys = _KERNEL_SIZES.get(layer.class_name, ())
    if all(key in layer.config for key in keys) and keys:
        layer.config["kernel_size"] = [layer.config.pop(key) for key in keys]


def _drop_runtime_arguments(layer: OldLayer) -> None:
    config = layer.config
    config.pop("consume_less", None)
    if layer.class_name == "Embedding":
        config.pop("dropout", None)
    elif "input_dim" in config:
        config.pop("input_dim")
    if "forget_bias_init" in config:
        config["unit_forget_bias"] = config.pop("forget_bias_init") == "one"


def _values(layer: OldLayer) -> None:
    for key, value in layer.config.items():
        if key.endswith("_initializer") and isinstance(value, str):
            # The weights of the file replace whatever an initializer of the user's would give.
            layer.config[key] = _INITIALIZERS.get(value, "glorot_uniform")
        elif key.endswith("_regularizer") and isinstance(value, dict):
            layer.config[key] = _regularizer(value)
        elif key.endswith("_constraint") and isinstance(value, dict):
            layer.config[key] = _constraint(layer, value)


def _regularizer(value: Config) -> Config | None:
    if "class_name" in value:
        return value
    factors = {key: float(value.get(key) or 0.0) for key in ("l1", "l2")}
    if not any(factors.values()):
        return None
    return {"class_name": "L1L2", "config": factors}


def _constraint(layer: OldLayer, value: Config) -> Config:
    if "class_name" in value:
        return value
    name = value.get("name")
    arguments = _CONSTRAINTS.get(name) if isinstance(name, str) else None
    if arguments is None:
        raise layer.fault(f"unknown constraint {name!r}", "remove it with Keras 1")
    return {
        "class_name": name,
        "config": {new: value[old] for old, new in arguments.items() if old in value},
    }


def _merge(layer: OldLayer) -> None:
    config = layer.config
    mode = config.get("mode")
    if config.get("layers"):
        raise layer.fault(
            "a Merge of whole models at the head of a Sequential",
            "rebuild it with the functional API of Keras 1 or 2 and save it again",
        )
    if not isinstance(mode, str) or mode not in _MERGES:
        raise layer.fault("a Merge by a function", "its code cannot be translated")
    new: Config = {"name": config.get("name")}
    if mode == "concat":
        new["axis"] = config.get("concat_axis", -1)
    elif mode in {"dot", "cos"}:
        new |= {"axes": config.get("dot_axes", -1), "normalize": mode == "cos"}
    layer.node["config"] = new
    layer.class_name = _MERGES[mode]


def _padding_2d(layer: OldLayer, value: Any) -> Any:
    if isinstance(value, dict):
        sides = [value.get(f"{side}_pad", 0) for side in ("top", "bottom", "left", "right")]
        return [sides[:2], sides[2:]]
    if isinstance(value, list) and len(value) == 4:
        return [value[:2], value[2:]]
    if not isinstance(value, (list, int)):
        raise layer.fault(f"padding {value!r}", "expected numbers")
    return value


def _weights(layer: OldLayer, theano: bool) -> Transform | None:
    name, config, path = layer.class_name, layer.config, layer.path
    first = config.get("data_format") == "channels_first"
    if name == "Conv1D":
        return _kernels(path, _conv1d_kernel(config), flip=1 if theano else 0)
    if name in {"Conv2D", "Conv3D"}:
        rank = int(name[4])
        order = (*range(2, rank + 2), 1, 0) if first else None
        return _kernels(path, _ordered(order), flip=rank if theano else 0)
    if name == "Conv2DTranspose":
        order = (2, 3, 0, 1) if first else (0, 1, 3, 2)
        return _kernels(path, _ordered(order), flip=2 if theano else 0)
    if name == "SeparableConv2D" and first:
        return _kernels(path, _ordered((2, 3, 1, 0)), flip=0, how_many=2)
    if name in {"LSTM", "ConvLSTM2D"}:
        return _gates(path, _label(layer), (0, 2, 1, 3), name == "ConvLSTM2D" and first)
    if name == "GRU":
        return _gates(path, _label(layer), (0, 1, 2), False)
    return None


def _label(layer: OldLayer) -> str:
    return layer.path.rsplit("/", 1)[-1]


KernelChange = Callable[["NDArray[np.generic]"], "NDArray[np.generic]"]


def _ordered(order: tuple[int, ...] | None) -> KernelChange:
    def change(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return array if order is None else array.transpose(order)

    return change


def _conv1d_kernel(config: Config) -> KernelChange:
    size, filters = config.get("kernel_size"), config.get("filters")

    def change(array: NDArray[np.generic]) -> NDArray[np.generic]:
        if array.ndim == 3:
            return array
        # 1.0 and 1.1 had (filters, channels, length, 1), 1.2 has (length, 1, channels, filters).
        if [array.shape[0], array.shape[1]] != [*_listed(size), 1] or array.shape[3] != filters:
            array = array.transpose(2, 3, 1, 0)
        return array[:, 0]

    return change


def _kernels(path: str, change: KernelChange, flip: int, how_many: int = 1) -> Transform | None:
    def transform(weights: list[Weight]) -> list[Weight]:
        out = list(weights)
        for index, weight in enumerate(weights[:how_many]):
            if weight.array.ndim not in {3, 4, 5}:
                raise weights_fault(path, "a convolution", [w.array.shape for w in weights])
            array = change(weight.array)
            array = array[(slice(None, None, -1),) * flip] if flip else array
            out[index] = weight._replace(array=array)
        return out

    return transform


def _gates(path: str, label: str, order: tuple[int, ...], channels_first: bool) -> Transform:
    """One array per gate becomes one array of all gates, in Keras 2's order of gates."""

    def transform(weights: list[Weight]) -> list[Weight]:
        import numpy as np

        if len(weights) == 3:
            return weights
        if len(weights) != 3 * len(order):
            raise weights_fault(path, f"{len(order)} gates", [w.array.shape for w in weights])
        prefix = re.sub(r"_W_[a-z](:0)?$", "", weights[0].name) or label
        out = []
        for offset, name in enumerate(("kernel", "recurrent_kernel", "bias")):
            parts = [weights[3 * gate + offset].array for gate in order]
            if channels_first and parts[0].ndim == 4:
                parts = [part.transpose(2, 3, 1, 0) for part in parts]
            out.append(Weight(f"{prefix}/{name}:0", np.concatenate(parts, axis=-1)))
        return out

    return transform
