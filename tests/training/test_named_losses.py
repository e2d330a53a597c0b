"""Losses, optimizers and metrics by name, and labels as they take them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from tests.support import models
from tests.support.run_helpers import classes, same, told, training_of

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"loss": "mse"}, "loss mean_squared_error: as given"),
        ({"loss": keras.losses.Huber()}, "loss huber_loss: as given"),
        ({"optimizer": "sgd", "learning_rate": 0.5}, "optimizer SGD, learning rate 0.5: as given"),
        ({"optimizer": "rmsprop"}, "optimizer RMSprop, learning rate 0.001: as given"),
    ],
    ids=told,
)
def test_loss_and_optimizer_can_be_named(words: dict[str, Any], expected: str) -> None:
    x, y = classes()
    for compiled in (False, True):
        model = models.dense()
        if compiled:
            model.compile("adam", "categorical_crossentropy", metrics=["mae"])
        training = training_of(orthwrap.apply(model, data=(x, np.eye(3)[y]), epochs=1, **words))
        assert expected in training.choices
        if compiled:
            assert "mae" in training.metrics_after


@pytest.mark.slow
def test_crossentropy_of_logits_is_told_so() -> None:
    inputs = layers.Input((6,))
    model = keras.Model(inputs, layers.Dense(3, name="head")(inputs))
    words: dict[str, Any] = {"data": classes(), "epochs": 1}
    named = orthwrap.apply(model, loss="sparse_categorical_crossentropy", seed=0, **words)
    found = orthwrap.apply(model, seed=0, **words)
    assert same(named.model, found.model)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("loss", ["categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_labels_become_what_the_models_own_loss_takes(loss: str) -> None:
    (x, y), (x_val, y_val) = classes(), classes(20, 1)
    model = models.dense()
    model.compile("sgd", loss)
    words: dict[str, Any] = {"epochs": 1, "seed": 0, "measure": False}
    takes = np.eye(3)[y] if loss.startswith("cat") else y
    plain = orthwrap.apply(model, data=(x, takes), **words)
    for form in (lambda a: a, lambda a: a[:, None], np.eye(3).__getitem__):
        shaped = orthwrap.apply(model, data=(x, form(y), x_val, form(y_val)), **words)
        assert same(shaped.model, plain.model)
        assert "val_task_loss" in training_of(shaped).history


@pytest.mark.dear
@pytest.mark.parametrize("streamed", ["samples", "validation"])
def test_labels_of_arrays_are_fitted_beside_a_stream(streamed: str) -> None:
    import tensorflow as tf

    x, y = classes()
    stream = tf.data.Dataset.from_tensor_slices((x, np.eye(3, dtype="float32")[y])).batch(8)
    parts = {"data": (x, y), "validation": (x, y)}
    parts["data" if streamed == "samples" else "validation"] = stream
    model = models.dense()
    model.compile("sgd", "categorical_crossentropy")
    training = training_of(orthwrap.apply(model, epochs=1, seed=0, **parts))
    assert "labels: between class numbers and one-hot, as the loss takes them" in training.choices
    assert "val_task_loss" in training.history


def test_metrics_can_be_named() -> None:
    result = orthwrap.apply(
        models.dense(),
        data=classes(),
        epochs=1,
        metric=["accuracy", "sparse_top_k_categorical_accuracy"],
    )
    found = training_of(result).metrics_after
    assert {"accuracy", "sparse_top_k_categorical_accuracy"} <= set(found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            {"loss": "sparse_categorical_crosentropy"},
            "did you mean sparse_categorical_crossentropy",
        ),
        ({"loss": "crossentropy"}, "did you mean .*sparse_categorical_crossentropy"),
        ({"optimizer": "adan"}, "optimizer 'adan'; did you mean .*Adam"),
        ({"metric": "acuracy"}, "metric 'acuracy'; did you mean .*ccuracy"),
        ({"loss": "zzzz"}, "knows no loss 'zzzz'"),
    ],
)
def test_unknown_names_have_neighbours(words: Any, said: str) -> None:
    with pytest.raises(orthwrap.ValueFault, match=said):
        orthwrap.apply(models.dense(), data=classes(), **words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"schedule": lambda: 1}, r"<lambda>\(\) must take one argument, the epoch or step"),
        ({"schedule": 3}, "a schedule is a text, a Schedule or a callable; got 3"),
        (
            {"schedule": keras.optimizers.schedules.ExponentialDecay},
            r"ExponentialDecay is a class: give an object of it, ExponentialDecay\(\.\.\.\)",
        ),
        ({"callbacks": [keras.callbacks.EarlyStopping]}, "callback EarlyStopping is a class"),
        (
            {"callbacks": [keras.callbacks.BackupAndRestore("nowhere")]},
            "BackupAndRestore goes back to a place of its own: give checkpoint_dir",
        ),
        ({"callbacks": print}, "must be objects of keras.callbacks.Callback; got builtin"),
        ({"optimizer": keras.optimizers.SGD}, "optimizer SGD is a class: give an object"),
        ({"optimizer": 0.1}, "optimizer 0.1 is none"),
        ({"loss": 3}, "loss 3 is none: give the name of a Keras loss"),
        ({"metric": 3}, "metric 3 is none: give the name of a Keras metric"),
        ({"metric": ["accuracy", 3]}, "metric 3 is none"),
    ],
)
def test_objects_of_another_kind_are_told_before_data_is_read(words: Any, said: str) -> None:
    with pytest.raises(orthwrap.ValueFault, match=said) as caught:
        orthwrap.apply(models.dense(), data="nowhere.npz", **words)
    assert "\n" not in str(caught.value)


def test_objects_that_keras_takes_are_let_through() -> None:
    result = orthwrap.apply(
        models.dense(),
        data=(classes()[0], np.eye(3)[classes()[1]]),
        epochs=1,
        loss=keras.losses.MeanSquaredError,
        metric=[keras.metrics.MeanSquaredError, lambda y, given: keras.ops.mean(given)],
        schedule=keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.5),
    )
    assert "mean_squared_error" in training_of(result).metrics_after


@pytest.mark.parametrize("loss", ["mse", keras.losses.Huber(), keras.losses.mean_absolute_error])
def test_loss_of_many_numbers_says_so_of_class_numbers(loss: Any) -> None:
    x, y = classes()
    for labels in (y, y[:, None]):
        with pytest.raises(orthwrap.ValueFault, match=r"wants 3 numbers .*one-hot"):
            orthwrap.apply(models.dense(), data=(x, labels), loss=loss)


def test_loss_of_ones_own_may_take_class_numbers() -> None:
    def mine(y: Any, given: Any) -> Any:
        return keras.ops.mean(keras.ops.square(given - keras.ops.cast(y, given.dtype)), axis=-1)

    x, y = classes()
    assert orthwrap.apply(models.dense(), data=(x, y[:, None]), loss=mine, epochs=1).model
