"""A report goes to JSON and comes back: same JSON, same picture."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import orthwrap
from orthwrap.report.record import CompareReport, Report
from tests.support import models


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 8)).astype("float32"), np.arange(16) % 3


def reports() -> list[Report]:
    model = models.dense()
    attached = orthwrap.apply(model, factor=0.1)
    again = orthwrap.apply(attached.model, factor=0.2, exclude=model.layers[-1].name)
    return [
        orthwrap.inspect(model),
        orthwrap.inspect(model, measure=False),
        attached.report,
        again.report,
        orthwrap.strip(again.model).report,
    ]


def test_report_comes_back_whole() -> None:
    for report in reports():
        told = json.loads(json.dumps(report.to_json()))
        back = Report.from_json(told)
        assert back.to_json() == told
        assert str(back) == str(report)


@pytest.mark.slow
def test_trained_report_comes_back_whole() -> None:
    model = models.dense()
    width = model.input_shape[-1]
    x = np.random.default_rng(0).normal(size=(16, width)).astype("float32")
    y = np.arange(16) % model.output_shape[-1]
    report = orthwrap.apply(
        model, data=(x, y), factor="auto", epochs=1, loss="sparse_categorical_crossentropy"
    ).report
    told = json.loads(json.dumps(report.to_json()))
    back = Report.from_json(told)
    assert back.to_json() == told
    assert str(back) == str(report)


def test_comparison_comes_back_whole() -> None:
    model = models.dense()
    report = orthwrap.compare(model, orthwrap.apply(model).model)
    told = json.loads(json.dumps(report.to_json()))
    back = CompareReport.from_json(told)
    assert back.to_json() == told
    assert str(back) == str(report)


def test_what_a_later_version_adds_is_left_out() -> None:
    told = orthwrap.inspect(models.dense()).to_json()
    told["model"]["mood"] = "good"
    told["layers"][0]["before"]["depth"] = 3
    told["more"] = 1
    assert Report.from_json(told).layers[0].before is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "orthwrap.report/2"}, "expected JSON of schema orthwrap.report/1; got"),
        ({"model": None}, "is not whole"),
        ({"layers": [{}]}, "is not whole"),
        ({"summary": {}}, "is not whole"),
    ],
)
def test_other_json_is_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    told = orthwrap.inspect(models.dense()).to_json() | change
    with pytest.raises(orthwrap.ValueFault, match=said):
        Report.from_json(told)
    with pytest.raises(orthwrap.ValueFault, match="expected JSON"):
        Report.from_json([])  # type: ignore[arg-type]
