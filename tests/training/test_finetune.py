"""Training a model that carries regularizers: data, objectives, optimizer, history, faults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from orthwrap.verbs.finetune import finetune
from tests.support import models
from tests.support.run_helpers import classes, numpy, saved, weights_of

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


def test_verb_is_still_there_once_its_module_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # what watches over the verbs in every test
    assert orthwrap.finetune is finetune


def test_finetune_trains_a_copy_and_reports_before_and_after() -> None:
    original = orthwrap.apply(models.dense(), factor=0.1).model
    then = weights_of(original)
    result = finetune(original, classes(), epochs=10, learning_rate=0.02)
    for a, b in zip(weights_of(original), then, strict=True):
        np.testing.assert_array_equal(a, b)
    assert result.report.command == "finetune"
    assert result.report.training is not None
    assert result.report.training.epochs == 10
    assert result.report.training.factors == {"wide": 0.1, "head": 0.1}
    for record in result.report.layers:
        assert record.decision == "already"
        assert record.before is not None
        assert record.after is not None
        assert record.after.residual < record.before.residual
    history = result.report.training.history
    assert history["task_loss"][-1] < history["task_loss"][0]


def test_finetune_of_a_plain_model_says_that_there_is_nothing_to_weigh() -> None:
    report = finetune(models.dense(), classes(), epochs=1).report
    assert any("no kernel carries an orthwrap regularizer" in w for w in report.warnings)
    assert report.training is not None
    assert report.training.history["penalty"] == (0.0,)


class Recorder:
    """A progress display that only remembers."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start(self, choices: tuple[str, ...], epochs: int, steps: int) -> None:
        self.calls.append(("start", len(choices), epochs, steps))

    def step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None:
        self.calls.append((epoch, step, sorted(logs)))

    def epoch(self, epoch: int, logs: Mapping[str, float]) -> None:
        self.calls.append(("epoch", epoch))

    def stop(self) -> None:
        self.calls.append("stop")


@pytest.mark.slow
def test_progress_is_told_of_each_step_and_always_of_the_end() -> None:
    recorder = Recorder()
    orthwrap.apply(
        models.dense(),
        data=classes(20),
        factor=1e-3,
        epochs=2,
        batch_size=8,
        progress=recorder,
        measure=False,
    )
    logs = ["accuracy", "loss", "penalty", "task_loss"]
    steps = [[(epoch, step, logs) for step in (1, 2, 3)] for epoch in (0, 1)]
    assert recorder.calls == [
        ("start", 4, 2, 3),  # that the factor will move little is a line too
        *steps[0],
        ("epoch", 0),
        *steps[1],
        ("epoch", 1),
        "stop",
    ]
    recorder = Recorder()
    with pytest.raises(orthwrap.OrthwrapError):
        orthwrap.apply(
            models.dense(), data=classes(20), learning_rate=1e30, factor=1.0, progress=recorder
        )
    assert recorder.calls[-1] == "stop"


@pytest.mark.dear
@pytest.mark.parametrize("kind", ["model", "file"])
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_loss_that_is_no_number_ends_it_and_nothing_is_written(
    kind: str, suffix: str, tmp_path: Path
) -> None:
    model = models.dense()
    source = saved(model, tmp_path / f"m{suffix}")
    given = model if kind == "model" else source
    then = weights_of(model)
    with pytest.raises(orthwrap.OrthwrapError, match="nothing was saved; try a lower") as caught:
        orthwrap.apply(
            given,
            tmp_path / f"out{suffix}",
            factor=1.0,
            data=classes(),
            learning_rate=1e30,
            batch_size=8,
        )
    assert "\n" not in str(caught.value)
    assert "epoch 1, step" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [source.name]
    for a, b in zip(weights_of(model), then, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("no.npz", "does not exist"),
        ({"x": np.zeros((4, 5)), "y": np.zeros(4)}, "takes 6"),
        ({"x": np.zeros((4, 6)), "y": np.full(4, 3)}, "has 3 classes"),
    ],
)
def test_data_at_fault_writes_nothing(data: Any, words: str, tmp_path: Path) -> None:
    source = saved(models.dense(), tmp_path / "m.h5")
    with pytest.raises(orthwrap.OrthwrapError, match=words):
        orthwrap.apply(source, data=data)
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


@pytest.mark.slow
@pytest.mark.traced
def test_training_logs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Keras warns of nothing that the user could do anything about."""
    orthwrap.apply(models.convolutional(), data=(np.ones((8, 8, 8, 4)), np.arange(8) % 3), epochs=1)
    assert [r for r in caplog.records if "retracing" not in r.message] == []


class Doubled(layers.Dense):
    """A class that is not registered."""

    def call(self, x: Any) -> Any:
        return 2 * super().call(x)


@pytest.mark.dear
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_class_that_a_file_needs_is_named_and_can_be_given(suffix: str, tmp_path: Path) -> None:
    model = keras.Sequential([layers.Input((6,)), Doubled(3, name="own")])
    source, target = saved(model, tmp_path / f"m{suffix}"), tmp_path / f"out{suffix}"
    known = {"Doubled": Doubled}
    with pytest.raises(orthwrap.FileFault, match=r"needs 'Doubled' \(in own\)") as caught:
        orthwrap.apply(source, target, target="own", data=classes(), epochs=1)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    words: dict[str, Any] = {"target": "own", "data": classes(), "epochs": 1}
    result = orthwrap.apply(source, target, custom_objects=known, **words)
    assert type(result.model.layers[-1]) is Doubled
    with pytest.raises(orthwrap.FileFault, match="it needs 'Doubled'"):
        orthwrap.load_model(target)
    loaded = orthwrap.load_model(target, custom_objects=known)
    assert len(loaded.losses) == 1
    np.testing.assert_array_equal(weights_of(loaded)[0], weights_of(result.model)[0])


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.traced
def test_handwritten_digits_become_five_times_more_orthogonal() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images[..., None] / 16).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="conv1"),
            layers.Conv2D(16, 3, strides=2, activation="relu", name="conv2"),
            layers.Flatten(name="flat"),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="classes"),
        ]
    )
    x, y = images[:1500], digits.target[:1500]
    held_out = images[1500:], digits.target[1500:]
    result = orthwrap.apply(
        model,
        scale="unit",
        factor=0.1,
        data={"x": x, "y": y, "x_val": held_out[0], "y_val": held_out[1]},
        epochs=15,
        learning_rate=3e-3,
        seed=0,
    )
    report = result.report
    for record in report.layers:
        assert record.before is not None
        assert record.after is not None
        assert record.after.residual < record.before.residual / 5, record.path
    assert report.summary["penalty_after"] < report.summary["penalty_before"] / 25
    training = report.training
    assert training is not None
    assert training.metrics_after["accuracy"] > 0.8 > 0.3 > training.metrics_before["accuracy"]
    accuracy = np.mean(np.argmax(numpy(result.model(held_out[0])), axis=1) == held_out[1])
    assert accuracy == pytest.approx(training.metrics_after["accuracy"], abs=1e-6)
