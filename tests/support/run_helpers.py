"""What tests of training runs share: data to learn, variables as arrays, a person at the keys."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

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
