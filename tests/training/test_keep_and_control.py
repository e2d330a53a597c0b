"""Which epoch is kept, the verdict and `--strict` on real runs, a control and other seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import orthwrap
from orthwrap.errors import UsageError
from orthwrap.report.record import Report
from tests.cli.test_cli import call

pytestmark = pytest.mark.usefixtures("eagerly")

SAMPLES = 64


def arrays(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SAMPLES, 6)).astype("float32")
    y = (x[:, 0] > 0).astype("int64")
    return {"x": x, "y": y, "x_val": x[:32], "y_val": y[:32]}


def model(rate: float = 1e-2) -> keras.Model:
    keras.utils.set_random_seed(3)
    made = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4, name="first"),
            keras.layers.Dense(2, activation="softmax", name="head"),
        ]
    )
    rng = np.random.default_rng(3)
    made.layers[0].kernel.assign(rng.normal(size=(6, 4)) * 2)
    made.layers[1].kernel.assign(rng.normal(size=(4, 2)) * 2)
    made.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return made


def run(**words: Any) -> Any:
    said: dict[str, Any] = {"data": arrays(), "epochs": 4, "seed": 0, "batch_size": 16}
    return orthwrap.apply(model(), **(said | words))


def residuals(epoch: Any) -> float:
    """How far from orthogonal, as one number: the mean of the logarithms."""
    return float(np.mean(np.log(np.maximum(epoch.residuals, 0.01))))


@pytest.mark.dear
@pytest.mark.slow
def test_best_is_the_most_orthogonal_epoch_within_the_margin() -> None:
    training = run(factor=1.0, task_margin=0.5).report.training
    assert training.keep == "best"
    within = [e for e in training.goal.epochs if e.task is None or not e.task.spent]
    assert training.kept_epoch == min(within, key=residuals).epoch
    kept = run(factor=1.0, keep="best-task").report.training
    losses = kept.history["val_task_loss"]
    assert kept.kept_epoch == 1 + losses.index(min(losses))
    assert run(factor=1.0, keep="last").report.training.kept_epoch == 4


@pytest.mark.slow
def test_the_weights_are_those_of_the_epoch_that_is_kept() -> None:
    done = run(factor=1.0, task_margin=0.5, scale="unit")
    epoch = done.report.training.goal.at(done.report.training.kept_epoch)
    for record, residual in zip(done.report.layers, epoch.residuals, strict=True):
        assert getattr(record.after, record.driven) == pytest.approx(residual, rel=1e-2)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["warmup:2, constant", "warmup:2, cosine:0.1"])
def test_no_epoch_of_a_warm_up_is_kept(schedule: str) -> None:
    """With a rate that undoes the task, the first epochs would be kept for it."""
    training = run(factor=1e-3, schedule=schedule, task_margin=1e-6).report.training
    assert training.kept_epoch > 2
    short = run(factor=1e-3, schedule="warmup:9, constant", epochs=3).report.training
    assert short.kept_epoch == 3


@pytest.mark.slow
def test_monitor_is_about_the_best_for_the_task() -> None:
    assert run(factor=0.1, monitor="val_accuracy").report.training.keep == "best-task"
    for keep in ("best", "last"):
        with pytest.raises(UsageError, match=f"monitor is about keep best-task, not {keep}"):
            run(factor=0.1, monitor="val_accuracy", keep=keep)


@pytest.mark.slow
def test_resume_keeps_the_same_epoch(tmp_path: Path) -> None:
    words = {"factor": 0.3, "task_margin": 0.5, "learning_rate": 3e-2}
    whole = run(**words, epochs=5)
    folder = str(tmp_path / "run")
    run(**words, epochs=3, checkpoint_dir=folder)
    resumed = run(**words, epochs=5, checkpoint_dir=folder, resume=True)
    assert resumed.report.training.kept_epoch == whole.report.training.kept_epoch
    for a, b in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_regression_and_several_outputs_have_a_verdict() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 6)).astype("float32")
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(5, name="hidden")(inputs)
    outputs = [keras.layers.Dense(1, name=n)(hidden) for n in ("a", "b")]
    several = keras.Model(inputs, outputs)
    several.compile("adam", ["mse", "mae"])
    data = {"x": x, "a": x[:, :1], "b": x[:, 1:2]}
    done = orthwrap.apply(several, data=data, epochs=1, seed=0, factor=0.1, validation_split=0.25)
    verdict = done.report.training.verdict
    assert verdict.task.name == "task_loss"
    assert [k.path for k in verdict.kernels] == ["hidden", "a", "b"]
    assert "task loss" in verdict.line


@pytest.mark.slow
def test_the_verdict_ends_the_report_and_comes_back_from_json() -> None:
    report = run(factor=1e-6, keep="last", learning_rate=1e-7).report
    verdict = report.training.verdict
    assert verdict.warnings == ("nothing moved: every residual is within 5 % of what it was",)
    shown = str(report)
    assert shown.index(verdict.line[:30]) > shown.index("Trained for 4 epochs")
    assert "WARNING: nothing moved" in shown
    told = json.loads(json.dumps(report.to_json()))
    assert told["training"]["verdict"]["line"] == verdict.line
    back = Report.from_json(told)
    assert (back.to_json(), str(back)) == (told, shown)


@pytest.fixture(name="files")
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    model().save("model.keras")
    np.savez("data.npz", **arrays())
    return tmp_path


@pytest.mark.slow
def test_strict_is_an_exit_code_and_everything_is_written(files: Path) -> None:
    still = ["--factor", "1e-9", "--learning-rate", "1e-7", "--epochs", "1", "--seed", "0"]
    words = ["apply", "model.keras", "--data", "data.npz", *still]
    out, _ = call(*words)
    assert "WARNING: nothing moved" in out
    Path("model-orth.keras").unlink()
    call(*words, "--strict", "--quiet", "--json", "r.json", code=3)
    assert Path("model-orth.keras").exists()
    assert json.loads(Path("r.json").read_text())["training"]["verdict"]["warnings"]
    _, err = call("apply", "model.keras", "--strict", "--force", code=2)
    assert "--strict is about training, which needs --data" in err


def plain(epochs: int) -> Any:
    """The figures of the same training of the model as it was, which carries nothing."""
    return orthwrap.finetune(
        model(), arrays(), epochs=epochs, seed=0, batch_size=16, keep="last"
    ).report.training.metrics_after


@pytest.mark.dear
@pytest.mark.slow
def test_a_control_is_the_same_training_without_a_penalty() -> None:
    alone = run(factor=0.3, task_margin=0.5)
    done = run(factor=0.3, task_margin=0.5, control=True)
    for a, b in zip(alone.model.get_weights(), done.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # the control leaves no trace in the model
    training = done.report.training
    expected = plain(training.kept_epoch)
    assert training.control.epochs == training.kept_epoch
    for name in ("task_loss", "accuracy"):
        assert training.control.metrics[name] == pytest.approx(expected[name], rel=1e-6)
    assert training.verdict.task.control == pytest.approx(expected["accuracy"])
    assert set(training.control.residuals) == {"first", "head"}
    before = {k.path: k.before for k in training.verdict.kernels}
    after = {k.path: k.after for k in training.verdict.kernels}
    for path, residual in training.control.residuals.items():
        assert abs(np.log(residual / before[path])) < abs(np.log(after[path] / before[path]))
    shown = str(done.report)
    for word in ("original", "control", "orthogonal", "median residual", "control "):
        assert word in shown
    told = json.loads(json.dumps(done.report.to_json()))
    assert told["training"]["control"]["metrics"]["accuracy"] == pytest.approx(expected["accuracy"])
    assert str(Report.from_json(told)) == shown


@pytest.mark.dear
@pytest.mark.slow
def test_repeats_have_a_spread_and_write_the_first_model() -> None:
    alone = run(factor=0.3)
    done = run(factor=0.3, repeats=3, control=True)
    for a, b in zip(alone.model.get_weights(), done.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    repeats = done.report.training.repeats
    assert [r.seed for r in repeats.runs] == [0, 1, 2]
    second = run(factor=0.3, seed=1).report.training
    assert repeats.runs[1].verdict.task.after == pytest.approx(second.verdict.task.after)
    assert repeats.runs[1].verdict.median == pytest.approx(second.verdict.median)
    told = json.loads(json.dumps(done.report.to_json()))
    after = [r["verdict"]["task"]["after"] for r in told["training"]["repeats"]["runs"]]
    spread = told["training"]["repeats"]["spread"]["after"]
    assert spread["mean"] == pytest.approx(np.mean(after))
    assert spread["deviation"] == pytest.approx(np.std(after, ddof=1), abs=1e-9)
    assert (spread["least"], spread["most"]) == (min(after), max(after))
    assert "over 3 seeds" in str(done.report)
    assert str(Report.from_json(told)) == str(done.report)


def test_control_and_repeats_take_no_callbacks() -> None:
    with pytest.raises(UsageError, match="callbacks are of one run"):
        run(factor=0.1, repeats=2, callbacks=[keras.callbacks.Callback()])
