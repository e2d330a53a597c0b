"""A report in a notebook: what a cell shows, text everywhere else, and rows as a data frame."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import orthwrap
from orthwrap.errors import ValueFault
from orthwrap.report.record import Report
from tests.conftest import PATIENCE_S, REPOSITORY
from tests.support.samples import small_file

CELLS = {
    "bare": "report",
    "printed": "print(report)",
    "spoken": "str(report)",
    "logged": "import logging, sys; logging.basicConfig(stream=sys.stdout, level=20); "
    "logging.info('%s', report)",
    "in words": "repr(report)",
    "result": "[report]",
    "compared": "orthwrap.compare(PATH, PATH)",
    "drawn": "report.plot()",
    "frame": "list(report.to_frame().path)",
}


@pytest.fixture(scope="module")
def shown() -> dict[str, list[Any]]:
    """The outputs of each cell."""
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    path = str(small_file(".h5"))
    start = f"import sys; sys.path[:0] = {[str(REPOSITORY), str(REPOSITORY / 'cli')]!r}\n"
    start += f"import orthwrap\nPATH = {path!r}\nreport = orthwrap.inspect(PATH)"
    new = nbformat.v4.new_code_cell
    book = nbformat.v4.new_notebook(cells=[new(start), *map(new, CELLS.values())])
    nbclient.NotebookClient(book, timeout=PATIENCE_S, kernel_name="python3").execute()
    return {name: cell.outputs for name, cell in zip(CELLS, book.cells[1:], strict=True)}


def text_of(outputs: list[Any]) -> str:
    (output,) = outputs
    return str(output["text"] if "text" in output else output["data"]["text/plain"])


@pytest.mark.slow
def test_a_bare_report_is_a_table(shown: dict[str, list[Any]]) -> None:
    (output,) = shown["bare"]
    html = output["data"]["text/html"]
    report = orthwrap.inspect(small_file(".h5"))
    assert html.count("<tr>") == 1 + len(report.layers)
    for record in report.layers:
        assert f">{record.place}</td>" in html
        assert record.before is not None
        assert f"{record.before.residual:.3g}" in html
    assert output["data"]["text/plain"] == repr(report)
    assert "<table>" in shown["compared"][0]["data"]["text/html"]


def test_text_is_the_text_of_the_commands(shown: dict[str, list[Any]]) -> None:
    said = str(orthwrap.inspect(small_file(".h5")))
    assert "conv1" in said
    assert text_of(shown["printed"]).strip() == said.strip()
    assert text_of(shown["spoken"]).count("conv1") == 1
    assert "INFO:root:orthwrap inspect" in text_of(shown["logged"])
    assert said.splitlines()[-1] in text_of(shown["logged"])


def test_repr_is_one_line(shown: dict[str, list[Any]]) -> None:
    for name in ("in words", "result"):
        text = text_of(shown[name])
        assert "\n" not in text
        assert len(text) < 120
        assert "kernels" in text


def test_a_plot_and_a_frame(shown: dict[str, list[Any]]) -> None:
    assert "image/png" in shown["drawn"][0]["data"]
    paths = [r.path for r in orthwrap.inspect(small_file(".h5")).layers]
    assert text_of(shown["frame"]) == repr(paths)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "<b>x</b>", "a\x1b[31mb", '"&'])
def test_a_name_is_text(name: str) -> None:
    report = orthwrap.inspect(small_file(".h5"), measure=False)
    first, *rest = report.layers
    html = replace(
        report, layers=(replace(first, path=name), *rest), warnings=(name,)
    )._repr_html_()
    assert "<script" not in html
    assert "<b>x" not in html
    assert "\x1b" not in html


def test_frame_has_the_columns_of_the_csv() -> None:
    pandas = pytest.importorskip("pandas")
    report = orthwrap.inspect(small_file(".h5"))
    frame = report.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    residuals = [r.before.residual for r in report.layers if r.before is not None]
    assert list(frame.before_residual) == residuals
    assert list(frame["class_name"]) == [r.class_name for r in report.layers]


def test_without_pandas_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueFault, match="pip install pandas"):
        orthwrap.inspect(small_file(".h5"), measure=False).to_frame()


def test_a_long_model_is_cut_and_said() -> None:
    report = orthwrap.inspect(small_file(".h5"), measure=False)
    many = replace(report, layers=report.layers * 100)
    html = many._repr_html_()
    assert html.count("<tr>") == 61
    assert "the first 60 are shown" in html
    assert len(many.layers) == 300


def test_a_deep_model_is_shown_in_blocks_with_their_worst() -> None:
    report = orthwrap.inspect(small_file(".h5"))
    first = report.layers[0]
    assert first.before is not None
    figures = [replace(first.before, residual=i / 100) for i in range(1, 101)]
    many = [replace(first, path=f"stage{i // 50}_conv{i}", before=f) for i, f in enumerate(figures)]
    html = replace(report, layers=tuple(many))._repr_html_().replace("<wbr>", "")
    assert html.count("<tr>") == 1 + 2
    assert '>stage1_*</td><td class="">50 kernels, worst stage1_conv99</td>' in html
    assert ">1</td>" in html  # the residual of stage1_conv99
    assert "100 kernels in 2 blocks, each with the figures of its worst" in html


def test_a_check_says_in_a_cell_what_fails() -> None:
    report = orthwrap.check(small_file(".h5"), max=["residual=1e-6"])
    assert report.gate is not None
    failure = report.gate.failures[0]
    for said in (report._repr_html_(), repr(report)):
        assert report.gate.text in said
    assert f"{failure.place}: {failure.text}" in report._repr_html_()


def test_the_spectrum_goes_to_json_and_back(tmp_path: Path) -> None:
    report = orthwrap.inspect(small_file(".h5"))
    again = Report.from_json(json.loads(json.dumps(report.to_json())))
    assert again == report
    figures = report.layers[0].before
    assert figures is not None
    assert figures.spectrum is not None
    assert figures.spectrum[0] == pytest.approx(figures.sigma_min, rel=1e-5)
    assert figures.spectrum[-1] == pytest.approx(figures.sigma_max, rel=1e-5)
    assert list(figures.spectrum) == sorted(figures.spectrum)
