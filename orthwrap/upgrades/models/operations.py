"""TensorFlow operations in a functional model's graph, as operations of Keras 3.

`x / 2.0` on a Keras tensor became a layer that held the operation: TensorFlowOpLayer (tf.keras
2.0 to 2.3: a graph node and its constants), TFOpLambda and SlicingOpLambda (2.4 to 2.15: a
function's public name). Keras 3 has operations of its own, which it writes as nodes just the
same, under the module where they live.

One layer becomes one operation, so that the graph keeps its depths: the order in which weights
are read hangs on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orthwrap import keras_inside
from orthwrap.errors import FileFault
from orthwrap.model_config.tree import class_of
from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.models.graph import Call, Ref

OPERATION_CLASSES = frozenset({"TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer"})

_MISSING = object()
_LONGEST_RANGE = 100_000


class Untranslatable(Exception):
    """The operation is known, but not with these arguments."""


@dataclass
class Operation:
    """An operation of Keras 3: where it is, its settings, and what it is called on."""

    module: str
    name: str
    settings: dict[str, Any]
    args: list[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)


Arguments = dict[str, Any]
Translator = Callable[[Arguments], Operation]


def _static(value: Any) -> Any:
    """A setting must be a plain value: Keras 3 takes no tensor there."""
    if _holds_tensor(value):
        raise Untranslatable("an argument that is computed by the model")
    return value


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Ref):
        return True
    if isinstance(value, dict):
        return any(_holds_tensor(item) for item in value.values())
    return isinstance(value, list) and any(_holds_tensor(item) for item in value)


def _take(arguments: Arguments, *names: str, default: Any = _MISSING) -> Any:
    for name in names:
        if name in arguments:
            value = arguments.pop(name)
            if value is not None or default is _MISSING:
                return value
    if default is _MISSING:
        raise Untranslatable(f"argument {names[0]!r} is missing")
    return default


def _elementwise(module: str, name: str, *parameters: str) -> Translator:
    """Every parameter is a tensor or a constant."""

    def translate(arguments: Arguments) -> Operation:
        return Operation(module, name, {}, [_take(arguments, *p.split("|")) for p in parameters])

    return translate


def _reduction(name: str, module: str = "numpy") -> Translator:
    def translate(arguments: Arguments) -> Operation:
        x = _take(arguments, "input_tensor", "x", "input")
        axis = _static(_take(arguments, "axis", "reduction_indices", default=None))
        keepdims = _static(_take(arguments, "keepdims", "keep_dims", default=False))
        return Operation(module, name, {"axis": axis, "keepdims": keepdims}, [x])

    return translate


def _with_axis(name: str, parameter: str, default: int, module: str = "nn") -> Translator:
    def translate(arguments: Arguments) -> Operation:
        x = _take(arguments, *parameter.split("|"))
        axis = _static(_take(arguments, "axis", "dim", default=default))
        return Operation(module, name, {"axis": axis}, [x])

    return translate


def _joined(name: str, default: int) -> Translator:
    def translate(arguments: Arguments) -> Operation:
        values = _take(arguments, "values", "tensors")
        axis = _static(_take(arguments, "axis", default=default))
        if not isinstance(values, list):
            raise Untranslatable("a single tensor to join")
        return Operation("numpy", name, {"axis": axis}, [values])

    return translate


def _set(
    name: str,
    tensors: tuple[str, ...],
    settings: dict[str, str],
    module: str = "numpy",
    optional: dict[str, Any] | None = None,
) -> Translator:
    """Tensors as call arguments, the rest (TensorFlow's name → Keras's) as settings."""

    def translate(arguments: Arguments) -> Operation:
        args = [_take(arguments, *tensor.split("|")) for tensor in tensors]
        given = {}
        for theirs, ours in settings.items():
            default = (optional or {}).get(ours, _MISSING)
            given[ours] = _static(_take(arguments, *theirs.split("|"), default=default))
        return Operation(module, name, given, args)

    return translate


def _matmul(arguments: Arguments) -> Operation:
    a, b = _take(arguments, "a", "x"), _take(arguments, "b", "y")
    for key in ("transpose_a", "transpose_b", "adjoint_a", "adjoint_b", "adj_x", "adj_y"):
        if _take(arguments, key, default=False):
            raise Untranslatable(f"{key}=True")
    for key in (
        "a_is_sparse",
        "b_is_sparse",
        "output_type",
        "grad_a",
        "grad_b",
        "grad_x",
        "grad_y",
    ):
        _take(arguments, key, default=None)
    return Operation("numpy", "Matmul", {}, [a, b])


def _cast(arguments: Arguments) -> Operation:
    x = _take(arguments, "x")
    dtype = _static(_take(arguments, "dtype"))
    return Operation("core", "Cast", {"dtype": _dtype(dtype)}, [x])


def _dtype(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("config", value.get("value"))
    if not isinstance(value, str):
        raise Untranslatable(f"type {value!r:.40}")
    name = value.removeprefix("DT_").lower()
    return {"float": "float32", "double": "float64", "half": "float16"}.get(name, name)


def _clip(arguments: Arguments) -> Operation:
    x = _take(arguments, "t", "x")
    low = _static(_take(arguments, "clip_value_min", "min_value"))
    high = _static(_take(arguments, "clip_value_max", "max_value"))
    return Operation("numpy", "Clip", {"x_min": low, "x_max": high}, [x])


def _relu(arguments: Arguments) -> Operation:
    """tf.nn.relu and keras.activations.relu; the latter has a slope, a ceiling and a threshold."""
    x = _take(arguments, "features", "x")
    slope = _static(_take(arguments, "alpha", "negative_slope", default=0.0))
    ceiling = _static(_take(arguments, "max_value", default=None))
    threshold = _static(_take(arguments, "threshold", default=0.0))
    if slope == 0 and ceiling is None and threshold == 0:
        return Operation("nn", "Relu", {}, [x])
    settings = {"max_value": ceiling, "negative_slope": slope, "threshold": threshold}
    return Operation("layers", "ReLU", settings, [x])


def _leaky_relu(arguments: Arguments) -> Operation:
    x = _take(arguments, "features", "x")
    slope = _static(_take(arguments, "alpha", "negative_slope", default=0.2))
    return Operation("nn", "LeakyRelu", {"negative_slope": slope}, [x])


def _gelu(arguments: Arguments) -> Operation:
    x = _take(arguments, "features", "x")
    approximate = _static(_take(arguments, "approximate", default=False))
    return Operation("nn", "Gelu", {"approximate": approximate}, [x])


def _l2_normalize(arguments: Arguments) -> Operation:
    """TensorFlow bounds the square of the norm, Keras the norm."""
    x = _take(arguments, "x")
    axis = _static(_take(arguments, "axis", "dim", default=None))
    epsilon = _static(_take(arguments, "epsilon", default=1e-12))
    if axis is None:
        raise Untranslatable("no axis")
    settings = {"axis": axis, "order": 2, "epsilon": float(epsilon) ** 0.5}
    return Operation("nn", "Normalize", settings, [x])


def _getitem(arguments: Arguments) -> Operation:
    x = _take(arguments, "tensor", "x")
    spec = _take(arguments, "slice_spec")
    items = spec if isinstance(spec, list) else [spec]
    if items and _is_ellipsis(items[-1]) and len(items) > 1:
        items = items[:-1]
    if _is_ellipsis(items[0]) if items else False:
        return _from_the_end(x, items[1:])
    if any(_is_ellipsis(item) for item in items):
        raise Untranslatable("an ellipsis in the middle")
    return Operation("numpy", "GetItem", {}, [x, _slices(items)])


def _is_ellipsis(item: Any) -> bool:
    return class_of(item) in {"__ellipsis__", "ellipsis", "Ellipsis"}


def _from_the_end(x: Any, items: list[Any]) -> Operation:
    """x[..., item]: Keras 3 cannot read an ellipsis from an `.h5`."""
    if not items:
        return Operation("layers", "Identity", {}, [x])
    if len(items) > 1:
        raise Untranslatable("an ellipsis before several indices")
    item = _static(items[0])
    if item is None:
        return Operation("numpy", "ExpandDims", {"axis": -1}, [x])
    if isinstance(item, int):
        return Operation("numpy", "Take", {"axis": -1}, [x, item])
    if isinstance(item, dict) and set(item) == {"start", "stop", "step"}:
        start, stop, step = item["start"] or 0, item["stop"], item["step"] or 1
        if stop is None and start == 0 and step == -1:
            return Operation("numpy", "Flip", {"axis": -1}, [x])
        if all(isinstance(n, int) and n >= 0 for n in (start, stop)) and step > 0:
            if stop - start > _LONGEST_RANGE:
                raise Untranslatable("a range that is too long")
            return Operation("numpy", "Take", {"axis": -1}, [x, list(range(start, stop, step))])
    raise Untranslatable("an index that counts from the end")


def _slices(spec: Any) -> Any:
    if isinstance(spec, dict):
        if set(spec) == {"start", "stop", "step"}:
            return {"class_name": "__slice__", "config": dict(_static(spec))}
        raise Untranslatable("an index of unknown form")
    if isinstance(spec, list):
        return [_slices(item) for item in spec]
    return _static(spec)


def _squeeze(arguments: Arguments) -> Operation:
    x = _take(arguments, "input", "x")
    axis = _static(_take(arguments, "axis", "squeeze_dims", default=None))
    if isinstance(axis, list):
        axis = axis[0] if len(axis) == 1 else (axis or None)
    return Operation("numpy", "Squeeze", {"axis": axis}, [x])


def _split(arguments: Arguments) -> Operation:
    x = _take(arguments, "value")
    parts = _static(_take(arguments, "num_or_size_splits"))
    axis = _static(_take(arguments, "axis", default=0))
    _take(arguments, "num", default=None)
    if isinstance(parts, list):
        ends, total = [], 0
        for size in parts[:-1]:
            if not isinstance(size, int) or size < 0:
                raise Untranslatable("sizes that are not all given")
            total += size
            ends.append(total)
        parts = ends
    return Operation("numpy", "Split", {"indices_or_sections": parts, "axis": axis}, [x])


def _pad(arguments: Arguments) -> Operation:
    x = _take(arguments, "tensor", "input")
    width = _static(_take(arguments, "paddings"))
    mode = str(_static(_take(arguments, "mode", default="constant"))).lower()
    value = _static(_take(arguments, "constant_values", default=0))
    kwargs = {"constant_values": value} if mode == "constant" and value else {}
    return Operation("numpy", "Pad", {"pad_width": width, "mode": mode}, [x], kwargs)


def _reshape(arguments: Arguments) -> Operation:
    x = _take(arguments, "tensor", "x")
    return Operation("numpy", "Reshape", {"newshape": _static(_take(arguments, "shape"))}, [x])


def _transpose(arguments: Arguments) -> Operation:
    x = _take(arguments, "a", "x")
    axes = _static(_take(arguments, "perm", "pattern", default=None))
    if _take(arguments, "conjugate", default=False):
        raise Untranslatable("conjugate=True")
    return Operation("numpy", "Transpose", {"axes": axes}, [x])


def _tile(arguments: Arguments) -> Operation:
    x = _take(arguments, "input", "x")
    repeats = _static(_take(arguments, "multiples", "n"))
    return Operation("numpy", "Tile", {"repeats": repeats}, [x])


def _resize(arguments: Arguments) -> Operation:
    x = _take(arguments, "images")
    size = _static(_take(arguments, "size"))
    method = _static(_take(arguments, "method", default="bilinear"))
    method = {0: "bilinear", 1: "nearest", 2: "bicubic"}.get(method, method)
    if method not in {"bilinear", "nearest", "bicubic", "lanczos3", "lanczos5"}:
        raise Untranslatable(f"method {method!r}")
    if _take(arguments, "preserve_aspect_ratio", default=False):
        raise Untranslatable("preserve_aspect_ratio=True")
    antialias = bool(_take(arguments, "antialias", default=False))
    settings = {
        "size": size,
        "interpolation": method,
        "antialias": antialias,
        "data_format": "channels_last",
    }
    return Operation("image", "Resize", settings, [x])


def _einsum(arguments: Arguments) -> Operation:
    """The equation comes first, so the first operand is what the old form calls the input."""
    raise Untranslatable("an equation with separate operands")


def _add_n(arguments: Arguments) -> Operation:
    values = _take(arguments, "inputs")
    if not isinstance(values, list) or not all(isinstance(value, Ref) for value in values):
        raise Untranslatable("constants among the tensors")
    return Operation("layers", "Add", {}, [values])


_BINARY = {
    "Add": ("math.add", "__operators__.add", "math.add_v2"),
    "Subtract": ("math.subtract",),
    "Multiply": ("math.multiply", "multiply"),
    "TrueDivide": ("math.truediv", "math.divide", "realdiv"),
    "FloorDivide": ("math.floordiv", "floor_div"),
    "Mod": ("math.floormod", "math.mod"),
    "Power": ("math.pow",),
    "Maximum": ("math.maximum",),
    "Minimum": ("math.minimum",),
    "Greater": ("math.greater",),
    "GreaterEqual": ("math.greater_equal",),
    "Less": ("math.less",),
    "LessEqual": ("math.less_equal",),
    "Equal": ("math.equal", "__operators__.eq"),
    "NotEqual": ("math.not_equal", "__operators__.ne"),
    "LogicalAnd": ("math.logical_and",),
    "LogicalOr": ("math.logical_or",),
    "Arctan2": ("math.atan2",),
}
_UNARY = {
    "Absolute": ("math.abs",),
    "Negative": ("math.negative",),
    "Exp": ("math.exp",),
    "Expm1": ("math.expm1",),
    "Log": ("math.log",),
    "Log1p": ("math.log1p",),
    "Sqrt": ("math.sqrt",),
    "Square": ("math.square",),
    "Sign": ("math.sign",),
    "Floor": ("math.floor",),
    "Ceil": ("math.ceil",),
    "Round": ("math.round",),
    "Sin": ("math.sin",),
    "Cos": ("math.cos",),
    "Tan": ("math.tan",),
    "Tanh": ("math.tanh", "nn.tanh", "keras.activations.tanh"),
    "Reciprocal": ("math.reciprocal",),
    "Isnan": ("math.is_nan",),
    "LogicalNot": ("math.logical_not",),
    "ZerosLike": ("zeros_like",),
    "OnesLike": ("ones_like",),
}
_UNARY_NN = {
    "Relu6": ("nn.relu6",),
    "Elu": ("nn.elu",),
    "Selu": ("nn.selu", "keras.activations.selu"),
    "Sigmoid": ("math.sigmoid", "nn.sigmoid", "keras.activations.sigmoid"),
    "Silu": ("nn.silu", "nn.swish", "keras.activations.swish", "keras.activations.silu"),
    "Softplus": ("math.softplus", "nn.softplus", "keras.activations.softplus"),
    "Softsign": ("nn.softsign", "math.softsign", "keras.activations.softsign"),
}
_REDUCTIONS = {
    "Mean": ("math.reduce_mean", "keras.backend.mean"),
    "Sum": ("math.reduce_sum", "keras.backend.sum"),
    "Max": ("math.reduce_max", "keras.backend.max"),
    "Min": ("math.reduce_min", "keras.backend.min"),
    "Prod": ("math.reduce_prod", "keras.backend.prod"),
    "Std": ("math.reduce_std", "keras.backend.std"),
    "Var": ("math.reduce_variance", "keras.backend.var"),
    "Any": ("math.reduce_any",),
    "All": ("math.reduce_all",),
}

TABLE: dict[str, Translator] = {
    "math.reduce_logsumexp": _reduction("Logsumexp", "math"),
    "math.rsqrt": _elementwise("math", "Rsqrt", "x"),
    "math.erf": _elementwise("math", "Erf", "x"),
    "nn.relu": _relu,
    "keras.activations.relu": _relu,
    "keras.backend.relu": _relu,
    "nn.leaky_relu": _leaky_relu,
    "nn.gelu": _gelu,
    "keras.activations.gelu": _gelu,
    "nn.softmax": _with_axis("Softmax", "logits|features|x", -1),
    "keras.activations.softmax": _with_axis("Softmax", "x", -1),
    "nn.log_softmax": _with_axis("LogSoftmax", "logits|features|x", -1),
    "math.l2_normalize": _l2_normalize,
    "linalg.l2_normalize": _l2_normalize,
    "keras.backend.l2_normalize": _l2_normalize,
    "linalg.matmul": _matmul,
    "matmul": _matmul,
    "cast": _cast,
    "keras.backend.cast": _cast,
    "clip_by_value": _clip,
    "keras.backend.clip": _clip,
    "reshape": _reshape,
    "keras.backend.reshape": _reshape,
    "transpose": _transpose,
    "compat.v1.transpose": _transpose,
    "keras.backend.permute_dimensions": _transpose,
    "expand_dims": _with_axis("ExpandDims", "input|x", -1, "numpy"),
    "keras.backend.expand_dims": _with_axis("ExpandDims", "x", -1, "numpy"),
    "squeeze": _squeeze,
    "compat.v1.squeeze": _squeeze,
    "keras.backend.squeeze": _squeeze,
    "concat": _joined("Concatenate", 0),
    "keras.backend.concatenate": _joined("Concatenate", -1),
    "stack": _joined("Stack", 0),
    "tile": _tile,
    "repeat": _set(
        "Repeat", ("input",), {"repeats": "repeats", "axis": "axis"}, "numpy", {"axis": None}
    ),
    "split": _split,
    "pad": _pad,
    "image.resize": _resize,
    "compat.v1.image.resize": _resize,
    "one_hot": _set(
        "OneHot", ("indices",), {"depth": "num_classes", "axis": "axis"}, "nn", {"axis": -1}
    ),
    "gather": _set("Take", ("params", "indices"), {"axis": "axis"}, "numpy", {"axis": 0}),
    "math.argmax": _set("Argmax", ("input",), {"axis": "axis"}, "numpy", {"axis": 0}),
    "math.argmin": _set("Argmin", ("input",), {"axis": "axis"}, "numpy", {"axis": 0}),
    "math.cumsum": _set("Cumsum", ("x",), {"axis": "axis"}, "numpy", {"axis": 0}),
    "reverse": _set("Flip", ("tensor",), {"axis": "axis"}),
    "roll": _set("Roll", ("input",), {"shift": "shift", "axis": "axis"}),
    "broadcast_to": _set("BroadcastTo", ("input",), {"shape": "shape"}),
    "stop_gradient": _elementwise("core", "StopGradient", "input"),
    "where": _elementwise("numpy", "Where", "condition", "x", "y"),
    "nn.depth_to_space": _set("DepthToSpace", ("input",), {"block_size": "block_size"}, "nn"),
    "nn.space_to_depth": _set("SpaceToDepth", ("input",), {"block_size": "block_size"}, "nn"),
    "identity": lambda arguments: Operation("layers", "Identity", {}, [_take(arguments, "input")]),
    "math.add_n": _add_n,
    "einsum": _einsum,
    "__operators__.getitem": _getitem,
    **{s: _elementwise("numpy", op, "x", "y") for op, syms in _BINARY.items() for s in syms},
    **{s: _elementwise("numpy", op, "x|input") for op, syms in _UNARY.items() for s in syms},
    **{
        s: _elementwise("nn", op, "x|features|input")
        for op, syms in _UNARY_NN.items()
        for s in syms
    },
    **{s: _reduction(op) for op, syms in _REDUCTIONS.items() for s in syms},
}

# Graph nodes of TensorFlowOpLayer → the function with the same meaning and its parameters.
_NODES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        node: (symbol, ("x", "y"))
        for node, symbol in {
            "Add": "math.add",
            "AddV2": "math.add",
            "BiasAdd": "math.add",
            "Sub": "math.subtract",
            "Mul": "math.multiply",
            "RealDiv": "math.truediv",
            "Div": "math.truediv",
            "FloorDiv": "math.floordiv",
            "FloorMod": "math.floormod",
            "Pow": "math.pow",
            "Maximum": "math.maximum",
            "Minimum": "math.minimum",
            "Greater": "math.greater",
            "GreaterEqual": "math.greater_equal",
            "Less": "math.less",
            "LessEqual": "math.less_equal",
            "Equal": "math.equal",
            "NotEqual": "math.not_equal",
            "LogicalAnd": "math.logical_and",
            "LogicalOr": "math.logical_or",
        }.items()
    },
    **{
        node: (symbol, ("x",))
        for node, symbol in {
            "Abs": "math.abs",
            "Neg": "math.negative",
            "Exp": "math.exp",
            "Log": "math.log",
            "Log1p": "math.log1p",
            "Sqrt": "math.sqrt",
            "Rsqrt": "math.rsqrt",
            "Square": "math.square",
            "Sign": "math.sign",
            "Floor": "math.floor",
            "Ceil": "math.ceil",
            "Sin": "math.sin",
            "Cos": "math.cos",
            "Tanh": "math.tanh",
            "Sigmoid": "math.sigmoid",
            "Erf": "math.erf",
            "Reciprocal": "math.reciprocal",
            "LogicalNot": "math.logical_not",
            "ZerosLike": "zeros_like",
            "OnesLike": "ones_like",
        }.items()
    },
    **{
        node: (symbol, ("features",))
        for node, symbol in {
            "Relu": "nn.relu",
            "Relu6": "nn.relu6",
            "Elu": "nn.elu",
            "Selu": "nn.selu",
            "Softplus": "nn.softplus",
            "Softsign": "nn.softsign",
            "LeakyRelu": "nn.leaky_relu",
        }.items()
    },
    "Softmax": ("nn.softmax", ("logits",)),
    "LogSoftmax": ("nn.log_softmax", ("logits",)),
    **{
        node: (f"math.reduce_{symbol}", ("input_tensor", "axis"))
        for node, symbol in {
            "Mean": "mean",
            "Sum": "sum",
            "Max": "max",
            "Min": "min",
            "Prod": "prod",
            "Any": "any",
            "All": "all",
        }.items()
    },
    "Reshape": ("reshape", ("tensor", "shape")),
    "Transpose": ("transpose", ("a", "perm")),
    "ExpandDims": ("expand_dims", ("input", "axis")),
    "Squeeze": ("squeeze", ("input",)),
    "Tile": ("tile", ("input", "multiples")),
    "Pad": ("pad", ("tensor", "paddings")),
    "PadV2": ("pad", ("tensor", "paddings", "constant_values")),
    "MirrorPad": ("pad", ("tensor", "paddings")),
    "Cast": ("cast", ("x",)),
    "MatMul": ("linalg.matmul", ("a", "b")),
    "BatchMatMul": ("linalg.matmul", ("a", "b")),
    "BatchMatMulV2": ("linalg.matmul", ("a", "b")),
    "GatherV2": ("gather", ("params", "indices", "axis")),
    "SelectV2": ("where", ("condition", "x", "y")),
    "Identity": ("identity", ("input",)),
    "StopGradient": ("stop_gradient", ("input",)),
    "ClipByValue": ("clip_by_value", ("t", "clip_value_min", "clip_value_max")),
    "ReverseV2": ("reverse", ("tensor", "axis")),
    "ArgMax": ("math.argmax", ("input", "axis")),
    "ResizeBilinear": ("image.resize", ("images", "size")),
    "ResizeNearestNeighbor": ("image.resize", ("images", "size")),
}
_NODE_ATTRIBUTES = {
    "keep_dims": "keepdims",
    "squeeze_dims": "axis",
    "DstT": "dtype",
    "alpha": "alpha",
    "mode": "mode",
    "adj_x": "adj_x",
    "adj_y": "adj_y",
    "transpose_a": "transpose_a",
    "transpose_b": "transpose_b",
}


def translate(node: Config, call: Call, path: str) -> Operation:
    """The operation of Keras 3 that a TensorFlow operation's layer stands for."""
    if class_of(node) == "TensorFlowOpLayer":
        symbol, arguments = _graph_node(node, call, path)
    else:
        symbol, arguments = _function(node, call, path)
    translator = TABLE.get(symbol)
    try:
        if translator is None:
            raise Untranslatable("it is not in the table")
        arguments.pop("name", None)
        operation = translator(arguments)
        left = [key for key, value in arguments.items() if value is not None]
        if left and not all(arguments[key] in (False, 0) for key in left):
            raise Untranslatable(f"argument {left[0]!r}")
    except Untranslatable as err:
        raise FileFault(
            f"layer {path!r}: TensorFlow operation {symbol!r} cannot be brought to Keras 3 "
            f"({err}); rebuild that step with Keras layers"
        ) from err
    return operation


_FIRST = {
    "__operators__.getitem": "tensor",
    "math.add_n": "inputs",
    "concat": "values",
    "keras.backend.concatenate": "tensors",
    "stack": "values",
    "split": "value",
    "where": "condition",
    "gather": "params",
    "one_hot": "indices",
    "pad": "tensor",
    "reshape": "tensor",
    "reverse": "tensor",
    "clip_by_value": "t",
    "image.resize": "images",
    "compat.v1.image.resize": "images",
    "linalg.matmul": "a",
    "matmul": "a",
    "transpose": "a",
    "compat.v1.transpose": "a",
    **dict.fromkeys(
        (
            "expand_dims",
            "squeeze",
            "compat.v1.squeeze",
            "tile",
            "repeat",
            "identity",
            "roll",
            "broadcast_to",
            "stop_gradient",
            "math.argmax",
            "math.argmin",
            "nn.depth_to_space",
            "nn.space_to_depth",
            "zeros_like",
            "ones_like",
        ),
        "input",
    ),
    **{s: "input_tensor" for syms in _REDUCTIONS.values() for s in syms},
    "math.reduce_logsumexp": "input_tensor",
}


def _function(node: Config, call: Call, path: str) -> tuple[str, Arguments]:
    symbol = node["config"].get("function") if isinstance(node.get("config"), dict) else None
    if not isinstance(symbol, str):
        raise FileFault(f"layer {path!r}: its config names no operation; the file is broken")
    symbol = symbol.removeprefix("tf.").removeprefix("compat.v2.")
    if symbol.startswith("compat.v1.") and symbol not in TABLE:
        symbol = symbol.removeprefix("compat.v1.")
    first = _FIRST.get(symbol, "features" if symbol.startswith("nn.") else "x")
    return symbol, {first: call.first, **call.arguments}


def _graph_node(node: Config, call: Call, path: str) -> tuple[str, Arguments]:
    config = node.get("config")
    definition = config.get("node_def") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(definition, dict):
        raise FileFault(
            f"layer {path!r}: a TensorFlow operation without a readable definition; "
            "load the model with its own Keras and save it again"
        )
    name = definition.get("op")
    symbol, parameters = _NODES.get(name, (str(name), ())) if isinstance(name, str) else ("?", ())
    constants = config.get("constants")
    constants = constants if isinstance(constants, dict) else {}
    tensors = list(call.first) if isinstance(call.first, list) else [call.first]
    values: list[Any] = []
    for index in range(len(tensors) + len(constants)):
        if str(index) in constants:
            values.append(constants[str(index)])
        elif tensors:
            values.append(tensors.pop(0))
    if name == "ConcatV2" and values:
        return "concat", {"values": values[:-1], "axis": values[-1]}
    if name == "Pack":
        axis = _attribute(definition, "axis")
        return "stack", {"values": values, "axis": axis if axis is not None else 0}
    if name == "AddN":
        return "math.add_n", {"inputs": values}
    if name == "Split" and len(values) == 2:
        parts = _attribute(definition, "num_split")
        return "split", {"value": values[1], "num_or_size_splits": parts, "axis": values[0]}
    if name == "StridedSlice":
        return "__operators__.getitem", _strided_slice(definition, values, path)
    arguments = dict(zip(parameters, values, strict=False))
    for theirs, ours in _NODE_ATTRIBUTES.items():
        value = _attribute(definition, theirs)
        if value is not None:
            arguments[ours] = value
    if name == "ResizeNearestNeighbor":
        arguments["method"] = "nearest"
    return symbol, arguments


def _attribute(definition: Config, name: str) -> Any:
    """A value of a graph node, from the JSON form of its protocol buffer."""
    attributes = definition.get("attr")
    holder = attributes.get(name) if isinstance(attributes, dict) else None
    if not isinstance(holder, dict):
        return None
    for kind, value in holder.items():
        if kind == "i":
            return int(value) if isinstance(value, (int, str)) else None
        if kind == "list":
            items = value.get("i", []) if isinstance(value, dict) else []
            return [int(item) for item in items] if isinstance(items, list) else None
        if kind in {"b", "f", "type"}:
            return value
        if kind == "s" and isinstance(value, str):
            return _text(value)
    return None


def _text(value: str) -> str:
    import base64
    import binascii

    try:
        return base64.b64decode(value, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return value


def _strided_slice(definition: Config, values: list[Any], path: str) -> Arguments:
    """Begin, end and step per axis, with bits that say which of them count."""
    bad = FileFault(
        f"layer {path!r}: TensorFlow operation 'StridedSlice' cannot be brought to Keras 3 "
        "(its bounds are computed); rebuild that step with Keras layers"
    )
    if len(values) != 4 or not all(isinstance(value, list) for value in values[1:]):
        raise bad
    tensor, begin, end, step = values
    masks = {
        name: int(_attribute(definition, f"{name}_mask") or 0)
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    spec: list[Any] = []
    for axis, (start, stop, stride) in enumerate(zip(begin, end, step, strict=False)):
        bit = 1 << axis
        if masks["ellipsis"] & bit:
            spec.append({"class_name": "__ellipsis__", "config": {}})
        elif masks["new_axis"] & bit:
            spec.append(None)
        elif masks["shrink_axis"] & bit:
            spec.append(start)
        else:
            spec.append(
                {
                    "start": None if masks["begin"] & bit else start,
                    "stop": None if masks["end"] & bit else stop,
                    "step": stride,
                }
            )
    return {"tensor": tensor, "slice_spec": spec}


def as_node(operation: Operation, name: str) -> Config:
    """Module, class and config of the node."""
    if operation.module == "layers":
        module, registered = "keras.layers", None
    else:
        module, registered = f"{keras_inside.OPERATIONS_MODULE}.{operation.module}", operation.name
    return {
        "module": module,
        "class_name": operation.name,
        "config": {"name": name, **operation.settings},
        "registered_name": registered,
    }
