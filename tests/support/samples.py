"""Model files for tests, written by Keras once and cached for the whole run."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Any

_OWN = tempfile.TemporaryDirectory(prefix="orthwrap-samples-")
# A process without Keras is told where another one has made them.
_FOLDER = Path(os.environ.get("ORTHWRAP_SAMPLES", _OWN.name))


def nested_model() -> Any:
    """Functional in Sequential in Functional, wrappers, cells, an L2 and an activity L1."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    inner_input = keras.Input((8, 8, 4), name="inner_input")
    x = layers.Conv2D(4, 1, name="conv0")(inner_input)
    inner = keras.Model(
        inner_input, layers.Conv2D(4, 3, padding="same", groups=2, name="conv1")(x), name="inner"
    )
    outer = keras.Sequential(
        [keras.Input((8, 8, 4)), inner, layers.BatchNormalization(name="norm")], name="outer"
    )
    x = layers.Conv2D(4, 3, padding="same", name="stem", kernel_regularizer="l2")(image)
    x = layers.Add(name="add")([outer(x), outer(outer(x))])
    x = layers.TimeDistributed(layers.Dense(5, name="dense"), name="td")(x)
    x = layers.Reshape((64, 5), name="flat")(x)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="bi")(x)
    pair = [layers.LSTMCell(4, name="a"), layers.GRUCell(3, name="b")]
    cells = layers.StackedRNNCells(pair, name="cells")
    x = layers.RNN(cells, name="rnn")(x)
    x = layers.Dense(10, activation="softmax", activity_regularizer="l1", name="head")(x)
    model = keras.Model(image, x, name="root")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@functools.cache
def _nested_files() -> None:
    import warnings

    import numpy as np

    from tests.conftest import steps_run_eagerly

    model = nested_model()
    with steps_run_eagerly():
        model.fit(np.ones((4, 8, 8, 3)), np.arange(4), verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is a legacy format
        # The .keras first: an .h5 takes the optimizer out of what the model was compiled with.
        model.save(_FOLDER / "nested.keras")
        model.save(_FOLDER / "nested.h5")


def nested_file(suffix: str) -> Path:
    """`nested_model`, compiled and trained for one step, as a file."""
    _nested_files()
    return _FOLDER / f"nested{suffix}"


@functools.cache
def small_file(suffix: str) -> Path:
    """Two convolutions and a Dense layer, uncompiled."""
    path = _FOLDER / f"small{suffix}"
    if path.exists():
        return path
    import warnings

    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, name="conv1"),
            layers.Conv2D(8, 3, name="conv2"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(10, activation="softmax", name="classes"),
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path
