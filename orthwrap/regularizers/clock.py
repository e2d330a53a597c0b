"""A count of calls that goes on inside a compiled training step, on every backend.

A Python counter would be a constant of the traced step; a key drawn from the kernel would stand
still with the kernel. So what draws or counts has a state and is a `keras.random.SeedGenerator`:
a layer tracks every one that is set as its attribute, as it tracks that of its dropout. JAX hands
its state to each step and takes it back, and TensorFlow's steps assign to it; neither asks the
host, and it is no weight and in no file. PyTorch, which is eager, counts in Python.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from orthwrap import keras_inside
from orthwrap.penalties.tensors import BACKEND

COUNT = "count_of_calls"  # what its variables are called, before a number
_numbers = itertools.count()

Moment = Any  # (seed, number of the call, from 1): a tensor of both, on PyTorch Python's numbers


class Clock(keras.random.SeedGenerator):  # type: ignore[misc]  # Keras is untyped
    """Counts the calls of `tick`.

    Under a `tf.distribute` strategy each replica sees the count of a single device: a clock made
    in the strategy's scope counts in each replica, and of one made outside of it, which they
    share, the last replica moves the count.
    """

    def __init__(self, seed: int = 0) -> None:
        self.name = f"{COUNT}_{next(_numbers)}"
        self._initial_seed = seed
        self._here = [seed, 0]  # on PyTorch, what holds
        self._state = keras.Variable(
            lambda shape, dtype: ops.convert_to_tensor([seed, 0], dtype),
            shape=(2,),
            dtype=_DTYPE,
            trainable=False,
            aggregation="none",
            name=self.name,
        )

    @property
    def state(self) -> Any:
        """The variable [seed, count]; to be read outside of a traced step."""
        if _is_torch():
            self._state.assign(np.asarray(self._here, _DTYPE))
        return self._state

    def read(self) -> tuple[int, int]:
        """The seed, and how many calls there were; outside of a traced step."""
        seed, count = self._here if _is_torch() else ops.convert_to_numpy(self._state)
        return int(seed), int(count)

    def set(self, seed: int, count: int) -> None:
        """Goes on from here; outside of a traced step."""
        self._here = [seed, count]
        self._state.assign(np.asarray(self._here, _DTYPE))

    def tick(self) -> Moment | None:
        """The seed, and the number of this call.

        None where JAX has nobody to take the next count back: in a `jax.jit` of one's own, and
        in a step of a model none of whose layers has the regularizer as an attribute.
        """
        if _is_torch():
            seed, count = self._here
            if not keras_inside.in_symbolic_scope():  # Keras only asks for shapes, by running
                self._here[1] += 1
            return seed, count + 1
        step, rest = _step(self._state)
        after = ops.convert_to_tensor(self._state) + step
        if BACKEND == "jax" and not self._is_taken_back(after):
            return None
        self._state.assign(after)
        # Not what was read: there, TensorFlow may have put the next count.
        return after if rest is None else after + rest

    def _is_taken_back(self, after: Any) -> bool:
        import jax

        if keras_inside.in_stateless_scope():
            return keras_inside.is_handed_in(self._state)
        return not isinstance(after, jax.core.Tracer)

    def next(self, ordered: bool = True) -> Any:
        """A key, as `keras.random` takes it from a generator."""
        moment = self.tick()
        if moment is None:
            raise RuntimeError("outside of its layer's training step, JAX keeps no count")
        return Key(moment).next()


class Key(keras.random.SeedGenerator):  # type: ignore[misc]  # Keras is untyped
    """What `keras.random` takes for a seed: one moment of a clock, without a state of its own."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment

    def next(self, ordered: bool = True) -> Any:
        return self._moment


def without_counts(variables: Iterable[Any]) -> list[Any]:
    """Without those of clocks, which a model has or not as its regularizers are."""
    return [v for v in variables if not v.name.startswith(COUNT)]


def before(moment: Moment) -> tuple[Any, Any]:
    """The seed, and how many calls there were before this one."""
    seed, number = moment if _is_torch() else ops.unstack(moment)
    return seed, number - 1


def is_turn(seed_and_count: tuple[Any, Any], every: int) -> Any:
    """Whether the call after so many is one of those that are paid for: one in each `every`.

    The place among them is drawn anew each time. A fixed one would lock: where one regularizer
    serves as many kernels, always the same kernel would pay; where validation calls in between,
    perhaps none would in training.
    """
    seed, count = seed_and_count
    return count % every == _mixed(seed, count // every) % every


def _mixed(seed: Any, number: Any) -> Any:
    """A hash of 31 bits, the same for Python's numbers and for tensors of 64 or 32 bits."""
    bits = 0x7FFFFFFF
    x = (seed * 0x1E3779B1 + number * 0x05EBCA6B + 0x2545F491) & bits
    x = x ^ x // 0x8000
    x = (x * 0x2C1B3C6D) & bits
    x = x ^ x // 0x1000
    x = (x * 0x297A2D39) & bits
    return x ^ x // 0x8000


def of_kernel(clock: Clock, x: Any) -> Moment:
    """For draws where JAX keeps no count: a moment that changes when the kernel does."""
    import jax

    seed = ops.unstack(ops.convert_to_tensor(clock.state))[0]
    words = jax.lax.bitcast_convert_type(ops.cast(x, "float32"), "uint32")
    places = np.arange(np.prod(words.shape), dtype="uint32").reshape(words.shape)
    return ops.stack([seed, jax.numpy.sum(words * (2 * places + 1), dtype="uint32")])


def _is_torch() -> bool:
    return BACKEND == "torch"


_DTYPE = "uint32" if BACKEND == "jax" else "int64"
_CALL = np.asarray([0, 1], _DTYPE)


def _step(variable: Any) -> tuple[Any, Any]:
    """What a call adds to the state, and what it adds to that for itself alone.

    Of several replicas of TensorFlow that share a variable, the last alone moves it.
    """
    if BACKEND != "tensorflow":
        return _CALL, None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return _CALL, None
    if isinstance(variable.value, tf.distribute.DistributedValues):
        return _CALL, None  # one for each replica
    last = replica.num_replicas_in_sync - 1
    step = _CALL * tf.cast(tf.equal(replica.replica_id_in_sync_group, last), _DTYPE)
    return step, _CALL - step
