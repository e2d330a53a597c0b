"""What ARCHITECTURE and CONTRIBUTING say is so, and a commit is checked as CI checks it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ARCHITECTURE, CONTRIBUTING, MAKEFILE, HOOKS = (
    (REPOSITORY / name).read_text(encoding="utf-8")
    for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "Makefile", ".pre-commit-config.yaml")
)
PACKAGE = REPOSITORY / "orthwrap"
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))

# The stages of a model's path, in their order.
STAGES = ("opening.py", "survey.py", "plan/__init__.py", "surgery.py", "report/__init__.py")


def test_the_picture_has_the_floors_of_the_contract() -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as f:
        contracts = tomllib.load(f)["tool"]["importlinter"]["contracts"]
    (floors,) = [c["layers"] for c in contracts if c["id"] == "floors"]
    (picture,) = re.findall(r"```text\n(.*?)```", ARCHITECTURE, re.DOTALL)
    drawn = re.findall(r"^  (\w+) ", picture, re.MULTILINE)
    rooms = [sorted(room for room in floor.split(" | ") if room[0] != "_") for floor in floors]
    found = []
    for floor in rooms:
        found.append(sorted(drawn[: len(floor)]))
        drawn = drawn[len(floor) :]
    assert found == rooms
    assert drawn == []


@pytest.mark.parametrize(("number", "module"), list(enumerate(STAGES, 1)))
def test_each_stage_says_its_number_in_its_first_line(number: int, module: str) -> None:
    first = (PACKAGE / module).read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith(f'"""{number}. ')


@pytest.mark.parametrize("page", [ARCHITECTURE, CONTRIBUTING], ids=["ARCHITECTURE", "CONTRIBUTING"])
def test_what_the_pages_name_is_there(page: str) -> None:
    named = set(re.findall(r"`((?:[\w.]+/)+(?:\w+\.\w+)?)`", page))
    assert len(named) > 5
    made = {"dist/", "site/"}  # by make, and not here before
    missing = [
        name
        for name in sorted(named - made)
        if not any((root / name).exists() for root in (REPOSITORY, PACKAGE, PACKAGE / "training"))
    ]
    assert missing == []
    for target in re.findall(r"`make ([a-z-]+)`", page):
        assert target in TARGETS


def test_the_targets_of_make_are_listed() -> None:
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", CONTRIBUTING, re.MULTILINE))
    assert listed <= TARGETS
    assert listed >= {"test", "test-fast", "test-backends", "test-lowest", "fuzz", "bench"}
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    (said,) = re.findall(r"^CI runs `\.ci/run`: (.*)\.$", CONTRIBUTING, re.MULTILINE)
    assert re.findall(r"`([a-z-]+)`", said) == re.findall(r"^make ([a-z-]+)$", ci, re.MULTILINE)


def test_a_commit_is_checked_as_make_does_it() -> None:
    recipes = "".join(re.findall(r"^(?:lint|types):.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE))
    made = re.findall(r"\$\(BIN\)/(.*)", recipes)
    hooked = re.findall(r"entry: \.venv/bin/(.*)", HOOKS)
    assert len(made) == 4
    assert sorted(hooked) == sorted(made)
    assert "://" not in HOOKS


def test_the_pages_that_make_makes_are_all_of_its_docs() -> None:
    (recipe,) = re.findall(r"^docs:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    for page in (
        "docs/regularizers.py",
        "docs/schema.py",
        "words.md",
        "commands.md",
        "studies.page",
    ):
        assert page in recipe


def test_every_version_in_the_changelog_has_its_date() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    released = heads[heads[0] == "Unreleased" :]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", head) for head in released)


@pytest.mark.parametrize("page", sorted(REPOSITORY.glob("*.md")), ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
