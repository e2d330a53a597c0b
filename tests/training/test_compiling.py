"""What a model is compiled with for a run: its own, what is named, or what follows."""

from __future__ import annotations

import math
from collections.abc import Callable
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


@pytest.mark.slow
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


@pytest.mark.dear
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


@pytest.mark.dear
@pytest.mark.slow
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


@pytest.mark.dear
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
