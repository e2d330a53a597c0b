"""Orthogonality of networks trained on real pictures, and what it costs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import layers
from skimage import data as photographs
from sklearn.datasets import load_digits

import orthwrap
from orthwrap.training.goal.distillation import SOFTMAX, agreement
from orthwrap.training.goal.inputs_outputs import outputs_of
from tests.conftest import REAL_MODELS

Array = np.ndarray[Any, np.dtype[Any]]

EPOCHS = 20
TRAINED_ON = 1200
BATCH = 32


class Digits(NamedTuple):
    """1,797 handwritten digits of 8×8 pixels, a third of them held out."""

    x: Array
    y: Array
    x_out: Array
    y_out: Array


def digits(seed: int) -> Digits:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    x = (images[order].reshape(-1, 8, 8, 1) / 16.0).astype("float32")
    y = labels[order]
    return Digits(x[:TRAINED_ON], y[:TRAINED_ON], x[TRAINED_ON:], y[TRAINED_ON:])


def network() -> Any:
    x = inputs = layers.Input((8, 8, 1))
    for number, filters in enumerate((16, 32, 64), 1):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
        if number == 2:
            x = layers.MaxPooling2D(name="pool")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x))


def adam(epochs: int) -> Any:
    """At a rate that falls to a hundredth over the training."""
    steps = epochs * -(-TRAINED_ON // BATCH)
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, steps, alpha=0.01))


def trained(model: Any, data: Digits, epochs: int, seed: int) -> Any:
    keras.utils.set_random_seed(seed)
    model.compile(adam(epochs), "sparse_categorical_crossentropy")
    model.fit(data.x, data.y, epochs=epochs, batch_size=BATCH, verbose=0)
    return model


def accuracy(model: Any, data: Digits) -> float:
    classes = np.argmax(model.predict(data.x_out, verbose=0), axis=-1)
    return float(np.mean(classes == data.y_out))


def improvements(report: orthwrap.Report) -> list[float]:
    """How many times lower the residual of each selected kernel is after training."""
    found = []
    for record in report.layers:
        if record.carries:
            assert record.before is not None
            assert record.after is not None
            found.append(record.before.residual / record.after.residual)
    return found


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain() -> tuple[Any, Digits]:
    """A network that knows nothing of orthogonality, and its pictures."""
    keras.utils.set_random_seed(0)
    data = digits(0)
    return trained(network(), data, 20, 0), data


def test_kernels_become_orthogonal_at_no_cost_in_accuracy(plain: tuple[Any, Digits]) -> None:
    original, data = plain
    result = orthwrap.apply(
        original,
        target="all-conv",
        scale="unit",
        data=(data.x, data.y),
        factor="auto",
        rho=2.0,
        epochs=EPOCHS,
        batch_size=BATCH,
        optimizer=adam(EPOCHS),
        seed=0,
    )
    control = keras.models.clone_model(original)
    control.set_weights(original.get_weights())
    trained(control, data, EPOCHS, 0)
    assert len(improvements(result.report)) == 3
    assert min(improvements(result.report)) > 5
    best = max(accuracy(original, data), accuracy(control, data))
    assert best > 0.97
    assert accuracy(result.model, data) >= best - 0.005


def test_the_original_teaches_it_on_pictures_without_labels(plain: tuple[Any, Digits]) -> None:
    original, data = plain
    result = orthwrap.apply(
        original,
        target="all-conv",
        scale="unit",
        data={"x": data.x},
        distill=True,
        factor="auto",
        epochs=EPOCHS,
        batch_size=BATCH,
        optimizer=adam(EPOCHS),
        seed=0,
    )
    assert min(improvements(result.report)) > 5
    teacher, student = (outputs_of(m)(data.x_out) for m in (original, result.model))
    assert agreement(teacher, student, [SOFTMAX]) >= 0.99
    assert result.model.loss == original.loss


# A network of others


MASKS = REAL_MODELS / "facemask_mobilenetv2.h5"


def patches(count: int, side: int) -> Array:
    """Squares of photographs that ship inside scikit-image, as MobileNetV2 takes them."""
    whole = [getattr(photographs, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        image = whole[i % len(whole)]
        top, left = (rng.integers(0, size - side + 1) for size in image.shape[:2])
        found.append(image[top : top + side, left : left + side])
    return np.stack(found).astype("float32") / 127.5 - 1.0


@pytest.mark.skipif(not MASKS.exists(), reason="the real models are not here")
def test_frozen_layers_of_an_old_file_are_trained_on_photographs(tmp_path: Path) -> None:
    """The last block and the head of a MobileNetV2, which its file has frozen."""
    x = patches(24, 224)
    result = orthwrap.apply(
        MASKS,
        tmp_path / "out.h5",
        target="re:block_16_(expand|project)|Conv_1",
        scale="preserve",
        data={"x": x},
        distill=True,
        factor="auto",
        unfreeze="re:block_16_(expand|project)|Conv_1",
        freeze_batchnorm=True,
        rho=3.0,
        optimizer=keras.optimizers.Adam(5e-4),
        epochs=8,
        batch_size=8,
        seed=0,
    )
    selected = [r for r in result.report.layers if r.carries]
    assert [r.path for r in selected] == ["block_16_expand", "block_16_project", "Conv_1"]
    for record in selected:
        assert record.before is not None
        assert record.after is not None
        assert record.after.scaled_residual < record.before.scaled_residual / 1.8
        assert "factor auto: " in record.reason
        assert "frozen" not in record.reason
    training = result.report.training
    assert training is not None
    assert training.metrics_before["agreement"] == 1.0
    assert training.metrics_after["agreement"] >= 0.8
    assert orthwrap.inspect(tmp_path / "out.h5").summary["regularized"] == 3
