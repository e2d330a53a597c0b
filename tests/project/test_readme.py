"""What the README says is so: its Python runs, its commands, and its options exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orthwrap.rules.file import read_rules
from orthwrap.rules.patterns import SHORTHANDS
from orthwrap_cli import reference
from tests.cli.test_cli import call
from tests.conftest import REPOSITORY
from tests.support.pages import blocks, commands, lay_out

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
LAYERS = (REPOSITORY / "docs" / "layers.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_python_runs_from_top_to_bottom() -> None:
    exec(compile("\n".join(blocks(README, "python")), "README", "exec"), {})


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # where Python itself looks, run as a command there
    lay_out(tmp_path)
    lines = commands(README)
    assert len(lines) >= 3
    for words in lines:
        call(*words)
    assert (tmp_path / "model-orth-plain.h5").exists()


def test_the_rules_file_is_one(tmp_path: Path) -> None:
    (text,) = blocks(LAYERS, "toml")
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    first, second = read_rules(path)
    assert first.target == ("stem*", "class:Conv2D")
    assert (second.regularizer, second.options) == ("srip", {"steps": 3})


def test_every_option_that_is_named_exists() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs").glob("*.md")]
    named = set(re.findall(r"`(?:orthwrap \w+ )?(--[a-z][a-z-]+)", "".join([README, *pages])))
    assert named <= {"--help", "--version", *re.findall(r"--[a-z-]+", reference.commands())}


def test_every_shorthand_is_there() -> None:
    assert all(f"`{name}`" in LAYERS for name in SHORTHANDS)
