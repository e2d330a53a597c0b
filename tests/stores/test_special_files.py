"""What is there and no regular file is never replaced: it is written straight through, or left."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import orthwrap
from orthwrap.stores.replacing import TextOutput, descriptor_of, replacing
from orthwrap_cli.main import app
from tests.support.samples import small_file

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no such files")

runner = CliRunner()
PROGRAM = [sys.executable, "-m", "orthwrap"]


def make(kind: str, path: Path) -> None:
    """Puts something of a kind there; skips where only root may."""
    numbers = {"character device": (stat.S_IFCHR, 1, 3), "block device": (stat.S_IFBLK, 7, 250)}
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(os.path.relpath(path))  # the whole path may be too long for a socket
    elif kind == "folder":
        path.mkdir()
    elif kind == "circle":
        path.symlink_to(path.name)
    else:
        mode, major, minor = numbers[kind]
        try:
            os.mknod(path, mode | 0o600, os.makedev(major, minor))
        except PermissionError:
            pytest.skip("only root may make devices")


KINDS = ["pipe", "socket", "folder", "circle", "character device", "block device"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "m.h5").write_bytes(small_file(".h5").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*words: str) -> str:
    result = runner.invoke(app, list(words))
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def nodes(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies in a folder, by kind and number."""
    found = ((p, p.lstat()) for p in folder.iterdir())
    return {p.name: (stat.S_IFMT(s.st_mode), s.st_ino) for p, s in found}


def placed(kind: str, folder: Path, suffix: str, linked: bool) -> str:
    """A special file, or a link to it: the name to give."""
    make(kind, folder / f"there{suffix}")
    if not linked:
        return f"there{suffix}"
    (folder / f"link{suffix}").symlink_to(f"there{suffix}")
    return f"link{suffix}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by a link"])
def test_no_model_replaces_it(folder: Path, kind: str, linked: bool) -> None:
    out = placed(kind, folder, ".h5", linked)
    before = nodes(folder)
    for verb in ("apply", "strip", "upgrade"):
        refused(verb, "m.h5", "-o", out, "--force", "-q")
        refused(verb, "m.h5", "-o", out, "-q")
    assert nodes(folder) == before


def test_what_comes_there_while_a_file_is_written_stays(tmp_path: Path) -> None:
    target = tmp_path / "out.h5"
    with pytest.raises(orthwrap.FileFault, match="is a pipe, which is not replaced"):  # noqa: PT012, SIM117
        with replacing(target) as sibling:
            sibling.write_bytes(b"model")
            os.mkfifo(target)
    assert stat.S_ISFIFO(target.lstat().st_mode)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "character device"])
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by a link"])
def test_json_is_refused_before_anything_is_written(folder: Path, kind: str, linked: bool) -> None:
    """Nobody reads from the pipe: waiting for that would hang."""
    report = placed(kind, folder, ".json", linked)
    before = nodes(folder)
    refused("apply", "m.h5", "-o", "out.h5", "-q", "--json", report)
    with pytest.raises(orthwrap.FileFault):
        TextOutput(Path(report))  # a log goes the same way
    assert nodes(folder) == before


def test_json_goes_into_a_device(folder: Path) -> None:
    make("character device", folder / "null.json")
    before = nodes(folder)
    result = runner.invoke(app, ["inspect", "m.h5", "-q", "--json", "null.json"])
    assert result.exit_code == 0, result.output
    assert nodes(folder) == before


def test_json_goes_into_a_pipe_with_a_reader(folder: Path) -> None:
    os.mkfifo("pipe")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(Path("pipe").read_text()))
    ready = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)  # so that a reader is there at once
    reader.start()
    done = subprocess.run([*PROGRAM, "inspect", "m.h5", "-q", "--json", "pipe"], check=False)
    reader.join()
    os.close(ready)
    assert done.returncode == 0
    assert json.loads(found[0])["command"] == "inspect"
    assert stat.S_ISFIFO(Path("pipe").lstat().st_mode)


def run(*words: str, shell: str = "") -> subprocess.CompletedProcess[str]:
    """A command with its streams redirected by a shell, as users do."""
    line = " ".join([*PROGRAM, *words, shell])
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.dear
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_its_name_carries_json_alone(folder: Path, name: str) -> None:
    done = run("inspect", "m.h5", "--json", name, shell="| cat")
    assert json.loads(done.stdout)["command"] == "inspect"
    assert "3 kernels" in done.stderr


@pytest.mark.slow
def test_descriptors_are_written_straight_through(folder: Path) -> None:
    (folder / "all.txt").write_text("kept\n")
    done = run("inspect m.h5 -q", shell="--json /dev/stdout >> all.txt")
    assert done.returncode == 0, done.stderr
    kept, _, report = (folder / "all.txt").read_text().partition("\n")
    assert kept == "kept"
    assert json.loads(report)["command"] == "inspect"
    done = run("inspect m.h5 --no-measure", shell="--json /dev/stderr")
    assert json.loads(done.stderr)["command"] == "inspect"
    assert "3 kernels" in done.stdout
    done = run("inspect m.h5 -q", shell="--json >(cat > inner.json)")
    assert done.returncode == 0, done.stderr
    done = run("inspect m.h5 -q", shell="--json <(true)")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write /dev/fd/")
    assert done.stderr.count("\n") == 1


def test_json_and_log_do_not_share_standard_output(folder: Path) -> None:
    words = ["apply", "m.h5", "--data", "d.npz", "--json", "-", "--log", "/dev/stdout"]
    result = runner.invoke(app, words)
    assert result.exit_code == 2
    assert "cannot both go to standard output" in result.stderr


# Logs


@pytest.fixture
def pipe() -> Iterator[tuple[int, Path]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, Path(f"/dev/fd/{writing}")
    os.close(reading)
    os.close(writing)


def test_a_stream_gets_what_has_been_added(pipe: tuple[int, Path]) -> None:
    reading, path = pipe
    assert descriptor_of(path) == int(path.name)
    output = TextOutput(path)
    for whole, new in (
        ("epoch,loss\n1,2\n", b"epoch,loss\n1,2\n"),
        ("epoch,loss\n1,2\n2,1\n", b"2,1\n"),
        ("epoch,loss,late\n1,2,\n", b"epoch,loss,late\n1,2,\n"),
    ):
        output.write(whole)
        assert os.read(reading, 1000) == new


def test_a_reader_that_is_gone_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    output = TextOutput(path)
    os.close(reader)
    with pytest.raises(orthwrap.FileFault, match=r"cannot write .*pipe: Broken pipe"):
        output.write("{}")


@pytest.mark.slow
def test_a_log_may_go_into_a_pipe(pipe: tuple[int, Path]) -> None:
    from tests.support import models
    from tests.support.run_helpers import classes

    reading, path = pipe
    result = orthwrap.apply(models.dense(), data=classes(), epochs=2, log=path)
    lines = os.read(reading, 10_000).decode().splitlines()
    names = lines[0].split(",")
    beside = {"factor", "learning_rate", "seconds"}  # of the run, and no figures of its model
    assert [n for n in names if n not in beside] == ["epoch", *result.report.training.history]
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2"]
