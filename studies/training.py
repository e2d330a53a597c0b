"""One training of one arm, as a user of orthwrap would write it, and what is scored."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import orthwrap
from studies.data import Array, Split
from studies.experiment import Scores

Build = Callable[[tuple[int, ...], int], Any]

ADAM = 1e-3
BINS = 15  # of the expected calibration error
STEPS_AT_ONCE = 16  # the same numbers, and for small networks up to 40 % less time


@dataclass(frozen=True)
class Recipe:
    """How an experiment trains: the same for each of its arms."""

    epochs: int
    rate: float = ADAM
    batch_size: int = 32
    target: str = "all"
    exclude: tuple[str, ...] = ("head",)


def trained(build: Build, split: Split, arm: str, strength: float, seed: int, how: Recipe) -> Any:
    """The network after its training; initial weights and batches follow from the seed alone.

    It is the same object for every seed, set back to where it began: to trace the steps of small
    networks takes longer than to run them.
    """
    shape = split.x.shape[1:]
    keras.utils.set_random_seed(seed)
    drawn = build(shape, split.classes).get_weights()
    model, state = _compiled(build, shape, split.classes, arm, strength, how)
    model.set_weights(drawn)
    for variable, value in zip(model.optimizer.variables, state, strict=True):
        variable.assign(value)
    fit(model, split.x, split.y, seed, how)
    return model


@functools.lru_cache(maxsize=16)
def _compiled(
    build: Build, shape: tuple[int, ...], classes: int, arm: str, strength: float, how: Recipe
) -> tuple[Any, list[Array]]:
    """A model, and its optimizer's variables before any step."""
    model = equipped(build(shape, classes), arm, strength, how)
    compile_for(model, how.rate, decay=strength if arm == "decay" else 0)
    model.optimizer.build(model.trainable_variables)
    if arm == "pull":  # for good: as a callback it would have the steps traced anew for each seed
        orthwrap.Pull(strength).start(model)
    return model, [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]


def fit(model: Any, x: Array, y: Array, seed: int, how: Recipe) -> None:
    """All epochs in a row, each in an order of its own: to begin an epoch takes Keras a while."""
    draw = np.random.default_rng(seed)
    order = np.concatenate([draw.permutation(len(x)) for _ in range(how.epochs)])
    model.fit(
        *(x[order], y[order]),
        batch_size=how.batch_size,
        shuffle=False,
        verbose=0,
    )


def equipped(model: Any, arm: str, strength: float, how: Recipe) -> Any:
    """The model of an arm: `plain` and `decay` as they are, `pull`, or a penalty's name.

    Penalties are as published, which drive singular values to 1: a network that is not trained yet
    has no scale to keep.
    """
    if arm in ("plain", "decay"):
        return model
    penalty = {} if arm == "pull" else {"regularizer": arm, "factor": strength}
    return orthwrap.apply(
        model, target=how.target, exclude=how.exclude, scale="unit", measure=False, **penalty
    ).model


def compile_for(model: Any, rate: float, *, decay: float = 0) -> None:
    """Adam with a decoupled decay. XLA takes longer to compile these than to run them."""
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=decay),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
        steps_per_execution=STEPS_AT_ONCE,
    )


def scores(model: Any, split: Split, target: str = "all") -> Scores:
    """Of the test samples, the validation accuracy, and the residuals of kernels but the head's."""
    return {
        "validation": accuracy(probabilities(model, split.x_val), split.y_val),
        **of_probabilities(probabilities(model, split.x_test), split.y_test),
        **residuals(model, target),
    }


def probabilities(model: Any, x: Array) -> Array:
    """Samples × classes. Called as it is: to trace a function for it would take longer."""
    parts = [model(x[start : start + 500], training=False) for start in range(0, len(x), 500)]
    return np.concatenate([np.asarray(part, "float64") for part in parts])


def accuracy(p: Array, y: Array) -> float:
    """The share whose largest probability is at the label."""
    return float(np.mean(p.argmax(1) == y))


def of_probabilities(p: Array, y: Array) -> Scores:
    """Accuracy, negative log-likelihood, Brier score, and calibration error in 15 equal bins."""
    confidence, right = p.max(1), p.argmax(1) == y
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(np.sum(right[bins == b]) - np.sum(confidence[bins == b])) for b in range(BINS)]
    return {
        "accuracy": accuracy(p, y),
        "nll": float(-np.mean(np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)))),
        "brier": float(np.mean(np.sum((p - np.eye(p.shape[1])[y]) ** 2, axis=1))),
        "ece": float(sum(gaps) / len(y)),
    }


def residuals(model: Any, target: str = "all") -> Scores:
    """The largest and the middle residual of what `target` chooses, heads left out."""
    exclude = ("head",) if target == "all" else ()
    layers = orthwrap.inspect(model, target=target, exclude=exclude).layers
    found = [layer.before.residual for layer in layers if layer.before is not None]
    return {"residual_worst": max(found), "residual_median": float(np.median(found))}
