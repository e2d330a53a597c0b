"""A count of calls that goes on inside a compiled training step, on every backend.

A Python counter would be a constant of the traced step; a key drawn from the kernel would stand
still with the kernel. TensorFlow counts in a variable, PyTorch (which is eager) in Python, and
JAX, whose traced step has no side effects, asks the host.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


class Clock:
    """Counts 0, 1, 2, … at each call of `tick`."""

    def __init__(self) -> None:
        self._count: Any = 0
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            with tf.init_scope():
                self._count = tf.Variable(0, dtype="int64", trainable=False)

    def tick(self) -> Any:
        """The count before this call, an integer scalar of the backend."""
        backend = keras.backend.backend()
        if backend == "tensorflow":
            return self._count.assign_add(1, read_value=True) - 1
        if backend == "jax":
            return self._tick_jax()
        self._count += 1
        return self._count - 1

    def _tick_jax(self) -> Any:
        import jax
        from jax.experimental import io_callback

        def count() -> np.ndarray[Any, np.dtype[np.int32]]:
            self._count += 1
            return np.asarray(self._count - 1, np.int32)

        return io_callback(count, jax.ShapeDtypeStruct((), np.int32))


class TickSeed(keras.random.SeedGenerator):  # type: ignore[misc]  # Keras is untyped
    """What `keras.random` takes for a seed, drawn from a base and a clock's count.

    Keras asks a SeedGenerator for its `next()`. This one has no variable of its own, which a
    regularizer could not have tracked.
    """

    def __init__(self, base: int, count: Any) -> None:
        dtype = "uint32" if keras.backend.backend() == "jax" else "int64"
        self._key = ops.stack(
            [ops.cast(base, dtype), ops.cast(ops.convert_to_tensor(count), dtype)]
        )

    def next(self, ordered: bool = True) -> Any:
        return self._key
