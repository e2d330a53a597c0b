"""The constraint as Keras calls it: after each step, at each update, on averages, once loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4, 4, 3)).astype("float32")
Y = RNG.normal(size=(12, 4)).astype("float32")


def network() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Conv2D(8, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(30, name="wide"),
            layers.Dense(4, name="head"),
        ]
    )


def residuals(variables: Any) -> list[float]:
    """Of each kernel over its RMS singular value."""
    found = []
    for variable in variables:
        w = np.asarray(ops.convert_to_numpy(variable), np.float64)
        if w.ndim > 1:
            sigma = np.linalg.svd(w.reshape(-1, w.shape[-1]), compute_uv=False)
            found.append(float(np.sqrt(np.mean((sigma**2 / np.mean(sigma**2) - 1) ** 2))))
    return found


class Worst(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """The worst residual after each step."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.seen.append(max(residuals(self.model.trainable_variables)))


def steps(model: Any, **how: Any) -> list[float]:
    worst = Worst()
    model.fit(X, Y, batch_size=2, verbose=0, callbacks=[worst], **how)
    return worst.seen


def constrained(optimizer: Any, *, run_eagerly: bool = False, **words: Any) -> Any:
    model = orthwrap.apply(network(), constrain="orthogonal", measure=False, **words).model
    model.compile(optimizer, "mse", run_eagerly=run_eagerly)
    return model


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True])
def test_after_each_step_and_once_it_was_loaded(eager: bool, tmp_path: Path) -> None:
    model = constrained(keras.optimizers.Adam(1e-2), run_eagerly=eager)
    assert max(steps(model)) < 1e-6
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.models.load_model(path)
    again.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=eager)
    assert max(steps(again)) < 1e-6
    free = orthwrap.strip(again).model
    free.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=eager)
    assert min(steps(free)) > 1e-3


@pytest.mark.slow
def test_at_one_update_in_so_many() -> None:
    seen = steps(constrained(keras.optimizers.Adam(1e-2), every=3))
    assert [residual < 1e-6 for residual in seen] == [False, False, True, False, False, True]


@pytest.mark.slow
def test_gradient_accumulation_counts_updates() -> None:
    optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2)
    seen = steps(constrained(optimizer, every=2))
    assert [residual < 1e-6 for residual in seen] == [False, False, False, True, True, False]


@pytest.mark.slow
def test_averages_are_held_too() -> None:
    optimizer = keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9)
    model = constrained(optimizer)
    steps(model)  # at whose end Keras writes the averages over the weights
    assert max(residuals(model.trainable_variables)) < 1e-6


@pytest.mark.slow
def test_a_scaled_loss_and_a_frozen_kernel() -> None:
    plain = network()
    plain.get_layer("wide").trainable = False
    result = orthwrap.apply(plain, constrain="orthogonal")
    record = next(r for r in result.report.layers if r.path == "wide")
    assert record.decision == "constrained"
    assert "frozen: Keras applies no constraint while it is" in record.reason
    before = ops.convert_to_numpy(result.model.get_layer("wide").kernel)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2))
    result.model.compile(optimizer, "mse")
    assert max(steps(result.model)) < 1e-6
    assert np.array_equal(ops.convert_to_numpy(result.model.get_layer("wide").kernel), before)


@pytest.mark.slow
def test_band_and_bound_and_their_numbers() -> None:
    for constrain, low, high in (("band:0.9,1.05", 0.9, 1.05), ("spectral:0.5", 0.0, 0.5)):
        model = orthwrap.apply(network(), target="head", constrain=constrain, measure=False).model
        model.compile(keras.optimizers.SGD(1e-2), "mse")
        model.fit(X, Y, batch_size=6, verbose=0)
        sigma = np.linalg.svd(ops.convert_to_numpy(model.get_layer("head").kernel))[1]
        assert sigma.min() >= low - 1e-5
        assert sigma.max() == pytest.approx(high, abs=1e-5) or sigma.max() < high


def test_a_goal_beside_it_is_refused_by_name() -> None:
    words = {"constrain": "orthogonal", "regularizer": "so", "data": (X, Y), "epochs": 1}
    with pytest.raises(orthwrap.ValueFault, match=r"conv is held orthogonal.*leave constrain out"):
        orthwrap.apply(network(), goal="10x", measure=False, progress=False, **words)


@pytest.mark.slow
def test_apply_trains_with_it() -> None:
    result = orthwrap.apply(
        network(), constrain="orthogonal", data=(X, Y), loss="mse", epochs=1, progress=False
    )
    assert all(getattr(r.after, r.driven) < 1e-6 for r in result.report.layers)
    told = result.report.to_json()
    assert told["summary"]["constrained"] == 3
    assert told["summary"]["regularized"] == 0
    assert told["training"]["goal"] is None  # which pulls what is not held
    assert orthwrap.Report.from_json(told).to_json() == told
