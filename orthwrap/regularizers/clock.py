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

from orthwrap import keras_inside


class Clock:
    """Counts 0, 1, 2, … at each call of `tick`.

    Under a `tf.distribute` strategy each replica sees the count of a single device: a clock made
    in the strategy's scope counts in each replica, and one made outside of it is shared by them
    and counts as many times faster.
    """

    def __init__(self) -> None:
        self._start: Any = 0  # where counting began
        self._ticks: Any = 0  # calls since then
        self._sharing = 1  # replicas that tick this one counter
        self._is_shared = False
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            self._is_shared = not tf.distribute.has_strategy()
            with tf.init_scope():
                self._start, self._ticks = (
                    tf.Variable(
                        0,
                        dtype="int64",
                        trainable=False,
                        synchronization=tf.VariableSynchronization.ON_READ,
                        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                    )
                    for _ in range(2)
                )

    @property
    def count(self) -> int:
        """What the next `tick` gives, an int; to be read outside of a traced step."""
        backend = keras.backend.backend()
        if backend == "tensorflow":
            start, ticks = (int(v.read_value()) for v in (self._start, self._ticks))
            return start + ticks // self._sharing
        if backend == "jax":
            import jax

            jax.effects_barrier()  # a step under way may have yet to ask
        return int(self._start + self._ticks)

    @count.setter
    def count(self, value: int) -> None:
        if keras.backend.backend() == "tensorflow":
            self._start.assign(value)
            self._ticks.assign(0)
        else:
            self._start, self._ticks = value, 0

    def tick(self) -> Any:
        """The count before this call, an integer scalar of the backend."""
        backend = keras.backend.backend()
        if backend == "tensorflow":
            return self._tick_tensorflow()
        if backend == "jax":
            return self._tick_jax()
        if keras_inside.in_symbolic_scope():
            # Keras only asks for shapes, which PyTorch answers by running.
            return int(self._start + self._ticks)
        return self._tick_here()

    def _tick_here(self) -> int:
        self._ticks += 1
        return int(self._start + self._ticks - 1)

    def _tick_tensorflow(self) -> Any:
        import tensorflow as tf

        if self._is_shared:
            self._sharing = tf.distribute.get_strategy().num_replicas_in_sync
        ticks = self._ticks.assign_add(1, read_value=True) - 1
        return self._start.read_value() + ticks // self._sharing

    def _tick_jax(self) -> Any:
        import jax
        from jax.experimental import io_callback

        def count() -> np.ndarray[Any, np.dtype[np.int32]]:
            return np.asarray(self._tick_here(), np.int32)

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
