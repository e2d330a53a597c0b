"""`--help`: its examples run as they stand, it says what there is, and completion works."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import orthwrap
from orthwrap.penalties.table import PENALTIES
from orthwrap.stores.outputs import SUFFIXES
from orthwrap_cli import reference
from orthwrap_cli.examples import EXAMPLES
from orthwrap_cli.main import app
from tests.conftest import REPOSITORY, steps_run_eagerly
from tests.support.samples import small_file

LINES = [(command, line) for command, lines in EXAMPLES.items() for line in lines]
WIDE = {"COLUMNS": "160"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that examples speak of."""
    shutil.copyfile(small_file(".h5"), tmp_path / "model.h5")
    orthwrap.apply(tmp_path / "model.h5", tmp_path / "model-orth.h5")
    np.savez(tmp_path / "data.npz", x=np.ones((8, 8, 8, 1), "float32"), y=np.arange(8))
    shutil.copyfile(small_file(".h5"), tmp_path / "old.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.dear
@pytest.mark.parametrize(("command", "line"), LINES, ids=[line for _, line in LINES])
def test_an_example_runs_as_it_stands(folder: Path, command: str, line: str) -> None:
    program, *words = shlex.split(line)
    assert (program, words[0]) == ("orthwrap", command)
    if line == "orthwrap apply model.h5":
        (folder / "model-orth.h5").unlink()
    with steps_run_eagerly() if command == "bench" else contextlib.nullcontext():
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


def help_of(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], env=WIDE)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("command", ["", *EXAMPLES])
def test_help_shows_its_examples_and_no_type_of_a_flag(command: str) -> None:
    text = help_of(*command.split())
    assert "<bool>" not in text
    for line in EXAMPLES.get(command, ()):
        assert f"$ {line}" in text


def test_help_names_what_there_is() -> None:
    text = " ".join(help_of("apply").replace("│", " ").split())
    assert ", ".join(PENALTIES) in text
    for command, suffix in SUFFIXES.items():
        said = " ".join(help_of(command).replace("│", " ").split())
        assert f"MODEL's name with {suffix} at its end" in said


def test_completion_is_offered_and_needs_no_framework(tmp_path: Path) -> None:
    # Nor what reads files: no command's help waits for these.
    slow = ("keras", "tensorflow", "jax", "torch", "numpy", "h5py")
    script = f"import sys; sys.modules.update(dict.fromkeys({slow}))\n"
    script += "from orthwrap_cli.main import main; main()"
    env = {"_ORTHWRAP_COMPLETE": "complete_bash", "COMP_WORDS": "orthwrap ins", "COMP_CWORD": "1"}
    paths = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'cli'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = 'orthwrap'; {script}"],
        env={**os.environ, "PYTHONPATH": paths, **env},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["inspect"], done.stderr
    assert "--install-completion" in help_of()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("orthwrap apply m.h5 -r s", ["so", "srip", "spectral"]),
        ("orthwrap check m.h5 --format j", ["junit"]),
        ("orthwrap inspect m.h5 --sort c", ["condition"]),
    ],
)
def test_choices_are_completed(words: str, offered: list[str]) -> None:
    env = {"_ORTHWRAP_COMPLETE": "complete_bash", "COMP_WORDS": words}
    env["COMP_CWORD"] = str(len(words.split()) - 1)
    done = CliRunner().invoke(app, [], prog_name="orthwrap", env=env)
    assert done.stdout.split() == offered


def test_a_wrong_word_is_said_before_an_output_that_exists(folder: Path) -> None:
    for words in (["--target", "nonsens*"], ["--regularizer", "nonsens"], ["--factor", "-1"]):
        done = CliRunner().invoke(app, ["apply", "model.h5", *words])
        assert done.exit_code in (1, 2)
        assert "model-orth.h5" not in done.stderr
        assert "nonsens" in done.stderr or "factor" in done.stderr


def test_the_same_in_python(folder: Path) -> None:
    with pytest.raises(orthwrap.OrthwrapError, match=r"nonsens"):
        orthwrap.apply(folder / "model.h5", target="nonsens*")
    with pytest.raises(orthwrap.OrthwrapError, match=r"model-orth\.h5"):
        orthwrap.apply(folder / "model.h5")


@pytest.mark.parametrize("command", ["apply", "finetune"])
def test_the_goal_is_the_first_panel_of_the_help(command: str) -> None:
    page = reference.commands()
    part = page[page.index(f"## `{command}`") :]
    panels = [line for line in part.splitlines() if line.startswith("| **")]
    assert panels[0] == "| **The goal, with --data** | |"


def test_the_first_example_has_a_goal() -> None:
    assert "--goal 10x" in EXAMPLES["apply"][0]
