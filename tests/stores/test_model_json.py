"""The classic pair, `model.json` and a file of weights, of Keras 1, 2 and 3."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import orthwrap
from orthwrap.errors import FileFault, UsageError
from orthwrap_cli.main import app
from tests.support.upgrade_helpers import load, oracle, real, write_h5

L = keras.layers
X = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")


def functional() -> Any:
    x = keras.Input((8, 8, 3))
    y = L.BatchNormalization()(L.Conv2D(4, 3, name="conv")(x))
    return keras.Model(x, L.Dense(2, name="head")(L.Flatten()(y)))


def nested() -> Any:
    return keras.Sequential([keras.Input((8, 8, 3)), functional(), L.Dense(2)])


def saved(model: Any, folder: Path) -> tuple[Path, Path]:
    """A pair of Keras 3."""
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).uniform(0.5, 1.5, weight.shape))
    model.save_weights(folder / "w.weights.h5")
    (folder / "model.json").write_text(model.to_json())
    return folder / "model.json", folder / "w.weights.h5"


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("make", [functional, nested])
def test_of_keras_3(make: Any, suffix: str, tmp_path: Path) -> None:
    model = make()
    architecture, weights = saved(model, tmp_path)
    before = architecture.read_bytes(), weights.read_bytes()
    report = orthwrap.inspect(architecture, weights=weights)
    whole = tmp_path / "whole.keras"
    model.save(whole)
    assert [r.before for r in report.layers] == [r.before for r in orthwrap.inspect(whole).layers]
    done = orthwrap.apply(architecture, tmp_path / f"out{suffix}", weights=weights)
    assert done.report.summary["regularized"] == len(report.layers) > 1
    found = load(done.output)
    np.testing.assert_array_equal(found(X), model(X))
    assert len(found.losses) == len(report.layers)
    assert before == (architecture.read_bytes(), weights.read_bytes())


def test_beside_the_input_and_read_twice(tmp_path: Path) -> None:
    """Without an output, the name is the model's; text that was made JSON once more is read."""
    model = functional()
    architecture, weights = saved(model, tmp_path)
    architecture.write_text("\ufeff" + json.dumps(model.to_json()), encoding="utf-8")
    done = orthwrap.upgrade(architecture, weights=weights)
    assert done.output == tmp_path / "model-keras3.keras"
    np.testing.assert_array_equal(load(done.output)(X), model(X))


OLD = """
import sys, numpy as np, tf_keras as k
folder = sys.argv[1]
L = k.layers
inner = k.Sequential([k.Input((8, 8, 3)), L.Conv2D(4, 3, activation="hard_sigmoid"), L.Flatten()])
x = k.Input((8, 8, 3))
y = L.Reshape((4, 36))(inner(x / 2.0))
y = L.Bidirectional(L.GRU(3, recurrent_activation="hard_sigmoid"))(y)
models = {"graph": k.Model(x, L.Dense(2, name="head/logits")(y))}
# Nothing in these asks to be brought to Keras 3, but where their weights and their class are.
models["plain_row"] = k.Sequential([k.Input((8, 8, 3)), L.Conv2D(4, 3), L.Flatten(), L.Dense(2)])
y = L.Dense(2)(L.Flatten()(L.Conv2D(4, 3)(x)))
models["plain_graph"] = k.Model(x, y)
models["row"] = k.Sequential([L.Conv2D(4, 3, input_shape=(8, 8, 3)), L.Flatten(), L.Dense(2)])
data = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
for name, model in models.items():
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) / 3 for w in model.weights])
    open(f"{folder}/{name}.json", "w").write(model.to_json())
    model.save_weights(f"{folder}/{name}.h5")
    model.save_weights(f"{folder}/{name}.weights.h5")
    np.savez(f"{folder}/{name}.npz", x0=data, y0=model(data))
"""


@pytest.fixture(scope="module")
def of_keras_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("tf_keras") is None:
        pytest.skip("tf_keras is not installed")
    folder = tmp_path_factory.mktemp("pairs")
    done = subprocess.run(
        [sys.executable, "-c", OLD, str(folder)], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("out", ["out.keras", "out.h5"])
@pytest.mark.parametrize("weights", ["h5", "weights.h5"])
@pytest.mark.parametrize("name", ["graph", "row", "plain_graph", "plain_row"])
def test_of_keras_2(of_keras_2: Path, name: str, weights: str, out: str, tmp_path: Path) -> None:
    done = orthwrap.apply(
        of_keras_2 / f"{name}.json", tmp_path / out, weights=of_keras_2 / f"{name}.{weights}"
    )
    (given,), (expected,) = oracle(of_keras_2 / f"{name}.npz")
    found = load(done.output)
    np.testing.assert_allclose(found(given), expected, atol=1e-6)
    assert len(found.losses) == 2  # the convolution and the dense layer


KERAS_1 = {
    "class_name": "Sequential",
    "keras_version": "1.2.2",
    "config": [
        {
            "class_name": "Dense",
            "config": {
                "name": "dense_1", "output_dim": 3, "activation": "tanh", "bias": True,
                "batch_input_shape": [None, 4], "input_dtype": "float32", "init": "glorot_uniform",
                "W_regularizer": None, "b_regularizer": None, "activity_regularizer": None,
                "W_constraint": None, "b_constraint": None, "input_dim": 4, "trainable": True,
            },
        }
    ],
}  # fmt: skip


@pytest.mark.parametrize("out", ["out.keras", "out.h5"])
def test_of_keras_1(out: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kernel, bias, x = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=(5, 4))
    (tmp_path / "model.json").write_text(json.dumps(KERAS_1))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = [b"dense_1"]
        group = file.create_group("dense_1")
        group.attrs["weight_names"] = [b"dense_1_W", b"dense_1_b"]
        group["dense_1_W"], group["dense_1_b"] = kernel, bias
    done = orthwrap.apply(
        tmp_path / "model.json", tmp_path / out, weights=tmp_path / "w.h5", factor=1e-3
    )
    (row,) = done.report.layers
    gram = kernel.T @ kernel - np.eye(3)
    assert row.before.residual == pytest.approx(np.sqrt((gram**2).sum() / 3), rel=1e-5)
    found = load(done.output)
    np.testing.assert_allclose(found(x), np.tanh(x @ kernel + bias), atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["dl4j_k110_lstm.h5", "dl4j_k122_conv2d_reshape_tf.h5", "dl4j_k213_conv2d_reshape_th.h5",
     "tm_waste_nested.h5", "medaka_flip235_cudnngru.hdf5"],
)  # fmt: skip
def test_the_halves_of_a_file_are_the_file(name: str, tmp_path: Path) -> None:
    """A real file, taken apart as `to_json` and `save_weights` would have written it."""
    whole = real(name)
    with h5py.File(whole) as file, h5py.File(tmp_path / "w.h5", "w") as weights:
        said = {k: file.attrs[k] for k in ("keras_version", "backend") if k in file.attrs}
        config = {
            **json.loads(file.attrs["model_config"]),
            **{k: _text(v) for k, v in said.items()},
        }
        group = file["model_weights"]
        for key, value in {**dict(group.attrs), **said}.items():
            weights.attrs[key] = value
        for layer in group:
            group.copy(layer, weights)
    (tmp_path / "model.json").write_text(json.dumps(config))
    one = orthwrap.upgrade(whole, tmp_path / "one.h5")
    two = orthwrap.upgrade(tmp_path / "model.json", tmp_path / "two.h5", weights=tmp_path / "w.h5")
    # How a model was compiled is in the whole file alone.
    names = [
        [u["name"] for u in done.report.upgrades if u["layers"] != ["training"]]
        for done in (one, two)
    ]
    assert names[0] == names[1]
    assert orthwrap.compare(one.output, two.output).to_json()["layers"]
    with h5py.File(one.output) as a, h5py.File(two.output) as b:
        first, second = (json.loads(f.attrs["model_config"]) for f in (a, b))
        assert first["config"] == second["config"]
        arrays: list[str] = []
        a["model_weights"].visititems(
            lambda n, x: arrays.append(n) if isinstance(x, h5py.Dataset) else None
        )
        assert arrays
        for n in arrays:
            np.testing.assert_array_equal(a["model_weights"][n], b["model_weights"][n])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def failed(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_one_half_alone_says_what_is_missing(tmp_path: Path) -> None:
    architecture, weights = saved(functional(), tmp_path)
    assert "--weights W.h5" in failed("inspect", architecture)
    assert "model.json --weights w.weights.h5" in failed("apply", weights)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = [b"dense"]
    assert "model.json --weights old.h5" in failed("inspect", tmp_path / "old.h5")


@pytest.mark.parametrize("name", ["cp.index", "cp.data-00000-of-00001", "folder"])
def test_a_checkpoint_says_what_would_help(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / "checkpoint").write_text('model_checkpoint_path: "cp"')
    else:
        path.write_bytes(b"\0" * 40)
    assert "`orthwrap apply model.keras`" in failed("inspect", path)


def test_what_is_no_pair_is_one_line(tmp_path: Path) -> None:
    architecture, weights = saved(functional(), tmp_path)
    whole = tmp_path / "whole.keras"
    functional().save(whole)
    other = tmp_path / "other.json"
    for text, said in (
        ("{", "not JSON"),
        ('"{"', "not JSON"),
        ("[1]", "no model.json"),
        ('{"a": 1}', "without class_name"),
        ('{"modelTopology": {}}', "TensorFlow.js"),
        ("", "no model.json"),
        ('{"class_name": "Sequential", "config": 3}', "names no layers"),
        ('{"class_name": "Mine", "config": {"units": 3}}', "names no layers"),
    ):
        other.write_text(text)
        assert said in failed("inspect", other, "--weights", weights)
    assert "a whole model by itself" in failed("inspect", architecture, "--weights", whole)
    assert "no HDF5 file" in failed("inspect", architecture, "--weights", other)
    assert "does not exist" in failed("inspect", architecture, "--weights", tmp_path / "none.h5")
    assert "no model.json" in failed("inspect", whole, "--weights", weights)
    weights.write_bytes(weights.read_bytes()[:900])
    assert "w.weights.h5" in failed("inspect", architecture, "--weights", weights)
    with pytest.raises(UsageError, match="live model"):
        orthwrap.inspect(functional(), weights=weights)


def test_weights_of_another_model(tmp_path: Path) -> None:
    config = {**KERAS_1, "keras_version": "2.3.1"}
    (tmp_path / "model.json").write_text(json.dumps(config))
    write_h5(tmp_path / "w.h5", config, {"dense_7": [("dense_7/kernel:0", np.ones((4, 3)))]})
    assert "weights of dense_7" in failed(
        "inspect", tmp_path / "model.json", "--weights", tmp_path / "w.h5"
    )
    small, _ = saved(functional(), tmp_path)
    lone = keras.Sequential([keras.Input((4,)), L.EinsumDense("ab,bc->ac", 3)])
    lone.save_weights(tmp_path / "lone.weights.h5")
    assert "none of the kernels" in failed(
        "apply", small, "--weights", tmp_path / "lone.weights.h5"
    )


def test_neither_half_is_written_over(tmp_path: Path) -> None:
    architecture, weights = saved(functional(), tmp_path)
    before = weights.read_bytes()
    for word in ("apply", "upgrade"):
        line = failed(word, architecture, "--weights", weights, "-o", weights, "--force")
        assert "is the file of weights" in line
    assert weights.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "w.weights.h5"]
    with pytest.raises(FileFault, match="file of weights"):
        orthwrap.upgrade(architecture, weights, weights=weights, force=True)


def test_code_in_a_model_json_does_not_run(tmp_path: Path) -> None:
    """A Lambda's code is data, even where Keras is asked to convert."""
    model = keras.Sequential([keras.Input((4,)), L.Lambda(lambda x: x + 1), L.Dense(2)])
    architecture, weights = saved(model, tmp_path)
    assert orthwrap.apply(architecture, tmp_path / "out.keras", weights=weights).output
    assert "--unsafe-lambda" in failed(
        "apply", architecture, "--weights", weights, "-o", tmp_path / "out.h5"
    )
