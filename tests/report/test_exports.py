"""Forms of a report: CSV and Markdown hold what it holds; a new form is a file and a row."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.testing import CliRunner

import orthwrap
from orthwrap.report.as_csv import text_of as csv_of
from orthwrap.report.as_markdown import text_of as markdown_of
from orthwrap.report.export import Export
from orthwrap.report.exports import EXPORTS
from orthwrap.report.record import Report
from orthwrap.text import csv_cell, markdown_text, printable
from orthwrap_cli.main import app
from tests.conftest import REPOSITORY
from tests.support.samples import small_file

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NAMES = [
    "a|b",
    "<b>x</b>",
    "[x](http://y)",
    "`x`",
    "*x*",
    "_x_",
    "a_b_c",
    "\\",
    "x\ny",
    "=1+1",
    "–",
    "&lt;",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.h5").write_bytes(small_file(".h5").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def report() -> Report:
    return orthwrap.apply(small_file(".h5"), target="conv*", factor=0.25, dry_run=True).report


def call(*words: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "100"})
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout, result.stderr


def named(report: Report, name: str) -> Report:
    """The report of a model whose first layer is called so."""
    first, *rest = report.layers
    return replace(report, layers=(replace(first, path=name), *rest), warnings=(name,))


def inlines(text: str) -> list[Token]:
    return [token for token in MARKDOWN.parse(text) if token.type == "inline"]


def cells(text: str) -> list[str]:
    """What a reader of the first table sees, cell by cell."""
    tokens = MARKDOWN.parse(text)
    places = [i for i, token in enumerate(tokens) if token.type in ("th_open", "td_open")]
    return ["".join(t.content for t in tokens[i + 1].children or ()) for i in places]


# CSV


def test_csv_has_a_row_for_each_kernel_with_all_its_figures(report: Report) -> None:
    rows = list(csv.DictReader(csv_of(report).splitlines()))
    assert len(rows) == len(report.layers) == 3
    for row, record in zip(rows, report.to_json()["layers"], strict=True):
        for name in ("path", "slot", "kernel", "class_name", "layout", "decision", "reason"):
            assert row[name] == record[name]
        assert row["shape"] == "x".join(map(str, record["shape"]))
        assert [int(row[n]) for n in ("count", "rows", "columns")] == [*record["matrices"].values()]
        assert row["trainable"] == "true"
        figures = record["before"] or {}
        figures.pop("spectrum", None)  # a list, which is no cell
        for name, figure in figures.items():
            assert row[f"before_{name}"] == ("" if figure is None else repr(figure))
            assert row[f"after_{name}"] == ""
    assert [row["factor"] for row in rows] == ["0.25", "0.25", ""]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_cell_and_no_formula(report: Report, name: str) -> None:
    rows = list(csv.DictReader(csv_of(named(report, name)).splitlines()))
    assert len(rows) == 3
    assert rows[0]["path"] == csv_cell(name)


# Markdown


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_name_in_markdown_is_text_alone(name: str) -> None:
    """By a Markdown parser: nothing in it is markup, in a line and in a table."""
    shown = printable(name).strip()
    (line,) = inlines(f"x {markdown_text(name)} x")
    assert [(t.type, t.content) for t in line.children or ()] == [
        ("text", f"x {printable(name)} x")
    ]
    table = cells(f"| a | b |\n| --- | --- |\n| {markdown_text(name)} | x |\n")
    assert table == ["a", "b", shown, "x"]


def test_markdown_has_the_summary_and_a_row_for_each_kernel(report: Report) -> None:
    text = markdown_of(report)
    assert "2 of 3 kernels carry a regularizer" in text
    assert f"penalty {report.summary['penalty_before']:.4g}" in text
    found = cells(text)
    rows = [found[i : i + 7] for i in range(7, len(found), 7)]
    assert [row[0] for row in rows] == ["conv1", "conv2", "classes"]
    assert [row[2] for row in rows] == ["regularized", "regularized", "not selected"]
    scales = [r.regularizer.scale for r in report.layers if r.regularizer is not None]
    held = [f"so 0.25{' preserve' if scale == 'preserve' else ''}" for scale in scales]
    assert [row[3] for row in rows] == [*held, "–"]
    assert all(row[6] == r.reason for row, r in zip(rows, report.layers, strict=True))
    for row, record in zip(rows, report.layers, strict=True):
        # What the regularizer drives: with preserve it is the residual of W/α.
        driven = record.before and getattr(record.before, record.driven)
        assert row[4] == ("–" if driven is None else f"{driven:.3g}")
    assert "- residual" in text or "- scaled residual" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_strangers_name_is_no_markup(report: Report, name: str) -> None:
    text = markdown_of(named(report, name))
    assert cells(text)[7] == printable(name)
    kinds = {child.type for token in inlines(text) for child in token.children or ()}
    assert kinds <= {"text", "code_inline", "softbreak"}
    assert [t.content for t in MARKDOWN.parse(text) if t.type == "html_block"] == [
        f"<!-- Written by orthwrap {orthwrap.__version__}: apply -->\n"
    ]


def test_a_comparison_has_both_forms(report: Report, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    orthwrap.apply(small_file(".h5"), out, target="conv1", scale="unit")
    compared = orthwrap.compare(small_file(".h5"), out)
    rows = list(csv.DictReader(csv_of(compared).splitlines()))
    assert [row["status"] for row in rows] == ["same"] * 3
    assert [row["regularizer_after"] for row in rows] == ["so 0.001", "", ""]
    text = markdown_of(compared)
    assert "3 kernels: 3 same" in text
    assert cells(text)[5:10:3] == ["conv1", "– → so 0.001"]


# Saved, from Python and by the commands


@pytest.mark.parametrize("suffix", [".json", ".csv", ".md"])
def test_the_suffix_says_the_form(report: Report, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"report{suffix}"
    for _ in range(2):  # an earlier report is replaced
        report.save(path)
    export = next(e for e in EXPORTS.values() if suffix in e.suffixes)
    assert path.read_text(encoding="utf-8") == export.text(report)
    assert any(mark in export.text(report)[:200] for mark in export.marks)
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(orthwrap.OrthwrapError, match=r"is not \w+ of an earlier command"):
        report.save(path)
    assert path.read_text(encoding="utf-8") == "mine"


def test_another_suffix_is_refused(report: Report, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"saved as one of \.json, \.csv, \.md, \.html, \.htm; got"
    ):
        report.save(tmp_path / "report.txt")
    with pytest.raises(orthwrap.OrthwrapError, match="does not exist: make it first"):
        report.save(tmp_path / "no" / "report.md")


def test_one_command_writes_every_form(folder: Path) -> None:
    out, err = call("apply", "model.h5", "--json", "r.json", "--csv", "r.csv", "--md", "-")
    found = json.loads((folder / "r.json").read_text("utf-8"))
    rows = list(csv.DictReader((folder / "r.csv").read_text("utf-8").splitlines()))
    assert [row["path"] for row in rows] == [layer["path"] for layer in found["layers"]]
    assert out.startswith("<!-- Written by orthwrap")
    assert "orthwrap apply" in err, "the table goes to standard error"


@pytest.mark.parametrize("command", ["inspect", "strip", "upgrade"])
def test_every_command_that_reports_has_them(folder: Path, command: str) -> None:
    call(command, "model.h5", "--csv", "r.csv", "--md", "r.md", "-q")
    assert (folder / "r.csv").exists()
    assert (folder / "r.md").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--csv", "-", "--md", "-"], 2, "--csv and --md cannot both go to standard output"),
        (["--csv", "r.x", "--md", "r.x"], 1, "--md r.x is the csv of this command"),
        (["--csv", "model.h5"], 1, "--csv model.h5 is the model of this command"),
        (["--md", "mine.md"], 1, "--md mine.md exists and is not Markdown of an earlier command"),
        (["--md", "no/r.md"], 1, "folder no for --md does not exist"),
    ],
)
def test_what_cannot_be_written_is_found_first(
    folder: Path, words: list[str], code: int, message: str
) -> None:
    (folder / "mine.md").write_text("# mine")
    _, err = call("apply", "model.h5", *words, code=code)
    assert message in err
    assert not (folder / "model-orth.h5").exists()
    assert (folder / "mine.md").read_text() == "# mine"


def test_the_list_of_penalties_is_json_alone() -> None:
    assert "--csv" not in call("regularizers", "--help")[0]
    assert "No such option" in call("regularizers", "--csv", "x.csv", code=2)[1]


# A form from outside

TOY = """
from orthwrap.report.export import Export
from orthwrap.report.exports import EXPORTS

def text_of(report):
    return "".join(f"{layer.path}\\t{layer.decision}\\n" for layer in report.layers)

EXPORTS["tsv"] = Export(
    "tsv", "TSV", "Write two columns", (".tsv",), ("\\t",), ("report",), "toy:text_of"
)
"""


def test_a_form_from_outside_is_a_file_and_a_row(folder: Path) -> None:
    (folder / "toy.py").write_text(TOY)
    places = [str(folder), str(REPOSITORY), str(REPOSITORY / "cli")]
    env: dict[str, Any] = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "COLUMNS": "100"}

    main = "import toy; from orthwrap_cli.main import main; main()"

    def run(*words: str, start: str = main) -> str:
        done = subprocess.run(
            [sys.executable, "-c", start, *words], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Write two columns; - for standard output." in run("inspect", "--help")
    assert "--tsv" not in run("compare", "--help")
    shown = "conv1\tnot_selected\nconv2\tnot_selected\nclasses\tnot_selected\n"
    assert run("inspect", "model.h5", "--tsv", "-", "-q") == shown
    run("inspect", "model.h5", "--tsv", "r.tsv", "-q")
    assert (folder / "r.tsv").read_text() == shown
    page = run("", start="import toy; from orthwrap_cli.reference import page; print(page())")
    assert "| `--tsv` | `.tsv` | Write two columns. |" in page


def test_a_form_from_outside_is_found_by_its_suffix(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Export("toy", "toy", "", (".toy",), ("conv",), ("report",), f"{__name__}:csv_of")
    monkeypatch.setitem(EXPORTS, "toy", toy)
    report.save(tmp_path / "report.toy")
    assert (tmp_path / "report.toy").read_text(encoding="utf-8") == csv_of(report)
