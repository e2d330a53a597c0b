"""Model configs: nodes, classes, nested models, inbound nodes, wrappers, shared objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fuzz.values import Draw
from tests.support.hostile import write_h5, write_keras
from tests.support.samples import small_file

NAMES = ("conv1", "conv2", "classes", "pool", "a", "b", "outer", "forward_lstm")
VERSIONS = ("3.9.0", "3.0.0", "2.15.0", "2.13.1", "2.4.0", "2.2.4-tf", "2.1.0", "1.2.2", "", "x")
LEAVES = {
    "Conv2D": {"filters": 8, "kernel_size": [3, 3], "strides": [1, 1], "groups": 1},
    "Conv1D": {"filters": 8, "kernel_size": [3], "strides": [1], "groups": 1},
    "Conv2DTranspose": {"filters": 8, "kernel_size": [3, 3], "strides": [2, 2]},
    "DepthwiseConv2D": {"kernel_size": [3, 3], "depth_multiplier": 1, "groups": 1},
    "SeparableConv2D": {"filters": 8, "kernel_size": [3, 3], "depth_multiplier": 1},
    "Dense": {"units": 10, "activation": "relu"},
    "EinsumDense": {"equation": "ab,bc->ac", "output_shape": [4]},
    "Embedding": {"input_dim": 9, "output_dim": 4, "input_length": None},
    "LSTM": {"units": 3, "recurrent_activation": "hard_sigmoid", "time_major": False},
    "GRU": {"units": 3, "reset_after": True},
    "CuDNNLSTM": {"units": 3},
    "ConvLSTM2D": {"filters": 3, "kernel_size": [3, 3], "data_format": "channels_last"},
    "MultiHeadAttention": {"num_heads": 2, "key_dim": 4, "value_dim": 4, "output_shape": None},
    "GroupedQueryAttention": {"head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 1},
    "BatchNormalization": {"axis": [3], "momentum": 0.99, "epsilon": 1e-3, "renorm": False},
    "InputLayer": {"batch_input_shape": [None, 8, 8, 1], "dtype": "float32", "sparse": False},
    "Dropout": {"rate": 0.5, "noise_shape": None, "seed": None},
    "Lambda": {"function": ["4wEAAAA=", None, None], "function_type": "lambda"},
    "TFOpLambda": {"function": "math.add"},
    "SlicingOpLambda": {"function": "__operators__.getitem"},
    "TensorFlowOpLayer": {"node_def": {"name": "Add", "op": "AddV2", "attr": {}}, "constants": {}},
    "Reshape": {"target_shape": [-1, 4]},
    "ReLU": {"max_value": 6.0, "negative_slope": 0.0, "threshold": 0.0},
    "Convolution2D": {"nb_filter": 8, "nb_row": 3, "nb_col": 3, "subsample": [1, 1]},
    "Merge": {"mode": "concat", "concat_axis": -1, "mode_type": "raw", "layers": []},
    "Own": {"units": 3},
}
WRAPPERS = {"TimeDistributed": "layer", "Bidirectional": "layer", "RNN": "cell", "Wrapper": "layer"}
CELLS = ("LSTMCell", "GRUCell", "SimpleRNNCell", "StackedRNNCells")
MODELS = ("Sequential", "Functional", "Model", "Own")
SLOTS = ("kernel", "activity", "recurrent", "depthwise", "pointwise", "embeddings", "bias")
PENALTIES = (
    *("SO", "DSO", "MC", "SRIP", "LOrth", "OffDiag", "Cosine", "Frobenius", "Spectral", "Band"),
    "Attached",
)


def regularizer(d: Draw) -> Any:
    """None, one of Keras's, or one that says it is orthwrap's."""
    kind = d.count(0, 3)
    if kind == 0:
        return None
    if kind == 1:
        return d.slip({"class_name": d.one(("L2", "L1L2", "l2")), "config": {"l2": 0.01}})
    if kind == 2:
        return d.slip(d.one(("l2", "l1_l2", "orthogonal_regularizer")))
    class_name = d.one(PENALTIES)
    layout = {"name": "conv", "rows": [0, 1, 2], "columns": [3], "parts": 1, "strides": [1, 1]}
    config = {
        "factor": 0.1,
        "scale": d.one(("unit", "preserve")),
        "alpha": 1.0,
        "on": "kernel",
        "layout": None if d.chance(0.3) else d.slip(d.slips(layout)),
        "every": 1,
        "probes": 8,
        "combined_with": None,
        "replaced": None,
        "estimate": "exact",
    }
    if class_name == "Attached":
        config |= {"name": "l2", "regularizer": d.one(("builtins:exec", "os:system", "l2"))}
    return d.slips(
        {
            "module": "orthwrap.regularizers",
            "class_name": class_name,
            "config": d.slip(d.slips(config)),
            "registered_name": f"orthwrap>{class_name}",
        }
    )


def initializer(d: Draw) -> Any:
    return d.slip({"class_name": "GlorotUniform", "config": d.slips({"seed": None})})


def node(d: Draw, class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    """A layer's node, in the form of either generation."""
    made: dict[str, Any] = {"class_name": d.slip(class_name), "config": d.slip(d.slips(config))}
    if d.chance(0.5):
        made |= {"module": "keras.layers", "registered_name": None, "build_config": None}
    if d.chance(0.2):
        made["shared_object_id"] = d.slip(d.count(0, 3))
    return d.slips(made)


def leaf(d: Draw) -> dict[str, Any]:
    class_name = d.one(list(LEAVES))
    config = {"name": d.one(NAMES), "trainable": True, "dtype": dtype(d), **LEAVES[class_name]}
    for slot in d.many(lambda: d.one(SLOTS if d.chance(d.rate) else SLOTS[:2]), 2):
        config[f"{slot}_regularizer"] = regularizer(d)
    if d.chance(0.3):
        config["kernel_initializer"] = initializer(d)
    if d.chance(0.1):
        config[d.one(("lora_rank", "quantization_config", "batch_input_shape"))] = d.junk()
    return node(d, class_name, config)


def dtype(d: Draw) -> Any:
    policy = {"class_name": "DTypePolicy", "module": "keras", "config": {"name": "float32"}}
    return d.slip(d.one(("float32", policy)))


def cell(d: Draw, depth: int) -> Any:
    class_name = d.one(CELLS)
    config: dict[str, Any] = {"name": d.one(NAMES), "trainable": True, "units": 3}
    if class_name == "StackedRNNCells":
        config["cells"] = d.many(lambda: cell(d, depth - 1), 3) if depth else []
    config["kernel_regularizer"] = regularizer(d)
    return node(d, class_name, config)


def layer(d: Draw, depth: int) -> dict[str, Any]:
    """A leaf, a wrapper or a model."""
    if depth == 0 or d.chance(0.6):
        return leaf(d)
    if d.chance(0.4):
        return model(d, depth - 1)
    class_name = d.one(list(WRAPPERS))
    inner: Any = cell(d, depth) if class_name == "RNN" else layer(d, depth - 1)
    if class_name == "RNN" and d.chance(0.3):
        inner = [inner, cell(d, depth)]
    config = {"name": d.one(NAMES), "trainable": True, WRAPPERS[class_name]: d.slip(inner)}
    if class_name == "Bidirectional":
        config |= {"merge_mode": "concat", "backward_layer": d.slip(layer(d, depth - 1))}
    return node(d, class_name, config)


def call(d: Draw, names: list[Any]) -> Any:
    """One call of a layer on the outputs of others, as one generation or another writes it."""
    history = [d.one(names or ["x"]), 0, 0]
    if d.chance(0.5):
        return [d.slip([*history, {}]) for _ in range(d.count(1, 2))]
    tensor = {
        "class_name": "__keras_tensor__",
        "config": d.slips({"shape": [None, 8], "dtype": "float32", "keras_history": history}),
    }
    return d.slips({"args": d.slip([d.slip(tensor)]), "kwargs": d.slip({"mask": None})})


def model(d: Draw, depth: int = 3) -> dict[str, Any]:
    class_name = d.one(MODELS)
    layers: list[Any] = [layer(d, depth) for _ in range(d.count(0, 5))]
    if layers and d.chance(0.2):
        layers.append(d.one(layers))  # one object in two places
    config: dict[str, Any] = {"name": d.one(NAMES), "trainable": True, "layers": d.slip(layers)}
    if class_name in ("Functional", "Model"):
        names = [inner["config"].get("name") for inner in layers if _is_plain(inner)]
        for inner in layers:
            inner["name"] = d.slip(d.one(names or ["x"]))
            inner["inbound_nodes"] = d.slip(d.many(lambda: call(d, names), 2))
        for key in ("input_layers", "output_layers"):
            config[key] = d.slip([[d.one(names or ["x"]), 0, 0]])
    elif d.chance(0.2):
        return node(d, "Sequential", {}) | {"config": layers}
    return node(d, class_name, config)


def _is_plain(inner: Any) -> bool:
    return isinstance(inner.get("config"), dict)


def write(d: Draw, folder: Path, config: Any = None, **attributes: Any) -> Path:
    """A `.h5` or a `.keras` with the weights of a small model and a drawn config."""
    config = model(d) if config is None else config
    version = d.one(VERSIONS)
    if d.chance(0.5):
        path = folder / "m.h5"
        write_h5(path, small_file(".h5"), config, version)
        return path
    path = folder / "m.keras"
    metadata = d.slip(d.slips({"keras_version": version, "date_saved": "2024-01-01@00:00:00"}))
    write_keras(path, small_file(".keras"), config_json=config, metadata_json=metadata)
    return path
