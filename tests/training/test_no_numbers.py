"""Data and weights that are no numbers are found before the first step."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from tests.support import models
from tests.support.run_helpers import Never, classes, training_of

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


def spoiled(at: int, value: float = np.nan) -> tuple[Array, Array]:
    x, y = classes()
    x = x.copy()
    x[at, 2] = value
    return x, y


@pytest.mark.parametrize(
    ("data", "words", "said"),
    [
        (spoiled(7), {}, "x holds NaN or infinity in 1 sample, first in number 7, and so does the"),
        (spoiled(7, np.inf), {}, "x holds NaN or infinity in 1 sample, first in number 7"),
        (spoiled(7), {"validation": classes()}, "x holds NaN or infinity in 1 sample"),
        (spoiled(7), {"validation_split": 0.25}, "NaN or infinity in 1 sample, first in number 7"),
        (classes(), {"validation": spoiled(3)}, "x to validate on holds NaN .* first in number 3"),
        (spoiled(7), {"distill": True}, "x holds NaN"),
        (spoiled(7), {"factor": "auto"}, "x holds NaN"),
        (lambda: iter([spoiled(7)]), {}, "x holds NaN or infinity in 1 sample, first in number 7"),
        ((classes()[0], np.full((40, 3), np.nan)), {"loss": "mse"}, "y holds NaN or infinity"),
    ],
)
def test_data_that_is_no_number_is_found_before_training(data: Any, words: Any, said: str) -> None:
    with pytest.raises(orthwrap.ValueFault, match=said) as caught:
        orthwrap.apply(models.dense(), data=data, callbacks=[Never()], **words)
    assert "\n" not in str(caught.value)


def test_weight_that_is_no_number_is_named() -> None:
    model = models.dense()
    model.get_layer("wide").bias.assign(np.full(9, np.nan))
    with pytest.raises(orthwrap.ValueFault, match=r"^weight .*wide/bias of the model holds NaN"):
        orthwrap.apply(model, data=classes(), callbacks=[Never()])


def test_model_may_know_what_to_do_with_nan() -> None:
    inputs = layers.Input((6,))
    found = layers.Dense(3, activation="softmax")(keras.ops.nan_to_num(inputs))
    result = orthwrap.apply(keras.Model(inputs, found), data=spoiled(7), epochs=1)
    assert math.isfinite(training_of(result).metrics_after["loss"])
