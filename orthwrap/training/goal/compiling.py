"""What to optimise: as the model was compiled, or chosen from its outputs and the labels."""

from __future__ import annotations

import contextlib
import difflib
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from orthwrap import keras_inside
from orthwrap.data import Data, Port
from orthwrap.errors import ValueFault
from orthwrap.live.compiled import (
    forget_compiled_steps,
    inner_of,
    made_one_by_one,
    new_from_config,
    set_steps_per_execution,
)
from orthwrap.text import shortened
from orthwrap.training.goal import objectives
from orthwrap.training.goal.inputs_outputs import outputs_of, ports
from orthwrap.training.goal.optimizers import follow_variables, set_learning_rate
from orthwrap.training.settings import DEFAULT_LEARNING_RATE, Settings


def compile_model(model: Any, data: Data, settings: Settings) -> tuple[str, ...]:
    """Makes the model ready to train, but for `settle_optimizer`; says what was chosen, and why.

    What the user names comes first, then what the model was compiled with, then what follows
    from outputs and labels.

    Raises:
        ValueFault: an unknown loss, optimizer or metric; labels that fit no loss, or lie outside
            the classes.
    """
    own = keras_inside.compile_arguments(model) if _can_train(model) else None
    loss, metrics, chosen = _objective(model, data, settings, own is not None)
    optimizer, why = choose_optimizer(model, settings)
    if own is None or loss is not None or metrics is not None or settings.optimizer is not None:
        # What is not asked for anew stays as the model was compiled with it.
        kept = {} if own is None else dict(own)
        kept["optimizer"] = optimizer
        if loss is not None:
            kept |= {"loss": loss, "loss_weights": None}
        if metrics is not None:
            kept |= {"metrics": metrics, "weighted_metrics": None}
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.compile(**kept | ({"auto_scale_loss": False} if scaled else {}))
    return (*chosen, why)


def settle_optimizer(model: Any, settings: Settings) -> tuple[str, ...]:
    """The model's optimizer at the rate that was asked for, and for the weights trained now.

    Warns of state that does not go on.
    """
    if settings.learning_rate is not None:
        set_learning_rate(model, settings.learning_rate)
    return follow_variables(model)


def settle_steps(model: Any, steps: int | None) -> tuple[str, ...]:
    """What a file of another backend asks of the steps, and this one does not do.

    On JAX they are compiled: `jit_compile=False` is in files that Keras wrote on TensorFlow, where
    steps become a graph all the same. JAX would run them one operation at a time. On PyTorch Keras
    refuses several steps at once.

    Args:
        steps: of an epoch; None where that is not known.

    Returns:
        Lines on what is done instead, `executions_of` included.
    """
    notes = []
    if _is_interpreted(model):
        model.jit_compile = True
        forget_compiled_steps(model)
        notes = ["steps are compiled, which jit_compile=False in the model does not ask JAX for"]
    own, taken = model.steps_per_execution, _that_divide(model.steps_per_execution, steps)
    if made_one_by_one(model):
        notes.append(f"steps_per_execution {own}: 1, as Keras has no more on PyTorch")
    elif taken != own:
        notes.append(f"steps_per_execution {own}: {taken}, as an epoch has {steps} steps")
    return tuple(notes)


def _is_interpreted(model: Any) -> bool:
    if keras.backend.backend() != "jax" or model.run_eagerly or model.jit_compile:
        return False
    return all(layer.supports_jit for layer in keras_inside.every_layer(model))


@contextlib.contextmanager
def executions_of(model: Any, steps: int | None) -> Iterator[None]:
    """Meanwhile an epoch is so many steps, whatever `steps_per_execution` the model asks for.

    Of data that go on from epoch to epoch, Keras's last execution takes what the next epoch was to
    have.
    """
    own = model.steps_per_execution
    set_steps_per_execution(model, _that_divide(own, steps))
    try:
        yield
    finally:
        set_steps_per_execution(model, own)


def _that_divide(own: int, steps: int | None) -> int:
    return own if steps is None else math.gcd(own, steps)


def _objective(
    model: Any, data: Data, settings: Settings, is_compiled: bool
) -> tuple[Any, Any, tuple[str, ...]]:
    """Loss and metrics, None where the model's own stay; and why."""
    _, outputs = ports(model)
    activations = activations_of(model, len(outputs))
    metrics = _metrics(settings, outputs) if settings.metric else None
    if settings.loss is not None:
        loss = _given_loss(settings.loss, activations)
        is_ours = loss is not settings.loss
        logits = " from logits" if is_ours and getattr(loss, "from_logits", False) else ""
        return loss, metrics, (f"loss {loss_names(loss)}{logits}: as given",)
    if is_compiled:
        return None, metrics, (f"loss {loss_names(model.loss)}: the model's own",)
    if None in activations:
        activations = _seen(model, data, settings, activations)
    picked = [
        objectives.choose(labels, port.shape, activation, port.name)
        for labels, port, activation in zip(data.labels, outputs, activations, strict=True)
    ]
    for labels, port, objective in zip(data.validation_labels, outputs, picked, strict=False):
        if objective.classes is not None:
            objectives.check_classes(labels, objective.classes, port.name)
    why = []
    for port, objective in zip(outputs, picked, strict=True):
        logits = " from logits" if objective.from_logits else ""
        at = f"{port.name}: " if len(outputs) > 1 else ""
        why.append(f"{at}loss {objective.loss}{logits}: {objective.why}")
    losses = [_loss(o) for o in picked]
    if metrics is None:
        metrics = [[_metric(o)] for o in picked]
        metrics = metrics[0] if len(metrics) == 1 else metrics
    return losses[0] if len(losses) == 1 else losses, metrics, tuple(why)


def choose_optimizer(model: Any, settings: Settings) -> tuple[Any, str]:
    """The optimizer to train with, and why."""
    rate = settings.learning_rate
    if settings.optimizer is not None:
        optimizer, why = _named(keras.optimizers, "optimizer", settings.optimizer), "as given"
    elif _can_train(model):
        why = "the model's own" + (", the rate as given" if rate is not None else "")
        optimizer = model.optimizer
    else:
        why = "the rate as given" if rate is not None else "the model names none"
        optimizer = keras.optimizers.Adam(rate or DEFAULT_LEARNING_RATE)
    at = learning_rate(optimizer) if rate is None else rate
    shown = at if isinstance(at, str) else f"{at:g}"
    return optimizer, f"optimizer {optimizer_name(optimizer)}, learning rate {shown}: {why}"


def learning_rate(optimizer: Any) -> float | str:
    """An optimizer's rate now, or the schedule that it follows."""
    rate = keras_inside.rate_of(inner_of(optimizer))
    if callable(rate):
        return type(rate).__name__
    return float(f"{float(keras.ops.convert_to_numpy(rate)):.6g}")  # float32 has no more digits


def optimizer_name(optimizer: Any) -> str:
    """Its class; names of their own Keras counts up: adam_1, adam_2."""
    return type(inner_of(optimizer)).__name__


def _given_loss(given: Any, activations: list[str | None]) -> Any:
    """The loss that the user names; of logits, where the outputs are known to be such."""
    if not isinstance(given, str):
        return given
    loss = _named(keras.losses, "loss", given)
    entropy = _ENTROPIES.get(given.lower().replace("_", ""))
    if entropy is None or any(a != "linear" for a in activations):
        return loss
    return entropy(from_logits=True)


def _seen(
    model: Any, data: Data, settings: Settings, activations: list[str | None]
) -> list[str | None]:
    """The activations, with `softmax` for unknown ones of which a batch of outputs tells."""
    outputs = outputs_of(model)(data.first_inputs(settings.batch_size))

    def is_softmax(output: Any) -> bool:
        sums = output.sum(axis=-1) if output.ndim > 1 and output.shape[-1] > 1 else np.zeros(1)
        return bool(np.all(output >= 0) and np.allclose(sums, 1, atol=1e-2))

    return [
        "softmax" if activation is None and is_softmax(output) else activation
        for activation, output in zip(activations, outputs, strict=True)
    ]


def _metrics(settings: Settings, outputs: list[Port]) -> Any:
    """The metrics that the user names, for each output."""
    each = [[_given_metric(m, i) for m in settings.metric] for i in range(len(outputs))]
    return each[0] if len(outputs) == 1 else each


def _given_metric(given: Any, output: int) -> Any:
    """The metric that the user names: each output keeps count in one of its own."""
    if isinstance(given, keras.metrics.Metric):
        return new_from_config(given) if output else given
    return given if given in ("accuracy", "acc") else _named(keras.metrics, "metric", given)


def _named(module: Any, kind: str, given: Any) -> Any:
    """What Keras knows by this name; what is no name is taken as it is."""
    if not isinstance(given, str):
        return given
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return module.get(given)
    except (ValueError, TypeError) as e:
        names = [n for n in dir(module) if not n.startswith("_") and n not in _NO_NAMES]
        close = difflib.get_close_matches(given.lower(), [n.lower() for n in names], 3, 0.4)
        shown = [n for c in close for n in names if n.lower() == c]
        if kind == "loss" and "entropy" in given.lower():
            shown = difflib.get_close_matches(given.lower(), _ENTROPY_NAMES, 3, 0.0)
        known = [n for n in names if not n[0].isupper()] if kind == "loss" else names
        hint = f"did you mean {', '.join(dict.fromkeys(shown))}?"
        if not shown:
            hint = f"it knows {shortened(known, 20)}"
        raise ValueFault(f"Keras knows no {kind} {given!r}; {hint}") from e


_ENTROPY_NAMES = (
    "sparse_categorical_crossentropy",
    "categorical_crossentropy",
    "binary_crossentropy",
)
_NO_NAMES = ("get", "serialize", "deserialize", "schedules")


def _loss(objective: objectives.Objective) -> Any:
    entropy = _ENTROPIES.get(objective.loss.replace("_", ""))
    if not objective.from_logits or entropy is None:
        return keras.losses.get(objective.loss)
    return entropy(from_logits=True)


_ENTROPIES = {
    "sparsecategoricalcrossentropy": keras.losses.SparseCategoricalCrossentropy,
    "categoricalcrossentropy": keras.losses.CategoricalCrossentropy,
    "binarycrossentropy": keras.losses.BinaryCrossentropy,
}


def _metric(objective: objectives.Objective) -> Any:
    if objective.metric == "binary_accuracy":
        # Of logits, 0 is the even chance.
        threshold = 0.0 if objective.from_logits else 0.5
        return keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)
    if objective.metric == "sparse_categorical_accuracy":
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    if objective.metric == "categorical_accuracy":
        return keras.metrics.CategoricalAccuracy(name="accuracy")
    return objective.metric


def loss_names(loss: Any) -> str:
    if isinstance(loss, (list, tuple)):
        return ", ".join(loss_names(x) for x in loss)
    if isinstance(loss, Mapping):
        return ", ".join(f"{k}: {loss_names(v)}" for k, v in loss.items())
    if isinstance(loss, str):
        return loss
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss)


def _can_train(model: Any) -> bool:
    """Whether the model was compiled with all that training needs."""
    if not getattr(model, "compiled", False) or model.optimizer is None:
        return False
    has_own_way = type(model).compute_loss is not keras.Model.compute_loss
    has_own_way = has_own_way or type(model).train_step is not keras.Model.train_step
    return model.loss is not None or has_own_way


def loss_of_each(loss: Any, outputs: list[Port]) -> list[Any]:
    if isinstance(loss, Mapping):
        return [loss.get(port.name) for port in outputs]
    if isinstance(loss, (list, tuple)) and len(loss) == len(outputs):
        return list(loss)
    return [loss] * len(outputs)


def activations_of(model: Any, outputs: int) -> list[str | None]:
    """The activation of each output, by name."""
    found = [_activation(tensor) for tensor in keras_inside.graph_of(model).outputs]
    return found if len(found) == outputs else [None] * outputs


# What gives the numbers that it takes.
_PASSING = (
    keras.layers.Reshape,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.ActivityRegularization,
)


def _activation(tensor: Any) -> str | None:
    layer, node, index = keras_inside.origin_of(tensor)
    if isinstance(layer, keras.Model) and getattr(layer, "outputs", None):
        return _activation(layer.outputs[index])
    if isinstance(layer, _PASSING):
        (before,) = keras_inside.inputs_of_call(layer, node)
        return _activation(before)
    layer = getattr(layer, "layer", layer)  # TimeDistributed
    # Softmax is a layer and an operation, sigmoid an operation.
    if type(layer).__name__ in ("Softmax", "Sigmoid"):
        return type(layer).__name__.lower()
    activation = getattr(layer, "activation", None)
    if activation is None:
        return None
    return str(getattr(activation, "__name__", type(activation).__name__.lower()))
