"""What to optimise, where the model does not say: loss and metric from output and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orthwrap.errors import ValueFault


@dataclass(frozen=True)
class Objective:
    """A loss and a metric for one output, and why.

    Attributes:
        loss: the Keras loss's name.
        from_logits: the output has no softmax or sigmoid of its own.
        metric: the Keras metric's name.
        why: one clause for the user.
        classes: how many there are, where labels are class numbers; else None.
    """

    loss: str
    from_logits: bool
    metric: str
    why: str
    classes: int | None = None


def choose(
    labels: NDArray[Any], output_shape: tuple[int | None, ...], activation: str | None, name: str
) -> Objective:
    """Loss and metric for one output.

    Args:
        labels: of all samples, the first axis being the sample.
        output_shape: without the batch.
        activation: of the output layer: softmax, sigmoid, linear, …; None where not known.
        name: the output's, for messages.

    Raises:
        ValueFault: labels that fit no objective, or lie outside the classes.
    """
    check_finite(labels, name)
    width = output_shape[-1] if output_shape else 1
    whole = bool(labels.size) and bool(np.all(np.equal(np.mod(labels, 1), 0)))
    sample = labels.shape[1:]
    places = output_shape[:-1]
    as_classes = whole and (_fits(sample, places) or _fits(sample, (*places, 1)))
    if width is not None and width > 1 and as_classes:
        return _of_class_numbers(labels, width, activation, name)
    if not _fits(sample, output_shape) and not (width == 1 and _fits(sample, places)):
        raise ValueFault(
            f"y has samples of shape {sample}; output {name!r} gives {output_shape}: "
            "they must agree, or y hold class numbers"
        )
    binary = whole and bool(np.all((labels == 0) | (labels == 1)))
    if width == 1:
        return _of_one_number(labels, activation, binary)
    return _of_columns(labels, width, activation, name, binary)


def _has_logits(activation: str | None) -> bool:
    return activation not in ("softmax", "sigmoid")


def _kind(activation: str | None) -> str:
    return f"{activation or 'unknown'} output"


def _of_class_numbers(
    labels: NDArray[Any], width: int, activation: str | None, name: str
) -> Objective:
    if activation == "sigmoid":
        raise ValueFault(
            f"output {name!r} has {width} sigmoids and y holds class numbers of shape "
            f"{labels.shape[1:]}: give y as {width} columns of 0 and 1"
        )
    check_classes(labels, width, name)
    return Objective(
        "sparse_categorical_crossentropy",
        _has_logits(activation),
        "sparse_categorical_accuracy",
        f"{_kind(activation)} of {width} with whole-number labels",
        width,
    )


def _of_one_number(labels: NDArray[Any], activation: str | None, binary: bool) -> Objective:
    if activation == "sigmoid" and binary:
        why = "one sigmoid, labels 0 and 1"
        return Objective("binary_crossentropy", False, "binary_accuracy", why)
    if binary and labels.dtype.kind in "biu" and _has_logits(activation):
        why = f"one {_kind(activation)}, labels 0 and 1"
        return Objective("binary_crossentropy", True, "binary_accuracy", why)
    why = f"one {_kind(activation)}, numeric labels"
    return Objective("mean_squared_error", False, "mean_absolute_error", why)


def _of_columns(
    labels: NDArray[Any], width: int | None, activation: str | None, name: str, binary: bool
) -> Objective:
    """Labels of the output's own shape."""
    kind = _kind(activation)
    if activation == "sigmoid" and np.all((labels >= 0) & (labels <= 1)):
        why = f"{width} sigmoids, one label each"
        return Objective("binary_crossentropy", False, "binary_accuracy", why)
    sums_to_one = np.allclose(labels.sum(axis=-1), 1.0, atol=1e-4) and np.all(labels >= 0)
    if sums_to_one and (activation == "softmax" or binary):
        why = f"{kind}, {'one-hot labels' if binary else 'labels that sum to 1'}"
        logits = _has_logits(activation)
        return Objective("categorical_crossentropy", logits, "categorical_accuracy", why)
    if activation == "softmax":
        raise ValueFault(
            f"output {name!r} is a softmax, but the rows of y do not sum to 1: "
            "give class numbers or one-hot labels"
        )
    if binary and labels.dtype.kind in "biu":
        why = f"{kind}, labels 0 and 1"
        return Objective("binary_crossentropy", True, "binary_accuracy", why)
    why = f"{kind}, numeric labels"
    return Objective("mean_squared_error", False, "mean_absolute_error", why)


def _fits(sample: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    """Whether a sample has a shape, None being any size."""
    return len(sample) == len(shape) and all(
        want in (None, have) for have, want in zip(sample, shape, strict=True)
    )


def check_finite(labels: NDArray[Any], name: str) -> None:
    """ValueFault where a label is no number."""
    if not np.all(np.isfinite(labels)):
        raise ValueFault(f"y holds NaN or infinity for output {name!r}: give numbers")


def check_classes(labels: NDArray[Any], classes: int, name: str) -> None:
    """ValueFault where a class number has no output of its own."""
    low, high = labels.min(), labels.max()
    if low < 0 or high >= classes:
        raise ValueFault(
            f"y holds class numbers from {low:g} to {high:g}; output {name!r} has {classes} "
            f"classes, 0 to {classes - 1}"
        )
