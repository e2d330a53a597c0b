"""Which way a figure gets better."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.errors import ValueFault
from orthwrap.training.loop.losses import FIGURES

# Parts of names, for figures of which no Keras metric tells. What is an error is looked for first.
_LOWER = (
    *("loss", "error", "penalty", "entropy", "divergence", "kld", "hinge", "poisson", "perplexity"),
    *("false_", "distance", "mae", "mse", "mape", "msle", "rmse"),
)
_HIGHER = (
    *(
        "acc",
        "auc",
        "precision",
        "recall",
        "f1",
        "iou",
        "io_u",
        "score",
        "similarity",
        "dice",
        "true_",
    ),
    *("r2", "psnr", "ssim", "correlation", "agreement"),
)


def is_lower_better(model: Any, figure: str) -> bool:
    """Whether the best epoch is the one where this is lowest, as the metric says, or its name.

    Args:
        figure: as in the logs: `val_task_loss`, `mae`, `head_accuracy`.

    Raises:
        ValueFault: neither tells.
    """
    name = figure.removeprefix("val_")
    for metric in _metrics(model):
        if name == metric.name or name.endswith(f"_{metric.name}"):
            direction = keras_inside.direction_of(metric)
            if direction in ("up", "down"):
                return bool(direction == "down")
    for words, is_lower in ((_LOWER, True), (_HIGHER, False)):
        if any(word in name for word in words):
            return is_lower
    raise ValueFault(
        f"monitor {figure!r}: nothing says whether it should be low or high: give the metric a "
        "name with 'error' or 'score' in it"
    )


@contextlib.contextmanager
def directions_known(callbacks: Sequence[Any]) -> Iterator[None]:
    """While active, callbacks of Keras that monitor one of our figures know which way is better.

    By themselves they look for it among compiled metrics alone, and give up.
    """
    ours = [c for c in callbacks if getattr(c, "mode", None) == "auto" and _is_ours(c)]
    for callback in ours:
        callback.mode = "min"
    try:
        yield
    finally:
        for callback in ours:
            callback.mode = "auto"


def _is_ours(callback: Any) -> bool:
    monitor = getattr(callback, "monitor", None)
    return isinstance(monitor, str) and monitor.removeprefix("val_") in FIGURES


def _metrics(model: Any) -> list[Any]:
    found = []
    for metric in model.metrics:
        inner = getattr(metric, "metrics", None)  # of what `compile` was given
        found += inner if isinstance(inner, list) else [metric]
    return [m for m in found if isinstance(m, keras.metrics.Metric)]
