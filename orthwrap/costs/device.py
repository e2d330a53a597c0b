"""What the figures are of: the device that computes, and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from orthwrap.penalties.tensors import on_processor
from orthwrap.report.versions import cores, processor


@dataclass(frozen=True)
class Device:
    """What computes.

    Attributes:
        name: as its maker calls it.
        kind: `cpu`, or `accelerator`.
        count: how many of it there are; of a CPU, the cores that this process may use.
    """

    name: str
    kind: str
    count: int


def device() -> Device:
    """Where the backend computes now."""
    if on_processor():
        return Device(processor(), "cpu", cores())
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return Device(str(jax.devices()[0].device_kind), "accelerator", jax.device_count())
    if backend == "torch":
        import torch

        name = str(torch.cuda.get_device_name())
        return Device(name, "accelerator", torch.cuda.device_count())
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    details: dict[str, Any] = tf.config.experimental.get_device_details(found[0])
    return Device(str(details.get("device_name", "GPU")), "accelerator", len(found))
