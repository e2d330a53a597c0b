"""Files and folders that may not be read or written: one line, and nothing changed.

Root may do everything, so the commands run in a process that gives up being root first.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.support.samples import small_file

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="the system has no such rights")

NOBODY = 65534
COMMANDS = """
import contextlib, io, json, os, sys, tempfile
from orthwrap_cli.main import app

def run(*words):
    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(told):
        try:
            app(list(words))
            code = 0
        except SystemExit as e:
            code = e.code or 0
    return code, said.getvalue()

calls, scratch = json.loads(sys.argv[1]), sys.argv[2]
# What is imported late must be there before it may not be read any more.
for words in (["apply", "m.h5", "-o", "warm.h5"], ["apply", "m.keras", "-o", "warm.keras"]):
    assert run(*words) == (0, "")
    os.remove(words[-1])
assert run("inspect", "old.h5") == (0, "")
assert run("inspect", "missing.h5")[0] == 1
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
tempfile.tempdir = scratch
print(json.dumps([run(*words) for words in calls]))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may enter, unlike pytest's own, with a folder of nobody's inside."""
    with tempfile.TemporaryDirectory(prefix="orthwrap-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for source in (".h5", ".keras"):
            (folder / f"m{source}").write_bytes(small_file(source).read_bytes())
        (folder / "old.h5").write_bytes(small_file(".h5").read_bytes())
        with h5py.File(folder / "old.h5", "r+") as f:
            f.attrs["keras_version"] = "2.10.0"
        mine(folder / "mine")
        mine(folder / "scratch")
        yield folder
        for path in folder.rglob("*"):
            if path.is_dir():
                path.chmod(0o755)


def mine(folder: Path) -> None:
    folder.mkdir()
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)


def commands(place: Path, *calls: list[str], scratch: str = "scratch") -> list[tuple[int, str]]:
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(calls), place / scratch],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(code, said) for code, said in json.loads(done.stdout)]


def refused(outcome: tuple[int, str], words: str) -> None:
    code, said = outcome
    assert code == 1, said
    assert said.startswith("error: "), said
    assert said.count("\n") == 1, said
    assert words in said


def content(folder: Path) -> dict[str, Any]:
    return {
        str(p.relative_to(folder)): (stat.S_IMODE(p.stat().st_mode), p.is_file() and p.read_bytes())
        for p in folder.rglob("*")
    }


@pytest.mark.slow
def test_a_folder_that_may_not_be_written_to(place: Path) -> None:
    (place / "old-out.h5").write_bytes(b"old")
    before = content(place)
    outcomes = commands(
        place,
        ["apply", "m.h5"],
        ["apply", "m.keras", "-o", "out.keras"],
        ["apply", "m.h5", "-o", "old-out.h5", "--force"],
        ["strip", "m.h5"],
        ["upgrade", "m.h5"],
        ["inspect", "m.h5", "--json", "report.json"],
    )
    for outcome in outcomes:
        refused(outcome, f"cannot write into {place}: Permission denied")
    assert content(place) == before


@pytest.mark.slow
def test_what_cannot_be_written_in_the_end_is_found_first(place: Path) -> None:
    before = content(place)
    for outcome in commands(
        place,
        ["apply", "m.h5", "-o", "mine/out.h5", "--json", "report.json"],
        ["apply", "m.h5", "-o", "out.h5", "--json", "mine/report.json"],
        ["strip", "m.keras", "-o", "mine/out.keras", "--json", "report.json"],
    ):
        refused(outcome, f"cannot write into {place}: Permission denied")
    assert content(place) == before


@pytest.mark.slow
def test_a_file_that_may_not_be_read(place: Path) -> None:
    for path in place.glob("m.*"):
        path.rename(place / f"closed{path.suffix}").chmod(0)
        path.write_bytes(small_file(path.suffix).read_bytes())
    locked = place / "locked"
    locked.mkdir()
    (locked / "m.h5").write_bytes(b"")
    locked.chmod(0)
    outcomes = commands(
        place,
        ["inspect", "closed.h5"],
        ["inspect", "closed.keras"],
        ["apply", "closed.h5", "-o", "mine/out.h5"],
        ["strip", "closed.keras", "-o", "mine/out.keras"],
        ["upgrade", "closed.h5", "-o", "mine/out.h5"],
        ["compare", "m.h5", "closed.h5"],
        ["inspect", "locked/m.h5"],
        ["inspect", "locked"],
    )
    for outcome in outcomes:
        refused(outcome, "Permission denied")
    assert list((place / "mine").iterdir()) == []


def test_a_folder_with_a_part_that_may_not_be_read(place: Path) -> None:
    unpacked = place / "unpacked.keras"
    with zipfile.ZipFile(place / "m.keras") as z:
        z.extractall(unpacked)
    (unpacked / "model.weights.h5").chmod(0)
    saved = place / "saved"
    saved.mkdir()
    (saved / "saved_model.pb").touch(0)
    for outcome in commands(
        place,
        ["inspect", "unpacked.keras"],
        ["apply", "unpacked.keras", "-o", "mine/out.keras"],
        ["inspect", "saved"],
    ):
        refused(outcome, "Permission denied")
    assert list((place / "mine").iterdir()) == []


def test_no_room_for_modernised_copies(place: Path) -> None:
    (place / "none").mkdir()
    (outcome,) = commands(place, ["inspect", "old.h5"], scratch="none")
    refused(outcome, f"cannot write into {place / 'none'}: Permission denied")


@pytest.mark.slow
def test_a_file_that_may_only_be_read_gives_one_like_it(place: Path) -> None:
    (place / "m.h5").chmod(0o444)
    (outcome,) = commands(place, ["apply", "m.h5", "-o", "mine/out.h5"])
    assert outcome == (0, "")
    assert stat.S_IMODE((place / "mine" / "out.h5").stat().st_mode) == 0o444
    again, unforced = commands(
        place,
        ["apply", "m.h5", "-o", "mine/out.h5", "--force"],
        ["apply", "m.h5", "-o", "mine/out.h5"],
    )
    assert again == (0, "")
    refused(unforced, "exists")
