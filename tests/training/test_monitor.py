"""Which epoch is the best: whether a figure is better low or high."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest

import orthwrap
from orthwrap.training.loop.monitor import is_lower_better
from tests.support import models

pytestmark = pytest.mark.usefixtures("eagerly")


class Named(keras.metrics.Mean):  # type: ignore[misc]  # Keras is untyped
    """A metric of one's own, of which nothing but its name is known."""

    def __init__(self, name: str, direction: str | None = None) -> None:
        super().__init__(name=name)
        if direction:
            self._direction = direction

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        super().update_state(y_pred, sample_weight)


def compiled(*metrics: Any) -> Any:
    model = models.dense()
    model.compile("sgd", "mse", metrics=list(metrics))
    model.train_on_batch(np.zeros((2, 6), "float32"), np.zeros((2, 3), "float32"))
    return model


@pytest.mark.parametrize(
    ("figure", "is_lower"),
    [
        ("task_loss", True),
        ("val_task_loss", True),
        ("penalty", True),
        ("val_mae", True),
        ("val_root_mean_squared_error", True),
        ("categorical_crossentropy", True),
        ("val_kl_divergence", True),
        ("hinge", True),
        ("false_negatives", True),
        ("val_accuracy", False),
        ("head_accuracy", False),
        ("val_auc", False),
        ("recall", False),
        ("precision", False),
        ("true_positives", False),
        ("mean_io_u", False),
        ("cosine_similarity", False),
        ("val_f1_score", False),
        ("r2_score", False),
    ],
)
def test_names_tell_which_way_is_better(figure: str, is_lower: bool) -> None:
    assert is_lower_better(models.dense(), figure) is is_lower


def test_metric_itself_goes_before_its_name() -> None:
    model = compiled(Named("accuracy_lost", "down"), Named("own_error", "up"))
    assert is_lower_better(model, "val_accuracy_lost")
    assert not is_lower_better(model, "own_error")


def test_figure_of_which_nothing_tells_is_refused() -> None:
    said = "monitor 'val_own': nothing says whether it should be low or high: give the metric"
    with pytest.raises(orthwrap.ValueFault, match=re.escape(said)):
        is_lower_better(compiled(Named("own")), "val_own")


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("metric", ["mean_absolute_error", "kl_divergence"])
def test_epoch_of_the_lowest_error_is_kept(metric: str) -> None:
    x = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    y = np.full((40, 3), 1 / 3, "float32")
    result = orthwrap.apply(
        models.dense(),
        data=(x, y, x, y),
        loss="mse",
        metric=metric,
        monitor=f"val_{metric}",
        factor=1e-3,
        epochs=4,
        learning_rate=1e-2,
        seed=0,
    )
    training = result.report.training
    assert training is not None
    figures = training.history[f"val_{metric}"]
    assert figures[0] > min(figures)  # or a first epoch kept by mistake would pass
    assert training.kept_epoch == 1 + int(np.argmin(figures))
