"""Which layers are trained: frozen ones, normalisation, and the optimizer's knowledge of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from tests.support import models
from tests.support.run_helpers import arrays_of, classes, same, told, weights_of

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "trained"),
    [
        ({"freeze": "plain"}, {"grouped", "norm", "deep", "separable", "up", "head"}),
        ({"freeze": "all-conv"}, {"norm", "deep", "head"}),
        ({"freeze": ["class:Dense", "re:(up|deep)"]}, {"plain", "grouped", "norm", "separable"}),
        ({"freeze": "*", "unfreeze": "head"}, {"head"}),
        (
            {"freeze_batchnorm": True, "unfreeze": "*", "freeze": "re:.*"},
            {"plain", "grouped", "deep", "separable", "up", "head"},
        ),
        ({"freeze_batchnorm": True}, {"plain", "grouped", "deep", "separable", "up", "head"}),
        (
            {"freeze": lambda layer: layer.path != "head", "unfreeze": "up"},
            {"head", "up"},
        ),
    ],
    ids=told,
)
def test_frozen_layers_stay_as_they_were(words: dict[str, Any], trained: set[str]) -> None:
    model = models.convolutional()
    rng = np.random.default_rng(0)
    data = rng.normal(size=(16, 8, 8, 4)).astype("float32"), rng.integers(0, 3, 16)
    result = orthwrap.apply(model, target="all", data=data, epochs=1, learning_rate=0.1, **words)
    moved = {
        layer.name
        for layer in result.model.layers
        if layer.weights and not same(model.get_layer(layer.name), layer)
    }
    assert moved == trained
    frozen = {r.path for r in result.report.layers if r.carries and not r.trainable}
    assert frozen == {r.path for r in result.report.layers if r.carries} - trained
    assert all("no penalty" in r.reason for r in result.report.layers if r.path in frozen)
    assert any("inactive" in w for w in result.report.warnings) == bool(frozen)
    assert all(layer.trainable for layer in model.layers)


def test_batchnorm_of_ones_own_is_frozen_too() -> None:
    class Own(layers.BatchNormalization):  # type: ignore[misc]  # Keras is untyped
        pass

    model = keras.Sequential(
        [layers.Input((6,)), layers.Dense(9), Own(name="own"), layers.Dense(3)]
    )
    result = orthwrap.apply(model, data=classes(), epochs=1, freeze_batchnorm=True)
    own = [m.get_layer("own") for m in (model, result.model)]
    for a, b in zip(*(weights_of(layer) for layer in own), strict=True):
        np.testing.assert_array_equal(a, b)


def test_statistics_follow_as_slowly_as_asked_for() -> None:
    x = np.full((8, 6), 3.0, "float32") + np.eye(8, 6, dtype="float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [layers.Input((6,)), layers.BatchNormalization(name="norm"), layers.Dense(3, name="head")]
    )
    words: dict[str, Any] = {"data": (x, x[:, :3]), "factor": 1e-3, "epochs": 2, "batch_size": 8}
    result = orthwrap.apply(model, batchnorm_momentum=0.5, **words)
    mean = np.array(keras.ops.convert_to_numpy(result.model.get_layer("norm").moving_mean))
    np.testing.assert_allclose(mean, 0.75 * x.mean(axis=0), rtol=1e-5)
    assert result.model.get_layer("norm").momentum == 0.99
    assert result.model.get_layer("norm").get_config()["momentum"] == 0.99


def test_model_that_is_frozen_as_a_whole_says_so() -> None:
    model = models.dense()
    model.trainable = False
    with pytest.raises(orthwrap.ValueFault, match="every layer of the model is frozen: unfreeze"):
        orthwrap.apply(model, data=classes(), epochs=1)
    trained = orthwrap.apply(model, data=classes(), epochs=1, unfreeze="head").model
    assert [layer.trainable for layer in trained.layers] == [False, True]


def test_layer_of_a_frozen_model_inside_can_be_trained_again() -> None:
    model = models.nested()
    model.get_layer("middle").trainable = False
    data = np.random.default_rng(0).normal(size=(8, 6)).astype("float32"), np.zeros((8, 2))
    words: dict[str, Any] = {"data": data, "epochs": 1, "learning_rate": 0.1}
    result = orthwrap.apply(model, unfreeze="middle/inner", **words)
    inside = result.model.get_layer("middle")
    was = model.get_layer("middle")
    assert same(inside.get_layer("first"), was.get_layer("first"))
    assert same(inside.get_layer("last"), was.get_layer("last"))
    assert not same(inside.get_layer("inner"), was.get_layer("inner"))
    assert not same(result.model.get_layer("first"), model.get_layer("first"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"freeze": "haed"}, "freeze 'haed' matches no layer; nearest: head"),
        ({"unfreeze": "class:Conv2D"}, "unfreeze 'class:Conv2D' matches no layer"),
        ({"freeze": "head@kernel"}, "leave @kernel out"),
        ({"freeze": "*"}, "nothing is left to train"),
    ],
)
def test_patterns_of_layers_are_checked(words: Any, said: str) -> None:
    with pytest.raises(orthwrap.OrthwrapError, match=said):
        orthwrap.apply(models.dense(), data=classes(), **words)


def test_optimizer_keeps_what_it_knows_of_layers_that_are_still_trained() -> None:
    model = models.dense()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    model.fit(*classes(), epochs=1, verbose=0)
    known = arrays_of(model.optimizer.variables)
    seen: list[Array] = []

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
        def on_train_begin(self, logs: Any = None) -> None:
            seen.extend(arrays_of(self.model.optimizer.variables))

    orthwrap.apply(model, data=classes(), epochs=1, freeze="wide", callbacks=[Watch()])
    assert [a.shape for a in seen[2:]] == [a.shape for a in known[4:]]
    for a, b in zip(seen[2:], known[4:], strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(seen[0]) == int(known[0]) > 0
