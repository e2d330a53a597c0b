"""The operator's figures on their way: verbs, commands, JSON, CSV, tables."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import orthwrap
from orthwrap.penalties.conv_operator import operator_figures
from orthwrap.report.record import Report
from orthwrap_cli.main import app

FIGURES = {"norm_upper", "norm_lower", "sigma_min", "residual", "stable_rank"}


@pytest.fixture(scope="module")
def model() -> Any:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(6, 3, strides=2, name="conv"),
            layers.SeparableConv2D(8, 3, name="separable"),
            layers.DepthwiseConv2D(2, name="depthwise"),
            layers.Flatten(),
            layers.Dense(4, name="head"),
        ]
    )


@pytest.fixture(scope="module")
def file(model: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("operator") / "model.keras"
    model.save(path)
    return str(path)


def told_by(*words: str) -> Any:
    result = CliRunner().invoke(app, [*words, "--json", "-"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_only_where_it_was_asked_for(file: str) -> None:
    for layer in told_by("inspect", file)["layers"]:
        assert "operator" not in layer["before"]
    for layer in told_by("inspect", file, "--operator")["layers"]:
        own = {"product_upper"} if layer["path"] == "separable" else set()
        assert set(layer["before"]["operator"]) == FIGURES | own


def test_the_stride_and_the_channels_of_the_layer_count(model: Any, file: str) -> None:
    told = {(r["path"], r["slot"]): r for r in told_by("inspect", file, "--operator")["layers"]}
    kernel = np.asarray(model.get_layer("conv").kernel, np.float64)
    own = operator_figures(kernel, (2, 2))
    assert told["conv", "kernel"]["before"]["operator"]["norm_upper"] == own.norm_upper
    assert told["conv", "kernel"]["strides"] == [2, 2]
    assert "strides" not in told["head", "kernel"]
    bounds = [told["separable", slot]["before"]["operator"] for slot in ("depthwise", "pointwise")]
    product = bounds[0]["norm_upper"] * bounds[1]["norm_upper"]
    assert [b["product_upper"] for b in bounds] == [product, product]
    live = orthwrap.inspect(model, operator=True)
    assert [r.before.operator for r in live.layers] == [
        Report.from_json(told_by("inspect", file, "--operator")).layers[i].before.operator
        for i in range(len(live.layers))
    ]


def test_targets_choose(file: str) -> None:
    told = told_by("inspect", file, "--operator", "--target", "head")
    assert [r["path"] for r in told["layers"] if r["before"] is not None] == ["head"]


def test_without_figures_there_is_no_operator(file: str) -> None:
    result = CliRunner().invoke(app, ["inspect", file, "--operator", "--no-measure"])
    assert result.exit_code == 2
    assert "operator" in result.stderr
    with pytest.raises(orthwrap.UsageError, match="operator"):
        orthwrap.apply(file, operator=True, measure=False, dry_run=True)


@pytest.mark.slow
def test_apply_before_and_after_training(model: Any) -> None:
    x = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype("float32")
    y = np.arange(8) % 4
    result = orthwrap.apply(
        model, target="conv", operator=True, data=(x, y), epochs=1, learning_rate=0.1, factor=1.0,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )  # fmt: skip
    layer = next(r for r in result.report.layers if r.path == "conv")
    assert layer.after is not None
    kernel = np.asarray(result.model.get_layer("conv").kernel, np.float64)
    own = operator_figures(kernel, (2, 2))
    assert layer.after.operator.norm_upper == pytest.approx(own.norm_upper, rel=1e-6)
    assert layer.after.operator != layer.before.operator


def test_the_operator_of_a_depthwise_kernel_is_that_whatever_its_regularizer(model: Any) -> None:
    plain = orthwrap.inspect(model, target="depthwise", operator=True)
    across = orthwrap.apply(
        model, target="depthwise", options={"across_channels": True}, operator=True
    ).report
    found = [
        next(r.before.operator for r in report.layers if r.path == "depthwise")
        for report in (plain, across)
    ]
    assert found[0] == found[1]


def test_comes_back_from_json_and_into_csv(file: str, tmp_path: Path) -> None:
    report = orthwrap.inspect(file, operator=True)
    told = json.loads(json.dumps(report.to_json()))
    assert Report.from_json(told).to_json() == told
    assert str(Report.from_json(told)) == str(report)
    report.save(tmp_path / "r.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    for row, layer in zip(rows, report.layers, strict=True):
        assert float(row["before_operator_norm_upper"]) == layer.before.operator.norm_upper
    orthwrap.inspect(file).save(tmp_path / "plain.csv")
    assert "operator" not in (tmp_path / "plain.csv").read_text()


class Told:
    """Notes what it is told of the operators."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self.total, self.ended = 0, False

    @contextlib.contextmanager
    def measuring(self, total: int) -> Iterator[Callable[[str], None]]:
        self.total = total
        yield self.places.append
        self.ended = True


def test_progress_tells_of_each_kernel_once(file: str) -> None:
    told = Told()
    orthwrap.inspect(file, operator=True, progress=told)
    assert told.total == 5
    assert sorted(told.places) == [
        "conv", "depthwise@depthwise", "head", "separable@depthwise", "separable@pointwise",
    ]  # fmt: skip
    assert told.ended


# The table


def shown(*words: str, columns: int = 100) -> str:
    result = CliRunner().invoke(app, [*words], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_the_table_shows_the_operator_and_a_legend_says_what_it_is(file: str) -> None:
    plain = shown("inspect", file)
    assert "operator σ" not in plain
    assert "how far a kernel's matrices are from orthonormal" in " ".join(plain.split())
    for columns in (80, 200):
        out = shown("inspect", file, "--operator", columns=columns)
        assert "operator σ" in out
        assert "never below the truth" in " ".join(out.split())
    report = orthwrap.inspect(file, operator=True)
    upper = report.layers[0].before.operator.norm_upper
    row = next(line for line in out.splitlines() if line.startswith("conv "))
    shown_upper = float(row.split("…")[2].split()[0])
    assert upper - 1e-4 <= shown_upper <= upper + 0.01


def test_a_row_shows_what_its_regularizer_is_about(model: Any) -> None:
    report = orthwrap.apply(
        model,
        rules=[
            orthwrap.Rule(target="conv", regularizer="lorth", scale="unit"),
            orthwrap.Rule(target="head", regularizer="cosine", scale="unit"),
            orthwrap.Rule(target="all-depthwise", regularizer="so", scale="unit"),
        ],
        operator=True,
    ).report
    own = next(r.before for r in report.layers if r.path == "conv")
    text = str(report)
    # Its penalty says the same as the operator's own residual.
    assert f"operator {own.operator.residual:.3g}" in text
    head = next(r.before for r in report.layers if r.path == "head")
    assert f"mean |cos| {head.penalty:.3g}" in text
    assert "what lorth drives to 0" in " ".join(text.split())
    alone = str(orthwrap.apply(model, target="conv", regularizer="lorth", scale="unit").report)
    assert "operator residual" in alone


@pytest.mark.parametrize(("filters", "strides"), [(16, 1), (16, 2), (2, 1), (30, 2)])
def test_the_operator_residual_needs_no_operator_figures(filters: int, strides: int) -> None:
    """The penalty of lorth says it, also where in·S^d is less than out."""
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), keras.layers.Conv2D(filters, 3, strides=strides, name="conv")]
    )
    plain, full = (
        orthwrap.apply(model, regularizer="lorth", scale="unit", operator=operator).report
        for operator in (False, True)
    )
    figure = next(line for line in str(plain).splitlines() if line.startswith("conv ")).split()
    assert f"{full.layers[0].before.operator.residual:.3g}" in figure
