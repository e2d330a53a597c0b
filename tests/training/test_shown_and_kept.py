"""What a run logs, which epoch is kept, and what stays where it goes wrong."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import orthwrap
from orthwrap.training.loop.logs import csv_of
from tests.support import models
from tests.support.run_helpers import (
    Never,
    Spoil,
    classes,
    dropping,
    same,
    training_of,
    weights_of,
    with_validation,
)

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.mark.slow
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


@pytest.mark.slow
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


class Note(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """The weights after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[Array]] = []
        self.logs: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.weights.append(weights_of(self.model))
        self.logs.append(dict(logs))


@pytest.mark.dear
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


@pytest.mark.slow
def test_without_validation_the_last_epoch_is_kept() -> None:
    training = training_of(orthwrap.apply(models.dense(), data=classes(), epochs=3))
    assert training.kept_epoch == training.epochs == 3


def test_figure_to_monitor_must_be_there() -> None:
    with pytest.raises(orthwrap.ValueFault, match="monitor 'val_f1' is none of the figures"):
        orthwrap.apply(
            models.dense(), data=with_validation(), monitor="val_f1", callbacks=[Never()]
        )


def test_callback_may_end_the_run() -> None:
    stop: Any = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(stop.model, "stop_training", "val_loss" in logs)
    )
    result = orthwrap.apply(models.dense(), data=with_validation(), epochs=9, callbacks=[stop])
    assert training_of(result).epochs == 1


@pytest.mark.dear
@pytest.mark.slow
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


@pytest.mark.slow
def test_fault_after_going_on_leaves_what_the_checkpoint_holds(tmp_path: Path) -> None:
    words: dict[str, Any] = {"data": classes(), "seed": 3, "checkpoint_dir": tmp_path / "c"}
    first = orthwrap.apply(dropping(), epochs=2, **words)
    out = tmp_path / "out.keras"
    with pytest.raises(orthwrap.OrthwrapError, match="as of epoch 2"):
        orthwrap.apply(
            dropping(), out, epochs=4, resume=True, callbacks=[Spoil(2, np.nan)], **words
        )
    assert same(first.model, orthwrap.load_model(out))
