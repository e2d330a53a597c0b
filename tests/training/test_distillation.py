"""Distillation: losses and agreement against what they are by hand, and what stays of it."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import orthwrap
from orthwrap.training.goal.distillation import (
    KINDS,
    SOFTMAX,
    SoftBits,
    SoftTargets,
    agreement,
    distillation_losses,
    imitating,
    kinds_of,
    note_on_batch_statistics,
    teacher_outputs,
)
from orthwrap.training.goal.inputs_outputs import outputs_of
from tests.support import models
from tests.support.backend import value_and_grad

Array = np.ndarray[Any, np.dtype[Any]]


def numpy(tensor: Any) -> Array:
    return np.array(ops.convert_to_numpy(tensor))


def softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softened: Array = e / e.sum(axis=-1, keepdims=True)
    return softened


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# The losses


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_soft_targets_are_hintons_divergence(temperature: float) -> None:
    t, s = 3 * drawn(7, 4), 3 * drawn(7, 4, seed=1)
    p, q = (softmax(x.astype("float64") / temperature) for x in (t, s))
    expected = temperature**2 * np.mean(np.sum(p * np.log(p / q), axis=-1))
    of_logits = SoftTargets(temperature, from_logits=True)
    assert float(numpy(of_logits(t, s))) == pytest.approx(expected, rel=1e-4)
    of_softmax = SoftTargets(temperature)
    assert float(numpy(of_softmax(softmax(t), softmax(s)))) == pytest.approx(expected, rel=1e-4)


def test_soft_targets_of_logits_have_hintons_gradient() -> None:
    """T²·∂KL/∂z = T·(q − p), which stays of one size whatever T is."""
    t, s = drawn(1, 5), drawn(1, 5, seed=1)
    loss = SoftTargets(3.0, from_logits=True)
    _, gradient = value_and_grad(lambda x: loss(ops.convert_to_tensor(t), x), s)
    p, q = (softmax(x.astype("float64") / 3.0) for x in (t, s))
    np.testing.assert_allclose(gradient, 3.0 * (q - p), rtol=1e-4, atol=1e-6)


def test_probabilities_of_0_and_1_give_numbers() -> None:
    hard = np.eye(3, dtype="float32")
    for target, output in ((hard, hard), (hard, hard[::-1].copy()), (softmax(hard), hard)):
        loss = SoftTargets()
        value, gradient = value_and_grad(
            lambda x, y=target, loss=loss: loss(ops.convert_to_tensor(y), x), output
        )
        assert math.isfinite(value)
        assert np.all(np.isfinite(gradient))
    assert float(numpy(SoftTargets()(hard, hard))) == pytest.approx(0.0, abs=1e-6)
    assert float(numpy(SoftTargets()(hard, hard[::-1].copy()))) > 10
    large = np.array([[1e4, -1e4, 0.0]], "float32")
    assert math.isfinite(float(numpy(SoftTargets(from_logits=True)(large, -large))))


def test_soft_bits_are_binary_cross_entropy_with_probabilities() -> None:
    t, s = drawn(6, 3), drawn(6, 3, seed=1)
    p, q = (1 / (1 + np.exp(-x.astype("float64"))) for x in (t, s))
    expected = -np.mean(p * np.log(q) + (1 - p) * np.log(1 - q))
    of_logits = SoftBits(from_logits=True)
    assert float(numpy(of_logits(t, s))) == pytest.approx(expected, rel=1e-4)
    assert float(numpy(SoftBits()(p.astype("float32"), q.astype("float32")))) == pytest.approx(
        expected, rel=1e-4
    )
    extremes = np.array([[0.0, 1.0]], "float32")
    assert math.isfinite(float(numpy(SoftBits()(extremes, 1 - extremes))))


def test_losses_come_back_from_their_configs() -> None:
    for loss in (SoftTargets(3.0, from_logits=True), SoftBits(from_logits=True)):
        again = type(loss).from_config(loss.get_config())
        assert again.get_config() == loss.get_config()
        assert again.from_logits


# Which loss


def several() -> Any:
    """An output of each kind."""
    inputs = layers.Input((4,), name="x")
    outputs = [
        layers.Dense(3, activation="softmax", name="kind")(inputs),
        layers.Dense(3, name="scores")(inputs),
        layers.Dense(2, activation="sigmoid", name="tags")(inputs),
        layers.Dense(2, name="odds")(inputs),
        layers.Dense(2, name="place")(inputs),
    ]
    return models.randomized(keras.Model(inputs, outputs, name="several"))


def compiled(model: Any) -> Any:
    losses = [
        "sparse_categorical_crossentropy",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "binary_crossentropy",
        keras.losses.BinaryCrossentropy(from_logits=True),
        "mse",
    ]
    model.compile(keras.optimizers.Adam(0.01), losses, metrics=[["accuracy"], [], [], [], ["mae"]])
    return model


def test_an_output_is_what_its_activation_and_its_own_loss_say() -> None:
    model = several()
    assert kinds_of(model) == ("softmax", "numbers", "sigmoid", "numbers", "numbers")
    assert kinds_of(compiled(model)) == KINDS
    losses, lines = distillation_losses(model, 3.0)
    assert [type(x).__name__ for x in losses] == [
        "SoftTargets",
        "SoftTargets",
        "SoftBits",
        "SoftBits",
        "MeanSquaredError",
    ]
    assert [getattr(x, "from_logits", None) for x in losses] == [False, True, False, True, None]
    assert lines[0] == (
        "kind: distilled as softmax: KL divergence from the original's outputs at temperature 3"
    )
    assert lines[4] == "place: distilled as numbers: mean squared error from the original's outputs"


def test_a_model_with_its_own_loss_is_refused() -> None:
    class Own(keras.Model):  # type: ignore[misc]  # Keras is untyped
        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, **_: Any) -> Any:
            return ops.mean(y_pred)

    inputs = layers.Input((2,))
    model = Own(inputs, layers.Dense(1)(inputs), name="own")
    with pytest.raises(orthwrap.OrthwrapError, match="model 'own' \\(Own\\) computes its loss"):
        distillation_losses(model)


# Agreement


def test_agreement_by_hand() -> None:
    teacher = [np.array([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])]
    student = [np.array([[0.4, 0.6], [0.1, 0.9], [np.nan, 0.6], [0.3, 0.7]])]
    assert agreement(teacher, student, ["softmax"]) == 0.5
    assert agreement(teacher, student, ["logits"]) == 0.5
    assert agreement(teacher, student, ["sigmoid"]) == 5 / 8
    assert agreement([np.array([-1.0, 2.0])], [np.array([-2.0, -1.0])], ["sigmoid logits"]) == 0.5
    three, five = np.array([3.0, 4.0]), np.array([3.0, 3.0])
    assert agreement([three], [five], ["numbers"]) == pytest.approx(0.8)
    assert agreement([three], [-three], ["numbers"]) == 0.0
    assert agreement([three], [np.array([np.inf, 1.0])], ["numbers"]) == 0.0
    zero = np.zeros(2)
    assert agreement([zero], [zero], ["numbers"]) == 1.0
    assert agreement([zero], [three], ["numbers"]) == 0.0
    both = agreement([*teacher, three], [*student, five], ["softmax", "numbers"])
    assert both == pytest.approx((0.5 + 0.8) / 2)


def test_agreement_of_every_place_of_a_map_counts() -> None:
    teacher = np.zeros((2, 3, 3, 4))
    teacher[..., 1] = 1.0
    student = teacher.copy()
    student[0, 0, 0] = [1, 0, 0, 0]
    assert agreement([teacher], [student], ["softmax"]) == 17 / 18


def test_outputs_come_in_the_models_order_and_in_float32() -> None:
    model = several()
    x = drawn(10, 4)
    found = teacher_outputs(model, [x[:4], (x[4:],)])
    expected = model.predict(x, verbose=0)
    for have, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)
    half = keras.Sequential([layers.Input((4,)), layers.Dense(3, dtype="float16")])
    assert [a.dtype for a in outputs_of(half)(x)] == [np.dtype("float32")]


# What stays of it


@pytest.mark.dear
@pytest.mark.slow
def test_the_copy_learns_and_is_compiled_as_before() -> None:
    model = compiled(several())
    x = drawn(64, 4)
    targets = teacher_outputs(model, [x])
    model.fit(x, [np.zeros(64, int)] * 2 + [np.zeros((64, 2))] * 3, verbose=0)
    config, steps = model.get_compile_config(), int(model.optimizer.iterations)
    loss, optimizer = model.loss, model.optimizer
    for weight in model.weights:
        weight.assign(numpy(weight) + 0.3)
    before = agreement(targets, outputs_of(model)(x), kinds_of(model))
    with imitating(model, distillation_losses(model)[0]):
        history = model.fit(x, list(targets), epochs=20, verbose=0).history
    after = agreement(targets, outputs_of(model)(x), kinds_of(model))
    assert history["loss"][-1] < history["loss"][0]
    assert after > before
    assert model.get_compile_config() == config
    assert model.loss is loss
    assert model.optimizer is optimizer
    assert int(optimizer.iterations) == steps + 40
    logs = model.evaluate(
        x, [np.zeros(64, int)] * 2 + [np.zeros((64, 2))] * 3, verbose=0, return_dict=True
    )
    assert {"kind_accuracy", "place_mae"} <= set(logs)


@pytest.mark.slow
def test_a_model_that_was_not_compiled_is_not_afterwards(tmp_path: Path) -> None:
    model = models.dense()
    x = drawn(16, 6)
    with imitating(model, distillation_losses(model)[0]):
        model.fit(x, teacher_outputs(model, [x])[0], verbose=0)
    assert not model.compiled
    model.save(tmp_path / "m.keras")
    assert not keras.models.load_model(tmp_path / "m.keras").compiled
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((16, 3)), verbose=0)


def test_noise_is_off_meanwhile_and_an_exact_copy_stays_one() -> None:
    inputs = layers.Input((6,))
    x = layers.Dropout(0.5, name="drop")(layers.GaussianNoise(0.7, name="noise")(inputs))
    x = layers.SpatialDropout1D(0.4, name="whole")(layers.Reshape((3, 2), name="shape")(x))
    outputs = layers.Dense(3, activation="softmax")(layers.Flatten(name="flat")(x))
    model = models.randomized(keras.Model(inputs, outputs))
    losses, lines = distillation_losses(model)
    assert lines[-1] == "dropout and other noise: off while the copy imitates the original"
    x = drawn(32, 6)
    with imitating(model, losses, keras.optimizers.SGD(0.1)):
        logs = model.fit(x, teacher_outputs(model, [x])[0], verbose=0).history
    assert logs["loss"][0] == pytest.approx(0.0, abs=1e-5)
    assert model.get_layer("noise").stddev == 0.7
    assert [model.get_layer(n).rate for n in ("drop", "whole")] == [0.5, 0.4]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.LSTM(5, dropout=0.5),
        lambda: layers.GRU(5, dropout=0.5, recurrent_dropout=0.3),
        lambda: layers.SimpleRNN(5, recurrent_dropout=0.5),
        lambda: layers.Bidirectional(layers.LSTM(5, dropout=0.5, recurrent_dropout=0.5)),
        lambda: lambda x: layers.Attention(dropout=0.5)([x, x]),
        lambda: lambda x: layers.MultiHeadAttention(2, 3, dropout=0.5)(x, x),
    ],
    ids=["lstm", "gru", "rnn", "both directions", "attention", "heads"],
)
def test_noise_within_a_layer_is_off_too(layer: Any) -> None:
    x = inputs = layers.Input((4, 3))
    x = layers.Flatten()(layer()(x))
    model = models.randomized(keras.Model(inputs, layers.Dense(2)(x)))
    batch = drawn(8, 4, 3)
    noisy = numpy(model(batch, training=True))
    assert not np.allclose(noisy, numpy(model(batch)), atol=1e-4)
    losses, lines = distillation_losses(model)
    assert "dropout and other noise: off while the copy imitates the original" in lines
    with imitating(model, losses):
        np.testing.assert_allclose(
            numpy(model(batch, training=True)), numpy(model(batch)), atol=1e-6
        )
    assert not np.allclose(numpy(model(batch, training=True)), numpy(model(batch)), atol=1e-4)


def test_an_error_on_the_way_leaves_it_as_it_was() -> None:
    model = compiled(several())
    config = model.get_compile_config()
    other = keras.optimizers.SGD(0.5)

    def broken() -> None:
        with imitating(model, distillation_losses(model)[0], other):
            assert model.optimizer is other
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    now = model.get_compile_config()
    assert now.pop("optimizer")["class_name"] == "SGD"
    assert now == {k: v for k, v in config.items() if k != "optimizer"}


@pytest.mark.slow
def test_apply_distils_on_inputs_alone_and_reports_agreement(tmp_path: Path) -> None:
    model = models.dense()
    x = drawn(64, 6)
    result = orthwrap.apply(
        model,
        data={"x": x},
        distill=True,
        factor="auto",
        rho=4.0,
        epochs=20,
        learning_rate=2e-2,
        seed=0,
        output=tmp_path / "m.keras",
    )
    training = result.report.training
    assert training is not None
    assert training.metrics_before["agreement"] == 1.0
    assert 0.8 < training.metrics_after["agreement"] <= 1.0
    assert any(line.startswith("distilled as softmax") for line in training.choices)
    for record in result.report.layers:
        assert record.before is not None
        assert record.after is not None
        assert record.regularizer is not None
        assert record.after.residual < 0.5 * record.before.residual
        assert record.regularizer.factor == training.factors[record.path] != 1e-3
    assert not result.model.compiled
    kinds = kinds_of(model)
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert agreement(outputs_of(loaded)(x), outputs_of(result.model)(x), kinds) == 1.0


def streamed(*arrays: Array) -> Any:
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(16)


@functools.cache
def taught_by_arrays() -> Any:
    """How it trains where nothing is a stream."""
    return taught({"x": drawn(64, 6)}, {"x": drawn(32, 6, seed=1)})


def taught(data: Any, validation: Any) -> Any:
    return orthwrap.apply(
        models.dense(), data=data, validation=validation, batch_size=16, seed=0, keep="last",
        distill=True, factor=1.0, epochs=2, learning_rate=1e-2,
    ).report.training  # fmt: skip


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("which", ["neither", "samples", "validation", "both"])
def test_teacher_of_streams_is_the_model_as_it_was(which: str) -> None:
    """What is asked for batch by batch must not come from the copy that is being trained."""
    x, held_out = drawn(64, 6), drawn(32, 6, seed=1)
    training = taught(
        streamed(x) if which in ("samples", "both") else {"x": x},
        streamed(held_out) if which in ("validation", "both") else {"x": held_out},
    )
    losses = training.history["val_task_loss"]
    assert losses[0] > 1e-4  # from itself it would be 0
    if which in ("neither", "validation"):  # a stream of samples has its own order
        expected = taught_by_arrays()
        np.testing.assert_allclose(losses, expected.history["val_task_loss"], rtol=1e-5)
        assert training.metrics_after == pytest.approx(expected.metrics_after, rel=1e-5)


@pytest.mark.slow
def test_factor_that_rises_from_nothing_is_no_explosion() -> None:
    """An exact copy begins without any loss, and a warm-up without any penalty."""
    model = keras.Sequential([layers.Input((6,)), layers.Dense(9, name="wide"), layers.Dense(3)])
    model.get_layer("wide").kernel.assign(5 * drawn(6, 9))
    training = orthwrap.apply(
        model,
        target="wide",
        scale="unit",
        factor=1e-2,
        schedule="warmup:3",
        data={"x": drawn(64, 6)},
        distill=True,
        epochs=4,
        learning_rate=1e-4,
        seed=0,
    ).report.training
    assert training is not None
    assert training.epochs == 4
    penalty = training.history["penalty"]
    assert penalty[0] < 1e-3
    assert penalty[-1] > 10


# Batch normalisation


@functools.cache
def normalised() -> Any:
    """A classifier whose batch normalisation holds the statistics of normal numbers; to copy."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, name="first"),
            layers.BatchNormalization(momentum=0.9, name="norm"),
            layers.ReLU(),
            layers.Dense(4, activation="softmax", name="head"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    x = drawn(512, 6)
    model.fit(x, np.argmax(x[:, :4], axis=1), batch_size=64, epochs=10, verbose=0)
    return model


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("shift", "words", "is_told"),
    [
        (0.0, {}, False),
        (6.0, {}, True),
        (6.0, {"freeze_batchnorm": True}, False),
        (6.0, {"freeze": "norm"}, False),
    ],
)
def test_data_unlike_the_first_are_told_of(
    shift: float, words: dict[str, Any], is_told: bool
) -> None:
    model = normalised()
    x = drawn(512, 6, seed=1) + np.float32(shift)
    result = orthwrap.apply(
        model,
        target="first",
        data={"x": x},
        distill=True,
        epochs=1,
        batch_size=128,
        seed=0,
        **words,
    )
    training = result.report.training
    assert training is not None
    assert training.metrics_before["agreement"] == 1.0
    told = [line for line in training.choices if line.startswith("batch normalisation")]
    assert len(told) == is_told


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_looking_at_batches_moves_no_statistics() -> None:
    model = normalised()
    before = [numpy(v) for v in model.variables]
    x = drawn(64, 6, seed=1) + np.float32(6)
    y = model.predict_on_batch(x)
    assert "freeze batchnorm" in note_on_batch_statistics(model, [(x, y)], [SOFTMAX])
    assert all(np.array_equal(a, numpy(v)) for a, v in zip(before, model.variables, strict=True))
