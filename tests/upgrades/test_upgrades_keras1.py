"""Keras 1 files against a forward pass in NumPy that shares no code with the upgrade."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from orthwrap.errors import FileFault
from tests.support.upgrade_helpers import (
    TOLERANCE,
    config_of,
    difference,
    load,
    real,
    run,
    upgrade,
    write_h5,
)

RNG = np.random.default_rng(3)


def normal(*shape: int) -> Any:
    return RNG.normal(0, 0.5, shape).astype("float32")


# --- the forward pass: channels last, Keras 1's formulas ----------------------------------------


def correlate(x: Any, kernel: Any, bias: Any, same: bool = False) -> Any:
    """A convolution without turning the kernel, stride 1, by the definition."""
    rows, cols = kernel.shape[:2]
    if same:
        before = ((rows - 1) // 2, (cols - 1) // 2)
        x = np.pad(
            x,
            (
                (0, 0),
                (before[0], rows - 1 - before[0]),
                (before[1], cols - 1 - before[1]),
                (0, 0),
            ),
        )
    height, width = x.shape[1] - rows + 1, x.shape[2] - cols + 1
    out = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            patch = x[:, i : i + rows, j : j + cols]
            out[:, i, j] = np.tensordot(patch, kernel, axes=3) + bias
    return out


def max_pool(x: Any, size: int) -> Any:
    n, height, width, channels = x.shape
    x = x[:, : height // size * size, : width // size * size]
    return x.reshape(n, height // size, size, width // size, size, channels).max((2, 4))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(x: Any) -> Any:
    return np.clip(0.2 * x + 0.5, 0, 1)


def relu(x: Any) -> Any:
    return np.maximum(x, 0)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def lstm(x: Any, weights: list[Any], sequences: bool) -> Any:
    """Twelve arrays, W U b for each of the gates i, c, f, o."""
    (wi, ui, bi), (wc, uc, bc), (wf, uf, bf), (wo, uo, bo) = (
        weights[k : k + 3] for k in (0, 3, 6, 9)
    )
    h = c = np.zeros((len(x), len(bi)))
    out = []
    for t in range(x.shape[1]):
        now = x[:, t]
        i = hard_sigmoid(now @ wi + bi + h @ ui)
        f = hard_sigmoid(now @ wf + bf + h @ uf)
        c = f * c + i * np.tanh(now @ wc + bc + h @ uc)
        o = hard_sigmoid(now @ wo + bo + h @ uo)
        h = o * np.tanh(c)
        out.append(h)
    return np.stack(out, 1) if sequences else h


def gru(x: Any, weights: list[Any]) -> Any:
    """Nine arrays, W U b for each of z, r, h."""
    (wz, uz, bz), (wr, ur, br), (wh, uh, bh) = (weights[k : k + 3] for k in (0, 3, 6))
    h = np.zeros((len(x), len(bz)))
    for t in range(x.shape[1]):
        now = x[:, t]
        z = hard_sigmoid(now @ wz + bz + h @ uz)
        r = hard_sigmoid(now @ wr + br + h @ ur)
        candidate = np.tanh(now @ wh + bh + (r * h) @ uh)
        h = z * h + (1 - z) * candidate
    return h


# --- files --------------------------------------------------------------------------------------


def upgraded(path: Path, tmp_path: Path) -> Any:
    out = tmp_path / "new.h5"
    assert upgrade(path, out)
    return load(out)


def arrays_of(path: Path) -> dict[str, list[Any]]:
    with h5py.File(path) as file:
        group = file["model_weights"]
        return {
            name.decode(): [
                group[name.decode()][weight.decode()][()]
                for weight in group[name.decode()].attrs["weight_names"]
            ]
            for name in group.attrs["layer_names"]
        }


def test_real_lstm(tmp_path: Path) -> None:
    path = real("dl4j_k110_lstm.h5")
    w = arrays_of(path)
    x = normal(3, 10, 2)
    y = lstm(lstm(x, w["lstm_1"], True), w["lstm_2"], True)
    y = softmax(y @ w["timedistributeddense_1"][0] + w["timedistributeddense_1"][1])
    assert difference(run(upgraded(path, tmp_path), [x]), [y]) < TOLERANCE


def test_real_cnn(tmp_path: Path) -> None:
    path = real("dl4j_k112_cnn.h5")
    w = arrays_of(path)
    x = normal(3, 8, 8, 3)
    y = sigmoid(correlate(x, *w["convolution2d_1"]))
    y = max_pool(relu(correlate(y, *w["convolution2d_2"])), 5)
    y = relu(y.reshape(3, -1) @ w["dense_1"][0] + w["dense_1"][1])
    y = softmax(y @ w["dense_2"][0] + w["dense_2"][1])
    assert difference(run(upgraded(path, tmp_path), [x]), [y]) < TOLERANCE


def test_real_reshape(tmp_path: Path) -> None:
    path = real("dl4j_k122_conv2d_reshape_tf.h5")
    w = arrays_of(path)
    x = normal(3, 5, 5, 5)
    y = correlate(x, *w["convolution2d_1"]).reshape(3, 4, 3, 6)
    y = correlate(y, *w["convolution2d_2"]).reshape(3, -1)
    y = y @ w["dense_1"][0] + w["dense_1"][1]
    assert difference(run(upgraded(path, tmp_path), [x]), [y]) < TOLERANCE


def sequential(*layers: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "class_name": "Sequential",
        "config": [{"class_name": name, "config": dict(config)} for name, config in layers],
    }


CONVOLUTION = {
    "name": "c",
    "nb_filter": 3,
    "nb_row": 3,
    "nb_col": 2,
    "border_mode": "same",
    "subsample": [1, 1],
    "init": "glorot_uniform",
    "activation": "relu",
    "bias": True,
    "W_regularizer": {"name": "WeightRegularizer", "l1": 0.0, "l2": 0.5},
    "W_constraint": {"name": "MaxNorm", "m": 2, "axis": 0},
}


@pytest.mark.parametrize("theano", [False, True])
@pytest.mark.parametrize("ordering", ["tf", "th"])
def test_convolution(tmp_path: Path, ordering: str, theano: bool) -> None:
    shape = [None, 5, 6, 2] if ordering == "tf" else [None, 2, 5, 6]
    config = sequential(
        ("Convolution2D", {**CONVOLUTION, "dim_ordering": ordering, "batch_input_shape": shape}),
        ("UpSampling2D", {"name": "u", "size": [2, 2]}),
        ("ZeroPadding2D", {"name": "p", "padding": [1, 2]}),
        (
            "MaxPooling2D",
            {
                "name": "m",
                "pool_size": [2, 2],
                "strides": [2, 2],
                "border_mode": "valid",
                "dim_ordering": ordering,
            },
        ),
    )
    kernel, bias = normal(3, 2, 2, 3), normal(3)
    stored = kernel[::-1, ::-1] if theano else kernel
    stored = stored if ordering == "tf" else stored.transpose(3, 2, 0, 1)
    tail = "" if theano else ":0"
    weights: dict[str, list[tuple[str, Any]]] = {
        "c": [(f"c_W{tail}", stored), (f"c_b{tail}", bias)]
    }
    path = write_h5(
        tmp_path / "old.h5", config, {**weights, "u": [], "p": [], "m": []}, "1.2.2", backend=None
    )
    model = upgraded(path, tmp_path)
    x = normal(2, 5, 6, 2)
    y = relu(correlate(x, kernel, bias, same=True)).repeat(2, 1).repeat(2, 2)
    y = max_pool(np.pad(y, ((0, 0), (1, 1), (2, 2), (0, 0))), 2)
    assert model.layers[0].kernel_regularizer.l2 == pytest.approx(0.5)
    if ordering == "th":
        # TensorFlow convolves channels first on a CPU only when it compiles.
        found = np.asarray(model.predict(x.transpose(0, 3, 1, 2), verbose=0))
        found = found.transpose(0, 2, 3, 1)
    else:
        found = run(model, [x])[0]
    assert difference([found], [y]) < TOLERANCE


def recurrent(name: str, units: int, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "output_dim": units,
        "init": "glorot_uniform",
        "inner_init": "orthogonal",
        "activation": "tanh",
        "inner_activation": "hard_sigmoid",
        "W_regularizer": None,
        "U_regularizer": None,
        "b_regularizer": None,
        "dropout_W": 0.0,
        "dropout_U": 0.0,
        "return_sequences": False,
        "go_backwards": False,
        "stateful": False,
        "unroll": False,
        "consume_less": "cpu",
        "input_dim": 4,
        "input_length": None,
        **more,
    }


def gates(prefix: str, letters: str, inputs: int, units: int) -> list[tuple[str, Any]]:
    out = []
    for letter in letters:
        out += [
            (f"{prefix}_W_{letter}:0", normal(inputs, units)),
            (f"{prefix}_U_{letter}:0", normal(units, units)),
            (f"{prefix}_b_{letter}:0", normal(units)),
        ]
    return out


@pytest.mark.parametrize("at_root", [False, True])
def test_recurrent(tmp_path: Path, at_root: bool) -> None:
    config = sequential(
        (
            "Bidirectional",
            {
                "name": "b",
                "batch_input_shape": [None, 6, 4],
                "merge_mode": "concat",
                "layer": {
                    "class_name": "LSTM",
                    "config": recurrent("l", 3, forget_bias_init="one", return_sequences=True),
                },
            },
        ),
        ("GRU", recurrent("g", 2)),
        (
            "Dense",
            {
                "name": "d",
                "output_dim": 5,
                "init": "uniform",
                "activation": "hard_sigmoid",
                "bias": True,
                "input_dim": 2,
            },
        ),
    )
    both = gates("f", "icfo", 4, 3) + gates("r", "icfo", 4, 3)
    g = gates("g", "zrh", 6, 2)
    d = [("d_W:0", normal(2, 5)), ("d_b:0", normal(5))]
    path = write_h5(
        tmp_path / "old.h5", config, {"b": both, "g": g, "d": d}, "1.2.0", None, at_root=at_root
    )
    x = normal(2, 6, 4)
    arrays = [array for _, array in both]
    y = np.concatenate(
        [lstm(x, arrays[:12], True), lstm(x[:, ::-1], arrays[12:], True)[:, ::-1]], -1
    )
    y = gru(y, [array for _, array in g])
    y = hard_sigmoid(y @ d[0][1] + d[1][1])
    assert difference(run(upgraded(path, tmp_path), [x]), [y]) < TOLERANCE


def test_nested_keras_1_model(tmp_path: Path) -> None:
    inner = sequential(
        (
            "BatchNormalization",
            {
                "name": "n",
                "mode": 0,
                "axis": -1,
                "epsilon": 1e-3,
                "momentum": 0.9,
                "batch_input_shape": [None, 6, 4],
            },
        ),
        ("GRU", recurrent("g", 2)),
    )
    inner["config"][0]["config"]["name"] = "n"
    config = {
        "class_name": "Sequential",
        "config": [
            inner,
            {
                "class_name": "Dense",
                "config": {"name": "d", "output_dim": 3, "activation": "linear"},
            },
        ],
    }
    gamma, beta, mean, variance = normal(4), normal(4), normal(4), abs(normal(4)) + 0.5
    g = gates("g", "zrh", 4, 2)
    nested = [
        ("n_gamma:0", gamma),
        ("n_beta:0", beta),
        *g,
        ("n_mean:0", mean),
        ("n_std:0", variance),
    ]
    d = [("d_W:0", normal(2, 3)), ("d_b:0", normal(3))]
    path = write_h5(tmp_path / "old.h5", config, {"sequential_1": nested, "d": d}, "1.2.0", None)
    x = normal(2, 6, 4)
    y = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    y = gru(y, [array for _, array in g]) @ d[0][1] + d[1][1]
    assert difference(run(upgraded(path, tmp_path), [x]), [y]) < TOLERANCE


def test_merge_and_graph(tmp_path: Path) -> None:
    def node(cls: str, name: str, config: dict[str, Any], *inputs: str) -> dict[str, Any]:
        calls = [[[name, 0, 0] for name in inputs]] if inputs else []
        return {
            "class_name": cls,
            "name": name,
            "config": {"name": name, **config},
            "inbound_nodes": calls,
        }

    def merge(mode: str, **more: Any) -> dict[str, Any]:
        return {
            "mode": mode,
            "mode_type": "raw",
            "concat_axis": -1,
            "dot_axes": -1,
            "output_shape": None,
            "output_shape_type": "raw",
            "output_mask": None,
            "output_mask_type": "raw",
            "arguments": {},
            **more,
        }

    config = {
        "class_name": "Model",
        "config": {
            "name": "m",
            "layers": [
                node(
                    "InputLayer",
                    "a",
                    {"batch_input_shape": [None, 3], "input_dtype": "float32", "sparse": False},
                ),
                node(
                    "InputLayer",
                    "b",
                    {"batch_input_shape": [None, 3], "input_dtype": "float32", "sparse": False},
                ),
                node("Merge", "s", merge("sum"), "a", "b"),
                node("Merge", "p", merge("mul"), "a", "b"),
                node("Merge", "d", merge("dot", dot_axes=[1, 1]), "a", "b"),
                node("Merge", "c", merge("concat"), "s", "p", "d"),
                node(
                    "Embedding",
                    "unused",
                    {
                        "input_dim": 4,
                        "output_dim": 2,
                        "init": "uniform",
                        "input_length": 3,
                        "mask_zero": False,
                        "W_regularizer": None,
                        "W_constraint": None,
                        "activity_regularizer": None,
                        "dropout": 0.0,
                    },
                    "a",
                ),
                node("Flatten", "f", {}, "unused"),
                node("Merge", "o", merge("concat"), "c", "f"),
            ],
            "input_layers": [["a", 0, 0], ["b", 0, 0]],
            "output_layers": [["o", 0, 0]],
        },
    }
    table = normal(4, 2)
    names = ["a", "b", "unused", "s", "p", "d", "f", "c", "o"]
    weights: dict[str, list[tuple[str, Any]]] = {name: [] for name in names}
    weights["unused"] = [("unused_W:0", table)]
    path = write_h5(tmp_path / "old.h5", config, weights, "1.2.2", None)
    a = RNG.integers(0, 4, (5, 3)).astype("float32")
    b = normal(5, 3)
    y = np.concatenate(
        [a + b, a * b, (a * b).sum(-1, keepdims=True), table[a.astype(int)].reshape(5, -1)], -1
    )
    assert difference(run(upgraded(path, tmp_path), [a, b]), [y]) < TOLERANCE


def test_conv1d_layouts(tmp_path: Path) -> None:
    """1.1 kept (filters, channels, length, 1), 1.2 (length, 1, channels, filters)."""
    layer = {
        "name": "c",
        "nb_filter": 3,
        "filter_length": 2,
        "subsample_length": 1,
        "border_mode": "valid",
        "activation": "linear",
        "bias": True,
        "input_dim": 4,
        "input_length": 6,
        "batch_input_shape": [None, 6, 4],
    }
    kernel, bias = normal(2, 4, 3), normal(3)
    x = normal(2, 6, 4)
    y = correlate(x[:, :, None], kernel[:, None], bias)[:, :, 0]
    for number, stored in enumerate((kernel[:, None], kernel.transpose(2, 1, 0)[..., None])):
        path = write_h5(
            tmp_path / f"{number}.h5",
            sequential(("Convolution1D", layer)),
            {"c": [("c_W:0", stored), ("c_b:0", bias)]},
            "1.1.0",
            None,
        )
        folder = tmp_path / str(number)
        folder.mkdir()
        assert difference(run(upgraded(path, folder), [x]), [y]) < TOLERANCE


@pytest.mark.parametrize(
    ("layer", "config", "expected"),
    [
        ("MaxoutDense", {"output_dim": 3, "nb_feature": 4}, "no such layer"),
        ("Highway", {}, "no such layer"),
        ("BatchNormalization", {"mode": 2}, "mode"),
        ("Convolution2D", {**CONVOLUTION, "border_mode": "full"}, "full"),
        ("Merge", {"layers": [{}], "mode": "sum"}, "Merge"),
        ("Merge", {"mode": ["code"], "mode_type": "lambda"}, "Merge by a function"),
    ],
)
def test_what_has_no_successor(
    tmp_path: Path, layer: str, config: dict[str, Any], expected: str
) -> None:
    model = sequential((layer, {"name": "x", "batch_input_shape": [None, 4, 4, 2], **config}))
    path = write_h5(tmp_path / "old.h5", model, {"x": []}, "1.2.2", None)
    with pytest.raises(FileFault, match=expected) as caught:
        upgrade(path)
    assert "\n" not in str(caught.value)


def test_layers_at_the_root_move(tmp_path: Path) -> None:
    config = sequential(("Dense", {"name": "d", "output_dim": 2, "batch_input_shape": [None, 3]}))
    weights = {"d": [("d_W:0", normal(3, 2)), ("d_b:0", normal(2))]}
    path = write_h5(tmp_path / "old.h5", config, weights, "1.0.4", None, at_root=True)
    upgrade(path, tmp_path / "new.h5")
    with h5py.File(tmp_path / "new.h5") as file:
        assert list(file["model_weights"]) == ["d"]
    assert config_of(path)["config"][0]["class_name"] == "Dense"
