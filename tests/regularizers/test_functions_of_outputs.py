"""A regularizer of one's own on outputs is tried with outputs of the layer's own shape."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap

pytestmark = pytest.mark.usefixtures("eagerly")

CALLS: list[tuple[Any, ...]] = []


def of_sequences(y: Any) -> Any:
    CALLS.append(tuple(y.shape))
    return ops.sum(ops.square(ops.matmul(ops.transpose(y, (0, 2, 1)), y)))


def of_threes(y: Any) -> Any:
    y = ops.reshape(y, (-1, 3, 3))
    return ops.sum(ops.square(ops.matmul(ops.transpose(y, (0, 2, 1)), y) - ops.eye(3)))


def of_images(y: Any) -> Any:
    return ops.sum(ops.square(ops.einsum("nhwc,nhwd->ncd", y, y)))


def of_matrices(y: Any) -> Any:
    _, features = y.shape
    return ops.sum(ops.square(ops.matmul(ops.transpose(y), y) - ops.eye(features)))


def flat(y: Any) -> Any:
    return ops.sum(ops.stop_gradient(y))


FUNCTIONS = {f.__name__: f for f in (of_sequences, of_threes, of_images, of_matrices, flat)}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> str:
    made = types.ModuleType("functions_of_outputs")
    for name, function in FUNCTIONS.items():
        setattr(made, name, function)
    monkeypatch.setitem(sys.modules, made.__name__, made)
    CALLS.clear()
    return made.__name__


def several() -> Any:
    inputs = layers.Input((7, 5))
    x = layers.LSTM(4, return_sequences=True, name="sequence")(inputs)
    x = layers.Reshape((7, 4, 1))(x)
    x = layers.Conv2D(3, 2, name="image")(x)
    x = layers.Flatten()(x)
    nine = layers.Dense(9, name="nine")(x)
    return keras.Model(inputs, layers.Dense(1, name="out")(nine))


FITTING = [("sequence", "of_sequences"), ("nine", "of_threes"), ("image", "of_images")]
FAILING = [("image", "of_matrices"), ("sequence", "of_matrices"), ("nine", "of_images")]


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(("layer", "name"), [*FITTING, ("nine", "of_matrices")])
@pytest.mark.parametrize("place", ["live", "file"])
def test_functions_that_fit_the_outputs_are_attached(
    layer: str, name: str, place: str, module: str, tmp_path: Path
) -> None:
    model: Any = several()
    x = np.random.default_rng(0).normal(size=(8, 7, 5)).astype("float32")
    if place == "file":
        model.save(tmp_path / "m.keras")
    given = model if place == "live" else tmp_path / "m.keras"
    words: dict[str, Any] = {"target": layer, "on": "activity", "factor": 0.5}
    result = orthwrap.apply(
        given, regularizer=f"{module}:{name}", data=(x, x[:, 0, :1]), epochs=1, **words
    )
    training = result.report.training
    assert training is not None
    outputs = keras.Model(model.input, model.get_layer(layer).output)(x)
    expected = 0.5 * float(FUNCTIONS[name](outputs)) / 8
    assert training.metrics_before["penalty"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("layer", "name"), [*FAILING, ("nine", "flat")])
@pytest.mark.parametrize("place", ["live", "file"])
def test_functions_that_fail_on_the_outputs_are_refused(
    layer: str, name: str, place: str, module: str, tmp_path: Path
) -> None:
    given: Any = several()
    if place == "file":
        given.save(tmp_path / "m.keras")
        given = tmp_path / "m.keras"
    with pytest.raises(orthwrap.ValueFault, match=f"on outputs of {layer} of shape") as caught:
        orthwrap.apply(given, target=layer, on="activity", regularizer=f"{module}:{name}")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*-orth*"))


def test_real_shapes_are_tried_and_each_once(module: str) -> None:
    inputs, more = layers.Input((7, 5)), layers.Input((9, 5))
    shared = layers.Dense(4, name="shared")
    model = keras.Model([inputs, more], [shared(inputs), shared(more), shared(inputs)])
    orthwrap.apply(model, target="shared", on="activity", regularizer=of_sequences)
    tried = [shape for shape in CALLS if shape[0] == 2]
    assert set(tried) == {(2, 7, 4), (2, 9, 4)}


def test_where_the_shape_is_not_known_nothing_is_tried(module: str) -> None:
    inputs = layers.Input((None, 5))
    model = keras.Model(inputs, layers.Dense(4, name="any")(inputs))
    orthwrap.apply(model, target="any", on="activity", regularizer=of_sequences, in_place=True)
    assert CALLS == []
    within = keras.Sequential(
        [layers.Input((7, 5)), layers.TimeDistributed(layers.Dense(4, name="d"), name="td")]
    )
    target = "td/d"
    orthwrap.apply(within, target=target, on="activity", regularizer=of_matrices, in_place=True)
