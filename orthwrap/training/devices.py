"""Training on several devices of one machine, by Keras's own means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import keras

from orthwrap.errors import OrthwrapError, UsageError, ValueFault
from orthwrap.training.settings import Settings


@contextlib.contextmanager
def on_devices(settings: Settings) -> Iterator[None]:
    """While active, models that are made are spread over so many devices.

    TensorFlow mirrors the model (`tf.distribute.MirroredStrategy`), JAX spreads each batch
    (`keras.distribution.DataParallel`). Each device takes its share of a batch, and gradients are
    those of the whole batch; the penalty counts once. Where there is no GPU, the CPU stands for
    several devices.

    Raises:
        ValueFault: fewer devices than asked for, or a batch that cannot be shared out evenly.
        UsageError: a backend that has no such means.
        OrthwrapError: the backend was set up with other devices already.
    """
    count = settings.devices
    if count is None:
        yield
        return
    if settings.batch_size % count:
        raise ValueFault(
            f"batch size {settings.batch_size} cannot be shared out evenly over {count} devices: "
            f"give a multiple of {count}"
        )
    backend = keras.backend.backend()
    if backend == "tensorflow":
        scope = _tensorflow(count)
    elif backend == "jax":
        scope = _jax(count)
    else:
        raise UsageError(f"devices works on TensorFlow and JAX; the backend is {backend}")
    with scope:
        yield


def _tensorflow(count: int) -> AbstractContextManager[Any]:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        _check(count, len(gpus), "GPU")
        names = [f"GPU:{i}" for i in range(count)]
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        there = tf.config.get_logical_device_configuration(cpu) or [None]
        if len(there) < count:
            parts = [tf.config.LogicalDeviceConfiguration()] * count
            try:
                tf.config.set_logical_device_configuration(cpu, parts)
            except RuntimeError as e:
                raise _running(
                    len(there), count, "tf.config.set_logical_device_configuration"
                ) from e
        names = [f"CPU:{i}" for i in range(count)]
    scope: AbstractContextManager[Any] = tf.distribute.MirroredStrategy(names).scope()
    return scope


def _jax(count: int) -> AbstractContextManager[Any]:
    import jax

    with contextlib.suppress(RuntimeError):  # JAX is running already, with what it has
        if jax.config.jax_num_cpu_devices < count:
            jax.config.update("jax_num_cpu_devices", count)
    names = keras.distribution.list_devices()
    if len(names) < count and names[0].startswith("cpu"):
        raise _running(len(names), count, 'jax.config.update("jax_num_cpu_devices", …)')
    _check(count, len(names), "device")
    return _distribution(keras.distribution.DataParallel(devices=names[:count]))


@contextlib.contextmanager
def _distribution(distribution: Any) -> Iterator[None]:
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def _check(count: int, there: int, kind: str) -> None:
    if there < count:
        raise ValueFault(
            f"devices {count}: this machine has {there} {kind}{'s' if there != 1 else ''}"
        )


def _running(there: int, count: int, how: str) -> OrthwrapError:
    return OrthwrapError(
        f"devices {count}: the backend was started with {there} CPU device"
        f"{'s' if there != 1 else ''} already; call {how} before anything else runs"
    )
