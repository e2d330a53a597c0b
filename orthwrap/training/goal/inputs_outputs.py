"""A live model's inputs and outputs: what data is checked against, and what a batch gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from orthwrap import keras_inside
from orthwrap.data import Data, Port, load
from orthwrap.errors import ValueFault
from orthwrap.training.settings import Settings

# To hold the task's margin against, where nothing else is there to validate on.
_HELD_OUT = 0.1


def ports(model: Any) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a model, by name and shape without the batch.

    Raises:
        ValueFault: a model that does not know its inputs.
    """
    graph = keras_inside.graph_of(model)
    inputs, outputs = getattr(graph, "inputs", None), getattr(graph, "outputs", None)
    if not inputs or not outputs:
        raise ValueFault(
            f"model {model.name!r} does not know its inputs and outputs: fine-tune it in Python "
            "with its own fit"
        )
    input_names = _keys(keras_inside.input_structure(graph)) or [t.name for t in inputs]
    output_names = _keys(keras_inside.output_structure(graph)) or list(
        getattr(graph, "output_names", [])
    )
    return _ports(input_names, inputs), _ports(output_names or [t.name for t in outputs], outputs)


def _ports(names: Sequence[str], tensors: Sequence[Any]) -> list[Port]:
    return [Port(n, tuple(t.shape[1:])) for n, t in zip(names, tensors, strict=True)]


def _keys(struct: Any) -> list[str]:
    """What a model that takes or gives a mapping calls each tensor, in its order; else nothing."""
    keys = {id(t): str(key) for key, t in struct.items()} if isinstance(struct, Mapping) else {}
    tensors = keras.tree.flatten(struct)
    return [keys[id(t)] for t in tensors] if all(id(t) in keys for t in tensors) else []


def read_data(model: Any, source: Any, settings: Settings, seed: int) -> Data:
    """The data, checked against the model's inputs and outputs."""
    inputs, outputs = ports(model)
    data = load(
        source,
        inputs,
        outputs,
        validation=settings.validation,
        validation_split=settings.validation_split,
        seed=seed,
        rescale=settings.rescale,
        preprocessing=settings.preprocessing,
        image_size=settings.image_size,
        labelled=not settings.distill,
        endless=settings.steps_per_epoch is not None,
    )
    if settings.goal is not None and settings.task_margin != 0:
        data = data.with_some_held_out(_HELD_OUT, seed)
    if settings.devices is not None:
        data = data.shared_by(settings.devices)
    steps = settings.steps_per_epoch
    return data if steps is None else data.with_steps(steps, settings.batch_size)


def outputs_of(model: Any) -> Callable[[Any], tuple[NDArray[Any], ...]]:
    """What gives the model's outputs on one batch of inputs, in the order of its outputs."""

    def call(x: Any) -> tuple[NDArray[Any], ...]:
        x = keras.tree.map_structure(native, x)
        # On TensorFlow each device that shares batches computes all of this one, one after another.
        samples = len(keras.tree.flatten(x)[0])
        found = [a[:samples] for a in keras.tree.flatten(model.predict_on_batch(x))]
        # float16 is not fine enough for what is compared, and NumPy has no bfloat16.
        return tuple(
            np.asarray(a, np.float32) if a.dtype.itemsize < 4 else np.asarray(a) for a in found
        )

    return call


def native(array: Any) -> Any:
    """Another backend's tensors, such as tf.data gives, as arrays."""
    return array if keras.ops.is_tensor(array) else np.asarray(array)
