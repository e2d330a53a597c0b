"""What the screen shows: names whole or broken where a word ends, nothing beyond the edge."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orthwrap
from orthwrap.render.names import broken, fitted
from orthwrap.render.terminal import console, render, render_compare
from tests.samples import nested_file, small_file

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
        "Brought up to Keras 3",
        "  axis as list   Keras 1.0–2.15   a, b, c and 1 more",
        "  SavedModel     tf.keras 2.4     root",
    ]


def test_a_frozen_layer_says_so_where_its_regularizer_stands(tmp_path: Any) -> None:
    report = orthwrap.inspect(small_file(".h5"))
    frozen = replace(report, layers=tuple(replace(r, trainable=False) for r in report.layers))
    lines = screen(render(frozen, 80), 80)
    assert sum(" frozen " in line for line in lines) == 3
