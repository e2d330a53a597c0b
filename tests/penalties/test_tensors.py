"""The building blocks of tensor forms."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from orthwrap.penalties.tensors import rademacher


def test_rademacher_follows_its_seed() -> None:
    shape = (2, 5, 400)
    first = ops.convert_to_numpy(rademacher(shape, 7))
    assert first.dtype == np.float32
    assert set(np.unique(first)) == {-1.0, 1.0}
    assert abs(first.mean()) < 0.1
    np.testing.assert_array_equal(first, ops.convert_to_numpy(rademacher(shape, 7)))
    generator = keras.random.SeedGenerator(7)
    one, two = (ops.convert_to_numpy(rademacher(shape, generator)) for _ in range(2))
    assert (one != two).any()
