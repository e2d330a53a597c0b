"""An optimizer's state, from the order that each Keras wrote it in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from orthwrap.loading.loading import load_compiled
from orthwrap.upgrades.by_format import STATE_ASIDE
from tests.conftest import REAL_MODELS

SHAPES = {"kernel": (6, 3), "bias": (3,)}


def file_with_state(path: Path, optimizer: dict[str, Any], state: dict[str, Any]) -> Path:
    model = keras.Sequential([layers.Input((6,)), layers.Dense(3, name="dense")])
    model.save(path)
    with h5py.File(path, "r+") as f:
        training: dict[str, Any] = {"optimizer_config": optimizer, "loss": "mse", "metrics": []}
        training["loss_weights"] = None
        f.attrs["training_config"] = json.dumps(training)
        group = f.create_group(STATE_ASIDE)
        group.attrs["weight_names"] = [name.encode() for name in state]
        for name, value in state.items():
            group[name] = value
    return path


def slots(first: float) -> list[Any]:
    return [np.full(shape, first + i) for i, shape in enumerate(SHAPES.values())]


def numbered(values: list[Any]) -> dict[str, Any]:
    return {f"training/Variable_{i}:0": value for i, value in enumerate(values)}


ADAM = {"class_name": "Adam", "config": {"learning_rate": 0.5}}
RMSPROP = {"class_name": "RMSprop", "config": {"learning_rate": 0.5}}
FOUND = [1, 3, 2, 4]  # m and v of the kernel, m and v of the bias
STATES: dict[str, tuple[dict[str, Any], dict[str, Any], int, list[float]]] = {
    "first slots first": (ADAM, numbered([np.int64(7), *slots(1), *slots(3)]), 7, FOUND),
    "placeholders": (
        ADAM,
        numbered([np.int64(7), *slots(1), *slots(3), np.zeros(1), np.zeros(1)]),
        7,
        FOUND,
    ),
    "no iteration": (RMSPROP, numbered(slots(1)), 0, [1, 2]),
    "slots together": (
        ADAM,
        {
            "Adam/iter:0": np.int64(7),
            **{
                f"Adam/{slot}/dense/{name}:0": np.full(shape, value)
                for (name, shape), values in zip(SHAPES.items(), ((1, 3), (2, 4)), strict=True)
                for slot, value in zip("mv", values, strict=True)
            },
        },
        7,
        FOUND,
    ),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.filterwarnings("ignore")  # .h5 is a legacy format
def test_state_of_older_optimizers(tmp_path: Path, name: str) -> None:
    optimizer, state, iteration, values = STATES[name]
    path = file_with_state(tmp_path / "m.h5", optimizer, state)
    model, notes = load_compiled(path)
    assert notes == ()
    variables = [np.asarray(v) for v in model.optimizer.variables]
    assert int(variables[0]) == iteration
    assert float(variables[1]) == 0.5
    assert [float(v.flat[0]) for v in variables[2:]] == values
    assert [v.shape for v in variables[2 :: 2 if optimizer is ADAM else 1]] == list(SHAPES.values())


@pytest.mark.filterwarnings("ignore")
def test_a_state_of_other_variables_starts_afresh(tmp_path: Path) -> None:
    state = numbered([np.int64(7), *slots(1), np.ones((6, 4)), np.ones(3)])
    model, notes = load_compiled(file_with_state(tmp_path / "m.h5", ADAM, state))
    assert notes == ("the file's optimizer state does not fit this optimizer: it starts afresh",)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.dear
@pytest.mark.skipif(not REAL_MODELS.exists(), reason="the real models are not here")
@pytest.mark.parametrize("name", ["mmsplice_donor.h5", "facemask_mobilenetv2.h5"])
def test_state_of_a_real_file(name: str) -> None:
    model = orthwrap.load_model(REAL_MODELS / name)
    assert int(model.optimizer.iterations) > 0
    assert max(float(np.abs(v).max()) for v in model.optimizer.variables[2:]) > 0


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", ["mae"], {"dense": "kld"}, "mean_squared_error"])
@pytest.mark.filterwarnings("ignore")
def test_abbreviated_losses_of_keras_3(tmp_path: Path, loss: Any) -> None:
    inputs = keras.Input((6,))
    model = keras.Model(inputs, {"dense": layers.Dense(3, name="dense")(inputs)})
    model.compile("adam", loss, metrics=["mae"])
    x, y = np.ones((4, 6)), {"dense": np.ones((4, 3))}
    model.fit(x, y, verbose=0)
    source = tmp_path / "m.h5"
    model.save(source)
    before = source.read_bytes()
    loaded = orthwrap.load_model(source)
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0))
    assert int(loaded.optimizer.iterations) == 1
    result = orthwrap.apply(source, tmp_path / "o.keras")
    assert result.report.warnings == ()
    assert result.model.compiled
    assert source.read_bytes() == before


@pytest.mark.filterwarnings("ignore")
def test_a_metric_that_nobody_knows_is_left_out(tmp_path: Path) -> None:
    def qscore(truth: Any, said: Any) -> Any:
        return keras.ops.mean(truth - said)

    state = numbered([np.int64(7), *slots(1), *slots(3)])
    path = file_with_state(tmp_path / "m.h5", ADAM, state)
    with h5py.File(path, "r+") as f:
        training = json.loads(f.attrs["training_config"])
        f.attrs["training_config"] = json.dumps({**training, "metrics": ["qscore", "mae"]})
    model, (note,) = load_compiled(path)
    assert "metric 'qscore' is not known here, so left out" in note
    model.fit(np.ones((4, 6)), np.ones((4, 3)), verbose=0)
    assert int(model.optimizer.iterations) == 8
    model, notes = load_compiled(path, {"qscore": qscore})
    assert notes == ()
    assert "qscore" in model.evaluate(np.ones((4, 6)), np.ones((4, 3)), return_dict=True)
