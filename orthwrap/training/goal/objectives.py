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
    logits = activation not in ("softmax", "sigmoid")
    kind = f"{activation or 'unknown'} output"
    sample = labels.shape[1:]
    places = output_shape[:-1]
    as_outputs = _fits(sample, output_shape)
    as_classes = whole and (_fits(sample, places) or _fits(sample, (*places, 1)))

    if width is not None and width > 1 and as_classes:
        if activation == "sigmoid":
            raise ValueFault(
                f"output {name!r} has {width} sigmoids and y holds class numbers of shape "
                f"{sample}: give y as {width} columns of 0 and 1"
            )
        check_classes(labels, width, name)
        return Objective(
            "sparse_categorical_crossentropy",
            logits,
            "sparse_categorical_accuracy",
            f"{kind} of {width} with whole-number labels",
            width,
        )
    if not as_outputs and not (width == 1 and _fits(sample, places)):
        raise ValueFault(
            f"y has samples of shape {sample}; output {name!r} gives {output_shape}: "
            "they must agree, or y hold class numbers"
        )
    binary = whole and bool(np.all((labels == 0) | (labels == 1)))
    if width == 1:
        if activation == "sigmoid" and binary:
            return Objective(
                "binary_crossentropy", False, "binary_accuracy", "one sigmoid, labels 0 and 1"
            )
        if binary and labels.dtype.kind in "biu" and logits:
            return Objective(
                "binary_crossentropy", True, "binary_accuracy", f"one {kind}, labels 0 and 1"
            )
        return Objective(
            "mean_squared_error", False, "mean_absolute_error", f"one {kind}, numeric labels"
        )
    sums_to_one = bool(np.allclose(labels.sum(axis=-1), 1.0, atol=1e-4)) and bool(
        np.all(labels >= 0)
    )
    if activation == "sigmoid" and np.all((labels >= 0) & (labels <= 1)):
        return Objective(
            "binary_crossentropy", False, "binary_accuracy", f"{width} sigmoids, one label each"
        )
    if sums_to_one and (activation == "softmax" or binary):
        what = "one-hot labels" if binary else "labels that sum to 1"
        return Objective(
            "categorical_crossentropy", logits, "categorical_accuracy", f"{kind}, {what}"
        )
    if activation == "softmax":
        raise ValueFault(
            f"output {name!r} is a softmax, but the rows of y do not sum to 1: "
            "give class numbers or one-hot labels"
        )
    if binary and labels.dtype.kind in "biu":
        return Objective("binary_crossentropy", True, "binary_accuracy", f"{kind}, labels 0 and 1")
    return Objective("mean_squared_error", False, "mean_absolute_error", f"{kind}, numeric labels")


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
