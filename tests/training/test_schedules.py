"""Schedules of factors: their text, the weights they train on every backend, logs, and faults."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from orthwrap import FactorSchedule
from orthwrap.errors import UsageError, ValueFault
from orthwrap.regularizers.clock import Clock
from orthwrap.training.loop.losses import split_losses
from tests.conftest import PATIENCE_S

Array = np.ndarray[Any, np.dtype[Any]]
BACKEND = keras.backend.backend()


# Trained weights


KERNEL = (np.random.default_rng(0).normal(size=(4, 3)) * 0.6).astype("float32")
NOTHING = np.zeros((20, 4), "float32"), np.zeros((20, 3), "float32")
RATE, FACTOR = 0.05, 0.3


class Traced(orthwrap.SO):  # type: ignore[valid-type]  # an alias, to a type checker
    """Counts how often Python runs it: once per trace, or once per step where nothing traces."""

    runs = 0

    def _value(self, x: Any) -> Any:
        Traced.runs += 1
        return super()._value(x)


def untasked(regularizer: Any, **compiled: Any) -> Any:
    """One Dense kernel that only its penalty moves."""
    model = keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, use_bias=False, kernel_regularizer=regularizer)]
    )
    model.set_weights([KERNEL])
    model.compile(
        optimizer=keras.optimizers.SGD(RATE), loss=lambda y, p: ops.sum(0.0 * p, -1), **compiled
    )
    return model


def fit(model: Any, *callbacks: Any, data: Any = NOTHING, **words: Any) -> dict[str, list[float]]:
    words = {"batch_size": 4, "verbose": 0, "shuffle": False, "epochs": 3, **words}
    history: dict[str, list[float]] = model.fit(*data, callbacks=list(callbacks), **words).history
    return history


def descended(multipliers: Any, start: Array = KERNEL) -> Array:
    """Gradient descent on factor × multiplier × ‖WᵀW−I‖², by hand."""
    w = start.astype("float64")
    for multiplier in multipliers:
        w = w - RATE * FACTOR * multiplier * 4 * w @ (w.T @ w - np.eye(3))
    return w


WAYS: dict[str, dict[str, Any]] = {"plain": {}, "eager": {"run_eagerly": True}}
if BACKEND != "torch":
    WAYS |= {"compiled": {"jit_compile": True}, "several": {"steps_per_execution": 5}}


@pytest.mark.dear
@pytest.mark.parametrize("way", WAYS)
def test_factor_moves_by_epoch(way: str) -> None:
    model = untasked(orthwrap.SO(FACTOR), **WAYS[way])
    fit(model, FactorSchedule("0:1, 1:0.1, 2:0"))
    expected = descended([1] * 5 + [0.1] * 5 + [0] * 5)
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-5)


@pytest.mark.dear
@pytest.mark.parametrize("way", WAYS)
def test_factor_moves_by_step(way: str) -> None:
    model = untasked(orthwrap.SO(FACTOR), **WAYS[way])
    fit(model, FactorSchedule("linear", by="step"))
    each = WAYS[way].get("steps_per_execution", 1)
    expected = descended([1 - (step // each * each) / 15 for step in range(15)])
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-5)


@pytest.mark.slow
def test_no_step_is_traced_again() -> None:
    runs = []
    for schedule in ("constant", "linear"):
        model = untasked(Traced(FACTOR))
        Traced.runs = 0
        fit(model, FactorSchedule(schedule, by="step"))
        runs.append(Traced.runs)
    assert runs[0] == runs[1]
    assert runs[1] < 15 or BACKEND == "torch"


def test_a_model_that_was_trained_before_follows_too() -> None:
    model = untasked(orthwrap.SO(FACTOR))
    fit(model, epochs=1)
    model.set_weights([KERNEL])
    fit(model, FactorSchedule("0:0.5, 1:0"), epochs=2)
    np.testing.assert_allclose(model.get_weights()[0], descended([0.5] * 5), atol=1e-5)


@pytest.mark.slow
def test_zero_is_as_if_there_were_no_penalty() -> None:
    x = np.random.default_rng(1).normal(size=(24, 4)).astype("float32")
    data = x, x[:, :3] ** 2

    def task(regularizer: Any) -> Any:
        model = keras.Sequential(
            [layers.Input((4,)), layers.Dense(3, kernel_regularizer=regularizer)]
        )
        model.set_weights([KERNEL, np.zeros(3)])
        model.compile(optimizer=keras.optimizers.SGD(RATE), loss="mse")
        return model

    scheduled, first, second = task(orthwrap.SO(0.3)), task(orthwrap.SO(0.3)), task(None)
    fit(scheduled, FactorSchedule("0:1, 1:0"), data=data)
    fit(first, data=data, epochs=1)
    second.set_weights(first.get_weights())
    fit(second, data=data, epochs=2)
    for a, b in zip(scheduled.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"every": 2, "seed": 3}, {"estimate": "sketch", "seed": 3}])
def test_options_and_schedules_go_together(options: dict[str, Any]) -> None:
    """Half the factor throughout is a multiplier of one half throughout."""
    weights = []
    for factor, text in ((FACTOR, "0:0.5"), (FACTOR / 2, "constant")):
        model = untasked(orthwrap.SO(factor, **options))
        fit(model, FactorSchedule(text, by="step"))
        weights.append(model.get_weights()[0])
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-6)
    assert np.abs(weights[0] - KERNEL).max() > 1e-3


@pytest.mark.slow
def test_callables_give_multipliers() -> None:
    decay = keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.5)
    for schedule in (decay, lambda epoch: 0.5**epoch):
        model = untasked(orthwrap.SO(FACTOR))
        fit(model, FactorSchedule(schedule))
        expected = descended([1] * 5 + [0.5] * 5 + [0.25] * 5)
        np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-5)


# Positions


def positions(by: str = "step") -> tuple[list[int], FactorSchedule]:
    seen: list[int] = []
    return seen, FactorSchedule(lambda p: seen.append(p) or 1.0, by=by)  # type: ignore[func-returns-value]


def test_positions_go_on_from_the_initial_epoch() -> None:
    for by, expected in (("epoch", {1, 2}), ("step", set(range(5, 15)))):
        seen, schedule = positions(by)
        fit(untasked(orthwrap.SO(FACTOR)), schedule, initial_epoch=1)
        assert set(seen) == expected
        assert seen == sorted(seen)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_positions_where_the_data_does_not_say_its_length() -> None:
    def batches() -> Iterator[Any]:
        for _ in range(10):
            yield NOTHING[0][:4], NOTHING[1][:4]

    model = untasked(orthwrap.SO(FACTOR))
    seen, schedule = positions()
    fit(model, schedule, data=(batches(),), batch_size=None, epochs=1)
    assert {*range(10)} <= set(seen) <= {*range(11)}  # Keras may begin one that is not there
    seen.clear()
    fit(model, schedule, data=(batches(),), batch_size=None, epochs=2, initial_epoch=1)
    assert {*range(10, 20)} <= set(seen) <= {*range(10, 21)}
    model.set_weights([KERNEL])
    with pytest.raises(ValueFault, match="as in 'linear:0:1000'"):
        fit(model, FactorSchedule("linear", by="step"), data=(batches(),), batch_size=None)
    assert is_untouched(model)
    schedule = FactorSchedule("linear:0:20", by="step")
    fit(model, schedule, data=(batches(),), batch_size=None, epochs=1)
    expected = descended([1 - i / 20 for i in range(10)])
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-5)


def test_a_training_may_begin_within_an_epoch() -> None:
    seen, schedule = positions()
    schedule.resume_at(3, 5, 3)
    rest = tuple(a[12:] for a in NOTHING)
    model = untasked(orthwrap.SO(FACTOR))
    fit(model, schedule, data=rest, epochs=2, initial_epoch=1)
    fit(model, schedule, epochs=3, initial_epoch=2)
    assert sorted(set(seen)) == [8, 9, 10, 11, 12, 13, 14]


# Which regularizers


def several() -> tuple[Any, dict[str, Any]]:
    held = {
        "conv": orthwrap.SO(1.0, combined_with=keras.regularizers.L2(0.5)),
        "dense": orthwrap.regularizer("l2", 1.0),
        "activity": orthwrap.Frobenius(1.0, on="activity"),
    }
    x = inputs = layers.Input((4, 4, 2))
    x = layers.Conv2D(3, 3, kernel_regularizer=held["conv"], name="conv")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(
        2, kernel_regularizer=held["dense"], activity_regularizer=held["activity"], name="dense"
    )(x)
    x = layers.Dense(2, kernel_regularizer="l2", name="foreign")(x)
    model = keras.Model(inputs, x, name="several")
    model.compile("sgd", "mse")
    return model, held


PICTURES = np.ones((4, 4, 4, 2), "float32"), np.zeros((4, 2), "float32")


@pytest.mark.parametrize(
    ("words", "moved"),
    [
        ({}, "conv dense activity"),
        ({"exclude": None}, "conv dense activity"),
        ({"target": "all-conv"}, "conv"),
        ({"target": "class:Dense"}, "dense activity"),
        ({"target": ["dense@activity", "re:co.*"]}, "conv activity"),
        ({"target": "dense@kernel"}, "dense"),
        ({"exclude": "dense@kernel"}, "conv activity"),
        ({"target": "*", "exclude": ["conv"]}, "dense activity"),
        ({"target": lambda layer: layer.path == "conv"}, "conv"),
    ],
)
def test_patterns_choose_what_moves(words: dict[str, Any], moved: str) -> None:
    model, held = several()
    schedule = FactorSchedule("0:0.5", **words)
    schedule.start(model)
    schedule.at(0)
    assert {k for k, r in held.items() if r.factor == 0.5} == set(moved.split())
    schedule.stop()
    assert {k for k, r in held.items() if r.factor == 0.5} == set(moved.split())


def test_objects_may_be_given_themselves() -> None:
    model, held = several()
    fit(model, FactorSchedule.of([held["dense"]], "0:0.5"), data=PICTURES, epochs=1)
    assert [r.factor for r in held.values()] == [1, 0.5, 1]


def test_only_the_own_factor_moves() -> None:
    """A regularizer that is only combined with ours keeps its strength."""
    model, held = several()
    kernel = np.array(ops.convert_to_numpy(model.get_layer("conv").kernel))
    own = float(orthwrap.SO(1.0)(ops.convert_to_tensor(kernel)))
    schedule = FactorSchedule("0:0.25", target="conv")
    schedule.start(model)
    schedule.at(0)
    value = float(held["conv"](ops.convert_to_tensor(kernel)))
    assert value == pytest.approx(0.25 * own + 0.5 * np.sum(kernel**2), rel=1e-5)
    schedule.stop()
    assert float(held["conv"](ops.convert_to_tensor(kernel))) == pytest.approx(value, rel=1e-6)


def test_what_is_no_model_is_said() -> None:
    schedule = FactorSchedule("0:1")
    with pytest.raises(ValueFault, match=r"takes a keras\.Model; got str: load a file with"):
        schedule.start("m.keras")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"target": "konv"}, r"target 'konv' matches no layer that carries .*did you mean conv"),
        ({"target": "foreign"}, "target 'foreign' matches no layer that carries"),
        ({"target": "conv@activity"}, "target 'conv@activity' matches no layer"),
        ({"exclude": "*"}, "carries no orthwrap regularizer whose factor could move: exclude"),
    ],
)
def test_what_matches_nothing_is_said_before_training(words: Any, message: str) -> None:
    model, held = several()
    before = model.get_weights()
    with pytest.raises(ValueFault, match=message):
        fit(model, FactorSchedule("linear", **words), data=PICTURES)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(r.factor == 1 and r.multiplier is None for r in held.values())


def test_a_model_without_ours_is_said() -> None:
    model = untasked("l2")
    with pytest.raises(ValueFault, match=r"attach some with orthwrap\.apply"):
        fit(model, FactorSchedule("linear"))


def test_an_object_shared_with_a_layer_that_is_not_chosen() -> None:
    shared = orthwrap.SO(FACTOR)
    inputs = layers.Input((4,))
    x = layers.Dense(4, kernel_regularizer=shared, name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(3, kernel_regularizer=shared, name="b")(x))
    model.compile("sgd", "mse")
    for words in ({"target": "a"}, {"exclude": "a"}, {"target": "*", "exclude": "b"}):
        with pytest.raises(ValueFault, match="shares one regularizer object"):
            fit(model, FactorSchedule("linear", **words))  # type: ignore[arg-type]
    fit(model, FactorSchedule("0:0.5"), epochs=1)
    assert shared.factor == FACTOR / 2


def test_warnings() -> None:
    model, held = several()
    schedule = FactorSchedule("linear:0:3", exclude="konv")
    with pytest.warns(UserWarning, match="exclude 'konv' excludes no layer"):
        schedule.start(model)
    schedule.stop()
    model.get_layer("conv").trainable = False
    with pytest.warns(UserWarning, match="every kernel whose factor is to move is frozen"):
        FactorSchedule("linear:0:3", target="conv").start(model)
    model, held = several()
    model.get_layer("conv").trainable = False
    FactorSchedule("linear:0:3").start(model)  # others are not frozen
    assert held["conv"].multiplier is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"schedule": 0.5}, "a schedule is a text, a Schedule or a callable; got 0.5"),
        ({"schedule": "linear", "by": "batch"}, "by='batch' is not known; choose epoch or step"),
        ({"schedule": "linear", "target": "re:("}, "is not a regular expression"),
    ],
)
def test_faults_of_the_callback(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueFault, match=message):
        FactorSchedule(**words)


# The factor during and after training


def is_untouched(model: Any) -> bool:
    return (
        "compute_loss" not in vars(model)
        and not model._seed_generators
        and [m.name for m in model.metrics][:1] == ["loss"]
        and not {"penalty", "task_loss"} & {m.name for m in model.metrics}
        and all(
            not isinstance(v, orthwrap.OrthogonalityRegularizer) or v.multiplier is None
            for v in (w.regularizer for w in model.weights)
        )
    )


@pytest.mark.slow
def test_configs_and_files_hold_the_factor_of_the_moment(tmp_path: Path) -> None:
    regularizer = orthwrap.SO(FACTOR)
    model = untasked(regularizer)
    seen = []

    def look(epoch: int, logs: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # .h5 is a legacy format
            model.save(tmp_path / f"{epoch}.keras")
            model.save(tmp_path / f"{epoch}.h5")
        model.save_weights(tmp_path / f"{epoch}.weights.h5")
        seen.append((regularizer.factor, regularizer.get_config()["factor"], repr(regularizer)))
        assert len(model.get_weights()) == len(model.weights) == 1

    fit(
        model,
        FactorSchedule("0:1, 1:0.5, 2:0.1"),
        keras.callbacks.LambdaCallback(on_epoch_end=look),
    )
    expected = [0.3, 0.15, 0.03]
    assert [s[0] for s in seen] == [s[1] for s in seen] == pytest.approx(expected)
    assert [s[2] for s in seen] == [f"<orthwrap so {f:g}>" for f in expected]
    for epoch, factor in enumerate(expected):
        for suffix in ("keras", "h5"):
            loaded = keras.models.load_model(tmp_path / f"{epoch}.{suffix}", compile=False)
            assert loaded.layers[0].kernel_regularizer.factor == pytest.approx(factor)
            assert len(loaded.weights) == 1
        untasked(None).load_weights(tmp_path / f"{epoch}.weights.h5")
    assert regularizer.factor == pytest.approx(0.03)
    assert is_untouched(model)
    model.set_weights([KERNEL])
    fit(model, epochs=1)
    np.testing.assert_allclose(model.get_weights()[0], descended([0.1] * 5), atol=1e-5)


@pytest.mark.slow
def test_the_same_object_goes_on_from_the_same_factor() -> None:
    regularizer = orthwrap.SO(FACTOR)
    model = untasked(regularizer)
    schedule = FactorSchedule("0:1, 1:0.5, 2:0.1")
    fit(model, schedule)
    assert regularizer.factor == pytest.approx(0.1 * FACTOR)
    fit(model, schedule, epochs=0)
    assert regularizer.factor == pytest.approx(0.1 * FACTOR)
    model.set_weights([KERNEL])
    fit(model, schedule, epochs=3, initial_epoch=1)
    expected = descended([0.5] * 5 + [0.1] * 5)
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-5)
    fit(model, schedule, epochs=1)
    assert regularizer.factor == pytest.approx(FACTOR)
    fit(model, FactorSchedule("0:0.5"), epochs=1)  # another one begins with what it finds
    assert regularizer.factor == pytest.approx(FACTOR / 2)
    fit(model, schedule, epochs=2)  # and so does this, now that it is another factor
    assert regularizer.factor == pytest.approx(FACTOR / 4)


def test_two_schedules_of_one_regularizer() -> None:
    regularizer = orthwrap.SO(FACTOR)
    model = untasked(regularizer)
    with pytest.raises(ValueFault, match="two FactorSchedules move the same regularizer"):
        fit(model, FactorSchedule("linear"), FactorSchedule("cosine"))
    np.testing.assert_array_equal(model.get_weights()[0], KERNEL)
    assert regularizer.factor == FACTOR
    assert is_untouched(model)


def test_two_schedules_of_two_regularizers() -> None:
    model, held = several()
    seen = []

    def look(epoch: int, logs: Any) -> None:
        seen.append((held["conv"].factor, held["dense"].factor))

    history = fit(
        model,
        FactorSchedule("0:1, 1:0.5", target="conv"),
        FactorSchedule("0:0.25", target="dense"),
        keras.callbacks.LambdaCallback(on_epoch_end=look),
        data=PICTURES,
        epochs=2,
    )
    assert seen == [(1, 0.25), (0.5, 0.25)]
    assert set(history) == {"loss", "task_loss", "penalty", "own_penalty"}  # an L2 beside ours
    assert not model._seed_generators
    assert "compute_loss" not in vars(model)


@pytest.mark.slow
def test_a_callable_that_gives_no_multiplier() -> None:
    for wrong in (-0.5, math.nan, "x", None):
        regularizer = orthwrap.SO(FACTOR)
        model = untasked(regularizer)
        schedule = FactorSchedule(lambda p, w=wrong: 0.5 if p < 2 else w, by="step")
        with pytest.raises(ValueFault, match="at step 2; expected a multiplier of the factor"):
            fit(model, schedule)
        np.testing.assert_allclose(model.get_weights()[0], descended([0.5] * 2), atol=1e-5)
        assert regularizer.factor == FACTOR / 2
        assert is_untouched(model)


class Breaking(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        raise KeyboardInterrupt


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("following", ["nothing", "the same", "another", "stop"])
def test_a_fit_that_breaks_off(following: str) -> None:
    regularizer = orthwrap.SO(FACTOR)
    model = untasked(regularizer)
    schedule = FactorSchedule("0:0.5, 1:0.1")
    with pytest.raises(KeyboardInterrupt):
        fit(model, schedule, Breaking())
    assert regularizer.factor == FACTOR / 2
    model.set_weights([KERNEL])
    if following == "stop":
        schedule.stop()
        schedule.stop()
        assert is_untouched(model)
    after = {
        "nothing": [],
        "stop": [],
        "the same": [schedule],
        "another": [FactorSchedule("0:1, 1:0")],
    }[following]
    fit(model, *after, epochs=2)
    multipliers = {"the same": [0.5] * 5 + [0.1] * 5, "another": [0.5] * 5}
    expected = descended(multipliers.get(following, [0.5] * 10))
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-5)
    schedule.stop()
    assert is_untouched(model)


def test_a_loop_of_ones_own() -> None:
    regularizer = orthwrap.SO(FACTOR)
    model = untasked(regularizer)
    schedule = FactorSchedule("linear")
    with pytest.raises(UsageError, match="start"):
        schedule.at(0)
    with pytest.raises(ValueFault, match="whose length is not known here"):
        schedule.start(model)
    schedule.start(model, total=10)
    step = STEPS[BACKEND](model)
    for position in range(10):
        schedule.at(position)
        step()
    schedule.stop()
    expected = descended([1 - p / 10 for p in range(10)])
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-5)
    assert regularizer.factor == pytest.approx(FACTOR / 10)


def test_a_loop_that_calls_callbacks() -> None:
    """As one's own loop does, of a model that is not compiled."""
    regularizer = orthwrap.SO(FACTOR)
    model = keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, use_bias=False, kernel_regularizer=regularizer)]
    )
    callbacks = keras.callbacks.CallbackList(
        [FactorSchedule("linear", by="step")], model=model, epochs=2, steps=2
    )
    factors = []
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        for batch in range(2):
            callbacks.on_train_batch_begin(batch)
            factors.append(regularizer.factor / FACTOR)
            callbacks.on_train_batch_end(batch, {})
        callbacks.on_epoch_end(epoch, {})
    callbacks.on_train_end()
    assert factors == pytest.approx([1, 0.75, 0.5, 0.25])


def tensorflow_step(model: Any) -> Callable[[], None]:
    import tensorflow as tf

    @tf.function  # type: ignore[untyped-decorator]
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = sum(model.losses)
        (kernel,) = model.trainable_variables
        kernel.assign_sub(RATE * tape.gradient(loss, [kernel.value])[0])

    return step  # type: ignore[no-any-return]


def torch_step(model: Any) -> Callable[[], None]:
    import torch

    def step() -> None:
        (kernel,) = model.trainable_variables
        sum(model.losses).backward()  # type: ignore[attr-defined]
        with torch.no_grad():
            kernel.value.sub_(RATE * kernel.value.grad)
        kernel.value.grad = None

    return step


def jax_step(model: Any) -> Callable[[], None]:
    import jax

    @jax.jit
    def gradient(trainable: Any, others: Any) -> Any:
        def loss(trainable: Any) -> Any:
            _, _, losses = model.stateless_call(
                trainable, others, np.zeros((1, 4), "float32"), return_losses=True
            )
            return sum(losses)

        return jax.grad(loss)(trainable)

    def step() -> None:
        trainable = [v.value for v in model.trainable_variables]
        others = [v.value for v in model.non_trainable_variables]
        (change,) = gradient(trainable, others)
        model.trainable_variables[0].assign(trainable[0] - RATE * change)

    return step


STEPS = {"tensorflow": tensorflow_step, "torch": torch_step, "jax": jax_step}


# Logs


class Adding(keras.Model):  # type: ignore[misc]
    """Adds the losses of its layers by itself."""

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        return ops.mean(ops.square(y - y_pred)) + sum(self.losses)


class Leaving(keras.Model):  # type: ignore[misc]
    """Leaves the losses of its layers out; without the argument `training`, as of old."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None
    ) -> Any:
        return ops.mean(ops.square(y - y_pred))


class Doubling(keras.Model):  # type: ignore[misc]
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * super().compute_loss(*args, **kwargs)


SAMPLES = np.random.default_rng(2).normal(size=(22, 4)).astype("float32")
LABELS = np.tanh(SAMPLES[:, :3])


def logged(cls: Any = keras.Model, outputs: int = 1) -> Any:
    keras.utils.set_random_seed(0)
    x = inputs = layers.Input((4,))
    x = layers.Dense(
        5,
        kernel_regularizer=orthwrap.SO(0.3),
        bias_regularizer="l2",
        activity_regularizer=orthwrap.Frobenius(0.1, on="activity"),
    )(x)
    heads = [layers.Dense(3, kernel_regularizer="l2", name=f"out{i}")(x) for i in range(outputs)]
    model = cls(inputs, heads if outputs > 1 else heads[0])
    losses = ["mse", "mae"] if outputs > 1 else "mse"
    model.compile(keras.optimizers.SGD(0.01), losses)
    return model


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "outputs", "words"),
    [
        (keras.Model, 1, {}),
        (keras.Model, 2, {}),
        (keras.Model, 1, {"sample_weight": np.linspace(0, 2, 22)}),
        (Adding, 1, {}),
        (Leaving, 1, {}),
        (Doubling, 1, {}),
    ],
)
def test_logs_tell_task_loss_and_penalty(cls: Any, outputs: int, words: dict[str, Any]) -> None:
    model = logged(cls, outputs)
    data = SAMPLES, [LABELS] * outputs if outputs > 1 else LABELS
    history = fit(
        model,
        FactorSchedule("linear", by="step"),
        data=data,
        batch_size=8,
        epochs=2,
        validation_data=data,
        **words,
    )
    for prefix in ("", "val_"):
        figures = [history[prefix + name] for name in ("loss", "task_loss", "penalty")]
        loss, task, penalty = map(np.array, figures)
        own = np.array(history.get(f"{prefix}own_penalty", 0.0))
        np.testing.assert_allclose(task + penalty + own, loss, rtol=1e-5)
        assert (penalty == 0).all() if cls is Leaving else (penalty > 0.01).all()
        assert (task > 0.01).all()
    if cls is keras.Model and outputs == 1 and not words:
        # The activity's penalty is a mean over batches, of which the last one is smaller.
        kept = [v for v in model.weights if v.regularizer is not None]
        values = sum(float(v.regularizer(ops.convert_to_tensor(v))) for v in kept)
        assert history["val_penalty"][-1] + history["val_own_penalty"][-1] > values > 0
    again = model.evaluate(*data, verbose=0, return_dict=True)
    assert "penalty" not in again


def test_the_penalty_is_what_the_regularizers_give() -> None:
    model = untasked(orthwrap.SO(FACTOR))
    history = fit(model, FactorSchedule("0:1, 1:0.5"), epochs=2, validation_data=NOTHING)
    walk = [1] * 5 + [0.5] * 5
    kernels = [descended(walk[:i]) for i in range(11)]
    values = [FACTOR * np.sum((w.T @ w - np.eye(3)) ** 2) for w in kernels]
    assert history["penalty"] == pytest.approx(
        [np.mean(values[:5]), 0.5 * np.mean(values[5:10])], rel=1e-4
    )
    assert history["val_penalty"] == pytest.approx([values[5], 0.5 * values[10]], rel=1e-4)
    assert history["task_loss"] == [0, 0]


def test_losses_are_split_once() -> None:
    model = untasked(orthwrap.SO(FACTOR))
    with split_losses(model):
        history = fit(model, FactorSchedule("0:1, 1:0.5"), epochs=2)
        assert [m.name for m in model.metrics].count("penalty") == 1
        logs = model.evaluate(*NOTHING, verbose=0, return_dict=True)
        assert logs["penalty"] == pytest.approx(logs["loss"])
    assert history["penalty"] == pytest.approx(history["loss"])
    assert is_untouched(model)


def bare_step(self: Any, *args: Any) -> Any:
    """A `train_step` that does without `compute_loss`, and feeds every metric it finds."""
    if BACKEND == "jax":
        state, _ = args
        return {"loss": ops.zeros(())}, state
    x, y = args[0]
    predicted = self(x, training=True)
    for metric in self.metrics:
        if metric.name == "loss":
            metric.update_state(ops.mean(ops.square(y - predicted)))
        else:
            metric.update_state(y, predicted)
    return {metric.name: metric.result() for metric in self.metrics}


def test_what_no_step_tells_is_not_in_the_logs() -> None:
    bare = types.new_class("Bare", (keras.Model,), {}, lambda ns: ns.update(train_step=bare_step))
    model = logged(bare)
    data = SAMPLES, LABELS
    history = fit(
        model, FactorSchedule("linear"), data=data, validation_data=data, validation_freq=2
    )
    told = [f"val_{name}" for name in ("task_loss", "penalty", "own_penalty")]
    assert {"loss", "val_loss", *told} == set(history)
    sums = np.sum([history[name] for name in told], axis=0)
    np.testing.assert_allclose(sums, history["val_loss"], rtol=1e-5)


# Counts of calls


def test_a_clock_is_read_and_set() -> None:
    clock = Clock(5)

    def ticks(number: int) -> list[tuple[int, ...]]:
        return [tuple(int(part) for part in clock.tick()) for _ in range(number)]

    assert ticks(3) == [(5, 1), (5, 2), (5, 3)]
    assert clock.read() == (5, 3)
    clock.set(7, 10)
    assert clock.read() == (7, 10)
    assert ticks(2) == [(7, 11), (7, 12)]
    assert ops.convert_to_numpy(clock.state).tolist() == [7, 12]


def test_regularizers_go_on_from_a_state() -> None:
    kernel = ops.convert_to_tensor(KERNEL)
    first = orthwrap.SO(estimate="sketch", every=2)
    for _ in range(3):
        first(kernel)
    state = json.loads(json.dumps(first.moment))
    assert state["count"] == 3
    expected = [float(first(kernel)) for _ in range(4)]
    second = orthwrap.SO(estimate="sketch", every=2)
    second.restore(state)
    assert [float(second(kernel)) for _ in range(4)] == expected
    assert len(set(expected)) > 1
    exact = orthwrap.SO()
    assert exact.moment["count"] == 0
    exact.restore(exact.moment)


@pytest.mark.slow
def test_a_resumed_training_draws_the_same_probes() -> None:
    words = {"estimate": "sketch", "probes": 2, "every": 2}
    whole = orthwrap.SO(FACTOR, **words)
    start = whole.moment
    straight = untasked(whole)
    fit(straight, epochs=2)
    first, second = orthwrap.SO(FACTOR, **words), orthwrap.SO(FACTOR, **words)
    first.restore(start)
    half = untasked(first)
    fit(half, epochs=1)
    rest = untasked(second)
    rest.set_weights(half.get_weights())
    second.restore(first.moment)
    fit(rest, epochs=1)
    np.testing.assert_array_equal(rest.get_weights()[0], straight.get_weights()[0])


REPLICAS = """
import contextlib, json
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, orthwrap
from keras import layers
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.random.default_rng(1).normal(size=(24, 4)).astype("float32")
kernel = np.random.default_rng(0).normal(size=(4, 3)) * 0.6

def trained(scope, made=None):
    with scope:
        made = made or make()
        model = keras.Sequential([
            layers.Input((4,)), layers.Dense(3, use_bias=False, kernel_regularizer=made)])
        model.set_weights([kernel])
        model.compile(keras.optimizers.SGD(0.05), "mse")
    logs = model.fit(x, x[:, :3], epochs=2, batch_size=4, verbose=0, shuffle=False,
                     callbacks=[orthwrap.FactorSchedule("linear", by="step")]).history
    return model.get_weights()[0].tolist(), logs, made.moment

def make():
    return orthwrap.SO(0.3, estimate="sketch", every=3, seed=1)

print(json.dumps([trained(contextlib.nullcontext()), trained(strategy.scope()),
                  trained(strategy.scope(), make())]))
"""


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute")
def test_replicas_train_as_one_device_does() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, inside, outside = json.loads(done.stdout.splitlines()[-1])
    for weights, logs, state in (inside, outside):
        np.testing.assert_allclose(weights, one[0], atol=1e-6)
        assert state == one[2]
        assert set(logs) == set(one[1])
        for name, values in logs.items():
            assert values == pytest.approx(one[1][name], rel=1e-5)
