"""Dtype policy, optimizer state and seeds go on where a model is copied or read from a file."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from tests.conftest import PATIENCE_S

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]
X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
Y = np.argmax(X[:, :3], axis=1)
NO_FACTOR: dict[str, Any] = {"factor": 0.0, "epochs": 1, "batch_size": 24, "keep": "last"}


@pytest.fixture
def policy() -> Iterator[Any]:
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def trained(nested: bool = False, seed: int = 0) -> Any:
    """A model under the policy of now, with optimizer state of two steps."""
    keras.utils.set_random_seed(seed)
    x = inputs = layers.Input((6,))
    if nested:
        within = layers.Input((6,))
        x = keras.Model(within, layers.Dense(6, activation="tanh")(within), name="inner")(x)
    x = layers.Dense(5, activation="tanh", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", dtype="float32")(x))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=2, batch_size=24, shuffle=False, verbose=0)
    return model


def arrays(variables: Any) -> list[Array]:
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def step_further(model: Any) -> list[Array]:
    """What plain Keras makes of the model in one more epoch: the right weights."""
    model.fit(X, Y, epochs=1, batch_size=24, shuffle=False, verbose=0)
    return arrays(model.weights)


def check_like(model: Any, kind: str, dtype: str) -> None:
    assert type(model.optimizer).__name__ == kind
    assert model.dtype_policy.name == dtype
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    assert int(inner.iterations) == 3


MADE_UNDER = [
    ("mixed_float16", "LossScaleOptimizer"),
    ("mixed_bfloat16", "Adam"),
    ("float32", "Adam"),
]


# Each policy in each format and under another, and each pair of policies that differ in scaling.
@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "kind", "now", "suffix"),
    [
        ("mixed_float16", "LossScaleOptimizer", "float32", ".keras"),
        ("mixed_float16", "LossScaleOptimizer", "float32", ".h5"),
        ("mixed_bfloat16", "Adam", "mixed_float16", ".keras"),
        ("float32", "Adam", "mixed_float16", ".keras"),
        ("mixed_bfloat16", "Adam", "float32", ".h5"),
    ],
)
def test_file_is_trained_under_its_own_policy(
    dtype: str, kind: str, now: str, suffix: str, policy: Any, tmp_path: Path
) -> None:
    policy(dtype)
    model, path = trained(), tmp_path / f"model{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is a legacy format
        model.save(path)
    expected = step_further(model)
    policy(now)
    result = orthwrap.apply(path, tmp_path / "out.keras", data=(X, Y), **NO_FACTOR)
    check_like(result.model, kind, dtype)
    for found, right in zip(arrays(result.model.weights), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=5e-4)
    assert not [w for w in result.report.warnings if "optimizer" in w]
    assert keras.config.dtype_policy().name == now
    check_like(orthwrap.load_model(tmp_path / "out.keras"), kind, dtype)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "kind"), MADE_UNDER)
@pytest.mark.parametrize("now", ["float32", "mixed_float16"])
def test_live_model_is_copied_under_its_own_policy(
    dtype: str, kind: str, now: str, policy: Any
) -> None:
    policy(dtype)
    model = trained(nested=True)
    policy(now)
    copy = orthwrap.apply(model, factor=0.0).model
    assert copy.dtype_policy.name == copy.get_layer("inner").dtype_policy.name == dtype
    np.testing.assert_array_equal(copy.predict(X, verbose=0), model.predict(X, verbose=0))
    result = orthwrap.apply(model, data=(X, Y), **NO_FACTOR)
    check_like(result.model, kind, dtype)
    policy(dtype)
    for found, right in zip(arrays(result.model.weights), step_further(model), strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=5e-4)


def test_one_mixed_layer_makes_no_mixed_model(policy: Any, tmp_path: Path) -> None:
    """Its loss was never scaled, and the optimizer's state says so."""
    keras.utils.set_random_seed(0)
    inputs = layers.Input((6,))
    hidden = layers.Dense(5, activation="tanh", dtype="mixed_float16")(inputs)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(hidden))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=2, batch_size=24, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    expected = step_further(model)
    result = orthwrap.apply(tmp_path / "m.keras", data=(X, Y), **NO_FACTOR)
    check_like(result.model, "Adam", "float32")
    for found, right in zip(arrays(result.model.weights), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=5e-4)


@pytest.mark.dear
@pytest.mark.slow
def test_policy_is_taken_in_a_fresh_process(policy: Any, tmp_path: Path) -> None:
    policy("mixed_float16")
    model, path = trained(), tmp_path / "m.keras"
    model.save(path)
    expected = step_further(model)
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    words = (
        f"apply {path} --data {tmp_path / 'd.npz'} --factor 0 --epochs 1 --batch-size 24 -o o.keras"
    )
    subprocess.run(
        [sys.executable, "-m", "orthwrap", *words.split(), "--keep", "last"],
        cwd=tmp_path,
        env={**os.environ},
        check=True,
        timeout=PATIENCE_S,
        capture_output=True,
    )
    policy("float32")
    found = orthwrap.load_model(tmp_path / "o.keras")
    check_like(found, "LossScaleOptimizer", "mixed_float16")
    for weight, right in zip(arrays(found.weights), expected, strict=True):
        np.testing.assert_allclose(weight, right, rtol=0, atol=5e-4)


# What is not carried over is said


@pytest.mark.slow
def test_optimizer_state_that_fits_no_more_is_a_warning(tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "m.keras"
    model.get_layer("hidden").trainable = False  # Keras will ask for other variables
    model.save(path)
    report = orthwrap.apply(path, target="dense*", data=(X, Y), **NO_FACTOR).report
    assert any("the optimizer's state starts afresh" in w for w in report.warnings)
    with pytest.warns(UserWarning, match="m.keras: the optimizer's state starts afresh"):
        orthwrap.load_model(path)
    assert not any(
        "the optimizer's state starts afresh" in w
        for w in orthwrap.apply(trained(), data=(X, Y), **NO_FACTOR).report.warnings
    )


def test_optimizer_whose_variables_cannot_be_told_apart_warns() -> None:
    """Of two layers of one name, names do not tell which state is whose."""
    keras.utils.set_random_seed(0)
    x = inputs = layers.Input((6,))
    inner = []
    for i in range(2):
        within = layers.Input((6,))
        part = keras.Model(within, layers.Dense(6, name="same")(within), name=f"part{i}")
        part.layers[1].kernel._path = "same/kernel"
        inner.append(part)
        x = part(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=1, batch_size=24, verbose=0)
    report = orthwrap.apply(model, data=(X, Y), freeze="part0*", **NO_FACTOR).report
    assert any("state starts afresh" in w for w in report.warnings)


def test_each_trains_on_beside_the_other() -> None:
    """On JAX a step gives its model's buffers away: no copy may hold them too."""
    keras.utils.set_random_seed(0)
    normal = layers.Normalization()  # which saves and loads its statistics in its own way
    normal.adapt(X)
    hidden = [layers.Dense(5, name="hidden"), layers.BatchNormalization(), layers.Dropout(0.1)]
    original = keras.Sequential([layers.Input((6,)), normal, *hidden, layers.Dense(3)])
    original.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    original.train_on_batch(X, Y)
    copy = orthwrap.apply(original, regularizer=orthwrap.SO(0.1, every=2, seed=0)).model
    for model in (original, copy, original, copy):
        assert np.isfinite(model.train_on_batch(X, Y))
    np.testing.assert_allclose(arrays(copy.layers[0].weights)[0], X.mean(axis=0), atol=1e-5)
