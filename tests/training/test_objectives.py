"""Which loss and metric follow from a model's outputs and its labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from orthwrap.training.goal import objectives
from tests.support.run_helpers import classes, numpy

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


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


@pytest.mark.dear
@pytest.mark.parametrize("name", heads())
def test_end_of_the_model_is_understood(name: str) -> None:
    make, words = heads()[name]
    inputs = layers.Input((6,))
    model = keras.Model(inputs, make(inputs))
    report = orthwrap.apply(model, data=classes(), epochs=1, measure=False).report
    assert report.training is not None
    assert any(choice.startswith(words) for choice in report.training.choices)


@pytest.mark.dear
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
