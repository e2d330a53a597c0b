"""Every regularizer taken out, whosever it is: what Keras then adds to the loss is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import orthwrap
from orthwrap_cli.main import app
from tests.support.upgrade_helpers import load, real, write_h5

L = keras.layers


def regularized() -> Any:
    """Regularizers of every kind of weight, by name and as objects, wrapped and nested."""
    l2 = keras.regularizers.L2(0.01)
    inner = keras.Sequential(
        [keras.Input((6, 8)), L.LSTM(4, recurrent_regularizer=l2, bias_regularizer="l1")],
    )
    x = keras.Input((6, 8))
    y = L.BatchNormalization(beta_regularizer=l2, gamma_regularizer="l1")(x)
    y = L.TimeDistributed(L.Dense(8, bias_regularizer=l2, activity_regularizer="l2"))(y)
    y = L.Bidirectional(L.GRU(4, kernel_regularizer=l2, return_sequences=True))(y)
    y = L.SeparableConv1D(8, 3, padding="same", pointwise_regularizer=l2)(y)
    y = L.MultiHeadAttention(2, 4, bias_regularizer=l2, kernel_regularizer=l2)(y, y)
    y = L.LayerNormalization(beta_regularizer=l2)(y)
    return keras.Model(
        x, L.Dense(2, kernel_regularizer=keras.regularizers.OrthogonalRegularizer())(inner(y))
    )


X = np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")


def left(model: Any) -> list[str]:
    return [v.path for v in model.variables if v.regularizer is not None]


@pytest.mark.dear
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("with_ours", [False, True])
def test_a_file(suffix: str, with_ours: bool, tmp_path: Path) -> None:
    model = regularized()
    path, out = tmp_path / f"model{suffix}", tmp_path / f"out{suffix}"
    model.save(path)
    if with_ours:
        orthwrap.apply(path, tmp_path / f"ours{suffix}", target="all", existing="replace")
        path = tmp_path / f"ours{suffix}"
    done = orthwrap.strip(path, out, all=True)
    plain = load(out)
    assert left(model)
    assert left(plain) == []
    assert "orthwrap" not in json.dumps(plain.get_config())
    np.testing.assert_array_equal(plain(X), model(X))
    assert plain.losses == []
    removed = {(r.path, r.slot) for r in done.report.layers if r.decision == "removed"}
    assert len({s for _, s in removed}) >= 7
    assert {s for p, s in removed if p == "batch_normalization"} <= {"beta", "gamma"}
    again = orthwrap.strip(out, tmp_path / f"again{suffix}", all=True)
    assert not any(r.decision == "removed" for r in again.report.layers)


@pytest.mark.dear
@pytest.mark.parametrize("in_place", [False, True])
def test_a_live_model(in_place: bool) -> None:
    model = regularized()
    expected = np.asarray(model(X))
    before = left(model)
    plain = orthwrap.strip(model, all=True, in_place=in_place).model
    assert (plain is model) == in_place
    assert left(plain) == []
    np.testing.assert_array_equal(plain(X), expected)
    assert plain.losses == []
    assert in_place or left(model) == before


NONE: Any = {"regularizer": "none", "existing": "replace"}


@pytest.mark.dear
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_to_apply_none_is_the_same(suffix: str, tmp_path: Path) -> None:
    model = regularized()
    path, out = tmp_path / f"model{suffix}", tmp_path / f"out{suffix}"
    model.save(path)
    done = orthwrap.apply(path, out, **NONE)
    wanted = orthwrap.strip(path, tmp_path / f"wanted{suffix}", all=True)
    plain = load(out)
    assert plain.get_config() == load(wanted.output).get_config()
    np.testing.assert_array_equal(plain(X), model(X))
    removed = [
        [r.place for r in x.report.layers if r.decision == "removed"] for x in (done, wanted)
    ]
    assert removed[0] == removed[1]
    assert left(orthwrap.apply(model, **NONE).model) == []
    assert left(model)


def test_none_of_some_layers_and_beside_other_rules(tmp_path: Path) -> None:
    model = regularized()
    before = left(model)
    some = orthwrap.apply(model, target="class:BatchNormalization", **NONE).model
    assert len(left(some)) == len(before) - 2
    rules = [orthwrap.Rule(target="all-conv", existing="combine"), orthwrap.Rule(**NONE)]
    done = orthwrap.apply(model, rules=rules)
    assert [p.split("/")[-1] for p in left(done.model)] == ["pointwise_kernel"]
    kept = next(r for r in done.report.layers if r.slot == "pointwise").regularizer
    assert kept is not None
    assert kept.combined_with == "L2(l2=0.01)"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"regularizer": "none"}, "existing replace"),
        ({**NONE, "factor": 0.1}, "factor is about a regularizer, and none attaches none"),
        ({**NONE, "scale": "preserve"}, "scale is about a regularizer"),
        ({**NONE, "constrain": "orthogonal"}, "leave constrain out"),
        ({**NONE, "data": (X, X)}, "leave data out"),
        ({**NONE, "target": "class:Conv2D"}, "matches no layer"),
    ],
)
def test_none_with_words_that_contradict_it(words: Any, expected: str) -> None:
    with pytest.raises(orthwrap.OrthwrapError, match=expected):
        orthwrap.apply(regularized(), **words)


def test_the_report_lists_them(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, bias_regularizer="l2", name="d")])
    model.add(L.ActivityRegularization(0.1, name="act"))
    model.save(tmp_path / "m.keras")
    done = CliRunner().invoke(app, ["strip", str(tmp_path / "m.keras"), "--all"])
    assert done.exit_code == 0, done.output
    assert "d@bias" in done.stdout
    assert "L2(l2=0.01)" in done.stdout
    assert "act" in done.stdout
    assert left(load(tmp_path / "m-plain.keras")) == []
    # Without --all, what others attached stays.
    orthwrap.strip(tmp_path / "m.keras", tmp_path / "n.keras")
    assert left(load(tmp_path / "n.keras")) == ["d/bias"]


def test_of_keras_1(tmp_path: Path) -> None:
    own = {"name": "dense_1", "output_dim": 3, "batch_input_shape": [None, 4], "input_dim": 4}
    own |= {
        "W_regularizer": {"l1": 0.0, "l2": 0.01, "name": "WeightRegularizer"},
        "b_regularizer": {"l1": 0.1, "l2": 0.0, "name": "WeightRegularizer"},
    }
    config = {"class_name": "Sequential", "config": [{"class_name": "Dense", "config": own}]}
    weights = {"dense_1": [("dense_1_W", np.ones((4, 3))), ("dense_1_b", np.ones(3))]}
    path = write_h5(tmp_path / "m.h5", config, weights, "1.2.2")
    done = orthwrap.strip(path, tmp_path / "out.h5", all=True)
    assert [r.slot for r in done.report.layers if r.decision == "removed"] == ["W", "b"]
    with h5py.File(done.output) as file:
        left_of = json.loads(file.attrs["model_config"])["config"][0]["config"]
    assert (left_of["W_regularizer"], left_of["b_regularizer"]) == (None, None)


def test_a_real_file(tmp_path: Path) -> None:
    path = real("fer_minixception.hdf5")
    done = orthwrap.strip(path, tmp_path / "out.hdf5", all=True)
    assert sum(r.decision == "removed" for r in done.report.layers) > 0
    with h5py.File(done.output) as file:
        text = file.attrs["model_config"]
    assert "L1L2" not in (text if isinstance(text, str) else text.decode())
