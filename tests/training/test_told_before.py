"""What training shows: by default, before the first step, within an epoch and at its end."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import orthwrap
from orthwrap.report import progress
from orthwrap.report.terminal import console
from tests.support import models
from tests.support.run_helpers import classes

pytestmark = pytest.mark.usefixtures("eagerly")

WORDS: dict[str, Any] = {"epochs": 1, "measure": False, "factor": 1e-3}


class Shown:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.told: tuple[str, ...] = ()
        self.epochs: list[dict[str, float]] = []

    def start(self, choices: tuple[str, ...], epochs: int, steps: int | None) -> None:
        self.told = choices

    def step(self, *_: Any) -> None:
        pass

    def epoch(self, epoch: int, logs: Any) -> None:
        self.epochs.append(dict(logs))

    def stop(self) -> None:
        pass


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(("words", "shows"), [({}, True), ({"progress": False}, False)])
def test_python_shows_the_training_unless_told_not_to(
    words: dict[str, Any], shows: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    orthwrap.apply(models.dense(), data=classes(), **WORDS, **words)
    orthwrap.finetune(models.dense(), classes(), epochs=1, measure=False, **words)
    out = capsys.readouterr()
    assert out.out.count("epoch 1/1  task ") == (2 if shows else 0)
    assert shows or not out.out
    assert not out.err


def test_without_data_python_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    orthwrap.apply(models.dense())
    assert capsys.readouterr().out == ""


def test_a_notebook_sees_the_steps_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    out = io.StringIO()
    screen = console(out)
    shown = progress.TrainingProgress(screen)
    monkeypatch.setattr(screen, "is_jupyter", True)
    shown.start((), 2, 9)
    for step in range(1, 10):
        now += 0.3
        shown.step(0, step, {"loss": 2.5, "task_loss": 2.0, "penalty": 0.5})
    monkeypatch.setattr(screen, "is_jupyter", False)  # which would hand lines to IPython
    shown.epoch(0, {"loss": 2.5, "task_loss": 2.0, "penalty": 0.5})
    full = {2: 5, 4: 11, 6: 16, 8: 21}  # of 24
    lines = [
        f"{'█' * n}{'░' * (24 - n)}  epoch 1, step {step}/9  task 2  penalty 0.5"
        for step, n in full.items()
    ]
    gone = " " * len(lines[0])
    assert out.getvalue() == "".join(
        [*(f"\r{line}" for line in lines), f"\r{gone}\r", "epoch 1/2  task 2  penalty 0.5\n"]
    )


def test_a_model_without_regularizers_is_told_of_before_it_is_trained() -> None:
    shown = Shown()
    report = orthwrap.finetune(models.dense(), classes(), epochs=1, progress=shown).report
    line = "no kernel carries an orthwrap regularizer: use apply to attach one"
    assert f"warning: {line}" in shown.told
    assert report.warnings.count(line) == 1


ENTROPY = "sparse_categorical_crossentropy"


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(
    ("times", "loss", "guessing"),
    [(1.0, ENTROPY, None), (1e3, ENTROPY, np.log(3)), (1.0, "mse", None), (1e3, "mse", 0.25)],
)
def test_a_loss_far_above_guessing_is_pointed_out(
    times: float, loss: str, guessing: float | None
) -> None:
    """Of inputs in another range than those that the model knows, say."""
    keras.utils.set_random_seed(0)
    x, y = classes(300)
    ends: dict[str, Any] = {ENTROPY: (3, "softmax"), "mse": (1, None)}
    units, activation = ends[loss]
    model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(units, activation)])
    labels = y if loss == ENTROPY else (np.arange(300) % 2).astype("float32")
    model.compile(keras.optimizers.SGD(0.01), loss)
    model.fit(x, labels, epochs=3, verbose=0)
    shown = Shown()
    words: dict[str, Any] = {"learning_rate": 1e-12, **WORDS}
    report = orthwrap.apply(model, data=(times * x, labels), progress=shown, **words).report
    said = [line for line in report.warnings if "where guessing gives" in line]
    assert bool(said) == (guessing is not None)
    if guessing is not None:
        assert f"where guessing gives {guessing:.2g}:" in said[0]
        assert f"warning: {said[0]}" in shown.told


@pytest.mark.slow
def test_factor_rate_and_seconds_stand_in_log_and_progress(tmp_path: Path) -> None:
    shown, log = Shown(), tmp_path / "run.csv"
    falling = keras.callbacks.LearningRateScheduler(lambda epoch: [0.1, 0.05][epoch])
    words: dict[str, Any] = {"factor": 0.5, "schedule": "0:1, 1:0.5", "epochs": 2}
    report = orthwrap.apply(
        models.dense(),
        data=classes(),
        log=log,
        progress=shown,
        optimizer=keras.optimizers.SGD(0.1),
        callbacks=[falling],
        **words,
    ).report
    rows = list(csv.DictReader(log.read_text(encoding="utf-8").splitlines()))
    assert [float(row["factor"]) for row in rows] == [0.5, 0.25]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.1, 0.05])
    assert all(float(row["seconds"]) >= 0 for row in rows)
    for row, told in zip(rows, shown.epochs, strict=True):
        assert [told[name] for name in ("factor", "seconds")] == [
            pytest.approx(float(row[name])) for name in ("factor", "seconds")
        ]
    assert report.training is not None
    assert "seconds" not in report.training.history
    line = progress._line({"task_loss": 1.0, "factor": 0.5, "learning_rate": 0.1, "seconds": 12.3})
    assert line == "task 1  factor 0.5  rate 0.1  12 s"
    two = orthwrap.Rule(target="wide", factor=0.5), orthwrap.Rule(target="*", factor=0.25)
    orthwrap.apply(models.dense(), data=classes(), rules=two, log=log, epochs=1, progress=False)
    (row,) = csv.DictReader(log.read_text(encoding="utf-8").splitlines())
    assert (row["factor_min"], row["factor_max"]) == ("0.25", "0.5")


# At its end


@pytest.mark.slow
def test_table_and_head_are_apart_and_penalties_say_at_which_factors() -> None:
    x, y = classes()
    model = models.dense()
    words: dict[str, Any] = {"factor": 0.5, "schedule": "0:1, 1:0.1", "epochs": 2, "scale": "unit"}
    report = orthwrap.apply(model, data=(x, y), progress=False, **words).report
    training = report.training
    assert training is not None
    kernels = [np.array(w) for w in model.get_weights() if w.ndim == 2]
    smaller = [w if w.shape[0] >= w.shape[1] else w.T for w in kernels]
    right = sum(0.5 * np.sum((w.T @ w - np.eye(w.shape[1])) ** 2) for w in smaller)
    assert report.summary["penalty_before"] == pytest.approx(right, rel=1e-4)
    assert training.metrics_before["penalty"] == pytest.approx(right, rel=1e-4)
    after = report.summary["penalty_after"]
    assert training.metrics_after["penalty"] == pytest.approx(after, rel=1e-4)
    lines = str(report).splitlines()
    (penalty,) = (line for line in lines if line.startswith("penalty ") and "→" in line)
    assert penalty.endswith("(before is at the first factors of the schedule, after at its last)")
    assert lines[next(i for i, n in enumerate(lines) if "on training data" in n) - 1].strip() == ""
    constant = orthwrap.apply(model, data=(x, y), progress=False, **WORDS).report
    assert "first factors" not in str(constant)


@pytest.mark.dear
@pytest.mark.parametrize("kind", [keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau])
@pytest.mark.parametrize("figure", ["val_task_loss", "penalty", "task_loss"])
def test_callbacks_of_keras_know_which_way_our_figures_get_better(kind: Any, figure: str) -> None:
    callback = kind(figure, patience=0)
    x, y = classes()
    words: dict[str, Any] = {"learning_rate": 1e-30, "keep": "last", "progress": False}
    optimizer = keras.optimizers.SGD(1.0)  # at a rate at which nothing gets better
    result = orthwrap.apply(
        models.dense(),
        data=(x, y, x, y),
        factor=1e-3,
        epochs=3,
        optimizer=optimizer,
        callbacks=[callback],
        **words,
    )
    training = result.report.training
    assert training is not None
    if kind is keras.callbacks.EarlyStopping:
        assert training.epochs == 2
    assert callback.mode == "auto"  # as it was given
