"""Blocks of a deep network in one line each: what shares a row, in which order, what is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from orthwrap.report.folding import FOLDED, Block, folded, rows_of
from orthwrap.report.record import Deviation, LayerRecord, RegularizerRecord, Report
from orthwrap.report.terminal import as_text, render
from orthwrap.report.view import View
from orthwrap.stores.store import ModelRecord
from orthwrap_cli.main import app
from tests.support.samples import small_file

RESNET = [
    "conv1_conv",
    *(f"conv{s}_block{b}_{c}_conv" for s, n in ((2, 3), (3, 8), (4, 36)) for b in range(1, n + 1)
      for c in (1, 2, 3)),
    "predictions",
]  # fmt: skip


def record(path: str, residual: float = 1.0, **how: Any) -> LayerRecord:
    figures = Deviation(residual, residual, 1.0, 0.5, 2.0, 4.0, 0.1)
    told: dict[str, Any] = {"decision": "not_selected", "trainable": True, "before": figures, **how}
    shape = (1, 1, 4, 4)
    return LayerRecord(
        path, "Conv2D", "kernel", "kernel", shape, "conv", (1, 4, 4), reasons=(), **told
    )


def report(records: list[LayerRecord]) -> Report:
    model = ModelRecord("m.h5", "h5", "3.15.1", 16 * len(records))
    return Report("inspect", model, tuple(records), len(records), "0")


def names(rows: list[LayerRecord | Block]) -> list[tuple[str, int]]:
    return [(r.path, len(r.records) if isinstance(r, Block) else 1) for r in rows]


def test_blocks_of_a_residual_network() -> None:
    rows = names(folded([record(p) for p in RESNET]))
    assert rows == [
        ("conv1_conv", 1),
        ("conv2_*", 9),
        ("conv3_*", 24),
        ("conv4_*", 108),
        ("predictions", 1),
    ]


@pytest.mark.parametrize(("width", "stages"), [(80, True), (200, False)])
def test_a_network_that_is_less_deep_takes_no_more_lines(width: int, stages: bool) -> None:
    """16 blocks: at 80 columns each would take two lines, at 200 one."""
    blocks = [f"conv{s}_block{b}" for s, n in ((2, 3), (3, 4), (4, 6), (5, 3)) for b in range(n)]
    records = [record(f"{b}_{i}_conv", 0.5) for b in blocks for i in range(3)]
    text = as_text(lambda width: render(report(records), width), width)
    table = [n for n in text.splitlines() if n.startswith(("conv", "  worst")) and len(n) > 24]
    assert len(table) == (8 if stages else 16), text
    assert ("conv4_*" in text) is stages


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["conv2d", *(f"conv2d_{i}" for i in range(1, 94))], [("conv2d", 1), ("conv2d_*", 93)]),
        ([f"block{i}" for i in range(30)], [("block*", 30)]),
        ([f"encoder/layer_{i}/dense" for i in range(30)], [("encoder/layer_*", 30)]),
        (
            [f"a/x{i}" for i in range(15)] + [f"b/x{i}" for i in range(15)],
            [("a/*", 15), ("b/*", 15)],
        ),
        (["tied"] * 40, [("tied", 40)]),
        ([f"c{i}" for i in range(FOLDED)], [(f"c{i}", 1) for i in range(FOLDED)]),
    ],
)
def test_names_of_other_networks(paths: list[str], expected: list[tuple[str, int]]) -> None:
    assert names(folded([record(p) for p in paths])) == expected


@given(st.lists(st.text("ab/_.1", min_size=1, max_size=6), max_size=60))
def test_every_kernel_is_in_one_row_in_the_models_order(paths: list[str]) -> None:
    records = [record(p) for p in paths]
    rows = folded(records)
    flat = [r for row in rows for r in (row.records if isinstance(row, Block) else (row,))]
    assert flat == records
    if len(records) <= FOLDED:
        assert rows == records


def test_a_block_says_its_range_its_worst_and_what_it_carries() -> None:
    so = RegularizerRecord("so", 0.001)
    records = [record(f"stage2_{i}", 0.5 + i / 100, regularizer=so) for i in range(24)]
    records[7] = replace(records[7], regularizer=None, decision="kept", foreign="l2 0.01")
    text = as_text(lambda width: render(report(records), width), 80)
    assert "stage2_*" in text
    assert "24 kernels" in text
    assert "0.5–0.73" in text
    assert "worst stage2_23" in text
    assert "23 so 0.001, 1 l2 0.01" in " ".join(text.split())
    assert "24 kernels in 1 block; --unfold shows all" in text


def test_a_trained_block_says_its_worst_before_and_after() -> None:
    records = [record(f"c_{i}", 1.0 + i) for i in range(30)]
    small = Deviation(0.1, 0.1, 1.0, 0.9, 1.1, 1.2, 0.1)
    text = as_text(lambda width: render(report([replace(r, after=small) for r in records]), width))
    assert "≤ 30 → 0.1" in text
    assert "÷300" in text


def test_views() -> None:
    records = [record(f"c_{i}", float(i % 7)) for i in range(30)]
    records[3] = replace(records[3], before=None)
    assert rows_of(records, View(unfold=True)) == records
    top = rows_of(records, View(top=3))
    assert [r.path for r in top] == ["c_6", "c_13", "c_20"]
    last = rows_of(records, View(sort="residual"))[-1]
    assert last.path == "c_3"
    assert len(rows_of(records, View(sort="parameters"))) == 30
    text = as_text(lambda width: render(report(records), width, view=View(top=3)))
    assert "26 more kernels not shown" in text


@pytest.mark.parametrize("words", [["--sort", "nonsense"], ["--top", "0"], ["--top", "x"]])
def test_a_wrong_word_is_a_usage_error(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["inspect", str(small_file(".h5")), *words])
    assert done.exit_code == 2


def test_the_commands_take_it() -> None:
    done = CliRunner().invoke(app, ["inspect", str(small_file(".h5")), "--top", "1"])
    assert done.exit_code == 0, done.output
    assert "2 more kernels not shown" in done.stdout


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_longer_than_the_screen_and_no_number_is_broken(width: int) -> None:
    records = [record(p, 123.456) for p in RESNET]
    for view in (View(), View(unfold=True), View(sort="condition", top=5)):
        made = report(records)
        text = as_text(lambda w, v=view, r=made: render(r, w, view=v), width)
        assert max(map(len, text.splitlines())) <= width
        assert "123" in text
        assert "0.50 … 2.00" in text or width < 72


def test_a_condition_that_is_not_known_is_not_the_worst() -> None:
    known, singular = record("known"), Deviation(1.0, 1.0, 1.0, 0.0, 2.0, None, 0.1)
    unknown = Deviation(1.0, 1.0, 1.0, None, 2.0, None, 0.1)  # as of a kernel that is estimated
    records = [record("large", before=unknown), known, record("singular", before=singular)]
    assert names(rows_of(records, View(sort="condition"))) == [
        ("singular", 1),
        ("known", 1),
        ("large", 1),
    ]
