"""`cosine` is the one of Keras, where that has a value."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from orthwrap.penalties.cosine import cosine
from tests.penalties.oracles import random
from tests.support.backend import value, value_and_grad

# Keras itself triggers this on tensors of some NumPy and backend versions.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.mark.parametrize("shape", [(1, 12, 5), (1, 6, 6), (1, 5, 12)])
def test_cosine_is_the_one_of_keras(shape: tuple[int, int, int]) -> None:
    w = random(shape, 4, "float32")
    mode = "columns" if shape[2] <= shape[1] else "rows"
    reference = keras.regularizers.OrthogonalRegularizer(1.0, mode=mode)
    expected = value(lambda w: reference(ops.reshape(w, shape[1:])), w)
    assert value(cosine, w) == pytest.approx(expected, rel=1e-5)


def test_cosine_survives_zero_and_tiny_vectors() -> None:
    w = random((1, 6, 4), 5)
    w[..., 1] = 0
    w[..., 2] *= 1e-12
    result, gradient = value_and_grad(cosine, w)
    assert np.isfinite(result)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[..., 1], 0)
