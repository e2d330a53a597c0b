"""A training run: what is trained, optimised, logged and kept, and how it goes on after a stop."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import typer
from keras import layers

import orthwrap
from orthwrap.rules.words import words_of
from orthwrap.stores import replacing
from orthwrap.training.loop import checkpoint_file
from orthwrap.training.loop.checkpoints import CheckpointFolder, State
from orthwrap.training.loop.interrupts import note_interrupts
from orthwrap.training.loop.logs import csv_of
from orthwrap.training.loop.watch import regularizers_in
from orthwrap.training.settings import Settings, TrainingWords, settings_of
from orthwrap_cli.main import app
from tests.conftest import steps_run_eagerly
from tests.support import models
from tests.support.run_helpers import CtrlC, arrays_of, classes

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


def weights_of(model: Any) -> list[Array]:
    return arrays_of(model.weights)


def same(first: Any, second: Any) -> bool:
    pairs = zip(weights_of(first), weights_of(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def with_validation() -> tuple[Array, Array, Array, Array]:
    return (*classes(), *classes(20, 1))


def dropping() -> Any:
    """What keeps state of every kind: random numbers, statistics, an optimizer's slots."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(9, activation="relu", name="wide"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.3, name="drop"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def told(value: Any) -> str:
    """A test's name, the same in every process: objects tell where they lie in memory."""
    if isinstance(value, set):
        value = sorted(value)
    return "-".join(value) if isinstance(value, (dict, list)) else str(value)


def training_of(result: Any) -> Any:
    assert result.report.training is not None
    return result.report.training


# The words


def test_words_of_python_and_of_the_commands_are_the_same() -> None:
    command = typer.main.get_command(app).commands["finetune"]  # type: ignore[attr-defined]
    options = {parameter.name for parameter in command.params}
    assert {*words_of(TrainingWords)} == set(TrainingWords.__annotations__)
    assert {*TrainingWords.__annotations__} - options == {"callbacks"}
    assert set(vars(Settings())) == set(TrainingWords.__annotations__)
    told = str(TrainingWords.__doc__)
    assert [name for name in TrainingWords.__annotations__ if name not in told] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"validation": "v.npz", "validation_split": 0.1}, "exclude each other"),
        ({"rescale": 1.0, "preprocessing": "vgg16"}, "exclude each other"),
        ({"resume": True}, "resume needs a checkpoint dir"),
        ({"distill": True, "loss": "mse"}, "a loss of its own"),
        ({"keep": "last", "monitor": "loss"}, "about keep best"),
        ({"freeze_batchnorm": True, "batchnorm_momentum": 0.9}, "exclude each other"),
    ],
)
def test_words_that_contradict_each_other_are_wrong_usage(words: Any, said: str) -> None:
    with pytest.raises(orthwrap.UsageError, match=said):
        settings_of(words, has_data=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"validation_split": 1.0}, "between 0 and 1"),
        ({"validation_split": 0.0}, "above 0"),
        ({"rho": -1}, "rho -1 must be"),
        ({"batchnorm_momentum": 1.0}, "between 0 and 1"),
        ({"temperature": 0}, "temperature 0 must be"),
        ({"rho_over": "layer"}, "choose one of: kernel, all"),
        ({"schedule_by": "batch"}, "choose one of: epoch, step"),
        ({"keep": "first"}, "choose one of: best, best-task, last"),
        ({"schedule": "sine"}, "schedule 'sine'"),
        ({"devices": 0}, "devices 0 must be a whole number"),
    ],
)
def test_values_out_of_range_are_named(words: Any, said: str) -> None:
    with pytest.raises(orthwrap.ValueFault, match=said):
        settings_of(words, has_data=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"rho": 0.5}, "rho is about factor auto"),
        ({"rho_over": "all"}, "rho over is about factor auto"),
        ({"schedule_by": "step"}, "schedule by is about a schedule"),
        ({"temperature": 3.0}, "temperature is about distill"),
    ],
)
def test_words_without_effect_are_wrong_usage(words: dict[str, Any], said: str) -> None:
    with pytest.raises(orthwrap.UsageError, match=said):
        orthwrap.apply(models.dense(), data=classes(), factor=0.1, **words)
    with pytest.raises(orthwrap.UsageError, match=said):
        orthwrap.finetune(models.dense(), classes(), **words)


def test_log_replaces_nothing_that_is_read_or_written(tmp_path: Path) -> None:
    model, arrays = tmp_path / "m.keras", tmp_path / "d.npz"
    dropping().save(model)
    np.savez(arrays, **dict(zip("xy", classes(), strict=True)))
    out = tmp_path / "out.keras"
    then = model.read_bytes(), arrays.read_bytes()
    for log in (model, arrays, out):
        with pytest.raises(orthwrap.FileFault, match=r"which it would replace|is not a log"):
            orthwrap.apply(model, out, data=arrays, log=log)
        with pytest.raises(orthwrap.FileFault, match=r"which it would replace|is not a log"):
            orthwrap.finetune(model, arrays, out, log=log)
    assert (model.read_bytes(), arrays.read_bytes()) == then
    assert not out.exists()


def test_word_that_there_is_not_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword 'epoch'; did you mean 'epochs'"):
        orthwrap.apply(models.dense(), data=classes(), epoch=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("validation_data", "did you mean 'validation'?"),
        ("learningrate", "did you mean 'learning_rate'?"),
        ("lr", "did you mean 'learning_rate'?"),
        ("verbose", "did you mean 'progress'?"),
        ("targets", "did you mean 'target'"),
        ("zzz", "help(orthwrap.TrainingWords)"),
    ],
)
def test_unknown_words_have_neighbours(word: str, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        orthwrap.apply(models.dense(), data=classes(), **{word: 1})  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_help_names_every_word() -> None:
    for verb in (orthwrap.apply, orthwrap.finetune):
        told = str(verb.__doc__)
        assert [name for name in TrainingWords.__annotations__ if f"`{name}`" not in told] == []


@pytest.mark.parametrize("word", ["freeze", "unfreeze", "target"])
def test_layers_and_classes_are_no_patterns(word: str) -> None:
    model = models.dense()
    for value, said in (
        (
            model.layers[1],
            f"a layer is no pattern: give its path, such as '{model.layers[1].name}'",
        ),
        ([layers.Dense], "a class is no pattern: write 'class:Dense'"),
    ):
        with pytest.raises(orthwrap.ValueFault, match=said):
            orthwrap.apply(model, data=classes(), factor=0.1, **{word: value})


# Which layers are trained


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


# What is optimised


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


def test_crossentropy_of_logits_is_told_so() -> None:
    inputs = layers.Input((6,))
    model = keras.Model(inputs, layers.Dense(3, name="head")(inputs))
    words: dict[str, Any] = {"data": classes(), "epochs": 1}
    named = orthwrap.apply(model, loss="sparse_categorical_crossentropy", seed=0, **words)
    found = orthwrap.apply(model, seed=0, **words)
    assert same(named.model, found.model)


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


# Numbers that are none


def spoiled(at: int, value: float = np.nan) -> tuple[Array, Array]:
    x, y = classes()
    x = x.copy()
    x[at, 2] = value
    return x, y


@pytest.mark.parametrize(
    ("data", "words", "said"),
    [
        (spoiled(7), {}, "x holds NaN or infinity in 1 sample, first in number 7, and so does the"),
        (spoiled(7, np.inf), {}, "x holds NaN or infinity in 1 sample, first in number 7"),
        (spoiled(7), {"validation": classes()}, "x holds NaN or infinity in 1 sample"),
        (spoiled(7), {"validation_split": 0.25}, "NaN or infinity in 1 sample, first in number 7"),
        (classes(), {"validation": spoiled(3)}, "x to validate on holds NaN .* first in number 3"),
        (spoiled(7), {"distill": True}, "x holds NaN"),
        (spoiled(7), {"factor": "auto"}, "x holds NaN"),
        (lambda: iter([spoiled(7)]), {}, "x holds NaN or infinity in 1 sample, first in number 7"),
        ((classes()[0], np.full((40, 3), np.nan)), {"loss": "mse"}, "y holds NaN or infinity"),
    ],
)
def test_data_that_is_no_number_is_found_before_training(data: Any, words: Any, said: str) -> None:
    with pytest.raises(orthwrap.ValueFault, match=said) as caught:
        orthwrap.apply(models.dense(), data=data, callbacks=[Never()], **words)
    assert "\n" not in str(caught.value)


def test_weight_that_is_no_number_is_named() -> None:
    model = models.dense()
    model.get_layer("wide").bias.assign(np.full(9, np.nan))
    with pytest.raises(orthwrap.ValueFault, match=r"^weight .*wide/bias of the model holds NaN"):
        orthwrap.apply(model, data=classes(), callbacks=[Never()])


def test_model_may_know_what_to_do_with_nan() -> None:
    inputs = layers.Input((6,))
    found = layers.Dense(3, activation="softmax")(keras.ops.nan_to_num(inputs))
    result = orthwrap.apply(keras.Model(inputs, found), data=spoiled(7), epochs=1)
    assert math.isfinite(training_of(result).metrics_after["loss"])


# What is shown and kept


def test_csv_log_is_the_history(tmp_path: Path) -> None:
    log = tmp_path / "run of mine.csv"
    result = orthwrap.apply(models.dense(), data=with_validation(), epochs=3, log=log)
    rows = list(csv.DictReader(log.read_text(encoding="utf-8").splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    history = training_of(result).history
    assert {"task_loss", "penalty", "val_task_loss", "val_penalty"} <= set(history)
    for name, values in history.items():
        assert [np.float32(row[name]) for row in rows] == [np.float32(v) for v in values]
    # A number is no longer than it must be, nor is it rounded further than its own precision.
    assert all(len(row["accuracy"]) <= 11 for row in rows)
    double = {"loss": [0.1, 1e300, float(np.float32(0.1)), math.inf]}
    text = csv_of(double).split()
    assert text == ["epoch,loss", "1,0.1", "2,1e+300", "3,0.1", "4,inf"]


def test_log_that_cannot_be_written_is_found_before_training(tmp_path: Path) -> None:
    for log in (tmp_path, tmp_path / "no" / "run.csv"):
        with pytest.raises(orthwrap.FileFault, match="log "):
            orthwrap.apply(models.dense(), data=classes(), log=log)


def test_log_replaces_logs_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    for content in (None, "", "epoch,loss\n1,2\n"):
        if content is not None:
            log.write_text(content)
        orthwrap.apply(models.dense(), data=classes(), epochs=1, log=log)
        assert log.read_text().startswith("epoch,")
    log.write_text("import os\n")
    with pytest.raises(orthwrap.FileFault, match="exists and is not a log of an earlier run"):
        orthwrap.apply(models.dense(), data=classes(), epochs=1, log=log)
    assert log.read_text() == "import os\n"


def test_tensorboard_folder_that_is_a_file_is_found_before_training(tmp_path: Path) -> None:
    file = tmp_path / "d.npz"
    file.write_bytes(b"mine")
    for place in (file, file / "board"):
        with pytest.raises(orthwrap.FileFault, match=r"d\.npz is a file; name a folder"):
            orthwrap.apply(models.dense(), data=classes(), tensorboard=place)
    assert file.read_bytes() == b"mine"


def test_tensorboard_gets_figures_of_each_layer_and_epoch(tmp_path: Path) -> None:
    import tensorflow as tf

    folder = tmp_path / "board"
    words: dict[str, Any] = {"data": classes(), "factor": 1e-3, "epochs": 2}
    result = orthwrap.apply(models.dense(), tensorboard=folder, **words)
    found: dict[str, dict[int, float]] = {}
    (file,) = folder.iterdir()
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            number = float(tf.make_ndarray(value.tensor))
            found.setdefault(value.tag, {})[event.step] = number
            assert value.metadata.plugin_data.plugin_name == "scalars"
    history = training_of(result).history
    for name, values in history.items():
        assert found[f"epoch/{name}"] == pytest.approx(dict(enumerate(values, 1)))
    for record in result.report.layers:
        for epoch, figures in ((0, record.before), (2, record.after)):
            for name in ("residual", "sigma_min", "sigma_max", "penalty"):
                expected = getattr(figures, name)
                assert found[f"{name}/{record.path}"][epoch] == pytest.approx(expected, rel=1e-5)


class Spoil(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Multiplies the weights by a number as an epoch begins."""

    def __init__(self, epoch: int, number: float) -> None:
        super().__init__()
        self._epoch, self._number = epoch, number

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self._epoch:
            for variable in self.model.trainable_variables:
                variable.assign(variable * self._number)


class Never(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Training must not begin."""

    def on_train_begin(self, logs: Any = None) -> None:
        raise AssertionError


class Note(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """The weights after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[Array]] = []
        self.logs: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.weights.append(weights_of(self.model))
        self.logs.append(dict(logs))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ({}, 2),
        ({"keep": "last"}, 4),
        ({"keep": "best-task"}, 2),
        ({"monitor": "val_penalty"}, None),
        ({"monitor": "val_accuracy"}, None),
        ({"monitor": "loss"}, None),
    ],
    ids=str,
)
def test_epoch_that_is_kept(words: dict[str, Any], kept: int | None) -> None:
    note = Note()
    result = orthwrap.apply(
        models.dense(),
        data=with_validation(),
        epochs=4,
        learning_rate=0.01,
        callbacks=[note, Spoil(2, 30.0)],
        **words,
    )
    training = training_of(result)
    if kept is None:
        name = words["monitor"]
        values = training.history[name]
        best = max(values) if "accuracy" in name else min(values)
        kept = values.index(best) + 1
    assert training.kept_epoch == kept
    for a, b in zip(weights_of(result.model), note.weights[kept - 1], strict=True):
        np.testing.assert_array_equal(a, b)
    if "val_task_loss" in training.history:
        assert note.logs[1]["val_task_loss"] == training.history["val_task_loss"][1]


def test_without_validation_the_last_epoch_is_kept() -> None:
    training = training_of(orthwrap.apply(models.dense(), data=classes(), epochs=3))
    assert training.kept_epoch == training.epochs == 3


def test_figure_to_monitor_must_be_there() -> None:
    with pytest.raises(orthwrap.ValueFault, match="monitor 'val_f1' is none of the figures"):
        orthwrap.apply(
            models.dense(), data=with_validation(), monitor="val_f1", callbacks=[Never()]
        )


def test_callback_may_end_the_run() -> None:
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(stop.model, "stop_training", "val_loss" in logs)
    )
    result = orthwrap.apply(models.dense(), data=with_validation(), epochs=9, callbacks=[stop])
    assert training_of(result).epochs == 1


@pytest.mark.parametrize(("number", "said"), [(np.nan, "became nan"), (1e3, "penalty exploded")])
def test_last_good_model_is_kept_when_training_goes_wrong(
    number: float, said: str, tmp_path: Path
) -> None:
    out, note = tmp_path / "out.keras", Note()
    words: dict[str, Any] = {"data": with_validation(), "keep": "last", "epochs": 5, "seed": 0}
    words |= {"scale": "unit", "factor": 1e-3}  # a penalty that the scale of the weights is of
    with pytest.raises(orthwrap.OrthwrapError, match=said) as caught:
        orthwrap.apply(models.dense(), out, callbacks=[note, Spoil(2, number)], **words)
    assert f"{out} holds the model as of epoch 2; try a lower" in str(caught.value)
    for a, b in zip(weights_of(orthwrap.load_model(out)), note.weights[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_model_is_kept_where_none_was_good(tmp_path: Path) -> None:
    x, y, x_val, y_val = with_validation()
    out = tmp_path / "out.keras"

    class Broken(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
        """Weights that are no numbers from the first step on."""

        def on_train_begin(self, logs: Any = None) -> None:
            self.model.get_layer("wide").bias.assign(np.full(9, np.inf, "float32"))

    with pytest.raises(orthwrap.OrthwrapError, match="nothing was saved"):
        orthwrap.apply(models.dense(), out, data=(x, y, x_val, y_val), callbacks=[Broken()])
    assert not out.exists()


def test_fault_after_going_on_leaves_what_the_checkpoint_holds(tmp_path: Path) -> None:
    words: dict[str, Any] = {"data": classes(), "seed": 3, "checkpoint_dir": tmp_path / "c"}
    first = orthwrap.apply(dropping(), epochs=2, **words)
    out = tmp_path / "out.keras"
    with pytest.raises(orthwrap.OrthwrapError, match="as of epoch 2"):
        orthwrap.apply(
            dropping(), out, epochs=4, resume=True, callbacks=[Spoil(2, np.nan)], **words
        )
    assert same(first.model, orthwrap.load_model(out))


# Going on


class Crash(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Ends the run as a power cut would, at a step."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__()
        self._place, self._epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self._epoch, batch) == self._place:
            raise RuntimeError("power cut")


def test_model_in_place_is_as_it_was_where_it_is_not_trained() -> None:
    """Regularizers, frozen layers, compilation: of a model that cannot be copied there is one."""
    x, y = classes()
    model = dropping()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["acc"])
    model.get_layer("head").trainable = False
    model.fit(x, y, verbose=0)

    def state() -> Any:
        layers_of = [
            (layer.name, layer.trainable, getattr(layer, "kernel_regularizer", None))
            for layer in model._flatten_layers()
        ]
        variables = [(v.path, v.trainable, v.regularizer) for v in model.variables]
        return layers_of, variables, model.get_compile_config(), weights_of(model)

    before, optimizer = state(), model.optimizer
    words: dict[str, Any] = {"in_place": True, "unfreeze": "head", "learning_rate": 0.5}
    for more, said in (
        ({"data": (x, y + 9)}, "classes"),
        ({"data": (x, y), "monitor": "nothing"}, "is none of the figures"),
        ({"data": (x, y), "callbacks": [Crash(0, 0)]}, "power cut"),
    ):
        with pytest.raises(orthwrap.OrthwrapError, match=said):
            orthwrap.apply(model, epochs=1, **words, **more)
        now = state()
        assert now[:2] == before[:2]
        assert str(now[2]) == str(before[2])
        assert model.optimizer is optimizer
        if "callbacks" not in more:
            for a, b in zip(now[3], before[3], strict=True):
                np.testing.assert_array_equal(a, b)
    result = orthwrap.apply(model, data=(x, y), epochs=1, **words)
    assert result.model is model
    assert model.get_layer("head").kernel_regularizer is not None


RESUMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "random penalty": {"regularizer": "srip", "factor": 0.1},
    "sketched, now and then": {"options": {"estimate": "sketch", "every": 3}},
    "auto, schedule by step": {
        "factor": "auto",
        "schedule": "warmup:4, cosine:0.1",
        "schedule_by": "step",
    },
    "schedule by epoch, best kept": {"schedule": "0:1, 1:0.1, 3:0", "keep": "best"},
    "schedule by epoch, best for the task kept": {"schedule": "0:1, 1:0.1", "keep": "best-task"},
}


def all_at_once() -> dict[str, Any]:
    """Whatever a compiled step keeps count of, in one run, as compiling takes longest."""
    now_and_then = {"estimate": "sketch", "every": 3}
    rules = [
        orthwrap.Rule(target="wide", regularizer="srip", factor="auto"),
        orthwrap.Rule(target="head", factor="auto", options=now_and_then),
    ]
    schedule = {"schedule": "warmup:4, cosine:0.1", "schedule_by": "step"}
    return {**schedule, "rules": rules, "keep": "best"}


RESUMED["all at once, compiled"] = all_at_once()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind,
            marks=[pytest.mark.slow] * (kind != "plain")
            + [pytest.mark.traced] * kind.endswith("compiled"),
        )
        for kind in RESUMED
    ],
)
def test_run_that_was_cut_short_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "data": with_validation(),
        "epochs": 4,
        "batch_size": 16,
        "seed": 3,
        "keep": "last",
        "measure": False,
        **RESUMED[kind],
    }
    whole = orthwrap.apply(dropping(), **words)
    folder = tmp_path / "checkpoints"
    for crash in ((0, 1), (1, 0), (3, 1)):
        with pytest.raises(orthwrap.OrthwrapError, match="power cut"):
            orthwrap.apply(
                dropping(),
                checkpoint_dir=folder,
                resume=True,
                callbacks=[Crash(*crash)],
                **words,
            )
    parts = orthwrap.apply(dropping(), checkpoint_dir=folder, resume=True, **words)
    assert same(whole.model, parts.model)
    one, other = training_of(whole), training_of(parts)
    assert one.history == other.history
    assert one.metrics_after == other.metrics_after
    assert one.kept_epoch == other.kept_epoch
    states = (arrays_of(r.model.optimizer.variables) for r in (whole, parts))
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(list(folder.glob("checkpoint-*.npz"))) == 1


def test_run_that_had_ended_ends_with_the_same_factors(tmp_path: Path) -> None:
    words: dict[str, Any] = {"data": classes(), "seed": 3, "epochs": 3, "factor": 0.5}
    words.update(checkpoint_dir=tmp_path / "c", schedule="linear:0.1")
    results = [orthwrap.apply(dropping(), resume=resume, **words) for resume in (False, True)]
    for result in results:
        for record in result.report.layers:
            if record.regularizer is not None:
                assert record.regularizer.factor == pytest.approx(0.2)
        factors = [r.factor for r in regularizers_in(result.model)]
        assert factors == pytest.approx([0.2] * len(factors))
    one, other = (training_of(result) for result in results)
    assert one.metrics_after == pytest.approx(other.metrics_after)


@pytest.mark.slow
def test_more_epochs_may_follow_on_a_run_that_ended(tmp_path: Path) -> None:
    words: dict[str, Any] = {"data": classes(), "factor": 1e-3, "seed": 3}
    words["checkpoint_dir"] = tmp_path / "c"
    orthwrap.apply(dropping(), epochs=2, **words)
    more = orthwrap.apply(dropping(), epochs=5, resume=True, **words)
    words.pop("checkpoint_dir")
    assert same(more.model, orthwrap.apply(dropping(), epochs=5, **words).model)
    assert training_of(more).epochs == 5


STOPPED: dict[str, Any] = {"data": classes(), "seed": 3, "batch_size": 8, "epochs": 1}
STOPPED["factor"] = 1e-3


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run of one epoch."""
    folder = tmp_path_factory.mktemp("stopped") / "c"
    with steps_run_eagerly():
        orthwrap.apply(dropping(), **STOPPED, checkpoint_dir=folder)
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 16}, "batch size 8; this one has 16"),
        ({"seed": 4}, "seed 3; this one has 4"),
        ({"data": classes(39)}, "data x 40×6"),
        ({"data": classes(40, 1)}, "a run with samples"),
        ({"data": (classes()[0], classes()[1][::-1])}, "a run with samples"),
        ({"learning_rate": 0.5}, "learning rate 0.001; this one has 0.5"),
        ({"optimizer": "sgd"}, "optimizer Adam; this one has SGD"),
        ({"freeze": "head"}, "a run with trained weights 6 .*; this one has 4 "),
        ({"target": "wide"}, "a run with regularizers"),
        ({"regularizer": "offdiag"}, "regularizers so .*; this one has offdiag"),
        ({"options": {"every": 2}}, "a run with regularizers"),
        ({"factor": 0.5}, "factors 0.001 to 0.001 .*; this one has 0.5 to 0.5"),
        ({"schedule": "cosine:0.1"}, r"schedules \[\]; this one has \['cosine:0.1'\]"),
        (
            {"loss": keras.losses.SparseCategoricalCrossentropy(name="own_sparse_categorical")},
            "loss sparse_categorical_crossentropy; this one has own_sparse_categorical",
        ),
    ],
)
def test_checkpoint_of_another_run_is_refused(
    change: dict[str, Any], said: str, stopped: Path, tmp_path: Path
) -> None:
    words = {**STOPPED, "checkpoint_dir": shutil.copytree(stopped, tmp_path / "c")}
    with pytest.raises(orthwrap.ValueFault, match=said):
        orthwrap.apply(dropping(), **{**words, **change}, resume=True)


def test_checkpoint_of_another_model_is_refused_and_none_is_replaced(stopped: Path) -> None:
    other = dropping()
    other.layers[0].kernel.assign(other.layers[0].kernel * 2)
    with pytest.raises(orthwrap.ValueFault, match="of a run with model"):
        orthwrap.apply(other, **STOPPED, checkpoint_dir=stopped, resume=True)
    with pytest.raises(orthwrap.FileFault, match="--resume, or give another folder"):
        orthwrap.apply(dropping(), **STOPPED, checkpoint_dir=stopped)


def test_dry_run_makes_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    models.dense().save(file)
    words: dict[str, Any] = {"data": classes(), "dry_run": True, "log": tmp_path / "log.csv"}
    for model in (models.dense(), file):
        folders: dict[str, Any] = {"checkpoint_dir": tmp_path / "c", "tensorboard": tmp_path / "b"}
        assert orthwrap.apply(model, **words, **folders).report.layers
    assert list(tmp_path.iterdir()) == [file]


def test_checkpoint_folder_that_cannot_be_is_found_before_training(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder, said in ((file, "is a file"), (file / "below", "cannot make folder")):
        with pytest.raises(orthwrap.FileFault, match=said):
            orthwrap.apply(dropping(), data=classes(), checkpoint_dir=folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ((0, 0), "interrupted in epoch 1, after step 1"),
        ((1, 1), "interrupted in epoch 2, after step 2"),
        ((1, 2), "interrupted after epoch 2"),
    ],
)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_interrupted_run_saves_what_it_has_and_replaces_nothing(
    suffix: str, place: tuple[int, int], said: str, tmp_path: Path
) -> None:
    out = tmp_path / f"out{suffix}"
    words: dict[str, Any] = {"data": classes(), "batch_size": 16, "epochs": 4, "seed": 0}
    aside = tmp_path / f"out{suffix}.interrupted"
    before = signal.getsignal(signal.SIGINT)
    for there, kept in ((out, b""), (aside, b"somebody's")):
        if kept:
            out.write_bytes(kept)
        with pytest.raises(orthwrap.Interrupted, match=f"{said}; {there} holds the model"):
            orthwrap.apply(dropping(), out, force=True, callbacks=[CtrlC(*place)], **words)
        if kept:
            assert out.read_bytes() == kept
            there = there.rename(tmp_path / f"again{suffix}")
        assert orthwrap.load_model(there).count_params() == dropping().count_params()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("keep", ["best", "last"])
def test_interrupted_run_says_of_which_epoch_its_model_is(keep: str, tmp_path: Path) -> None:
    out = tmp_path / "out.keras"
    words: dict[str, Any] = {"data": with_validation(), "batch_size": 8, "seed": 0, "keep": keep}
    words["factor"] = 1e-3
    with pytest.raises(orthwrap.Interrupted) as caught:
        orthwrap.apply(dropping(), out, epochs=4, callbacks=[CtrlC(1, 2)], **words)
    as_of = "as of epoch 1" if keep == "best" else "as it was then"
    assert (
        str(caught.value) == f"interrupted in epoch 2, after step 3; {out} holds the model {as_of}"
    )
    one = orthwrap.apply(dropping(), epochs=1, **words).model
    assert same(orthwrap.load_model(out), one) == (keep == "best")


def test_error_of_a_run_without_an_output_has_the_model() -> None:
    words: dict[str, Any] = {"data": classes(), "batch_size": 8, "epochs": 4, "seed": 0}
    words["factor"] = 1e-3
    with pytest.raises(orthwrap.Interrupted, match="the error's `model` is the model as it") as c:
        orthwrap.apply(dropping(), callbacks=[CtrlC(1, 2)], **words)
    assert int(c.value.model.optimizer.iterations) == 5 + 3
    with pytest.raises(orthwrap.OrthwrapError, match="is the model as of epoch 2") as caught:
        orthwrap.apply(dropping(), callbacks=[Spoil(2, np.nan)], **words)
    assert same(caught.value.model, orthwrap.apply(dropping(), **{**words, "epochs": 2}).model)


def test_interrupt_that_was_swallowed_while_loading_is_not_lost() -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        note_interrupts()
        with contextlib.suppress(KeyboardInterrupt):  # as a hook of the garbage collector does
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            orthwrap.apply(dropping(), data=classes(), epochs=1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_last_step_may_be_interrupted_too() -> None:
    words: dict[str, Any] = {"data": classes(), "batch_size": 8, "epochs": 2, "seed": 0}
    stopped = orthwrap.apply(dropping(), callbacks=[CtrlC(1, 4)], **words)
    assert same(stopped.model, orthwrap.apply(dropping(), **words).model)


# Checkpoints by themselves


STATE = State(2, 3, 7, {"model": "m"}, {"loss": [1.0, 0.5]}, ({"factor": 0.1},), (1, 0.25))


def arrays() -> dict[str, Sequence[Any]]:
    return {
        "model": [
            np.arange(6, dtype="float32").reshape(2, 3),
            np.asarray([1.5, -0.0], ml_dtypes.bfloat16),
            np.zeros((0, 4), "float16"),
            np.asarray(3, "int64"),
        ],
        "optimizer": [],
        "metrics": [np.asarray([True, False])],
    }


def check_equal(found: Mapping[str, Sequence[Any]], expected: Mapping[str, Sequence[Any]]) -> None:
    for group, values in expected.items():
        assert len(found.get(group, ())) == len(values)
        for a, b in zip(found.get(group, ()), values, strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes()


def test_checkpoint_gives_back_every_bit(tmp_path: Path) -> None:
    with CheckpointFolder(tmp_path / "c") as folder:
        assert folder.open(resume=True) is None
        folder.write(STATE, arrays(), best=arrays())
    again = CheckpointFolder(tmp_path / "c")
    state = again.open(resume=True)
    assert json.loads(json.dumps(vars(state))) == json.loads(json.dumps(vars(STATE)))
    check_equal(again.read(), arrays())
    check_equal(again.read_best(1), arrays())


def test_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path / "c")
    folder.open(resume=False)
    folder.write(STATE, arrays())

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(replacing, "_to_disk", full)
    with pytest.raises(orthwrap.FileFault, match="No space left on device"):
        folder.write(STATE, arrays())
    monkeypatch.undo()
    assert len(list((tmp_path / "c").iterdir())) == 1
    check_equal(CheckpointFolder(tmp_path / "c").read(), arrays())


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_broken_checkpoint_is_an_error_of_one_line(cut: int, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.write(STATE, arrays())
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(orthwrap.FileFault, match="cannot be read") as caught:
        CheckpointFolder(tmp_path).open(resume=True)
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_file, "FORMAT", "orthwrap.checkpoint/0")
    CheckpointFolder(tmp_path).write(STATE, arrays())
    monkeypatch.undo()
    with pytest.raises(orthwrap.FileFault, match="its format is"):
        CheckpointFolder(tmp_path).open(resume=True)


# As a person at a terminal


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and data of a hundred batches."""
    folder = tmp_path_factory.mktemp("runs")
    model = dropping()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(folder / "m.keras")
    x, y = classes(400)
    np.savez(folder / "d.npz", x=x, y=y)
    return folder


# It sends itself a signal after so many steps; none where that is 0.
SIGNALLED = """
import os, sys
import wrapt
number, step = int(sys.argv.pop(1)), int(sys.argv.pop(1))

@wrapt.when_imported("keras")
def count(keras):
    done, plain = 0, keras.callbacks.CallbackList.on_train_batch_end
    def counted(*args, **words):
        nonlocal done
        plain(*args, **words)
        done += 1
        if done == step:
            os.kill(os.getpid(), number)
    keras.callbacks.CallbackList.on_train_batch_end = counted

from orthwrap_cli.main import main
main()
"""


def ran(place: Path, *words: str, number: int = 0, step: int = 0) -> tuple[int, str]:
    """The code that a run ends with, and all that it said."""
    common = ["apply", "m.keras", "--data", "d.npz", "--batch-size", "4", "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number)), str(step), *common, *words],
        cwd=place,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_killed_and_interrupted_run_ends_bit_for_bit_as_one_that_was_not(place: Path) -> None:
    words = ("--epochs", "4", "--no-measure", "--regularizer", "srip", "--factor", "1e-3")
    code, said = ran(place, *words, "-o", "whole.keras")
    assert code == 0, said
    parts = (*words, "-o", "parts.keras", "--checkpoint-dir", "c")
    code, said = ran(place, *parts, number=signal.SIGKILL, step=230)
    assert code == -signal.SIGKILL, said
    code, said = ran(place, *parts, "--resume", number=signal.SIGINT, step=130)
    assert code == 130, said
    assert "go on with the same command and --resume" in said
    assert "Traceback" not in said
    code, said = ran(place, *parts, "--resume")
    assert code == 0, said
    assert "goes on in epoch 4, after step 31" in " ".join(said.split())
    first, second = (orthwrap.load_model(place / f"{n}.keras") for n in ("whole", "parts"))
    assert same(first, second)
