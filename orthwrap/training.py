"""Fine-tuning a model that carries regularizers: compile, fit, and figures before and after."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np

from orthwrap import objectives
from orthwrap.data import Data, Port, load
from orthwrap.errors import OrthwrapError, ValueFault
from orthwrap.records import Training
from orthwrap.regularizers import OrthogonalityRegularizer
from orthwrap.stores.live import forget_compiled_steps, regularizers_of, set_optimizer

DEFAULT_EPOCHS = 5
DEFAULT_BATCH_SIZE = 32
DEFAULT_LEARNING_RATE = 1e-4


class Progress(Protocol):
    """Somebody who shows how training goes."""

    def start(self, choices: tuple[str, ...], epochs: int, steps: int) -> None: ...

    def step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, logs: Mapping[str, float]) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        epochs: times through the data.
        batch_size: samples per step.
        learning_rate: None keeps the model's own, or takes 1e-4 where it has none.
        seed: makes a run repeatable; None leaves randomness as it is.
    """

    epochs: int = DEFAULT_EPOCHS
    batch_size: int = DEFAULT_BATCH_SIZE
    learning_rate: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _whole_number(name, value, lowest))
        rate = self.learning_rate
        if rate is None:
            return
        is_number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
        if not (is_number and math.isfinite(rate) and rate > 0):
            raise ValueFault(f"learning rate {rate!r} must be a finite number above 0")
        object.__setattr__(self, "learning_rate", float(rate))


def _whole_number(name: str, value: Any, lowest: int) -> int:
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (is_whole and lowest <= value < 2**32):
        limit = " and below 2**32" if is_whole and value > 0 else ""
        raise ValueFault(f"{name} {value!r} must be a whole number of at least {lowest}{limit}")
    return int(value)


def ports(model: Any) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a model, by name and shape without the batch.

    Raises:
        ValueFault: a model that does not know its inputs.
    """
    graph = getattr(model, "_functional", None) or model
    inputs, outputs = getattr(graph, "inputs", None), getattr(graph, "outputs", None)
    if not inputs or not outputs:
        raise ValueFault(
            f"model {model.name!r} does not know its inputs and outputs: fine-tune it in Python "
            "with its own fit"
        )
    names = list(getattr(graph, "output_names", [])) or [t.name for t in outputs]
    return (
        [Port(t.name, tuple(t.shape[1:])) for t in inputs],
        [Port(n, tuple(t.shape[1:])) for n, t in zip(names, outputs, strict=True)],
    )


def read_data(model: Any, source: Any) -> Data:
    """The data, checked against the model's inputs; labels against its classes."""
    inputs, outputs = ports(model)
    return load(source, inputs, outputs)


def finetune(
    model: Any,
    data: Data,
    settings: Settings,
    progress: Progress | None = None,
    factors: Mapping[str, float] | None = None,
) -> Training:
    """Trains `model` as it is, regularizers and all.

    Raises:
        ValueFault: labels that fit no loss, or lie outside the classes.
        OrthwrapError: the loss became NaN or infinite; the model is then no longer good.
    """
    if settings.seed is not None:
        keras.utils.set_random_seed(settings.seed)
        _reseed(model, settings.seed)
    choices = _compile(model, data, settings)
    x, y = _as_model_takes(data.x), _as_model_takes(data.y)
    validation = None
    if data.x_val is not None and data.y_val is not None:
        validation = (_as_model_takes(data.x_val), _as_model_takes(data.y_val))
    steps = -(-data.samples // settings.batch_size)
    if progress is not None:
        progress.start(choices, settings.epochs, steps)
    watcher = _Watcher(progress)
    try:
        with split_losses(model), warnings.catch_warnings():
            # Keras warns of sizes and the like on paths the user did not choose.
            warnings.simplefilter("ignore")
            held_out = validation or (x, y)

            def evaluate() -> dict[str, float]:
                logs = model.evaluate(
                    *held_out, batch_size=settings.batch_size, verbose=0, return_dict=True
                )
                return _floats(logs)

            before = evaluate()
            history = model.fit(
                x,
                y,
                validation_data=validation,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                callbacks=[watcher],
                verbose=0,
            )
            if watcher.fault is not None:
                raise OrthwrapError(watcher.fault)
            after = evaluate()
    except OrthwrapError:
        raise
    except Exception as e:  # the model's own loss or metric may be anyone's
        raise OrthwrapError(
            f"training failed ({_gist(e)}): check that y is what the model's loss "
            f"({_loss_names(model.loss)}) takes"
        ) from e
    finally:
        if progress is not None:
            progress.stop()
    return Training(
        epochs=settings.epochs,
        factors=dict(factors or {}),
        history={k: tuple(float(v) for v in values) for k, values in history.history.items()},
        metrics_before=before,
        metrics_after=after,
        choices=choices,
    )


def _reseed(model: Any, seed: int) -> None:
    """What draws at random in the model was made before the seed was set."""
    states = (v for v in model.non_trainable_variables if v.name == "seed_generator_state")
    for i, state in enumerate(states):
        state.assign(np.asarray([(seed + i) % 2**31, 0], state.dtype))
    held = (regularizer for _, regularizer in regularizers_of(model))
    drawing = (r for r in held if isinstance(r, OrthogonalityRegularizer))
    for i, regularizer in enumerate(drawing):
        regularizer.reseed(seed + i)


def _as_model_takes(arrays: tuple[Any, ...]) -> Any:
    return arrays[0] if len(arrays) == 1 else list(arrays)


def _gist(error: BaseException) -> str:
    """The line of an error that says what is wrong; TensorFlow puts others before it."""
    noise = ("Graph execution error", "Detected at", "<stack traces", "File ", "[[{{")
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(noise)]
    return f"{type(error).__name__}: {telling[0]}" if telling else type(error).__name__


def _floats(logs: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in logs.items() if np.ndim(v) == 0}


# What to optimise


def _compile(model: Any, data: Data, settings: Settings) -> tuple[str, ...]:
    """Makes the model ready to train; says what was chosen, and why."""
    chosen = [f"data: {data.describe()}"]
    _, outputs = ports(model)
    activations = _activations(model, len(outputs))
    if _can_train(model):
        _check_labels(data, outputs, model)
        loss = _loss_names(model.loss)
        chosen.append(f"loss {loss}, optimizer {model.optimizer.name}: the model's own")
        if settings.learning_rate is not None:
            _set_learning_rate(model, settings.learning_rate)
            chosen.append(f"learning rate {settings.learning_rate:g}: as given")
        return tuple(chosen)
    picked = [
        objectives.choose(labels, port.shape, activation, port.name)
        for labels, port, activation in zip(data.y, outputs, activations, strict=True)
    ]
    for labels, port, objective in zip(data.y_val or (), outputs, picked, strict=False):
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


def _loss_names(loss: Any) -> str:
    if isinstance(loss, (list, tuple)):
        return ", ".join(_loss_names(x) for x in loss)
    if isinstance(loss, Mapping):
        return ", ".join(f"{k}: {_loss_names(v)}" for k, v in loss.items())
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
    for arrays in (data.y, data.y_val or ()):
        for labels, port, loss in zip(arrays, outputs, losses, strict=False):
            classes = port.shape[-1] if port.shape else None
            if classes is None or "sparse_categorical" not in _loss_names(loss).replace(" ", "_"):
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


# Watching


class split_losses:
    """While active, the model's logs tell `task_loss` and `penalty` apart.

    `loss` is their sum. The penalty is everything Keras adds to the compiled loss: regularizers
    of kernels, and losses of layers. Validation logs have both too.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._means: tuple[Any, Any] = (
            keras.metrics.Mean(name="task_loss"),
            keras.metrics.Mean(name="penalty"),
        )

    def __enter__(self) -> None:
        model, (task, penalty) = self._model, self._means
        total_of, aggregate = model.compute_loss, model._aggregate_additional_loss
        added: list[Any] = []

        def collecting(loss: Any) -> Any:
            added.append(aggregate(loss))
            return added[-1]

        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            added.clear()
            total = total_of(*args, **kwargs)
            extra = sum(added) if added else keras.ops.zeros((), total.dtype)
            # Keras weighs each batch's loss by its size; the last one may be smaller.
            samples = keras.ops.shape(keras.tree.flatten(args[0] if args else kwargs["x"])[0])[0]
            penalty.update_state(extra, samples)
            task.update_state(total - extra, samples)
            added.clear()  # traced tensors must not outlive their trace
            return total

        model._aggregate_additional_loss = collecting
        model.compute_loss = compute_loss
        model._metrics.extend(self._means)
        forget_compiled_steps(model)

    def __exit__(self, *error: object) -> None:
        model = self._model
        del model.compute_loss, model._aggregate_additional_loss
        for mean in self._means:
            model._metrics[:] = [m for m in model._metrics if m is not mean]
        forget_compiled_steps(model)


class _Watcher(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Tells the progress display how it goes, and stops when the loss is no longer a number."""

    def __init__(self, progress: Progress | None) -> None:
        super().__init__()
        self._progress = progress
        self._epoch = 0
        self.fault: str | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        values = _floats(logs or {})
        loss = values.get("loss", 0.0)
        if not math.isfinite(loss):
            self.fault = (
                f"the loss became {loss} in epoch {self._epoch + 1}, step {batch + 1}: nothing was "
                "saved; try a lower learning rate or factor"
            )
            self.model.stop_training = True
        if self._progress is not None:
            self._progress.step(self._epoch, batch + 1, values)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._progress is not None:
            self._progress.epoch(epoch, _floats(logs or {}))
