"""LoRA: Keras hands a kernel's regularizer to its factors, where our penalties do not belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from tests.live.test_live import losses_of, numpy
from tests.support import models

CARRIERS: dict[str, Callable[[], Any]] = {
    "dense": lambda: models.randomized(
        keras.Sequential([layers.Input((6,)), layers.Dense(5, name="own"), layers.Dense(3)])
    ),
    "conv": lambda: models.randomized(
        keras.Sequential(
            [
                layers.Input((5, 5, 3)),
                layers.Conv2D(4, 3, name="own"),
                layers.Flatten(),
                layers.Dense(3),
            ]
        )
    ),
    "einsum": lambda: models.randomized(
        keras.Sequential(
            [layers.Input((6,)), layers.EinsumDense("ab,bc->ac", 5, name="own"), layers.Dense(3)]
        )
    ),
}


def applied_with_lora(kind: str, **words: Any) -> Any:
    model = orthwrap.apply(CARRIERS[kind](), scale="unit", **words).model
    model.get_layer("own").enable_lora(2)
    return model


def factors_of(model: Any) -> list[Any]:
    return [v for v in model.weights if v.name.startswith("lora_")]


@pytest.mark.parametrize("kind", CARRIERS)
def test_factors_bear_no_penalty(kind: str) -> None:
    model = applied_with_lora(kind, factor=0.1)
    own, last = losses_of(model)[:-1], losses_of(model)[-1]
    assert own == [0.0, 0.0]
    assert last > 0


@pytest.mark.dear
@pytest.mark.parametrize("kind", CARRIERS)
def test_training_moves_factors_as_without_a_penalty(kind: str) -> None:
    """Two models with the same factors: with the task alone, and with a penalty on `own`."""
    plain = CARRIERS[kind]()
    model = orthwrap.apply(plain, target="own", factor=10.0, scale="unit").model
    x = np.random.default_rng(0).normal(size=(8, *plain.input_shape[1:])).astype("float32")
    y = np.random.default_rng(1).normal(size=(8, 3)).astype("float32")
    for each in (plain, model):
        each.get_layer("own").enable_lora(2, a_initializer=keras.initializers.GlorotUniform(3))
        each.compile(keras.optimizers.SGD(0.05), "mse")
        each.fit(x, y, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(factors_of(plain), factors_of(model), strict=True):
        np.testing.assert_allclose(numpy(a), numpy(b), rtol=1e-5, atol=1e-6)


def test_what_stands_beside_a_penalty_acts_on_factors_as_keras_has_it() -> None:
    inputs = layers.Input((6,))
    l2 = keras.regularizers.L2(0.5)
    model = keras.Model(inputs, layers.Dense(5, kernel_regularizer=l2, name="own")(inputs))
    applied = orthwrap.apply(model).model
    applied.get_layer("own").enable_lora(2)
    expected = [0.5 * float(np.sum(numpy(v) ** 2)) for v in factors_of(applied)]
    assert losses_of(applied) == pytest.approx(expected, rel=1e-6)
    plain = orthwrap.strip(applied, in_place=True).model
    assert all(isinstance(v.regularizer, keras.regularizers.L2) for v in factors_of(plain))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kind", CARRIERS)
def test_strip_leaves_no_regularizer_on_factors(kind: str, in_place: bool) -> None:
    model = applied_with_lora(kind)
    plain = orthwrap.strip(model, in_place=in_place).model
    assert [v.path for v in plain.weights if v.regularizer is not None] == []
    assert plain.losses == []
    assert len(factors_of(plain)) == 2
    for a, b in zip(factors_of(model), factors_of(plain), strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))


@pytest.mark.parametrize("kind", CARRIERS)
def test_inspect_says_what_apply_says(kind: str, tmp_path: Path) -> None:
    model = applied_with_lora(kind)
    path = tmp_path / "model.keras"
    model.save(path)
    for thing in (model, path):
        said = {}
        for verb in ("inspect", "apply"):
            report = (
                orthwrap.inspect(thing)
                if verb == "inspect"
                else orthwrap.apply(thing, tmp_path / "out.keras", dry_run=True).report
            )
            (record,) = [r for r in report.layers if r.path == "own"]
            said[verb] = (record.decision, record.reason, record.carries)
            assert report.summary["regularized"] == 1
        assert said["inspect"] == said["apply"]
        assert said["inspect"][0] == "unsupported"
        assert "LoRA" in said["inspect"][1]


def test_one_object_for_kernel_and_bias_is_changed_for_the_kernel_alone() -> None:
    l2 = keras.regularizers.L2(0.5)
    inputs = layers.Input((6,))
    own = layers.Dense(5, kernel_regularizer=l2, bias_regularizer=l2, name="own")
    model = keras.Model(inputs, own(inputs))
    orthwrap.apply(model, in_place=True)
    assert own.bias.regularizer is l2
    assert own.kernel.regularizer is not l2
