"""Seeds make runs repeatable, and training goes on from a file as in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import orthwrap
from orthwrap.verbs.finetune import finetune
from tests.conftest import PATIENCE_S
from tests.support import models
from tests.support.run_helpers import classes, numpy, saved, weights_of

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


STOCHASTIC: dict[str, dict[str, Any]] = {
    "exact": {},
    "sketch": {"options": {"estimate": "sketch"}},
    "srip": {"regularizer": "srip"},
    "every": {"options": {"every": 2}},
    "outputs": {"regularizer": "srip", "on": "activity", "target": "wide"},
}


def dropout_run(seed: int, **words: Any) -> tuple[list[Array], Mapping[str, tuple[float, ...]]]:
    """The weights and the history of a short run of a model that draws numbers itself."""
    words = {"factor": 0.1, "epochs": 1, "batch_size": 8, "learning_rate": 0.01, **words}
    result = orthwrap.apply(models.dropout(), data=classes(), seed=seed, measure=False, **words)
    assert result.report.training is not None
    return weights_of(result.model), result.report.training.history


def assert_identical(first: list[Array], second: list[Array]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("kind", STOCHASTIC)
def test_seed_makes_two_runs_identical(kind: str) -> None:
    (first, logs), (second, same), (other, _) = (
        dropout_run(seed, **STOCHASTIC[kind]) for seed in (1, 1, 2)
    )
    assert logs == same
    assert_identical(first, second)
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.slow
@pytest.mark.traced
def test_seed_makes_two_compiled_runs_identical() -> None:
    """With all that draws numbers or counts steps, as compiling takes longest."""
    rules = [
        orthwrap.Rule(target="wide", regularizer="srip", on="activity", factor=0.1),
        orthwrap.Rule(target="head", options={"estimate": "sketch", "every": 2}, factor=0.1),
    ]
    (first, logs), (second, same) = (
        dropout_run(1, rules=rules, factor=None, epochs=2) for _ in range(2)
    )
    assert logs == same
    assert_identical(first, second)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.02),
    "amsgrad": lambda: keras.optimizers.Adam(0.02, amsgrad=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.02, centered=True),
    "adamw": lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.02, 50)),
    "nadam": lambda: keras.optimizers.Nadam(0.02),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.02)),
}


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_from_a_file_as_in_memory(name: str, suffix: str, tmp_path: Path) -> None:
    model = models.nested() if name == "adam" else models.dense()
    y = classes()[1] % 2 if name == "adam" else classes()[1]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=name == "adam")
    model.compile(OPTIMIZERS[name](), loss)
    model.fit(classes()[0], y, batch_size=8, shuffle=False, verbose=0)
    loaded = orthwrap.load_model(saved(model, tmp_path / f"m{suffix}"))
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))
    x = classes(seed=3)[0]
    for each in (model, loaded):
        each.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(weights_of(model), weights_of(loaded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


KERAS_2 = """
import sys
import numpy as np
import tf_keras as k
x, y = np.load(sys.argv[1]).values()
makers = {
    "sgd": lambda: k.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: k.optimizers.Adam(0.02),
    "before_2_11": lambda: k.optimizers.legacy.Adam(0.02),
}
for name, make in makers.items():
    model = k.Sequential([k.Input((6,)), k.layers.Dense(6), k.layers.Dense(3, "softmax")])
    model.compile(make(), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    model.save(f"{name}.h5")
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    np.savez(f"{name}.npz", *model.get_weights())
"""


@pytest.fixture(scope="module")
def keras_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that Keras 2 wrote in the midst of training, and where it got to from there."""
    folder = tmp_path_factory.mktemp("keras_2")
    np.savez(folder / "data.npz", x=classes()[0], y=classes()[1])
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KERAS_2, "data.npz"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    return folder


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adam", "before_2_11"])
def test_training_of_keras_2_goes_on_where_it_stood(
    name: str, keras_2: Path, tmp_path: Path
) -> None:
    result = orthwrap.apply(keras_2 / f"{name}.h5", tmp_path / "out.h5", factor=0.0)
    model = orthwrap.load_model(result.output)
    assert int(model.optimizer.iterations) == 5
    model.fit(*classes(), batch_size=8, shuffle=False, verbose=0)
    with np.load(keras_2 / f"{name}.npz") as expected:
        for ours, theirs in zip(weights_of(model), expected.values(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_finetune_of_a_file_is_that_of_the_model(suffix: str, tmp_path: Path) -> None:
    """The optimizer's state, the loss and the seed give the same weights by either way."""
    model = models.dense()
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(*classes(), verbose=0)
    model = orthwrap.apply(model, factor=0.1).model
    path = saved(model, tmp_path / f"m{suffix}")
    words: dict[str, Any] = {"epochs": 2, "batch_size": 8, "seed": 5}
    in_memory = finetune(model, classes(), **words)
    data = tmp_path / "data.npz"
    np.savez(data, x=classes()[0], y=classes()[1])
    from_file = finetune(path, data, **words)
    assert from_file.output == tmp_path / f"m-tuned{suffix}"
    assert in_memory.output is None
    assert in_memory.report.training is not None
    assert from_file.report.training is not None
    for key, values in in_memory.report.training.history.items():
        assert values == pytest.approx(from_file.report.training.history[key], rel=1e-5)
    written = orthwrap.load_model(from_file.output)
    for a, b, c in zip(
        *(weights_of(m) for m in (in_memory.model, from_file.model, written)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(b, c)
    assert len(written.losses) == 2
    assert int(written.optimizer.iterations) == int(model.optimizer.iterations) + 10


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_seed_makes_two_runs_from_a_file_identical(suffix: str, tmp_path: Path) -> None:
    """A file may not keep the state of Dropout's random numbers."""
    source = saved(models.dropout(), tmp_path / f"m{suffix}")
    runs = [
        orthwrap.apply(
            source,
            tmp_path / f"{i}{suffix}",
            data=classes(),
            epochs=1,
            learning_rate=0.01,
            seed=3,
            measure=False,
        )
        for i in range(2)
    ]
    for a, b in zip(*(weights_of(run.model) for run in runs), strict=True):
        np.testing.assert_array_equal(a, b)
