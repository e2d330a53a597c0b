"""What would go wrong in training, found before it begins: objects of other kinds, numbers that
are none, a figure to monitor that there is not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from orthwrap import keras_inside
from orthwrap.data import Data
from orthwrap.data.ports import Array, as_model_takes, shape_text
from orthwrap.errors import ValueFault
from orthwrap.live.live_store import regularizers_of
from orthwrap.regularizers import OrthogonalityRegularizer
from orthwrap.text import counted, error_summary
from orthwrap.training.factors.schedule_callback import FactorSchedule
from orthwrap.training.goal.compiling import loss_names, loss_of_each
from orthwrap.training.goal.inputs_outputs import ports
from orthwrap.training.loop.monitor import is_lower_better
from orthwrap.training.settings import Settings


def check_objects(settings: Settings) -> None:
    """Raises ValueFault for what Keras would not take as loss, optimizer, metric or callback.

    Names are looked up later; here it is about objects of another kind.
    """
    if settings.schedule is not None:
        FactorSchedule(settings.schedule, by=settings.schedule_by)
    _check_optimizer(settings.optimizer)
    for kind, values in (("loss", (settings.loss,)), ("metric", settings.metric)):
        for value in _leaves(values):
            if not (value is None or isinstance(value, str) or callable(value)):
                raise ValueFault(
                    f"{kind} {value!r} is none: give the name of a Keras {kind}, an object of "
                    "one, or a function of y and the output"
                )
    for callback in settings.callbacks:
        if isinstance(callback, type):
            raise ValueFault(_is_class("callback", callback))
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueFault(
                f"callbacks must be objects of keras.callbacks.Callback; got "
                f"{type(callback).__name__}"
            )
        if isinstance(callback, keras.callbacks.BackupAndRestore):  # it would set the epoch, too
            raise ValueFault(
                "callback BackupAndRestore goes back to a place of its own: give checkpoint_dir, "
                "and resume to go on from there"
            )


def _check_optimizer(given: Any) -> None:
    if given is None or isinstance(given, (str, keras.optimizers.Optimizer)):
        return
    if isinstance(given, type):
        raise ValueFault(_is_class("optimizer", given))
    raise ValueFault(
        f"optimizer {given!r} is none: give the name of a Keras optimizer, or an object of one"
    )


def _is_class(kind: str, given: type) -> str:
    return f"{kind} {given.__name__} is a class: give an object of it, {given.__name__}(...)"


def _leaves(values: Any) -> Iterator[Any]:
    """What is inside lists, tuples and mappings."""
    if isinstance(values, Mapping):
        values = tuple(values.values())
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


def check_numbers(model: Any, data: Data, devices: int | None) -> str:
    """Raises ValueFault for NaN and infinity in weights, and in x if they reach the output.

    A model may know what to do with them, so it is asked about a sample. Returns what to say
    where the training fails all the same; "" for nothing.
    """
    for variable in model.trainable_weights:  # an activation such as ReLU may hide them at first
        if not _is_finite(variable):
            raise ValueFault(_weight(variable))
    for part, name in ((data.train, "x"), (data.held_out, "x to validate on")):
        found = None if part is None else part.not_finite()
        if found is None:
            continue
        count = counted(found.samples, "sample")
        message = f"{name} holds NaN or infinity in {count}, first in number {found.first}"
        x = tuple(np.repeat(a, devices or 1, axis=0) for a in found.x)
        outputs = keras.tree.flatten(model(as_model_takes(x), training=False))
        if not all(_is_finite(output) for output in outputs):
            raise ValueFault(f"{message}, and so does the model's output: mend or remove them")
        return f"{message}: mend or remove them"
    return ""


def check_figures(model: Any, data: Data, figures: Mapping[str, float], settings: Settings) -> None:
    """Raises ValueFault where the figures before training say that it cannot go well.

    Args:
        figures: losses and metrics of the model as it is.
    """
    for name in ("task_loss", "penalty", "loss"):
        value = figures.get(name, 0.0)
        if not math.isfinite(value):
            word = name.replace("_", " ")
            raise ValueFault(f"the {word} is {value} before training: {_culprit(model, data)}")
    has_own_step = type(model).train_step is not keras.Model.train_step
    if settings.monitor is None or has_own_step:
        return
    names = [name for name in figures if name != "agreement"]
    if data.held_out is not None:
        names += [f"val_{name}" for name in names]
    if settings.monitor not in names:
        raise ValueFault(
            f"monitor {settings.monitor!r} is none of the figures; there are: {', '.join(names)}"
        )
    is_lower_better(model, settings.monitor)


_SWAMPS = 10.0  # times the task loss
_FAR = 3.0  # times what guessing gives


def warnings_before(
    model: Any,
    data: Data,
    figures: Mapping[str, float],
    settings: Settings,
    *,
    pulled: bool,
    resolved: bool,
) -> tuple[str, ...]:
    """What the figures before training say that it may go badly, a line each.

    Args:
        figures: losses and metrics of the model as it is.
        pulled: kernels are pulled, so that the loss has no penalty of them.
        resolved: factors were found from gradients, in proportion to rho.
    """
    task, penalty = abs(figures.get("task_loss", 0.0)), figures.get("penalty", 0.0)
    if settings.distill:  # who imitates itself has no task loss at first
        return ()
    lines = _worse_than_guessing(model, data, figures)
    if pulled or not penalty > _SWAMPS * task > 0:
        return lines
    held = (r for _, r in regularizers_of(model))
    ours = [r.attachment for r in held if isinstance(r, OrthogonalityRegularizer)]
    ways = ["a smaller rho"] if resolved else ["factor auto", "a smaller factor"]
    if any(a.scale == "unit" and a.on == "kernel" for a in ours):
        ways.insert(0, "scale preserve")
    advice = " or ".join([", ".join(ways[:-1]), ways[-1]] if ways[1:] else ways)
    ratio = float(f"{penalty / task:.2g}")
    return (
        *lines,
        f"the penalty is {ratio:g} × the task loss ({penalty:.3g} beside {task:.3g}): attach with "
        f"{advice}",
    )


def _worse_than_guessing(model: Any, data: Data, figures: Mapping[str, float]) -> tuple[str, ...]:
    """Where a loss is far above what one gets by guessing: a line of each output."""
    outputs = ports(model)[1]
    if keras_inside.compile_arguments(model).get("loss_weights") is not None:
        return ()
    lines = []
    labels = data.validation_labels or data.labels
    for loss, port, y in zip(loss_of_each(model.loss, outputs), outputs, labels, strict=False):
        found = figures.get("task_loss" if len(outputs) == 1 else f"{port.name}_loss", 0.0)
        chance = None if loss is None else _by_guessing(loss_names(loss), port.shape, y)
        if chance is not None and found > _FAR * chance > 0:
            at = f" of {port.name}" if len(outputs) > 1 else ""
            lines.append(
                f"the task loss{at} before training is {found:.3g}, where guessing gives "
                f"{chance:.2g}: compare x with what the model was trained on (rescale, "
                "preprocessing), and y with its classes"
            )
    return tuple(lines)


def _by_guessing(loss: str, shape: Sequence[int | None], y: Array) -> float | None:
    """What a model that knows nothing of x would get: equal chances, or the mean of y."""
    name = loss.replace("_", "").lower()
    width = shape[-1] if shape else None
    if "categoricalcrossentropy" in name:
        return math.log(width) if width is not None and width > 1 else None
    if name == "binarycrossentropy":
        return math.log(2)
    if name in ("mse", "meansquarederror") and y.dtype.kind in "biuf":
        return float(np.mean(np.var(y.astype("float64"), axis=0)))
    return None


def label_fault(model: Any, batch: Sequence[Any]) -> str:
    """What in the model's loss or metrics fails on y, each tried alone; "" for nothing.

    Args:
        model: compiled.
        batch: `(x, y)` or `(x, y, sample_weight)`, as `fit` takes it.

    Whatever the model itself raises on x goes on. Metrics are tried where there is one output.
    """
    outputs = keras.tree.flatten(model(batch[0], training=False))
    labels = keras.tree.flatten(batch[1])
    losses = loss_of_each(model.loss, ports(model)[1])
    for loss, y, output in zip(losses, labels, outputs, strict=True):
        fault = "" if loss is None else _fault(keras.losses.get(loss), y, output)
        if fault:
            return f"loss {loss_names(loss)}{fault}"
    metrics = _leaves(keras_inside.metrics_as_given(model)) if len(outputs) == 1 else ()
    for metric in metrics:
        if metric is None or metric in ("accuracy", "acc"):
            continue  # of several kinds, and Keras chooses one that fits
        found = keras.metrics.get(metric)
        if isinstance(found, keras.metrics.Metric):  # what it has counted stays as it is
            found = type(found).from_config(found.get_config())
        fault = _fault(found, labels[0], outputs[0])
        if fault:
            return f"metric {loss_names(metric)}{fault}"
    return ""


def _fault(function: Any, y: Any, output: Any) -> str:
    """How a loss or metric fails; "" where it does not."""
    try:
        function(y, output)
    except Exception as e:  # it may be anyone's
        return (
            f", tried alone, fails on y of shape {shape_text(y.shape)} and outputs of shape "
            f"{shape_text(output.shape)} ({error_summary(e)})"
        )
    return ""


def _culprit(model: Any, data: Data) -> str:
    """What holds NaN or infinity, where that can be told."""
    for variable in model.weights:
        if not _is_finite(variable):
            return _weight(variable)
    for labels in (*data.labels, *data.validation_labels):
        if not np.all(np.isfinite(labels)):
            return "y holds NaN or infinity: mend or remove these samples"
    return "the data, or what the model or its loss computes, is no finite number"


def _weight(variable: Any) -> str:
    return (
        f"weight {variable.path} of the model holds NaN or infinity: take the model as it was "
        "before"
    )


def _is_finite(tensor: Any) -> bool:
    array: Array = np.asarray(keras.ops.convert_to_numpy(tensor))
    if array.dtype.kind in "biu":
        return True
    return bool(np.all(np.isfinite(array.astype("float32", copy=False))))
