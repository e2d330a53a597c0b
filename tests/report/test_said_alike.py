"""A screen, a page, a notebook and Markdown say the same of a report, in the same words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape

import pytest

import orthwrap
from orthwrap.report.as_html import text_of as html_of
from orthwrap.report.as_markdown import text_of as markdown_of
from orthwrap.report.record import Report, Training
from orthwrap.report.verdict import Verdict
from tests.support.samples import small_file


def words(markup: str) -> str:
    """What a reader sees of HTML, in one line."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", markup, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body.replace("<wbr>", ""))).split())


FORMS: dict[str, Callable[[Report], str]] = {
    "screen": lambda report: " ".join(str(report).split()),
    "page": lambda report: words(html_of(report)),
    "notebook": lambda report: words(report._repr_html_()),
    "Markdown": lambda report: markdown_of(report).replace("\\", ""),
}
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(scope="module")
def plain() -> Report:
    return orthwrap.inspect(small_file(".h5"))


@pytest.mark.parametrize("form", ["screen", "page", "Markdown"])
@pytest.mark.parametrize(
    ("command", "said"), [("inspect", "Would be brought up"), ("apply", "Brought up")]
)
def test_what_was_old_is_said_in_words(plain: Report, form: str, command: str, said: str) -> None:
    upgrades = (
        {"name": "input layer", "vintage": "tf.keras 1.x-2.1", "layers": ["a", "b"]},
        {"name": "SavedModel", "vintage": "tf.keras 2.3.0-tf", "layers": ["a"]},
    )
    text = FORMS[form](replace(plain, command=command, upgrades=upgrades))
    assert f"{said} to Keras 3" in text
    assert "tf.keras 1.x–2.1" in text
    assert "tf.keras 2.3.0-tf" in text
    assert "['a" not in text


@every_form
def test_the_column_is_named_after_its_figures(form: str) -> None:
    """With `preserve` they are residuals of W/α; 1.0 times a kernel has the same."""
    report = orthwrap.apply(small_file(".h5"), scale="preserve", dry_run=True).report
    assert "scaled residual" in FORMS[form](report)


@every_form
def test_a_row_says_where_its_figure_is_another(form: str) -> None:
    rules = [
        orthwrap.Rule(target="conv*", regularizer="lorth", scale="unit"),
        orthwrap.Rule(target="all-dense", regularizer="so", scale="unit"),
    ]
    report = orthwrap.apply(small_file(".h5"), rules=rules, dry_run=True).report
    text = FORMS[form](report)
    (dense,) = (r for r in report.layers if r.class_name == "Dense")
    assert dense.before is not None
    assert "operator residual" in text
    assert f"residual {dense.before.residual:.3g}" in text


@pytest.mark.parametrize("form", ["page", "notebook"])
def test_a_singular_kernel_has_a_condition_without_bound(plain: Report, form: str) -> None:
    first, *rest = plain.layers
    assert first.before is not None
    singular = replace(first, before=replace(first.before, sigma_min=0.0, condition=None))
    assert "∞" not in FORMS[form](plain)
    assert "∞" in FORMS[form](replace(plain, layers=(singular, *rest)))


@every_form
def test_the_verdict_is_told(plain: Report, form: str) -> None:
    verdict = Verdict((), (), warnings=("dense: its residual rose",), next_step="give more epochs")
    metrics = {"loss": 0.5}
    training = Training(2, {}, {"loss": (0.5, 0.4)}, metrics, metrics, kept_epoch=2)
    text = FORMS[form](replace(plain, training=replace(training, verdict=verdict)))
    for part in (verdict.line, *verdict.warnings, verdict.next_step):
        assert str(part) in text
