"""What the screen shows: names whole or broken where a word ends, nothing beyond the edge."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import orthwrap
from orthwrap.report import progress
from orthwrap.report.fitting import broken, fitted
from orthwrap.report.goal_progress import GoalEpoch, GoalProgress, KernelGoal
from orthwrap.report.record import Training
from orthwrap.report.terminal import console, render, render_compare
from tests.support.samples import nested_file, small_file

OUTER = "backbone/features"


def screen(renderable: Any, width: int) -> list[str]:
    out = io.StringIO()
    shown = console(out)
    shown.width = width
    shown.print(renderable)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_names_that_fit_stay_whole() -> None:
    names = [("", "stem"), ("inner", "conv@kernel")]
    assert fitted(names, 17) == [(None, "stem"), (None, "inner/conv@kernel")]


def test_names_that_do_not_fit_go_under_what_holds_them() -> None:
    names = [("", "stem"), (OUTER, "conv1"), (OUTER, "conv2"), ("head", "dense")]
    assert fitted(names, 20) == [
        (None, "stem"),
        (f"{OUTER}/", "  conv1"),
        (None, "  conv2"),
        ("head/", "  dense"),
    ]


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("separable_conv2d_1@depthwise", 24, ["separable_conv2d_1", "  @depthwise"]),
        ("a_rather_long_name", 12, ["a_rather_", "  long_name"]),
        ("x" * 20, 12, ["x" * 12, "  " + "x" * 8]),
        ("short", 12, ["short"]),
    ],
)
def test_a_name_is_broken_where_a_word_ends(name: str, width: int, lines: list[str]) -> None:
    assert broken(name, width).split("\n") == lines


@given(st.text(st.characters(codec="ascii"), max_size=60), st.integers(12, 40))
def test_nothing_of_a_name_is_lost(name: str, width: int) -> None:
    name = name.replace("\n", "").replace(" ", "")
    lines = broken(name, width).split("\n")
    assert all(len(line) <= width for line in lines)
    assert "".join(line.removeprefix("  ") for line in lines) == name


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_report_stays_within_the_screen(width: int, suffix: str, tmp_path: Any) -> None:
    source, out = nested_file(suffix), tmp_path / f"out{suffix}"
    report = orthwrap.apply(source, out, target="all", existing="replace").report
    for shown in (
        render(orthwrap.inspect(source), width),
        render(report, width),
        render_compare(orthwrap.compare(source, out), width),
    ):
        lines = screen(shown, width)
        assert max(map(len, lines)) <= width
        assert sum("stem" in line for line in lines) == 1
    if width == 80:
        assert any(line.startswith("outer/inner/") or line == "outer/inner/" for line in lines)


def test_no_width_is_that_of_a_usual_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    out = io.StringIO()
    shown = console(out)
    shown.print(render(orthwrap.inspect(small_file(".h5")), shown.width))
    assert "3 kernels, none carries an orthwrap regularizer" in out.getvalue()


def test_models_without_kernels() -> None:
    report = orthwrap.compare(small_file(".h5"), small_file(".h5"), measure=False)
    empty = replace(report, layers=())
    assert "0 kernels: none; the same regularizers" in screen(render_compare(empty, 80), 80)


def test_upgrades_are_a_table() -> None:
    report = replace(
        orthwrap.inspect(small_file(".h5")),
        upgrades=(
            {"name": "axis as list", "vintage": "Keras 1.0-2.15", "layers": ["a", "b", "c", "d"]},
            {"name": "SavedModel", "vintage": "tf.keras 2.4", "layers": ["root"]},
        ),
    )
    assert screen(render(report, 80), 80)[-3:] == [
        "Would be brought up to Keras 3",
        "  axis as list   Keras 1.0–2.15   a, b, c and 1 more",
        "  SavedModel     tf.keras 2.4     root",
    ]

    done = replace(report, command="apply")
    assert screen(render(done, 80), 80)[-3] == "Brought up to Keras 3"


def test_outputs_that_carry_a_regularizer_are_no_kernels() -> None:
    words: dict[str, Any] = {"target": "conv1", "dry_run": True}
    report = orthwrap.apply(small_file(".h5"), on="activity", **words).report
    lines = screen(render(report, 80), 80)
    assert "the outputs of 1 layer carry a regularizer" in lines
    kernel = orthwrap.apply(small_file(".h5"), **words).report
    both = replace(report, layers=(*kernel.layers, *(r for r in report.layers if r.carries)))
    (line,) = (n for n in screen(render(both, 200), 200) if "carries" in n)
    assert line.startswith("1 of 3 kernels carries a regularizer (10% of all parameters), and the ")
    assert line.endswith("and the outputs of 1 layer")


def test_inspect_counts_those_that_it_was_asked_about(tmp_path: Any) -> None:
    out = orthwrap.apply(small_file(".h5"), tmp_path / "out.h5").output
    report = orthwrap.inspect(out, target="conv1")
    lines = screen(render(report, 80), 80)
    assert any(line.startswith("1 of 1 kernel carries a regularizer") for line in lines)
    assert "2 kernels not selected" in lines


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_figures_before_a_schedule_are_told_apart() -> None:
    data = (np.ones((8, 8, 8, 1), "float32"), np.zeros(8))
    words: dict[str, Any] = {"data": data, "epochs": 2, "seed": 0}
    said = "Before is at the first factors of the schedule, after at its last."
    model = orthwrap.load_model(small_file(".h5"))
    for schedule, is_said in (("linear:0.1", True), ("constant", False), (None, False)):
        report = orthwrap.apply(model, schedule=schedule, **words).report
        assert (said in screen(render(report, 80), 80)) == is_said


def test_long_epoch_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    out = io.StringIO()
    shown = progress.TrainingProgress(console(out))
    shown.start((), 2, None)
    for step in range(1, 200):  # of one second each
        now += 1
        shown.step(0, step, {"loss": 2.0, "task_loss": 1.5, "penalty": 0.5, "accuracy": 1.0})
    shown.epoch(0, {"loss": 2.0, "task_loss": 1.5, "penalty": 0.5})
    assert out.getvalue().splitlines() == [
        *(f"epoch 1, step {step}  task 1.5  penalty 0.5" for step in (61, 122, 183)),
        "epoch 1/2  task 1.5  penalty 0.5",
    ]


def test_an_epoch_of_pulled_kernels_says_how_far_they_came() -> None:
    out = io.StringIO()
    shown = progress.TrainingProgress(console(out))
    shown.start((), 2, None)
    came = {"task_loss": 1.5, "penalty": 0.0, "least_division": 3.21, "seconds": 2.0}
    shown.epoch(0, came)
    shown.epoch(1, came | {"penalty": 0.5, "least_division": 0.8})  # some have it in the loss
    assert out.getvalue().splitlines() == [
        "epoch 1/2  task 1.5  residuals ÷3.2 at least  2.0 s",
        "epoch 2/2  task 1.5  penalty 0.5  residuals ×1.2 at least  2.0 s",
    ]


def test_the_least_division_is_of_kernels_that_have_one() -> None:
    kernels = [KernelGoal(n, "residual", s, 0.1, True) for n, s in (("a", 2.0), ("b", 1.0))]
    orthonormal = KernelGoal("c", "residual", 0.0, 0.0, True)
    now = GoalEpoch(1, (0.5, 0.5, 0.0), (0.1, 0.1, 0.1))
    assert GoalProgress("10x", (*kernels, orthonormal)).least_division(now) == 2.0
    alone = GoalEpoch(1, (0.0,), (0.1,))
    assert GoalProgress("10x", (orthonormal,)).least_division(alone) is None


def test_a_frozen_layer_says_so_where_its_regularizer_stands(tmp_path: Any) -> None:
    report = orthwrap.inspect(small_file(".h5"))
    frozen = replace(report, layers=tuple(replace(r, trainable=False) for r in report.layers))
    lines = screen(render(frozen, 80), 80)
    assert sum(" frozen " in line for line in lines) == 3


def test_one_frozen_layer_is_one() -> None:
    applied = orthwrap.apply(small_file(".h5"), dry_run=True).report
    first, *others = applied.layers
    frozen = replace(applied, layers=(replace(first, trainable=False), *others))
    assert "1 of them is frozen: Keras applies no penalty while it is" in screen(
        render(frozen, 80), 80
    )


def test_kernels_without_a_row_are_counted_by_what_became_of_them() -> None:
    path = small_file(".h5")
    shown: dict[str, dict[str, Any]] = {
        "2 kernels not selected": {"target": "conv1"},
        "1 kernel not selected, 1 excluded": {"target": "all-conv", "exclude": "conv2"},
        "1 kernel excluded": {"exclude": "conv2"},
    }
    for line, words in shown.items():
        report = orthwrap.apply(path, dry_run=True, **words).report
        assert line in screen(render(report, 80), 80)
    report = orthwrap.apply(path, dry_run=True, target="conv1").report
    lines = screen(render(replace(report, command="finetune"), 80), 80)
    assert "2 other kernels carry no regularizer" in lines


def trained(**words: Any) -> Any:
    """A report of a training, the first kernel just as it was."""
    report = orthwrap.inspect(small_file(".h5"))
    first, *others = report.layers
    better = [
        replace(r, after=replace(r.before, residual=r.before.residual / 2))
        for r in others
        if r.before is not None
    ]
    training = Training(
        epochs=2,
        factors={},
        history={},
        metrics_before={"loss": 1.0},
        metrics_after={"loss": 0.5},
        choices=(f"loss mse: {'a long reason ' * 8}",),
        **words,
    )
    layers = (replace(first, after=first.before), *better)
    return replace(report, command="finetune", layers=layers, training=training)


def test_only_what_got_better_is_green() -> None:
    out = io.StringIO()
    shown = Console(file=out, width=80, force_terminal=True, color_system="standard")
    shown.print(render(trained(), 80))
    lines = [line for line in out.getvalue().splitlines() if "→" in line]
    assert ["\x1b[1;32m" in line for line in lines[:3]] == [False, True, True]


def test_choices_may_be_left_out() -> None:
    with_them, without = (screen(render(trained(), 80, choices=c), 80) for c in (True, False))
    assert any("long reason" in line for line in with_them)
    assert not any("long reason" in line for line in without)
    assert "Trained for 2 epochs" in "\n".join(without)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(40, 140))
def test_no_line_ends_with_spaces(width: int) -> None:
    out = io.StringIO()
    shown = console(out)
    shown.width = width
    shown.print(render(replace(trained(), warnings=("some words " * 30,)), width))
    lines = out.getvalue().split("\n")
    assert [line for line in lines if line != line.rstrip(" ")] == []
    assert max(map(len, lines)) <= width
