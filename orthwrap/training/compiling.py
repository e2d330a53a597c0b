"""What to optimise: as the model was compiled, or chosen from its outputs and the labels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from orthwrap.data import Data, Port
from orthwrap.stores.live import set_optimizer
from orthwrap.training import objectives
from orthwrap.training.ports import ports
from orthwrap.training.settings import DEFAULT_LEARNING_RATE, Settings


def compile_model(model: Any, data: Data, settings: Settings) -> tuple[str, ...]:
    """Makes the model ready to train; says what was chosen, and why."""
    chosen = [f"data: {data.describe()}"]
    _, outputs = ports(model)
    activations = _activations(model, len(outputs))
    if _can_train(model):
        _check_labels(data, outputs, model)
        loss = loss_names(model.loss)
        chosen.append(f"loss {loss}, optimizer {model.optimizer.name}: the model's own")
        if settings.learning_rate is not None:
            _set_learning_rate(model, settings.learning_rate)
            chosen.append(f"learning rate {settings.learning_rate:g}: as given")
        return tuple(chosen)
    picked = [
        objectives.choose(labels, port.shape, activation, port.name)
        for labels, port, activation in zip(data.labels, outputs, activations, strict=True)
    ]
    for labels, port, objective in zip(data.validation_labels, outputs, picked, strict=False):
        if objective.classes is not None:
            objectives.check_classes(labels, objective.classes, port.name)
    rate = settings.learning_rate or DEFAULT_LEARNING_RATE
    losses = [_loss(o) for o in picked]
    metrics = [[_metric(o)] for o in picked]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss=losses[0] if len(losses) == 1 else losses,
            metrics=metrics[0] if len(metrics) == 1 else metrics,
        )
    for port, objective in zip(outputs, picked, strict=True):
        logits = " from logits" if objective.from_logits else ""
        at = f"{port.name}: " if len(outputs) > 1 else ""
        chosen.append(f"{at}loss {objective.loss}{logits}: {objective.why}")
    given = "as given" if settings.learning_rate is not None else "the model names none"
    chosen.append(f"optimizer adam, learning rate {rate:g}: {given}")
    return tuple(chosen)


def _loss(objective: objectives.Objective) -> Any:
    loss = keras.losses.get(objective.loss)
    if not objective.from_logits or "crossentropy" not in objective.loss:
        return loss
    classes = {
        "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
        "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
        "binary_crossentropy": keras.losses.BinaryCrossentropy,
    }
    return classes[objective.loss](from_logits=True)


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


def _set_learning_rate(model: Any, rate: float) -> None:
    """The optimizer at this rate, its state kept; a schedule that it follows ends."""
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner.learning_rate, keras.Variable) and not isinstance(
        inner._learning_rate, keras.optimizers.schedules.LearningRateSchedule
    ):
        optimizer.learning_rate = rate
        return
    config = optimizer.get_config()
    own = config if inner is optimizer else config["inner_optimizer"]["config"]
    own["learning_rate"] = rate
    new = type(optimizer).from_config(config)
    if optimizer.built:
        new.build(optimizer._trainable_variables)
        constant = getattr(new, "inner_optimizer", new)._learning_rate
        state = [v for v in new.variables if v is not constant]
        for old, fresh in zip(optimizer.variables, state, strict=True):
            fresh.assign(old)
    set_optimizer(model, new)


def _check_labels(data: Data, outputs: list[Port], model: Any) -> None:
    """Class numbers against the classes, where the model's own loss is about class numbers."""
    losses = _loss_of_each(model.loss, outputs)
    for arrays in (data.labels, data.validation_labels):
        for labels, port, loss in zip(arrays, outputs, losses, strict=False):
            classes = port.shape[-1] if port.shape else None
            if classes is None or "sparse_categorical" not in loss_names(loss).replace(" ", "_"):
                continue
            counted = labels[labels != getattr(loss, "ignore_class", None)]
            if counted.size:
                objectives.check_classes(counted, classes, port.name)


def _loss_of_each(loss: Any, outputs: list[Port]) -> list[Any]:
    if isinstance(loss, Mapping):
        return [loss.get(port.name) for port in outputs]
    if isinstance(loss, (list, tuple)) and len(loss) == len(outputs):
        return list(loss)
    return [loss] * len(outputs)


def _activations(model: Any, outputs: int) -> list[str | None]:
    """The activation of each output, by name."""
    graph = getattr(model, "_functional", None) or model
    found = [_activation(tensor) for tensor in graph.outputs]
    return found if len(found) == outputs else [None] * outputs


def _activation(tensor: Any) -> str | None:
    layer, _, index = getattr(tensor, "_keras_history", (None, 0, 0))
    if isinstance(layer, keras.Model) and getattr(layer, "outputs", None):
        return _activation(layer.outputs[index])
    layer = getattr(layer, "layer", layer)  # TimeDistributed
    # Softmax is a layer and an operation, sigmoid an operation.
    if type(layer).__name__ in ("Softmax", "Sigmoid"):
        return type(layer).__name__.lower()
    activation = getattr(layer, "activation", None)
    if activation is None:
        return None
    return str(getattr(activation, "__name__", type(activation).__name__.lower()))
