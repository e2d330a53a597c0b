"""The HTML page: it holds what the report holds, names are text, and nothing is loaded or run."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import orthwrap
from orthwrap.errors import FileFault, ValueFault
from orthwrap.report.as_html import text_of
from orthwrap.report.goal_progress import GoalEpoch, GoalProgress, KernelGoal
from orthwrap.report.record import Report, Training
from orthwrap.text import printable
from orthwrap_cli.main import app
from tests.support.samples import small_file

EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$x_1$",
    "a&lt;b",
    "{{ 7*7 }}",
]


@pytest.fixture(scope="module")
def report() -> Report:
    return orthwrap.apply(small_file(".h5"), target="conv*", factor=0.25, dry_run=True).report


def trained(report: Report) -> Report:
    """As if it had been trained for two epochs, to half of each residual."""
    small = {"residual": 0.01, "scaled_residual": 0.01}
    layers = [replace(r, after=r.before and replace(r.before, **small)) for r in report.layers]
    first = layers[0]
    assert first.before is not None
    goal = GoalProgress(
        "10x",
        (KernelGoal(first.place, "residual", first.before.residual, 0.1, True),),
        (GoalEpoch(1, (0.2,), (0.01,)), GoalEpoch(2, (0.01,), (0.01,))),
    )
    history = {"task_loss": (0.5, 0.25), "val_task_loss": (0.6, 0.3), "penalty": (0.0, 0.0)}
    metrics = {"penalty": 0.0, "task_loss": 0.75}
    training = Training(2, {}, history, metrics, metrics, kept_epoch=2, goal=goal)
    return replace(report, layers=tuple(layers), training=training)


class Page(HTMLParser):
    """What a reader sees, and what a browser would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if {"script", "style"} & set(self.inside):
            return
        if self.inside[-1:] == ["wbr"]:  # within a word
            self.inside.pop()
            self.words[-1] += data
        else:
            self.words.append(data)

    @property
    def seen(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.slow
def test_every_kernel_is_a_row_with_its_figures(report: Report) -> None:
    seen = Page(text_of(report)).seen
    for record in report.layers:
        assert record.place in seen
        if record.before is not None:
            assert f"{getattr(record.before, record.driven):.3g}" in seen
    assert f"{report.summary['regularized']} of {report.summary['kernels']}" in seen
    assert f"numpy {report.versions['numpy']}" in seen


def test_a_check_says_what_fails() -> None:
    checked = orthwrap.check(small_file(".h5"), max=["residual=1e-6"])
    assert checked.gate is not None
    seen = Page(text_of(checked)).seen
    assert checked.gate.text in seen
    for failure in checked.gate.failures:
        assert f"{failure.place}: {failure.text}" in seen
    assert checked.layers[0].before is not None
    assert checked.layers[0].before.sigma_min is None  # nothing asked for it
    assert "condition unbounded" not in seen
    assert "not selected" not in seen


def test_training_has_curves_and_its_metrics(report: Report) -> None:
    text = text_of(trained(report))
    curves = 2  # task and residual, each a picture of its own
    assert text.count("<svg") == curves + 1 + len([r for r in report.layers if r.before])
    seen = Page(text).seen
    assert "→ 0.01" in seen
    assert "task loss" in seen
    assert "0.7500" in seen


@pytest.mark.dear
@pytest.mark.parametrize("name", EVIL)
def test_a_name_is_text_wherever_it_stands(report: Report, name: str) -> None:
    first, *rest = report.layers
    model = replace(report.model, path=f"/models/{name.replace('/', '')}.h5")
    other = replace(
        trained(report), model=model, warnings=(name,), command_line=f"orthwrap inspect {name}"
    )
    other = replace(other, layers=(replace(first, path=name, class_name=name), *rest))
    page = Page(text_of(other))
    assert page.seen.count(name) >= 3
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == ["script"]


@settings(max_examples=25)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_comes_through(name: str) -> None:
    report = orthwrap.inspect(small_file(".h5"), measure=False)
    first, *rest = report.layers
    page = Page(text_of(replace(report, layers=(replace(first, path=name), *rest))))
    assert " ".join(printable(name).split()) in page.seen


def test_nothing_is_loaded_and_only_our_script_runs(report: Report) -> None:
    text = text_of(trained(report))
    page = Page(text)
    for _, attributes in page.tags:
        assert not {"src", "onclick", "onload", "onerror"} & set(attributes)
        assert not str(attributes.get("href") or "#").startswith(("http", "//"))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [
        a["content"] for t, a in page.tags if t == "meta" and "Policy" in str(a.get("http-equiv"))
    ]
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_an_old_page_is_replaced_and_nothing_else(report: Report, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    report.save(target)
    report.save(target)
    (tmp_path / "mine.html").write_text("<!doctype html>\n<p>mine")
    with pytest.raises(FileFault, match=r"mine\.html"):
        report.save(tmp_path / "mine.html")


def test_what_is_not_installed_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    model = tmp_path / "model.h5"
    model.write_bytes(small_file(".h5").read_bytes())
    words = ["apply", str(model), "--target", "conv*", "--html", str(tmp_path / "r.html")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, done.output
    assert done.stderr == "error: --html: HTML needs jinja2: pip install 'orthwrap[report]'\n"
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]


def test_the_command_is_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my model.h5").write_bytes(small_file(".h5").read_bytes())
    done = CliRunner().invoke(app, ["inspect", "my model.h5", "--html", "r.html"])
    assert done.exit_code == 0, done.output
    page = Page(Path("r.html").read_text(encoding="utf-8"))
    assert "orthwrap inspect 'my model.h5' --html r.html" in page.seen
    assert page.seen.startswith("my model.h5: orthwrap inspect")


def test_json_has_what_the_page_needs(report: Report) -> None:
    again = Report.from_json(report.to_json())
    assert text_of(again) == text_of(report)


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_saving_without_the_extra_says_so(
    report: Report, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueFault, match=r"orthwrap\[report\]"):
        report.save(tmp_path / "r.html")


def test_a_plot_has_what_there_is(report: Report) -> None:
    def titles(given: Report) -> list[Any]:
        return [part.get_suptitle() for part in given.plot().subfigs]

    depth, spectra = "Residual by depth", "Singular values"
    assert titles(report) == [depth, spectra]
    assert titles(trained(report)) == ["Training curves", depth, spectra]
    with pytest.raises(ValueFault, match="nothing to draw"):
        orthwrap.inspect(small_file(".h5"), measure=False).plot()


def test_a_plot_without_matplotlib_is_said(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "orthwrap.report.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueFault, match=r"pip install 'orthwrap\[report\]'"):
        report.plot()
