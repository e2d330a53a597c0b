"""Several processes, on one machine or many, that train one model together, by Keras's own means.

Each is started with the same command, and finds the others by the environment variables of
`keras.distribution.initialize`. All compute the same; process 0 alone writes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np

from orthwrap.errors import Interrupted, OrthwrapError, UsageError
from orthwrap.text import first_line
from orthwrap.training.settings import Settings

_VARIABLES = (
    "KERAS_DISTRIBUTION_JOB_ADDRESSES",
    "KERAS_DISTRIBUTION_NUM_PROCESSES",
    "KERAS_DISTRIBUTION_PROCESS_ID",
)


@dataclass(frozen=True)
class Processes:
    """Those that train together.

    Attributes:
        count: how many there are.
        index: which of them this one is, from 0.
    """

    count: int = 1
    index: int = 0

    @property
    def are_several(self) -> bool:
        return self.count > 1

    @property
    def writes(self) -> bool:
        """Whether it is this one that writes and shows what all compute."""
        return self.index == 0


@contextlib.contextmanager
def none_left_waiting(processes: Processes) -> Iterator[None]:
    """Where this process fails, or is interrupted, the others do not wait for it.

    They would, as long as it lives, and at its end JAX has it wait for them. So it leaves without
    that; the others then lose the connection, and fail in their turn, in whatever they were doing.

    Raises:
        OrthwrapError: this process lost the others.
    """
    try:
        yield
    except BaseException as e:
        if processes.are_several:
            is_interrupt = isinstance(e, (KeyboardInterrupt, Interrupted))
            atexit.register(_leave, 130 if is_interrupt else 1)
            lost = _lost_connection(e)
            if lost is not None:
                raise OrthwrapError(
                    f"process {processes.index} of {processes.count} lost another one "
                    f"({first_line(lost)}): that one's own last line says why it ended"
                ) from e
        raise


def _lost_connection(error: BaseException | None) -> BaseException | None:
    """What JAX says where another process has closed the connection, among what led to an error."""
    found = None
    while error is not None:
        if any(word in str(error) for word in ("Gloo", "coordination service")):
            found = error  # the first of all: what follows tells of it in words of ours
        error = error.__cause__
    return found


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def join(settings: Settings) -> tuple[Processes, Settings]:
    """Finds the other processes, if the environment names any, and waits for them.

    Returns:
        The processes, and the settings for this one: with one seed for all, the number of
        devices of all together, and without what process 0 alone writes.

    Raises:
        UsageError: a backend other than JAX, or settings that one process alone can have.
        OrthwrapError: the processes do not find each other.
    """
    if not _is_asked_for():
        return Processes(), settings
    backend = keras.backend.backend()
    if backend != "jax":
        raise UsageError(
            f"several processes ({_VARIABLES[1]}) work on JAX; the backend is {backend}: set "
            "KERAS_BACKEND=jax"
        )
    if settings.resume:
        raise UsageError("resume goes on in one process: leave it out, or start one alone")
    import jax
    from jax.experimental import multihost_utils

    if settings.devices is not None:
        ask_for_cpus(settings.devices)
    try:
        if not jax.distributed.is_initialized():
            keras.distribution.initialize()
        processes = Processes(jax.process_count(), jax.process_index())
    except (RuntimeError, ValueError) as e:
        raise OrthwrapError(
            f"the processes could not be joined ({first_line(e)}): each needs the same "
            f"{_VARIABLES[0]} and {_VARIABLES[1]}, and its own {_VARIABLES[2]}"
        ) from e
    if not processes.are_several:
        return processes, settings
    seed = settings.seed
    if seed is None:
        drawn = np.uint32(random.SystemRandom().getrandbits(31))
        seed = int(multihost_utils.broadcast_one_to_all(drawn))
    devices = jax.device_count()
    if settings.devices is not None:
        devices = settings.devices * processes.count
    settings = settings.replace(seed=seed, devices=devices)
    if not processes.writes:
        settings = settings.replace(log=None, tensorboard=None, checkpoint_dir=None)
    return processes, settings


def ask_for_cpus(count: int) -> None:
    """JAX is to have so many CPU devices, if it is not running yet."""
    import jax

    with contextlib.suppress(RuntimeError):  # it is running already, with what it has
        if jax.config.jax_num_cpu_devices < count:
            jax.config.update("jax_num_cpu_devices", count)


def _is_asked_for() -> bool:
    if any(os.environ.get(name) for name in _VARIABLES):
        return True
    if keras.backend.backend() != "jax":
        return False
    import jax

    return bool(jax.distributed.is_initialized())
