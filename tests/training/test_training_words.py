"""The words of training: the same everywhere, checked, with neighbours for those there are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from keras import layers

import orthwrap
from orthwrap.rules.words import words_of
from orthwrap.training.settings import Settings, TrainingWords, settings_of
from orthwrap_cli.main import app
from tests.support import models
from tests.support.run_helpers import classes, dropping

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


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
