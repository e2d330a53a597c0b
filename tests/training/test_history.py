"""Task loss and penalty in the history of a run, and nothing of their split left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import orthwrap
from tests.support import models
from tests.support.run_helpers import classes, numpy, saved

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("samples", [32, 37])
def test_task_loss_and_penalty_make_up_the_loss(samples: int) -> None:
    model = models.dense()
    result = orthwrap.apply(
        model, factor=0.5, data=(*classes(samples), *classes(11, 1)), epochs=3, batch_size=8
    )
    training = result.report.training
    assert training is not None
    history = training.history
    assert {len(values) for values in history.values()} == {3}
    for prefix in ("", "val_"):
        for total, task, penalty in zip(
            *(history[prefix + key] for key in ("loss", "task_loss", "penalty")), strict=True
        ):
            assert task + penalty == pytest.approx(total, rel=1e-5)
            assert penalty > 0
    # The penalty at the end is that of the report, which NumPy computed.
    after = result.report.summary["penalty_after"]
    assert training.metrics_after["penalty"] == pytest.approx(after, rel=1e-4)
    assert training.metrics_before["penalty"] == pytest.approx(
        result.report.summary["penalty_before"], rel=1e-4
    )
    assert history["val_penalty"][-1] == pytest.approx(after, rel=1e-4)
    json.dumps(result.report.to_json(), allow_nan=False)


def test_metrics_before_are_those_of_the_model_that_was_given() -> None:
    model = models.dense()
    x, y = classes()
    training = orthwrap.apply(model, data=(x, y), epochs=1).report.training
    assert training is not None
    predicted = np.argmax(numpy(model(x)), axis=1)
    assert training.metrics_before["accuracy"] == pytest.approx(np.mean(predicted == y))


@pytest.mark.slow
def test_nothing_of_the_split_is_left_in_the_model(tmp_path: Path) -> None:
    result = orthwrap.apply(models.dense(), data=classes(), epochs=1)
    model = result.model
    assert [m.name for m in model.metrics] == ["loss", "compile_metrics"]
    assert "compute_loss" not in vars(model)
    assert "_aggregate_additional_loss" not in vars(model)
    logs = model.evaluate(*classes(), verbose=0, return_dict=True)
    assert set(logs) == {"loss", "accuracy"}
    history = model.fit(*classes(), epochs=1, verbose=0).history
    assert set(history) == {"loss", "accuracy"}
    loaded = orthwrap.load_model(saved(model, tmp_path / "m.keras"))
    assert loaded.evaluate(*classes(), verbose=0) == pytest.approx(
        model.evaluate(*classes(), verbose=0), rel=1e-5
    )
    assert len(orthwrap.apply(model).model.losses) == 2


def test_nothing_of_the_split_is_left_after_a_failure() -> None:
    def broken(y_true: Any, y_pred: Any) -> Any:
        raise ValueError("no loss of mine")

    model = models.dense()
    model.compile("adam", broken)
    with pytest.raises(orthwrap.OrthwrapError, match=r"training failed .*no loss of mine"):
        orthwrap.apply(model, in_place=True, data=classes())
    assert "compute_loss" not in vars(model)
    assert not {"task_loss", "penalty"} & {m.name for m in model.metrics}
