"""What tests of training runs share: data to learn, variables as arrays, a person at the keys."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

Array = np.ndarray[Any, np.dtype[Any]]


def classes(samples: int = 40, seed: int = 0) -> tuple[Array, Array]:
    """Six numbers each, of which the largest of the first three is the class."""
    x = np.random.default_rng(seed).normal(size=(samples, 6)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1)


def arrays_of(variables: Iterable[Any]) -> list[Array]:
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


class CtrlC(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """What a person presses at a step."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__()
        self._place, self._epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if (self._epoch, batch) == self._place:
            os.kill(os.getpid(), signal.SIGINT)


def weights_of(model: Any) -> list[Array]:
    return arrays_of(model.weights)


def same(first: Any, second: Any) -> bool:
    pairs = zip(weights_of(first), weights_of(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def with_validation() -> tuple[Array, Array, Array, Array]:
    return (*classes(), *classes(20, 1))


def dropping() -> Any:
    """What keeps state of every kind: random numbers, statistics, an optimizer's slots."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(9, activation="relu", name="wide"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.3, name="drop"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def told(value: Any) -> str:
    """A test's name, the same in every process: objects tell where they lie in memory."""
    if isinstance(value, set):
        value = sorted(value)
    return "-".join(value) if isinstance(value, (dict, list)) else str(value)


def training_of(result: Any) -> Any:
    assert result.report.training is not None
    return result.report.training


class Spoil(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Multiplies the weights by a number as an epoch begins."""

    def __init__(self, epoch: int, number: float) -> None:
        super().__init__()
        self._epoch, self._number = epoch, number

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self._epoch:
            for variable in self.model.trainable_variables:
                variable.assign(variable * self._number)


class Never(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Training must not begin."""

    def on_train_begin(self, logs: Any = None) -> None:
        raise AssertionError


def numpy(tensor: Any) -> Array:
    return np.array(ops.convert_to_numpy(tensor))


def saved(model: Any, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is a legacy format
        model.save(path)
    return path
