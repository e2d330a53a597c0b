"""All that is wrong with what was said comes at once, a line each, before any file is looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import orthwrap
from orthwrap import OrthwrapError, Rule, UsageError, ValueFault
from orthwrap.errors import Faults, FileFault
from orthwrap_cli.main import app

OUTPUTS = ("m-orth.h5", "m-tuned.h5")
# A command, its exit code, and how each line that it says begins. No model is there; each OUT is.
COMMANDS: dict[str, tuple[str, int, list[str]]] = {
    "what cannot be read, and a name": (
        "apply m.h5 --factor abc -r soo --scale huge --option steps --factor-for x=y",
        2,
        [
            "--factor 'abc' is",
            "--scale 'huge' is",
            "--option 'steps' is",
            "--factor-for 'x=y'",
            "unknown regularizer 'soo'",
        ],
    ),
    "about training": (
        "apply m.h5 --epochs few --batch-size 0 --target re:[",
        2,
        ["pattern 're:['", "epochs, batch size are", "--epochs 'few' is", "batch size 0 must"],
    ),
    "contradictions": (
        "apply m.h5 --data d.npz --keep all --rescale 2 --preprocessing x --rho 2 --goal 10y",
        2,
        ["goal '10y'", "--keep 'all'", "rescale and preprocessing", "rho is about factor auto"],
    ),
    "options of a penalty": (
        "apply m.h5 --option a=1 --option probes=x",
        1,
        ["regularizer 'so' takes no option 'a'", "option probes='x' must"],
    ),
    "finetune": (
        "finetune m.h5 --epochs 0 --temperature -1",
        2,
        ["finetune needs data", "temperature is about", "epochs 0", "temperature -1.0 must"],
    ),
    "inspect": (
        "inspect m.h5 -t re:( -x re:[ --custom-objects no_such --operator --no-measure",
        2,
        ["operator asks", "cannot import 'no_such'", "pattern 're:('", "pattern 're:['"],
    ),
    "check": (
        "check m.h5 --max foo=1 --max bar --worse-than x -t re:(",
        2,
        ["max: figure 'foo'", "max 'bar'", "--worse-than 'x'", "pattern 're:('"],
    ),
    "files of reports": (
        "check m.h5 --max residual=1 --json no/r.json --md m-orth.h5/r.md --html no/r.html",
        1,
        ["folder no for --json", "folder no for --html", "m-orth.h5 for --md is no folder"],
    ),
    "bench": (
        "bench m.h5 -r soo --constrain no --seconds -1 -t re:(",
        1,
        ["seconds must", "regularizer 'soo'", "unknown constraint 'no'", "pattern 're:('"],
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in OUTPUTS:
        (tmp_path / name).write_text("there")
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_all_at_once(folder: Path, name: str) -> None:
    command, code, said = COMMANDS[name]
    done = CliRunner().invoke(app, command.split())
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    lines = done.stderr.splitlines()
    assert len(lines) == len(said), done.stderr
    for beginning in said:
        assert sum(line.startswith(f"error: {beginning}") for line in lines) == 1, done.stderr
    assert {p.name for p in folder.iterdir()} == set(OUTPUTS)


def test_a_rules_file_says_all_of_each_rule_at_once(folder: Path) -> None:
    text = '[[rule]]\nfactr = 3\nscale = "huge"\n[[rule]]\nregularizer = "none"\nfactor = -1\n'
    (folder / "r.toml").write_text(text)
    done = CliRunner().invoke(app, ["apply", "m.h5", "--rules", "r.toml", "--factor", "3"])
    assert done.exit_code == 2
    said = [
        "rules come instead of factor: put it into the rules",
        "r.toml, rule 1 has an unknown key 'factr'",
        "r.toml, rule 1: scale 'huge' is not known",
        "r.toml, rule 2: factor -1 must be",
        "r.toml, rule 2: regularizer none takes out what is there",
    ]
    lines = done.stderr.splitlines()
    assert len(lines) == len(said), done.stderr
    for line, beginning in zip(lines, said, strict=True):
        assert line.startswith(f"error: {beginning}")


CALLS: dict[str, tuple[Callable[[], Any], type[OrthwrapError], int]] = {
    "values": (
        lambda: orthwrap.apply("m.h5", data="d.npz", epochs=0, factor=-1, scale="huge"),
        ValueFault,
        3,
    ),
    "contradictions": (
        lambda: orthwrap.finetune("m.h5", "d.npz", goal="10x", pull=0.1, resume=True),
        UsageError,
        2,
    ),
    "both": (lambda: orthwrap.apply("m.h5", epochs=2, existing="burn"), UsageError, 2),
    "a rule": (lambda: Rule(factor="x", on="y", target=("re:(", "re:[", "")), ValueFault, 5),
    "limits": (lambda: orthwrap.check("m.h5", max={"a": 1, "residual": -1}), ValueFault, 2),
    "patterns given one by one": (
        lambda: orthwrap.inspect("m.h5", target=iter(["re:(", "ok", "re:["])),
        ValueFault,
        2,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_python_says_all_at_once(folder: Path, name: str) -> None:
    call, kind, count = CALLS[name]
    with pytest.raises(kind) as raised:
        call()
    assert len(raised.value.args) == count, raised.value.args
    assert str(raised.value).splitlines() == list(raised.value.args)


def test_a_value_at_fault_is_a_value_error_beside_what_contradicts(folder: Path) -> None:
    with pytest.raises(ValueError, match="existing 'burn'"):
        orthwrap.apply("m.h5", epochs=2, existing="burn")


def test_a_word_at_fault_is_no_reason_for_another_fault() -> None:
    """`every` is said of a constraint, which is there, though nothing that is known."""
    with pytest.raises(ValueFault) as raised:
        Rule(constrain="orthogonall", every=4)
    assert len(raised.value.args) == 1
    with pytest.raises(ValueFault, match=r"^keep 'never'"):
        orthwrap.finetune("m.h5", "d.npz", keep="never", monitor="val_loss")


def test_patterns_may_come_one_by_one() -> None:
    assert Rule(target=iter(("a", "b"))).target == ("a", "b")


def test_one_fault_is_raised_as_it_is() -> None:
    faults = Faults()
    faults.raise_all()
    own = FileFault("m.h5 is broken")
    faults.add(own)
    with pytest.raises(FileFault) as raised:
        faults.raise_all()
    assert raised.value is own


def test_no_more_is_told_at_once_than_a_screen_takes() -> None:
    faults = Faults()
    for i in range(37):
        faults.add(ValueFault(f"word {i} is wrong"))
    with pytest.raises(ValueFault) as caught:
        faults.raise_all()
    assert caught.value.args == (*(f"word {i} is wrong" for i in range(10)), "and 27 more")
