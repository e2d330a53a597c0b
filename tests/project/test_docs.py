"""The pages of the documentation: their code runs, their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import call
from tests.conftest import REPOSITORY
from tests.support.pages import blocks, commands, lay_out

DOCS = REPOSITORY / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
# Run elsewhere: tests/penalties/test_register_penalty.py, tests/report/test_gate.py, test_help.py,
# tests/regularizers/test_split_kernels.py.
ELSEWHERE = {"regularizers.md", "pipelines.md", "commands.md", "devices.md"}
WITH_PYTHON = [n for n, text in PAGES.items() if blocks(text, "python") and n not in ELSEWHERE]
WITH_COMMANDS = [n for n, text in PAGES.items() if commands(text) and n not in ELSEWHERE]


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(PAGES[page], "python"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        exec(compile(code, page, "exec"), {"__name__": "__main__"})


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_commands_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # where Python itself looks, run as a command there
    lay_out(tmp_path)
    for words in commands(PAGES[page]):
        call(*words)


def test_every_page_is_in_the_navigation_and_the_other_way_round() -> None:
    project = tomllib.loads((REPOSITORY / "zensical.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(_pages(project["nav"])) == sorted(PAGES)


def _pages(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    members = entry.values() if isinstance(entry, dict) else entry
    return [page for member in members for page in _pages(member)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_what_is_there(page: str) -> None:
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", PAGES[page]):
        if "://" in link:
            continue
        assert (DOCS / link).exists(), link
        if anchor:
            assert anchor in _anchors(link or page), f"{link}#{anchor}"


def _anchors(page: str) -> set[str]:
    """Of the headings, as Python-Markdown makes them."""
    heads = re.findall(r"^#+ (.*)$", PAGES[page], re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", h.encode("ascii", "ignore").decode()) for h in heads]
    return {re.sub(r"[-\s]+", "-", head.strip().lower()) for head in plain}


def test_pages_made_from_the_code_are_what_it_makes() -> None:
    from orthwrap_cli import reference

    assert PAGES["commands.md"] == reference.commands()
    assert "{" not in PAGES["commands.md"]
    done = subprocess.run(
        [sys.executable, "-c", "import schema; print(schema.text(), end='')"],
        cwd=DOCS,
        capture_output=True,
        text=True,
        check=True,
    )
    assert PAGES["schema.md"] == done.stdout


def test_errors_and_advice_of_the_pages_are_those_of_the_code() -> None:
    folders = (REPOSITORY / "orthwrap", REPOSITORY / "cli")
    code = "".join(p.read_text(encoding="utf-8") for f in folders for p in f.rglob("*.py"))
    flat = re.sub(r'"\s+f?"', "", code)  # texts that are broken over lines
    _, advice = PAGES["guide.md"].split("## What the verdict advises")
    rows = re.findall(r"^\| ([^|-][^|]*) \|", PAGES["errors.md"] + advice, re.MULTILINE)
    said = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(said) > 10
    assert [text for text in said if text not in flat] == []


def test_the_study_is_what_its_runs_say() -> None:
    from studies import page

    assert PAGES["study.md"] == page.text()


def test_figures_of_the_guide_stand_where_it_sends_the_reader() -> None:
    """Each division, and each decimal number that is no word of an option."""
    guide = re.sub(r"`[^`]*`|arXiv:[\d.]+", "", PAGES["guide.md"])
    figures = re.findall(r"÷[\d.]+\d|(?<![\d.])[-+]?\d+\.\d+(?![\d.])", guide)
    measured = PAGES["study.md"] + PAGES["finetuning.md"]
    assert len(figures) > 3
    assert [figure for figure in figures if figure not in measured] == []
