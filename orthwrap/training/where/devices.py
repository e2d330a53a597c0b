"""Training on several devices, of one process or of many, by Keras's own means."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras

from orthwrap.data.batches import has_tensorflow
from orthwrap.errors import OrthwrapError, UsageError, ValueFault
from orthwrap.training.settings import Settings
from orthwrap.training.where.processes import Processes, ask_for_cpus


@contextlib.contextmanager
def on_devices(settings: Settings, processes: Processes) -> Iterator[None]:
    """While active, models that are made are spread over so many devices.

    TensorFlow mirrors the model (`tf.distribute.MirroredStrategy`), JAX spreads each batch
    (`keras.distribution.DataParallel`). Each device takes its share of a batch, and gradients are
    those of the whole batch; the penalty counts once. Where there is no GPU, the CPU stands for
    several devices.

    Args:
        settings: whose `devices` are those of all processes together.
        processes: that train together, each with as many devices.

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
        scope = _jax(count, processes)
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
    scope: AbstractContextManager[Any] = _mirrors(tuple(names)).scope()
    return scope


@functools.cache
def _mirrors(names: Sequence[str]) -> Any:
    """One strategy for all runs of a process: two would use the same keys for their sums."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(names)


def _jax(count: int, processes: Processes) -> AbstractContextManager[Any]:
    import jax

    if processes.are_several and not has_tensorflow():
        raise UsageError(
            "several processes share out their batches by TensorFlow's tf.data, and TensorFlow is "
            "not installed here: pip install tensorflow"
        )
    each = count // processes.count
    ask_for_cpus(each)
    there = jax.local_devices()
    if len(there) < each and there[0].platform == "cpu":
        raise _running(len(there), each, 'jax.config.update("jax_num_cpu_devices", …)')
    _check(each, len(there), "device")
    chosen = [
        f"{device.platform}:{device.id}"
        for index in range(processes.count)
        for device in [d for d in jax.devices() if d.process_index == index][:each]
    ]
    scope: AbstractContextManager[Any] = _Shares(devices=chosen).scope()
    return scope


@contextlib.contextmanager
def off_devices() -> Iterator[None]:
    """While active, JAX variables that are made are this process's own.

    Keras makes some while it saves; on shared devices every process would have to.
    """
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


class _Shares(keras.distribution.DataParallel):  # type: ignore[misc]  # Keras is untyped
    """Every device takes its share of each batch; where `whole` is set, all take all of it.

    Each process reads whole batches, so that they are those of a single process, and keeps the
    rows of its own devices.
    """

    whole = False

    def get_data_layout(self, data_shape: Sequence[int]) -> Any:
        if self.whole:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
        return super().get_data_layout(data_shape)

    def distribute_dataset(self, dataset: Any) -> Any:
        import jax

        # Keras tells these numbers in public since 3.15 only.
        devices, count = self.device_mesh.devices.size, jax.process_count()
        if self.whole or count == 1:
            return dataset
        import tensorflow as tf

        index = jax.process_index()

        def own_rows(array: Any) -> Any:
            rows = tf.shape(array)[0]
            even = tf.debugging.assert_equal(
                rows % devices, 0, f"batches cannot be shared out evenly over {devices} devices"
            )
            with tf.control_dependencies([even]):
                share = rows // count
            return array[index * share : (index + 1) * share]

        return dataset.map(lambda *batch: tf.nest.map_structure(own_rows, batch))


@contextlib.contextmanager
def whole_batches(samples: int | None) -> Iterator[None]:
    """While active, batches need not be shared out evenly: to evaluate on so many samples.

    JAX can share out no other batches, so there each device takes all of them.
    """
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, _Shares):
        yield
        return
    distribution.whole = samples is None or samples % distribution.device_mesh.devices.size > 0
    try:
        yield
    finally:
        distribution.whole = False


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
