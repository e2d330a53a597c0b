"""A model's own training step, on a batch made up for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from orthwrap import keras_inside
from orthwrap.costs.passes import waiting
from orthwrap.costs.programs import program
from orthwrap.errors import ValueFault
from orthwrap.live.compiled import made_one_by_one
from orthwrap.text import error_summary

# Axes that a model leaves free: of images, and of sequences.
_IMAGE, _SEQUENCE = 224, 128


def synthetic_inputs(model: Any, batch: int, seed: int = 0) -> tuple[Any, tuple[str, ...]]:
    """Inputs for a batch, of the model's own shapes and dtypes; and notes of what was made up.

    Raises:
        ValueFault: the model does not know its inputs, or takes texts.
    """
    template = keras_inside.input_structure(keras_inside.graph_of(model))
    if template is None:
        raise ValueFault(
            f"model {model.name!r} does not know the shape of its inputs: bench takes Sequential "
            "and functional models"
        )
    rng, notes = np.random.default_rng(seed), []

    def make(tensor: Any) -> Any:
        free = _IMAGE if len(tensor.shape) > 3 else _SEQUENCE
        shape = (batch, *(free if n is None else n for n in tensor.shape[1:]))
        if None in tensor.shape[1:]:
            notes.append(f"input {tensor.name} leaves sizes free: {free} was taken")
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype == "string":
            raise ValueFault(f"input {tensor.name} of model {model.name!r} takes texts: none is")
        if "int" in dtype or dtype == "bool":
            return keras.ops.convert_to_tensor(rng.integers(0, 2, shape), dtype)
        return keras.ops.convert_to_tensor(rng.standard_normal(shape, np.float32), dtype)

    return keras.tree.map_structure(make, template), tuple(notes)


def made_ready(model: Any, x: Any) -> tuple[Any, str, tuple[str, ...]]:
    """Compiles a model that is not, and makes labels for its loss.

    Returns:
        The labels; the loss, in words; and notes, where the model's own loss took none.
    """
    outputs = _outputs(model, x)
    notes: tuple[str, ...] = ()
    if model.compiled and model.loss is not None and model.optimizer is not None:
        labels, why = _labels(model, outputs)
        if not why:
            return labels, "the model's own loss", ()
        notes = (f"the model's own loss took no labels made up for it ({why})",)
    optimizer = model.optimizer if model.compiled and model.optimizer else keras.optimizers.Adam()
    flat = keras.tree.flatten(outputs)
    how = {"jit_compile": model.jit_compile, "run_eagerly": model.run_eagerly}
    loss = _mean if len(flat) == 1 else [_mean] * len(flat)
    model.compile(optimizer, loss, **(how if model.compiled else {}))
    return keras.tree.map_structure(_like, outputs), "the mean of the outputs", notes


def _outputs(model: Any, x: Any) -> Any:
    """What the model gives on these inputs, as tensors that have a shape alone."""
    given = keras.tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype), x)
    return keras_inside.graph_of(model).compute_output_spec(given)


def _mean(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(y_pred)


def _like(output: Any) -> Any:
    """Labels of an output's shape: the same share for each class."""
    return np.full(output.shape, 1 / output.shape[-1] if len(output.shape) > 1 else 0.5, "float32")


def _classes(output: Any) -> Any:
    return np.zeros(output.shape[:-1], "int32")


def _labels(model: Any, outputs: Any) -> tuple[Any, str]:
    """Labels that the model's loss takes, classes or values; or why there are none."""
    ways = [_classes, _like] if "sparse" in _names(model.loss).lower() else [_like, _classes]
    predicted = keras.tree.map_structure(lambda o: keras.ops.convert_to_tensor(_like(o)), outputs)
    why = ""
    for way in ways:
        labels = keras.tree.map_structure(way, outputs)
        try:
            keras_inside.whole_loss(model, None, labels, predicted, None)
        except Exception as e:  # a user's loss may raise anything
            why = why or error_summary(e)
        else:
            return labels, ""
    return None, why


def _names(loss: Any) -> str:
    """Losses in whatever structure, as text."""
    flat = keras.tree.flatten(loss)
    return " ".join(
        str(getattr(one, "name", None) or getattr(one, "__name__", one)) for one in flat
    )


def training_step(model: Any, x: Any, y: Any) -> Callable[[], None]:
    """One step of the model's training, as `fit` does it; the model moves."""
    made_one_by_one(model)
    if keras.backend.backend() != "jax":
        return waiting(lambda: model.train_on_batch(x, y))
    keras_inside.build_for(model, (x, y, None))
    held = (
        *(model.trainable_variables, model.non_trainable_variables),
        *(model.optimizer.variables, model.metrics_variables),
    )
    # The step may write into what it is given, which the model's variables keep.
    state = tuple([keras.ops.copy(v) for v in variables] for variables in held)
    step = model.train_step
    if not model.run_eagerly:
        step = program(step, state, (x, y, None), donate_argnums=0)

    def run() -> Any:
        nonlocal state
        logs, state = step(state, (x, y, None))
        return logs, state

    return waiting(run)
