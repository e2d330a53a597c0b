"""What draws or counts: in the layer's state, without asking the host, each kernel its share."""

from __future__ import annotations

import functools
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from orthwrap.penalties.table import PENALTIES
from orthwrap.regularizers import CLASSES
from orthwrap.regularizers.clock import is_turn
from tests.support import models

BACKEND = keras.backend.backend()
only_jax = pytest.mark.skipif(BACKEND != "jax", reason="JAX")

DRAWING: dict[str, Any] = {
    "so sketch": lambda: orthwrap.SO(0.1, estimate="sketch"),
    "offdiag sketch": lambda: orthwrap.OffDiag(0.1, estimate="sketch", every=2),
    "lorth sketch": lambda: orthwrap.LOrth(0.1, estimate="sketch"),
    "srip": lambda: orthwrap.SRIP(0.1),
    "spectral": lambda: orthwrap.Spectral(0.1),
    "srip every": lambda: orthwrap.SRIP(0.1, every=3, steps=4),
    **{f"{n} every": lambda n=n: orthwrap.regularizer(n, 0.1, every=2) for n in CLASSES},
    "preserve": lambda: orthwrap.SO(0.1, scale="preserve", alpha=2.0, every=2),
    "combined": lambda: orthwrap.SO(0.1, estimate="sketch", combined_with="l2"),
}
PLAIN: dict[str, Any] = {
    n: lambda n=n: orthwrap.regularizer(n, 0.1) for n in CLASSES if not PENALTIES[n].draws
}


def no_task(y: Any, p: Any) -> Any:
    return 0.0 * ops.mean(p, axis=-1)


def carrying(made: dict[str, Any]) -> Any:
    """One Dense layer for each regularizer, and one of each on a Dense layer's outputs."""
    x = inputs = layers.Input((6,))
    for i, make in enumerate(made.values()):
        x = layers.Dense(5 + i % 2, name=f"dense_{i}", kernel_regularizer=make())(x)
    outputs = [orthwrap.SRIP(0.1, on="activity"), orthwrap.SO(0.1, on="activity", every=2)]
    for i, regularizer in enumerate(outputs):
        x = layers.Dense(4, name=f"outputs_{i}", activity_regularizer=regularizer)(x)
    return keras.Model(inputs, x)


@only_jax
def test_a_training_step_asks_nothing_of_the_host() -> None:
    import jax

    model = carrying(DRAWING | PLAIN)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x, y = np.ones((4, 6), "float32"), np.ones((4, 4), "float32")
    model.fit(x, y, batch_size=2, verbose=0)
    model.optimizer.build(model.trainable_variables)
    values = [
        [v.value for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    text = jax.jit(model.train_step).lower(tuple(values), (x, y)).as_text()
    assert "dot_general" in text
    assert "callback" not in text


def test_only_what_draws_or_counts_has_a_state() -> None:
    for make in DRAWING.values():
        made = make()
        assert isinstance(made, keras.random.SeedGenerator)
        assert tuple(made.state.shape) == (2,)
        assert isinstance(made, getattr(orthwrap, type(made).__name__))
        assert type(made).from_config(made.get_config()).get_config() == made.get_config()
    for make in PLAIN.values():
        assert not isinstance(make(), keras.random.SeedGenerator)
    every = orthwrap.SO(every=2)
    assert type(orthwrap.SO.from_config(every.get_config())) is type(every)


def test_the_state_is_no_weight_and_in_no_file(tmp_path: Any) -> None:
    plain = keras.Sequential([layers.Input((6,)), layers.Dense(5), layers.Dense(4)])
    words = {"kernel_regularizer": orthwrap.SO(0.1, estimate="sketch", every=2)}
    model = keras.Sequential([layers.Input((6,)), layers.Dense(5, **words), layers.Dense(4)])
    assert len(model.variables) == len(plain.variables) + 1
    assert len(model.weights) == len(plain.weights)
    found = []
    for one in (plain, model):
        one.save_weights(tmp_path / "m.weights.h5")
        with h5py.File(tmp_path / "m.weights.h5") as file:
            names: list[str] = []
            file.visit(names.append)
            found.append(names)
    assert found[0] == found[1]
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(loaded.layers[0].kernel_regularizer, keras.random.SeedGenerator)
    state = loaded.layers[0].kernel_regularizer.state
    assert any(v is state for v in loaded.variables)


# `every`: which calls are paid for


@pytest.mark.parametrize("every", [2, 3, 4, 7])
@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31 - 1])
def test_one_call_of_each_so_many_is_paid_for_at_a_place_that_varies(every: int, seed: int) -> None:
    turns = np.array([is_turn((seed, n), every) for n in range(600 * every)]).reshape(-1, every)
    np.testing.assert_array_equal(turns.sum(1), 1)
    share = turns.mean(0)  # of each place
    assert np.abs(share - 1 / every).max() < 4 * np.sqrt(1 / (every * 600))
    together = turns[1:] & turns[:-1]  # the same place twice running
    assert abs(together.sum(1).mean() - 1 / every) < 4 * np.sqrt(1 / (every * 600))


def test_tensors_have_their_turns_where_numbers_have() -> None:
    dtype = "uint32" if BACKEND == "jax" else "int64"
    seeds, counts = (a.ravel() for a in np.meshgrid([0, 7, 2**31 - 1], [*range(40), 2**20 + 3]))
    tensors = [ops.convert_to_tensor(a.astype(dtype)) for a in (seeds, counts)]
    found = ops.convert_to_numpy(is_turn((tensors[0], tensors[1]), 3))
    expected = [is_turn((int(s), int(n)), 3) for s, n in zip(seeds, counts, strict=True)]
    np.testing.assert_array_equal(found, expected)


def textbook(factor: float) -> Any:
    """‖G − I‖² of the kernel with its last axis as columns, in plain Keras."""

    def penalty(w: Any) -> Any:
        w = ops.reshape(w, (-1, w.shape[-1]))
        w = w if w.shape[0] >= w.shape[1] else ops.transpose(w)
        gram = ops.matmul(ops.transpose(w), w)
        return factor * ops.sum(ops.square(gram - ops.eye(gram.shape[-1])))

    return penalty


def residuals(model: Any) -> list[float]:
    found = []
    for variable in model.trainable_variables:
        w = ops.convert_to_numpy(variable).reshape(-1, variable.shape[-1])
        w = w if w.shape[0] >= w.shape[1] else w.T
        found.append(float(np.sqrt(np.sum((w.T @ w - np.eye(w.shape[1])) ** 2) / w.shape[1])))
    return found


def attention(regularizer: Any) -> Any:
    inputs = layers.Input((3, 16))
    mha = layers.MultiHeadAttention(2, 5, kernel_regularizer=regularizer, use_bias=False)
    return keras.Model(inputs, mha(inputs, inputs))


def four_layers(regularizer: Any) -> Any:
    x = inputs = layers.Input((3, 16))
    for units in (12, 8, 6, 4):
        x = layers.Dense(units, use_bias=False, kernel_regularizer=regularizer)(x)
    return keras.Model(inputs, x)


@functools.cache
def at_each_step(make: Any) -> list[float]:
    """What the textbook's penalty comes to, paid for at each step."""
    return trained(make, textbook(0.02), 0, jit_compile=BACKEND == "jax")


def trained(make: Any, regularizer: Any, validate: int, **words: Any) -> list[float]:
    """The residuals after 120 steps in epochs of three, and batches of validation between."""
    keras.utils.set_random_seed(1)
    model = models.randomized(make(regularizer))
    model.compile(keras.optimizers.SGD(0.05), no_task, **words)
    x = np.random.default_rng(0).normal(size=(6, 3, 16)).astype("float32")
    y = np.zeros((6, *model.output_shape[1:]), "float32")
    seen = (x[: 2 * validate], y[: 2 * validate]) if validate else None
    model.fit(x, y, batch_size=2, epochs=40, verbose=0, validation_data=seen)
    return residuals(model)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("validate", [0, 1])
@pytest.mark.parametrize("make", [attention, four_layers])
def test_each_kernel_gets_its_share_whoever_shares_and_whatever_validates(
    make: Any, validate: int
) -> None:
    start = residuals(models.randomized(make(None)))
    reference = at_each_step(make)
    found = trained(make, orthwrap.SO(0.02, every=4, seed=2), validate)
    assert len(found) == 4
    for begun, expected, got in zip(start, reference, found, strict=True):
        assert expected < 0.9 * begun
        assert 0.5 < (begun - got) / (begun - expected) < 1.6


# PyTorch knows no several steps at once.
@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("steps", [1] if BACKEND == "torch" else [1, 3])
def test_one_validation_batch_for_three_of_training_locks_nothing(steps: int) -> None:
    words = {"steps_per_execution": steps}
    for every in (2, 4):
        found = trained(four_layers, orthwrap.SO(0.02, every=every, seed=3), 1, **words)
        np.testing.assert_allclose(found, at_each_step(four_layers), rtol=0.5)


# JAX outside of a layer's step


@only_jax
def test_in_a_jit_of_ones_own_nothing_is_kept_and_the_value_is_right() -> None:
    import jax

    w = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    exact = float(np.sum((w.T @ w - np.eye(4)) ** 2))
    counting = orthwrap.SO(1.0, every=4)
    step = jax.jit(jax.value_and_grad(lambda x: counting(x)))
    for _ in range(5):
        assert float(step(w)[0]) == pytest.approx(exact, rel=1e-5)
    assert counting.moment["count"] == 0
    drawing = orthwrap.SO(1.0, estimate="sketch", probes=64, seed=1)
    draw = jax.jit(lambda x: drawing(x))
    values = [float(draw(w * (1 + 1e-4 * i))) for i in range(50)]
    assert len(set(values)) == 50
    assert np.mean(values) == pytest.approx(exact, rel=0.1)
    assert drawing.moment["count"] == 0
    assert float(drawing(w)) != float(drawing(w))  # eagerly it counts
    assert drawing.moment["count"] == 2


@pytest.mark.slow
def test_a_model_that_holds_what_its_layers_share() -> None:
    class Holding(keras.Model):  # type: ignore[misc]  # Keras is untyped
        def __init__(self) -> None:
            super().__init__()
            self.shared = orthwrap.SO(0.02, every=2, seed=1)
            self.first = layers.Dense(6, kernel_regularizer=self.shared)
            self.second = layers.Dense(4, kernel_regularizer=self.shared)

        def call(self, x: Any) -> Any:
            return self.second(self.first(x))

    model = Holding()
    model.compile(keras.optimizers.SGD(0.05), no_task)
    x = np.ones((8, 6), "float32")
    model.fit(x, x[:, :4], batch_size=2, verbose=0)
    assert model.shared.moment["count"] == 8


@only_jax
def test_a_layer_that_does_not_hold_its_regularizer_pays_at_each_step() -> None:
    class Bare(layers.Layer):  # type: ignore[misc]  # Keras is untyped
        def build(self, shape: Any) -> None:
            made = orthwrap.SO(1.0, every=4)
            self.kernel = self.add_weight(shape=(6, 4), regularizer=made)

        def call(self, x: Any) -> Any:
            return x @ self.kernel

    model = keras.Sequential([layers.Input((6,)), Bare()])
    w = ops.convert_to_numpy(model.layers[0].kernel)
    model.compile(keras.optimizers.SGD(0.0), no_task)
    x = np.ones((8, 6), "float32")
    found = model.fit(x, x[:, :4], batch_size=2, verbose=0).history["loss"][0]
    assert found == pytest.approx(np.sum((w.T @ w - np.eye(4)) ** 2), rel=1e-5)


def test_a_live_model_takes_one_in_place() -> None:
    model = models.randomized(keras.Sequential([layers.Input((6,)), layers.Dense(4, name="d")]))
    words = {"regularizer": "so", "factor": 0.1, "options": {"every": 2}, "in_place": True}
    orthwrap.apply(model, target="d", scale="unit", **words)
    made = model.layers[0].kernel_regularizer
    assert any(v is made.state for v in model.variables)
    model.compile(keras.optimizers.SGD(0.05), no_task)
    x = np.ones((8, 6), "float32")
    model.fit(x, x[:, :4], batch_size=2, verbose=0)
    assert made.moment["count"] == 4
    orthwrap.strip(model, in_place=True)
    assert len(model.variables) == len(model.weights)


def test_a_copy_keeps_its_optimizers_state() -> None:
    model = models.randomized(keras.Sequential([layers.Input((6,)), layers.Dense(4, name="d")]))
    model.compile("adam", "mse")
    x = np.ones((8, 6), "float32")
    model.fit(x, x[:, :4], verbose=0)
    result = orthwrap.apply(model, target="d", options={"estimate": "sketch"})
    assert not [w for w in result.report.warnings if "compiled" in w]
    for old, new in zip(model.optimizer.variables, result.model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(old), ops.convert_to_numpy(new))
