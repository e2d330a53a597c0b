"""Labels as the loss takes them, and class numbers that there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orthwrap.data import Data, Port
from orthwrap.data.ports import shape_text
from orthwrap.errors import ValueFault
from orthwrap.training.goal import objectives
from orthwrap.training.goal.compiling import loss_names, loss_of_each
from orthwrap.training.goal.inputs_outputs import ports


def fit_labels(model: Any, data: Data) -> tuple[Data, tuple[str, ...]]:
    """The data with class numbers as one-hot labels, or the other way, as the loss takes them.

    Those of streams are changed batch by batch, if their first batches ask for it. Says so where
    any were changed.

    Raises:
        ValueFault: a class number that has no output of its own, or one number a sample where
            the loss wants as many as the output has.
    """
    _, outputs = ports(model)
    losses = loss_of_each(model.loss, outputs)
    pairs = list(zip(losses, outputs, strict=True))

    def fitted(arrays: tuple[Any, ...]) -> list[Any]:
        return [_as_taken(a, *pair) for a, pair in zip(arrays, pairs, strict=True)]

    parts = zip((data.labels, data.validation_labels), data.are_kept, strict=True)
    now = [_changed(fitted(part), part) if part and is_kept else None for part, is_kept in parts]
    in_streams = [
        bool(part) and not is_kept and _changed(fitted(part), part) is not None
        for part, is_kept in zip((data.labels, data.validation_labels), data.are_kept, strict=True)
    ]
    notes: tuple[str, ...] = ()
    if any(now) or any(in_streams):
        first = fitted(data.labels)
        data = data.with_targets(*now)
        if any(in_streams):
            data = data.with_stream_labels(lambda batch: _alike(fitted(batch), batch, first))
        notes = ("labels: between class numbers and one-hot, as the loss takes them",)
    for part in (data.labels, data.validation_labels):
        for labels, loss, port in zip(part, losses, outputs, strict=False):
            _check(labels, loss, port)
    return data, notes


def _alike(now: list[Any], batch: tuple[Any, ...], first: Sequence[Any]) -> tuple[Any, ...]:
    """The changed labels of a batch; ValueFault where they are of another kind than the first."""
    for array, given, one in zip(now, batch, first, strict=True):
        if array.ndim != one.ndim:
            raise ValueFault(
                f"y of a batch has samples of shape {shape_text(given.shape[1:])} that are no such "
                "classes as the first batches hold: give class numbers, or one-hot rows throughout"
            )
    return tuple(now)


def _changed(now: list[Any], before: tuple[Any, ...]) -> list[Any] | None:
    """`now`, or None where it is as before."""
    return now if any(a is not b for a, b in zip(now, before, strict=True)) else None


def _as_taken(labels: Any, loss: Any, port: Port) -> Any:
    classes = port.shape[-1] if len(port.shape) == 1 else None
    name = _name(loss)
    if classes is None or classes < 2 or "categorical_crossentropy" not in name:
        return labels
    if "sparse" in name:
        is_one_hot = labels.shape[1:] == (classes,) and bool(
            np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=-1) == 1)
        )
        return labels.argmax(axis=-1) if is_one_hot else labels
    if labels.shape[1:] not in ((), (1,)) or not np.all(labels % 1 == 0):
        return labels
    objectives.check_classes(labels, classes, port.name)
    return np.eye(classes, dtype="float32")[labels.reshape(-1).astype(int)]


def _check(labels: Any, loss: Any, port: Port) -> None:
    """Class numbers against the classes, and against a loss that is about none."""
    classes = port.shape[-1] if port.shape else None
    if classes is None or not _is_keras_own(loss):
        return
    if "sparse_categorical" not in _name(loss):
        _check_width(labels, loss, port, classes)
        return
    if len(port.shape) == 1 and labels.shape[1:] not in ((), (1,)):
        raise ValueFault(
            f"loss {loss_names(loss)} wants one class number for each sample; y has "
            f"{shape_text(labels.shape[1:])} of them, and one-hot labels would be {classes} wide"
        )
    counted = labels[labels != getattr(loss, "ignore_class", None)]
    objectives.check_finite(counted, port.name)
    if np.any(counted % 1):
        raise ValueFault(
            f"loss {loss_names(loss)} wants class numbers; y holds {counted[counted % 1 > 0][0]:g} "
            f"for output {port.name!r}: give whole numbers, or take another loss"
        )
    if counted.size:
        objectives.check_classes(counted, classes, port.name)


def _check_width(labels: Any, loss: Any, port: Port, width: int) -> None:
    """One number a sample against Keras's losses of as many as the output has."""
    is_one = len(port.shape) == 1 and width > 1 and labels.shape[1:] in ((), (1,))
    if is_one and _name(loss) not in _OF_CLASS_NUMBERS:
        raise ValueFault(
            f"loss {loss_names(loss)} wants {width} numbers for each sample, as output "
            f"{port.name!r} gives; y has 1: give such y (one-hot, if they are class numbers), or "
            "take the loss sparse_categorical_crossentropy"
        )


_OF_CLASS_NUMBERS = ("circle", "ctc")


def _is_keras_own(loss: Any) -> bool:
    if isinstance(loss, str):
        return True
    function = getattr(loss, "fn", loss)
    module = getattr(function, "__module__", "") or ""
    return module.startswith("keras.") and not isinstance(loss, type)


def _name(loss: Any) -> str:
    return loss_names(loss).replace(" ", "_")
