"""Whose fault it is: a file's, the user's own code's, or orthwrap's; no cause is guessed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import orthwrap
from orthwrap.errors import is_own, origin, raised_at
from orthwrap.stores.hdf5 import Slices
from orthwrap.stores.replacing import replacing
from orthwrap.stores.written import noting
from orthwrap_cli.main import app
from tests.support import models
from tests.support.hostile import write_h5, write_keras
from tests.support.samples import small_file

runner = CliRunner()

# A stage, what stands for it, and the command that goes through it without a file in place yet.
STAGES = {
    "survey": ("orthwrap.verbs.apply.survey", "apply"),
    "plan": ("orthwrap.verbs.apply.plan", "apply"),
    "strip's plan": ("orthwrap.verbs.strip.plan_strip", "strip"),
    "inspect's plan": ("orthwrap.verbs.inspect.plan_inspect", "inspect"),
    "measure": ("orthwrap.report.make.measure", "inspect"),
    "report": ("orthwrap.verbs.upgrade.make_report", "upgrade"),
    "edit": ("orthwrap.verbs.apply.edit", "apply"),
    "write": ("orthwrap.stores.h5.H5Store.write", "strip"),
    "check": ("orthwrap.stores.h5.H5Store.check_copy", "apply"),
    "JSON": ("orthwrap.report.record.Report.to_json", "inspect"),
    "render": ("orthwrap.report.terminal.render", "inspect"),
}
FAULTS = (
    *(TypeError, KeyError, ValueError, AttributeError, IndexError, RuntimeError),
    *(AssertionError, ZeroDivisionError, NotImplementedError, UnicodeError, StopIteration),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "m.h5").write_bytes(small_file(".h5").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*args: object, **kwargs: object) -> Any:
        raise error

    return fail


def failed(*words: str, code: int = 1) -> str:
    """The one line of a command that fails."""
    result = runner.invoke(app, list(words))
    assert result.exit_code == code, (result.output, result.exception)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("stage", STAGES)
def test_what_orthwrap_does_wrong_is_called_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    place, command = STAGES[stage]
    for kind in FAULTS:
        monkeypatch.setattr(place, failing(kind("two\nlines")))
        said = failed(command, "m.h5", *(["--json", "-"] if stage == "JSON" else []))
        assert said.startswith("error: orthwrap itself failed at orthwrap"), said
        assert kind.__name__ in said
        assert "line " in said
        assert "--debug" in said
        assert said.endswith("; nothing was written\n")
        assert [p.name for p in folder.iterdir()] == ["m.h5"]


def test_debug_shows_the_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orthwrap.verbs.inspect.survey", failing(TypeError("of ours")))
    result = runner.invoke(app, ["inspect", "m.h5", "--debug"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "error: orthwrap itself failed at orthwrap.verbs.inspect, line" in result.stderr


def test_the_line_names_orthwraps_own_innermost_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as walking:  # which is reading
        walking.setattr(
            "orthwrap.model_config.tree.to_snake_case", failing(TypeError("of a config"))
        )
        assert failed("inspect", "m.h5").startswith("error: m.h5 is not in a form that orthwrap")
    monkeypatch.setattr("orthwrap.survey.family_of", failing(TypeError("of ours")))
    assert "at orthwrap.survey, line" in failed("inspect", "m.h5")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            MemoryError("Unable to allocate 9 GiB"),
            ["memory ran out at orthwrap.verbs.inspect", "9 GiB"],
        ),
        (MemoryError(), ["memory ran out at orthwrap.verbs.inspect", "--no-measure takes less"]),
        (RecursionError("maximum"), ["nested deeper than Python goes", "orthwrap.verbs.inspect"]),
        (ModuleNotFoundError("No module named 'tf'", name="tf"), ["needs tf, which cannot be"]),
        (ImportError("cannot import x", name="orthwrap.x"), ["orthwrap itself failed"]),
        (OSError(28, "No space left on device", "/x"), ["/x: No space left on device"]),
    ],
)
def test_each_kind_of_failure_has_its_own_true_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: list[str]
) -> None:
    monkeypatch.setattr("orthwrap.verbs.inspect.survey", failing(error))
    said = failed("inspect", "m.h5")
    assert all(word in said for word in words), said
    assert said.endswith("; nothing was written\n")
    assert ("itself failed" in said) == ("orthwrap itself failed" in words)


def test_an_interrupt_says_what_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orthwrap.verbs.apply.survey", failing(KeyboardInterrupt()))
    assert failed("apply", "m.h5", code=130) == "interrupted: nothing was written\n"
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("orthwrap.report.terminal.render", failing(KeyboardInterrupt()))
    said = failed("apply", "m.h5", code=130)
    assert said == "interrupted: m-orth.h5 is written, its report was not shown\n"


def test_an_output_that_is_in_place_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orthwrap.report.terminal.render", failing(TypeError("of ours")))
    said = failed("apply", "m.h5", "--json", "r.json")
    assert f"{folder}/m-orth.h5, {folder}/r.json had been written before" in said
    assert "nothing was written" not in said
    assert {p.name for p in folder.iterdir()} == {"m.h5", "m-orth.h5", "r.json"}


def test_what_is_written_is_noted_for_those_who_ask(tmp_path: Path) -> None:
    with noting() as outer:
        with noting() as inner:
            for _ in range(2):
                with replacing(tmp_path / "a") as sibling:
                    sibling.touch()
        with replacing(tmp_path / "b") as sibling:
            sibling.touch()
        with pytest.raises(TypeError), replacing(tmp_path / "c"):
            raise TypeError
    assert inner == [tmp_path / "a"]
    assert outer == [tmp_path / "a", tmp_path / "b"]


def test_in_python_the_exception_itself_goes_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = TypeError("of ours")
    monkeypatch.setattr("orthwrap.verbs.apply.plan", failing(error))
    with pytest.raises(TypeError) as caught:
        orthwrap.apply("m.h5")
    assert caught.value is error
    assert [p.name for p in folder.iterdir()] == ["m.h5"]


# Files


def _unreadable_values(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, index: Any) -> Any:
        raise OSError("Can't synchronously read data (wrong B-tree signature)")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", fail)


def _odd_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"class_name": "Sequential", "config": {"layers": "x", "build_input_shape": 3}}
    write_h5(folder / "m.h5", small_file(".h5"), config, "2.9.0")
    config["config"] = {"layers": [{"class_name": "Dense", "config": 7}]}
    write_h5(folder / "m.h5", small_file(".h5"), config, "2.9.0")


def _no_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, name: str) -> Any:
        raise KeyError("Unable to open object")

    monkeypatch.setattr("orthwrap.stores.hdf5.dataset", lambda group, name: fail(group, name))


@pytest.mark.parametrize("make", [_unreadable_values, _odd_names, _no_list])
def test_what_cannot_be_read_is_said_of_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    make(folder, monkeypatch)
    said = failed("inspect", "m.h5")
    assert said.startswith("error: "), said
    assert "m.h5" in said
    assert "orthwrap itself" not in said


def test_a_modernised_copy_is_spoken_of_by_the_files_own_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "class_name": "Sequential",
        "config": [{"class_name": "Dense", "config": {"name": "classes", "units": 10}}],
    }
    for name, write in (("a.h5", write_h5), ("a.keras", write_keras)):
        if write is write_h5:
            write_h5(folder / name, small_file(".h5"), config, "2.1.0")
        else:
            write_keras(
                folder / name,
                small_file(".keras"),
                config_json=config,
                metadata_json={"keras_version": "2.13.0"},
            )
        with monkeypatch.context() as broken:
            broken.setattr(Slices, "__init__", failing(TypeError("odd")))
            with pytest.raises(orthwrap.FileFault, match=rf"^{name} is not in a form"):
                orthwrap.inspect(name)


# Training


def classes(count: int = 20) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 6)).astype("float32"), np.arange(count) % 3


def trained(model: Any, data: Any) -> str:
    with pytest.raises(orthwrap.OrthwrapError) as caught:
        orthwrap.finetune(model, data, epochs=1)
    said = str(caught.value)
    assert "check that y" not in said
    return said


def test_a_loss_that_does_not_take_y_is_tried_alone() -> None:
    model = models.dense()
    model.compile("sgd", lambda y, out: keras.ops.mean(out - keras.ops.reshape(y, (3, 11))))
    said = trained(model, classes())
    assert "tried alone, fails on y of shape 20" in said


@keras.saving.register_keras_serializable("faults")
class Failing(keras.regularizers.Regularizer):
    """Takes a kernel when the model is made, and fails on it when the model is trained."""

    fails = False

    def __call__(self, kernel: Any) -> Any:
        if Failing.fails:
            raise ZeroDivisionError("of the regularizer")
        return keras.ops.sum(kernel)

    def get_config(self) -> dict[str, Any]:
        return {}


def test_a_regularizer_that_fails_is_not_blamed_on_y(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.dense()
    model.layers[0].kernel.regularizer = Failing()
    model.layers[0].kernel_regularizer = Failing()
    model.compile("sgd", "sparse_categorical_crossentropy")
    monkeypatch.setattr(Failing, "fails", True)
    said = trained(model, classes())
    assert "training failed (ZeroDivisionError: of the regularizer; raised at " in said
    assert "tried alone" not in said


def test_a_metric_that_fails_is_not_blamed_on_y() -> None:
    def picky(y: Any, out: Any) -> Any:
        raise LookupError("of the metric")

    model = models.dense()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[picky])
    said = trained(model, classes())
    assert f"(LookupError: of the metric; raised at {__name__}, line" in said
    assert "metric picky, tried alone, fails on y of shape 20" in said


@pytest.mark.slow
def test_a_callback_that_fails_is_named() -> None:
    class Own(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise LookupError("of the callback")

    model = models.dense()
    with pytest.raises(orthwrap.OrthwrapError, match=rf"of the callback; raised at {__name__}"):
        orthwrap.finetune(model, classes(), epochs=1, callbacks=[Own()])


def test_what_orthwrap_does_wrong_in_training_goes_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orthwrap.training.loop.watch.Run.begin", lambda run: None)  # it takes two
    with pytest.raises(TypeError):
        orthwrap.finetune(models.dense(), classes(), epochs=1)


def test_a_package_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros((20, 8, 8, 1), "float32")
    np.savez(folder / "d.npz", x=x, y=np.arange(20) % 10)
    error = ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
    monkeypatch.setattr("orthwrap.training.fit.compile_model", failing(error))
    said = failed("finetune", "m.h5", "--data", "d.npz", "--quiet")
    assert "this command needs tensorflow, which cannot be imported here" in said
    assert "y" not in said.replace("tensorflow", "").split()


def test_a_copy_that_fails_where_the_model_does_not_is_refused() -> None:
    import tensorflow as tf

    @keras.saving.register_keras_serializable("faults")
    class Once(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
        def __init__(self, is_copy: bool = False, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.is_copy = is_copy

        def call(self, x: Any) -> Any:
            if self.is_copy and tf.executing_eagerly():
                raise LookupError("only the first time")
            return x

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "is_copy": True}

    model = keras.Sequential([keras.Input((6,)), Once(), keras.layers.Dense(3)])
    with pytest.raises(orthwrap.OrthwrapError, match="copy made from its config fails on inputs"):
        orthwrap.apply(model)


# Where an error comes from


def test_where_an_error_was_raised() -> None:
    with pytest.raises(orthwrap.OrthwrapError) as caught:
        orthwrap.apply("absent.h5")
    assert origin(caught.value).startswith("orthwrap.stores.files, line ")
    assert is_own(caught.value)
    with pytest.raises(TypeError) as elsewhere:
        sys.intern(3)  # type: ignore[call-overload]  # that is the point
    assert origin(elsewhere.value) == ""
    assert not is_own(elsewhere.value)
    assert raised_at(elsewhere.value).startswith(f"{__name__}, line ")
