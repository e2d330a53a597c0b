"""Training a model that carries regularizers: data, objectives, optimizer, history, faults."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from orthwrap.data import Port, load
from orthwrap.training.goal import objectives
from orthwrap.verbs.finetune import finetune
from tests.conftest import PATIENCE_S
from tests.support import models
from tests.support.run_helpers import classes

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


def numpy(tensor: Any) -> Array:
    return np.array(ops.convert_to_numpy(tensor))


def weights_of(model: Any) -> list[Array]:
    return [numpy(v) for v in model.weights]


def saved(model: Any, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is a legacy format
        model.save(path)
    return path


# Data: which arrays, in which shapes


ONE = [Port("image", (4, 3))], [Port("label", (5,))]
TWO = [Port("left", (4,)), Port("right", (None, 2))], [Port("kind", (3,)), Port("size", (1,))]


def zeros(*shape: int) -> Array:
    return np.zeros(shape)


@pytest.mark.parametrize(
    ("ports", "given"),
    [
        (ONE, {"x": zeros(6, 4, 3), "y": zeros(6)}),
        (ONE, {"image": zeros(6, 4, 3), "label": zeros(6, 5)}),
        (ONE, {"x0": zeros(6, 4, 3), "y0": zeros(6, 5)}),
        (ONE, {"x": zeros(6, 4, 3), "label": zeros(6, 5), "more": np.array("text")}),
        (ONE, (zeros(6, 4, 3), zeros(6))),
        (ONE, [zeros(6, 4, 3).tolist(), [0] * 6]),
        (
            TWO,
            {"left": zeros(6, 4), "right": zeros(6, 9, 2), "kind": zeros(6), "size": zeros(6)},
        ),
        (TWO, {"x0": zeros(6, 4), "x1": zeros(6, 1, 2), "y0": zeros(6), "y1": zeros(6, 1)}),
        (TWO, {"left": zeros(6, 4), "right": zeros(6, 9, 2), "y0": zeros(6), "y1": zeros(6)}),
    ],
)
def test_arrays_are_found_by_x_and_y_by_name_and_by_number(ports: Any, given: Any) -> None:
    inputs, outputs = ports
    data = load(given, inputs, outputs)
    assert data.samples == 6
    (batch,) = data.inputs(6)
    assert len(batch) == 1
    assert len(batch[0] if len(inputs) > 1 else batch) == len(inputs)
    assert len(data.labels) == len(outputs)
    assert data.held_out is None


def test_order_is_the_models_and_not_the_mappings() -> None:
    inputs, outputs = TWO
    given = {"right": zeros(6, 9, 2), "left": zeros(6, 4), "size": zeros(6, 1), "kind": zeros(6)}
    data = load(given, inputs, outputs)
    ((x, y),) = data.evaluation(6)
    assert [tuple(a.shape) for a in x] == [(6, 4), (6, 9, 2)]
    assert [tuple(a.shape) for a in y] == [(6,), (6, 1)]


def test_validation_arrays_end_in_val() -> None:
    given = {"x": zeros(6, 4, 3), "y": zeros(6), "x_val": zeros(2, 4, 3), "y_val": zeros(2)}
    for source in (given, tuple(given.values())):
        data = load(source, *ONE)
        assert data.validation_samples == 2
        assert data.describe() == "x 6×4×3 float64, y 6 float64; 2 more to validate"


def test_name_of_an_output_may_end_in_val() -> None:
    ports = [Port("x", (4,))], [Port("policy", (3,)), Port("state_val", (1,))]
    given = {"x": zeros(6, 4), "policy": zeros(6), "state_val": zeros(6, 1)}
    assert load(given, *ports).held_out is None
    more = {f"{key}_val": array[:2] for key, array in given.items()}
    assert load(given | more, *ports).validation_samples == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "has the keys (none); expected x or image or x0"),
        ({"a": zeros(6, 4, 3)}, "has the keys a; expected x or image or x0"),
        (
            {"x": zeros(6, 4, 3)},
            "has the keys x; expected y or label or y0; without labels, distill",
        ),
        ({"x": zeros(6, 4, 3), "y": zeros(6), "y_val": zeros(2)}, "expected x_val or image_val"),
        ({"x": zeros(6, 4, 3), "y": zeros(6), "x_val": zeros(2, 4, 3)}, "expected y_val"),
        (
            (zeros(6, 3, 4), zeros(6)),
            "x has samples of shape 3×4; input 'image' of",
        ),
        ((zeros(6), zeros(6)), "x has samples of shape (); input 'image' of the model takes 4×3"),
        ((zeros(6, 4, 3), zeros(5)), "data: x has 6, y has 5 samples: x and y must have as many"),
        (
            (zeros(6, 4, 3), zeros(6), zeros(2, 4, 3), zeros(3)),
            "x_val has 2, y_val has 3 samples",
        ),
        ((zeros(0, 4, 3), zeros(0)), "no samples: x is empty"),
        ((zeros(6, 4, 3), zeros(6), zeros(0, 4, 3), zeros(0)), "no samples: x_val is empty"),
        ((zeros(6, 4, 3), np.array(["a"] * 6)), "y is a <U1 array of shape (6,); expected numbers"),
        ((zeros(6, 4, 3), np.array(3)), "y is a int64 array of shape (); expected numbers"),
        ((zeros(6, 4, 3).astype("object"), zeros(6)), "x is a object array"),
        ((zeros(6, 4, 3) * 1j, zeros(6)), "x is a complex128 array"),
        (([[1, 2], [3]], zeros(2)), "x is no array"),
        ((zeros(6, 4, 3),), "function that returns one of these; got a tuple of 1"),
        (7, "got int"),
        ((a for a in ()), "got generator"),
    ],
)
def test_data_that_does_not_fit_says_what_was_found_and_expected(given: Any, words: str) -> None:
    with pytest.raises(orthwrap.ValueFault) as caught:
        load(given, *ONE)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def npz_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no `.npz` of plain arrays, and what is said of them."""
    good = folder / "good.npz"
    np.savez_compressed(good, x=np.random.default_rng(0).normal(size=(60, 4, 3)), y=zeros(60))
    content = good.read_bytes()
    made = {
        "pickled": "is not a .npz of plain arrays (it holds objects)",
        "single": "holds a single array",
        "text": "is no .npz file: give a .npz with x and y (np.savez), a folder of images",
        "empty": "is no .npz file",
        "cut": "is not a .npz",
        "flipped": "is not a .npz",
    }
    np.savez(folder / "pickled.npz", x=np.array([{}, 1], dtype=object), y=zeros(2))
    with (folder / "single.npz").open("wb") as f:
        np.save(f, zeros(3))
    (folder / "text.npz").write_text("hello")
    (folder / "empty.npz").write_bytes(b"")
    (folder / "cut.npz").write_bytes(content[: len(content) // 2])
    middle = len(content) // 2
    (folder / "flipped.npz").write_bytes(content[:middle] + b"\xff" * 40 + content[middle + 40 :])
    return {name: (folder / f"{name}.npz", words) for name, words in made.items()}


def test_files_that_are_no_npz_are_named(tmp_path: Path) -> None:
    for path, words in npz_files(tmp_path).values():
        with pytest.raises(orthwrap.FileFault) as caught:
            load(path, *ONE)
        assert words in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    for path, words in ((tmp_path / "no.npz", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(orthwrap.FileFault, match=words):
            load(str(path), *ONE)
    assert load(tmp_path / "good.npz", *ONE).samples == 60


# Objectives


SPARSE = ("sparse_categorical_crossentropy", "sparse_categorical_accuracy")
ONE_HOT = ("categorical_crossentropy", "categorical_accuracy")
BINARY = ("binary_crossentropy", "binary_accuracy")
NUMBERS = ("mean_squared_error", "mean_absolute_error")

INTS = np.array([0, 2, 1, 2])
HOT = np.eye(3)[INTS]
BITS = np.array([0, 1, 1, 0])
REALS = np.array([0.5, -1.0, 2.0, 7.25])


@pytest.mark.parametrize(
    ("activation", "shape", "labels", "expected", "from_logits"),
    [
        ("softmax", (3,), INTS, SPARSE, False),
        ("softmax", (3,), INTS[:, None], SPARSE, False),
        ("softmax", (3,), INTS.astype("float32"), SPARSE, False),
        ("softmax", (3,), INTS.astype("uint8"), SPARSE, False),
        ("linear", (3,), INTS, SPARSE, True),
        (None, (3,), INTS, SPARSE, True),
        ("softmax", (3,), HOT, ONE_HOT, False),
        ("softmax", (3,), HOT.astype("int32"), ONE_HOT, False),
        ("softmax", (3,), HOT * 0.8 + 0.2 / 3, ONE_HOT, False),
        ("linear", (3,), HOT, ONE_HOT, True),
        ("sigmoid", (3,), HOT, BINARY, False),
        ("sigmoid", (3,), 1 - HOT, BINARY, False),
        ("sigmoid", (3,), 0.3 * HOT, BINARY, False),
        ("linear", (3,), (1 - HOT).astype("int32"), BINARY, True),
        ("linear", (3,), REALS[:, None] * HOT, NUMBERS, False),
        ("sigmoid", (1,), BITS, BINARY, False),
        ("sigmoid", (1,), BITS[:, None], BINARY, False),
        ("sigmoid", (1,), BITS.astype("float32"), BINARY, False),
        ("sigmoid", (1,), BITS.astype(bool), BINARY, False),
        ("sigmoid", (1,), BITS * 0.5, NUMBERS, False),
        ("linear", (1,), BITS, BINARY, True),
        ("linear", (1,), BITS.astype("float32"), NUMBERS, False),
        ("linear", (1,), REALS, NUMBERS, False),
        ("linear", (1,), REALS[:, None], NUMBERS, False),
        ("tanh", (1,), REALS, NUMBERS, False),
        ("linear", (1,), INTS, NUMBERS, False),
        ("softmax", (2, 3), np.ones((4, 2), int), SPARSE, False),
        ("softmax", (2, 3), np.ones((4, 2, 1), int), SPARSE, False),
        ("softmax", (None, 3), np.ones((4, 7), int), SPARSE, False),
        ("softmax", (2, 3), np.tile(HOT[:, None], (1, 2, 1)), ONE_HOT, False),
        ("linear", (None, 1), np.ones((4, 7, 1)) / 2, NUMBERS, False),
        ("linear", (5, 5, 2), np.ones((4, 5, 5, 2)) / 2, NUMBERS, False),
    ],
)
def test_objective_follows_from_output_and_labels(
    activation: str | None,
    shape: tuple[int | None, ...],
    labels: Array,
    expected: tuple[str, str],
    from_logits: bool,
) -> None:
    chosen = objectives.choose(labels, shape, activation, "out")
    assert (chosen.loss, chosen.metric) == expected
    if "crossentropy" in chosen.loss:
        assert chosen.from_logits is from_logits
    assert chosen.why
    assert (chosen.classes is not None) == (expected is SPARSE)


@pytest.mark.parametrize(
    ("activation", "shape", "labels", "words"),
    [
        ("softmax", (3,), INTS + 1, "from 1 to 3; output 'out' has 3 classes, 0 to 2"),
        ("softmax", (3,), INTS - 1, "from -1 to 1; output 'out' has 3 classes"),
        ("softmax", (3,), REALS, "samples of shape (); output 'out' gives (3,)"),
        ("softmax", (3,), np.ones((4, 2)), "samples of shape (2,); output 'out' gives (3,)"),
        ("softmax", (3,), 2 * HOT, "the rows of y do not sum to 1"),
        (
            "softmax",
            (2, 3),
            np.ones((4, 5), int),
            "shape (5,); output 'out' gives (2, 3)",
        ),
        (
            "linear",
            (5, 3),
            np.ones((4, 6, 3)),
            "shape (6, 3); output 'out' gives (5, 3)",
        ),
        ("sigmoid", (3,), INTS, "has 3 sigmoids and y holds class numbers"),
        ("linear", (1,), np.ones((4, 2)), "samples of shape (2,); output 'out' gives (1,)"),
        ("linear", (1,), np.array([0.0, np.nan]), "y holds NaN or infinity"),
        ("softmax", (3,), np.array([0.0, np.inf]), "y holds NaN or infinity"),
    ],
)
def test_labels_that_fit_no_objective_are_refused(
    activation: str | None, shape: tuple[int | None, ...], labels: Array, words: str
) -> None:
    with pytest.raises(orthwrap.ValueFault) as caught:
        objectives.choose(labels, shape, activation, "out")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def heads() -> dict[str, tuple[Callable[[Any], Any], str]]:
    """Ways to end a model in three classes, and the loss that each asks for."""
    plain = "loss sparse_categorical_crossentropy: softmax output of 3"
    logits = "loss sparse_categorical_crossentropy from logits: {} output of 3"
    inner = keras.Sequential([layers.Input((6,)), layers.Dense(3, activation="softmax")])
    return {
        "argument": (layers.Dense(3, activation="softmax"), plain),
        "layer": (lambda x: layers.Softmax()(layers.Dense(3)(x)), plain),
        "object": (layers.Dense(3, activation=layers.Softmax()), plain),
        "activation": (lambda x: layers.Activation("softmax")(layers.Dense(3)(x)), plain),
        "operation": (lambda x: ops.softmax(layers.Dense(3)(x)), plain),
        "nested": (inner, plain),
        "passed on": (
            lambda x: layers.Dropout(0.1)(
                layers.Reshape((3,))(layers.Dense(3, activation="softmax")(x))
            ),
            plain,
        ),
        "average": (
            lambda x: layers.Average()(
                [layers.Dense(3, activation="softmax")(x) for _ in range(2)]
            ),
            plain,
        ),
        "logits": (layers.Dense(3), logits.format("linear")),
        "logits, passed on": (
            lambda x: layers.Flatten()(layers.Dense(3)(x)),
            logits.format("linear"),
        ),
        "unknown": (
            lambda x: layers.Rescaling(2.0)(layers.Dense(3)(x)),
            logits.format("unknown"),
        ),
    }


@pytest.mark.parametrize("name", heads())
def test_end_of_the_model_is_understood(name: str) -> None:
    make, words = heads()[name]
    inputs = layers.Input((6,))
    model = keras.Model(inputs, make(inputs))
    report = orthwrap.apply(model, data=classes(), epochs=1, measure=False).report
    assert report.training is not None
    assert any(choice.startswith(words) for choice in report.training.choices)


@pytest.mark.slow
@pytest.mark.parametrize("name", heads())
def test_named_loss_is_of_logits_where_they_are_known_to_be(name: str) -> None:
    make, _ = heads()[name]
    inputs = layers.Input((6,))
    model = keras.Model(inputs, make(inputs))
    words: dict[str, Any] = {"loss": "sparse_categorical_crossentropy", "epochs": 1}
    report = orthwrap.apply(model, data=classes(), measure=False, **words).report
    assert report.training is not None
    is_logits = name.startswith("logits")
    said = f"loss sparse_categorical_crossentropy{' from logits' if is_logits else ''}: as given"
    assert said in report.training.choices
    x, y = classes()
    keras_own = keras.losses.SparseCategoricalCrossentropy(from_logits=is_logits)
    expected = float(numpy(keras_own(y, model(x))))
    assert report.training.metrics_before["task_loss"] == pytest.approx(expected, rel=1e-4)


def test_each_output_has_its_own_count_of_a_named_metric() -> None:
    inputs = layers.Input((6,))
    outputs = [layers.Dense(1, name=name)(inputs) for name in ("near", "far")]
    model = keras.Model(inputs, outputs)
    x, _ = classes()
    y = {"near": np.zeros((40, 1)), "far": np.full((40, 1), 1000.0)}
    words: dict[str, Any] = {"data": {"x": x, **y}, "loss": "mse", "epochs": 1}
    metrics = ("mean_absolute_error", keras.metrics.MeanAbsoluteError(name="mae"))
    report = orthwrap.apply(model, metric=metrics, measure=False, **words).report
    assert report.training is not None
    for name, output in zip(y, model(x), strict=True):
        expected = float(np.mean(np.abs(numpy(output) - y[name])))
        for metric in ("mean_absolute_error", "mae"):
            found = report.training.metrics_before[f"{name}_{metric}"]
            assert found == pytest.approx(expected, rel=1e-4)


# History


@pytest.mark.parametrize("samples", [32, 37])
def test_task_loss_and_penalty_make_up_the_loss(samples: int) -> None:
    model = models.dense()
    result = orthwrap.apply(
        model, factor=0.5, data=(*classes(samples), *classes(11, 1)), epochs=3, batch_size=8
    )
    training = result.report.training
    assert training is not None
    history = training.history
    assert {len(values) for values in history.values()} == {3}
    for prefix in ("", "val_"):
        for total, task, penalty in zip(
            *(history[prefix + key] for key in ("loss", "task_loss", "penalty")), strict=True
        ):
            assert task + penalty == pytest.approx(total, rel=1e-5)
            assert penalty > 0
    # The penalty at the end is that of the report, which NumPy computed.
    after = result.report.summary["penalty_after"]
    assert training.metrics_after["penalty"] == pytest.approx(after, rel=1e-4)
    assert training.metrics_before["penalty"] == pytest.approx(
        result.report.summary["penalty_before"], rel=1e-4
    )
    assert history["val_penalty"][-1] == pytest.approx(after, rel=1e-4)
    json.dumps(result.report.to_json(), allow_nan=False)


def test_metrics_before_are_those_of_the_model_that_was_given() -> None:
    model = models.dense()
    x, y = classes()
    training = orthwrap.apply(model, data=(x, y), epochs=1).report.training
    assert training is not None
    predicted = np.argmax(numpy(model(x)), axis=1)
    assert training.metrics_before["accuracy"] == pytest.approx(np.mean(predicted == y))


def test_nothing_of_the_split_is_left_in_the_model(tmp_path: Path) -> None:
    result = orthwrap.apply(models.dense(), data=classes(), epochs=1)
    model = result.model
    assert [m.name for m in model.metrics] == ["loss", "compile_metrics"]
    assert "compute_loss" not in vars(model)
    assert "_aggregate_additional_loss" not in vars(model)
    logs = model.evaluate(*classes(), verbose=0, return_dict=True)
    assert set(logs) == {"loss", "accuracy"}
    history = model.fit(*classes(), epochs=1, verbose=0).history
    assert set(history) == {"loss", "accuracy"}
    loaded = orthwrap.load_model(saved(model, tmp_path / "m.keras"))
    assert loaded.evaluate(*classes(), verbose=0) == pytest.approx(
        model.evaluate(*classes(), verbose=0), rel=1e-5
    )
    assert len(orthwrap.apply(model).model.losses) == 2


def test_nothing_of_the_split_is_left_after_a_failure() -> None:
    def broken(y_true: Any, y_pred: Any) -> Any:
        raise ValueError("no loss of mine")

    model = models.dense()
    model.compile("adam", broken)
    with pytest.raises(orthwrap.OrthwrapError, match=r"training failed .*no loss of mine"):
        orthwrap.apply(model, in_place=True, data=classes())
    assert "compute_loss" not in vars(model)
    assert not {"task_loss", "penalty"} & {m.name for m in model.metrics}


# Compiling


def test_uncompiled_model_gets_adam_at_a_low_rate() -> None:
    result = orthwrap.apply(models.dense(), data=classes(), factor=1e-3, epochs=1)
    training = result.report.training
    assert training is not None
    assert training.choices[0] == "data: x 40×6 float32, y 40 int64"
    assert "optimizer Adam, learning rate 0.0001: the model names none" in training.choices
    assert float(result.model.optimizer.learning_rate) == pytest.approx(1e-4)
    result = orthwrap.apply(models.dense(), data=classes(), epochs=1, learning_rate=0.01)
    assert float(result.model.optimizer.learning_rate) == pytest.approx(0.01)


def test_compiled_model_keeps_its_own_loss_and_optimizer() -> None:
    model = models.dense()
    model.compile(keras.optimizers.SGD(0.125), "sparse_categorical_crossentropy")
    result = orthwrap.apply(model, data=classes(), factor=1e-3, epochs=1)
    training = result.report.training
    assert training is not None
    assert training.choices[1:3] == (
        "loss sparse_categorical_crossentropy: the model's own",
        "optimizer SGD, learning rate 0.125: the model's own",
    )
    assert isinstance(result.model.optimizer, keras.optimizers.SGD)
    assert float(result.model.optimizer.learning_rate) == 0.125
    assert not model.optimizer.built or int(model.optimizer.iterations) == 0


def test_model_compiled_without_a_loss_gets_one() -> None:
    model = models.dense()
    model.compile("sgd")
    training = orthwrap.apply(model, data=classes(), epochs=1).report.training
    assert training is not None
    assert any("sparse_categorical_crossentropy" in choice for choice in training.choices)
    assert training.history["task_loss"][0] > 0.1


SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.05, 1, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.Adam(0.05),
        lambda: keras.optimizers.Adam(SCHEDULE),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.05)),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(SCHEDULE)),
    ],
    ids=["adam", "schedule", "scaled", "scaled schedule"],
)
def test_learning_rate_replaces_the_models_own_and_keeps_the_state(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    model = models.dense()
    model.compile(make(), "sparse_categorical_crossentropy")
    model.fit(*classes(), batch_size=8, verbose=0)
    steps = int(model.optimizer.iterations)
    slots = [numpy(v) for v in model.optimizer.variables if v.ndim == 2]
    result = orthwrap.apply(model, factor=0.0, data=classes(), epochs=1, learning_rate=1e-12)
    optimizer = result.model.optimizer
    assert float(optimizer.learning_rate) == pytest.approx(1e-12)
    assert int(optimizer.iterations) == steps + 2
    for before, after in zip(weights_of(model), weights_of(result.model), strict=True):
        np.testing.assert_allclose(before, after, atol=1e-6)
    assert len(slots) == sum(v.ndim == 2 for v in optimizer.variables)
    assert any(np.any(s != 0) for s in slots)
    loaded = orthwrap.load_model(saved(result.model, tmp_path / "m.keras"))
    assert float(loaded.optimizer.learning_rate) == pytest.approx(1e-12)
    assert type(loaded.optimizer) is type(optimizer)


def test_class_numbers_are_checked_against_the_models_own_loss() -> None:
    for loss in (
        "sparse_categorical_crossentropy",
        keras.losses.SparseCategoricalCrossentropy(),
        {"head": "sparse_categorical_crossentropy"},
        [keras.losses.SparseCategoricalCrossentropy(name="mine_sparse_categorical")],
    ):
        model = models.dense()
        model.compile("adam", loss)
        x, y = classes()
        with pytest.raises(orthwrap.ValueFault, match="from 1 to 3; output 'head' has 3 classes"):
            orthwrap.apply(model, data=(x, y + 1))
        with pytest.raises(orthwrap.ValueFault, match="from 1 to 3; output 'head'"):
            orthwrap.apply(model, data=(x, y, x, y + 1))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (lambda y: y + 0.5, "wants class numbers; y holds [012].5 for output 'head'"),
        (lambda y: np.where(y == 1, np.nan, y), "y holds NaN or infinity for output 'head'"),
        (lambda y: np.eye(4)[y], "wants one class number for each sample; y has 4 of them, and"),
    ],
    ids=["fractions", "NaN", "another width"],
)
def test_what_is_no_class_number_is_refused(labels: Any, said: str) -> None:
    model = models.dense()
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = classes()
    for data in ((x, labels(y)), (x, y, x, labels(y))):
        with pytest.raises(orthwrap.ValueFault, match=said):
            orthwrap.apply(model, data=data, epochs=1)


def test_metric_that_does_not_take_the_labels_is_spoken_of() -> None:
    words: dict[str, Any] = {"data": classes(), "metric": "top_k_categorical_accuracy"}
    with pytest.raises(orthwrap.OrthwrapError, match=r"metric top.k.*, tried alone, fails on y"):
        orthwrap.apply(models.dense(), epochs=1, **words)


def test_class_that_the_models_own_loss_ignores_is_let_through() -> None:
    model = models.dense()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(ignore_class=-1))
    x, y = classes()
    training = orthwrap.apply(model, data=(x, np.where(y == 2, -1, y)), epochs=1).report.training
    assert training is not None


def test_labels_that_the_models_own_loss_does_not_take_are_an_error_of_one_line() -> None:
    def picky(y: Any, given: Any) -> Any:
        raise TypeError("two lines\nof it")

    model = models.dense()
    model.compile("adam", picky)
    with pytest.raises(
        orthwrap.OrthwrapError, match=r"two lines.*loss picky, tried alone"
    ) as caught:
        orthwrap.apply(model, data=classes())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compiled", [False, True])
def test_several_inputs_and_outputs_by_name(compiled: bool) -> None:
    model = models.many_ports()
    if compiled:
        model.compile(
            "adam", {"kind": "sparse_categorical_crossentropy", "size": "mean_squared_error"}
        )
    x = models.inputs_for(model, 20)
    labels = {"kind": np.arange(20) % 3, "size": np.linspace(-1, 1, 20)[:, None]}
    data = {**x, **labels, **{f"{k}_val": v[:5] for k, v in {**x, **labels}.items()}}
    result = orthwrap.apply(model, data=data, epochs=2)
    training = result.report.training
    assert training is not None
    assert {"kind_loss", "size_loss", "val_kind_loss"} < set(training.history)
    if not compiled:
        told = " ".join(training.choices)
        assert "kind: loss sparse_categorical_crossentropy" in told
        assert "size: loss mean_squared_error" in told
    # Labels reach their own outputs: exchanged, they would not fit.
    with pytest.raises(orthwrap.ValueFault, match="class numbers from 0 to 6"):
        orthwrap.apply(model, data={**x, "kind": np.arange(20) % 7, "size": labels["size"]})


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["arrays", "stream", "distilled"])
def test_model_that_gives_a_mapping_is_spoken_of_by_its_keys(kind: str, compiled: bool) -> None:
    import tensorflow as tf

    inputs = layers.Input((6,), name="x")
    outputs = {  # in another order than that of their layers' names
        "zebra": layers.Dense(3, activation="softmax", name="a")(inputs),
        "ant": layers.Dense(1, name="b")(inputs),
    }
    model = keras.Model({"x": inputs}, outputs)
    if compiled:
        model.compile("sgd", {"zebra": "sparse_categorical_crossentropy", "ant": "mse"})
    x, kinds = classes()
    y = {"zebra": kinds, "ant": np.ones((40, 1), "float32")}
    data: Any = {"x": x, **y}
    if kind == "stream":
        data = tf.data.Dataset.from_tensor_slices(({"x": x}, y)).batch(40)
    distill = kind == "distilled"
    words: dict[str, Any] = {"epochs": 1, "batch_size": 40, "measure": False}
    report = orthwrap.apply(model, data=data, distill=distill, **words).report
    training = report.training
    assert training is not None
    if distill:
        assert any(c.startswith("zebra: distilled as softmax") for c in training.choices)
        return
    outputs_now = model({"x": x})
    right = keras.losses.SparseCategoricalCrossentropy()(kinds, outputs_now["zebra"])
    assert training.metrics_before["zebra_loss"] == pytest.approx(float(numpy(right)), rel=1e-4)
    right = keras.losses.MeanSquaredError()(y["ant"], outputs_now["ant"])
    assert training.metrics_before["ant_loss"] == pytest.approx(float(numpy(right)), rel=1e-4)


def test_model_without_known_inputs_is_refused() -> None:
    class Free(keras.Model):  # type: ignore[misc]  # Keras is untyped
        def __init__(self) -> None:
            super().__init__()
            self.head = layers.Dense(3, name="head")

        def call(self, x: Any) -> Any:
            return self.head(x)

        def get_config(self) -> dict[str, Any]:
            return {}

    model = Free()
    model(np.ones((1, 6), "float32"))
    with pytest.raises(orthwrap.ValueFault, match="does not know its inputs and outputs"):
        orthwrap.apply(model, data=classes(), in_place=True)


@pytest.mark.parametrize(
    "words",
    [
        *({"epochs": v} for v in (0, -1, 2.0, "3", True)),
        *({"batch_size": v} for v in (0, "x", 1.5)),
        *({"seed": v} for v in (-1, "x", 1.5, 2**40, False)),
        *({"learning_rate": v} for v in (0, -1.0, math.nan, math.inf, "x", True)),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(orthwrap.ValueFault, match=next(iter(words)).replace("_", "[ _]")):
        orthwrap.apply(models.dense(), data=classes(), **words)


def test_settings_without_data_are_wrong_usage() -> None:
    with pytest.raises(orthwrap.UsageError, match="epochs is about training, which needs data"):
        orthwrap.apply(models.dense(), epochs=np.int64(2))
    with pytest.raises(orthwrap.UsageError, match="needs data"):
        finetune(models.dense(), None)


# Repeatable, and state that goes on


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


# The verb


def test_verb_is_still_there_once_its_module_is_imported() -> None:
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


# What goes wrong


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


# Real data


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
