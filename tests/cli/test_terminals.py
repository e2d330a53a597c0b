"""On any terminal, into any stream, with any file name and any date: never a traceback."""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import orthwrap
from orthwrap.report.terminal import console, regularizer_rows, render, render_regularizers
from orthwrap.text import plainly
from tests.support.samples import small_file

ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "utf-8"]
PROGRAM = [sys.executable, "-m", "orthwrap"]
SOURCES = [p for place in ("orthwrap", "cli") for p in Path(place).rglob("*.py")]


@given(st.text(st.characters(exclude_categories=()), max_size=30), st.sampled_from(ENCODINGS))
def test_every_encoding_can_show_every_text(text: str, encoding: str) -> None:
    shown = plainly(text, encoding)
    shown.encode(encoding)
    assert plainly(shown, encoding) == shown
    if text.isascii():
        assert shown == text


def signs() -> set[str]:
    """All that messages and tables are written with, but for what a comment or docstring has."""
    found: set[str] = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docs:
                found |= {c for c in node.value if not c.isascii()}
    return found


@pytest.mark.slow
def test_every_sign_has_a_plain_one() -> None:
    used = signs() - set("＝＋－＠")
    assert {"→", "σ", "×", "…"} <= used
    assert [sign for sign in sorted(used) if "\\" in plainly(sign, "ascii")] == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("out") / "m-orth.h5"
    return orthwrap.apply(small_file(".h5"), out, scale="preserve").report


@pytest.mark.parametrize("width", [20, 40, 80, 140])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_keep_their_shape_in_plain_signs(report: Any, encoding: str, width: int) -> None:
    buffer = io.BytesIO()
    screen = console(io.TextIOWrapper(buffer, encoding, "strict", write_through=True))
    screen.width = width
    screen.print(render(report, width))
    screen.print(render_regularizers(regularizer_rows(), width))
    text = buffer.getvalue().decode(encoding)
    assert max(map(len, text.splitlines())) <= width
    assert "\\u" not in text
    if encoding == "ascii" and width >= 80:
        assert "sigma min ... max" in text
        assert "3x3x1x8" in text
        assert "||G-I||^2_F" in text
        rows = [line for line in text.splitlines() if line.startswith(("conv1 ", "conv2 "))]
        columns = [[i for i, c in enumerate(row) if c == "|"] for row in rows]
        assert columns[0] == columns[1] != []


def test_a_report_as_text_fits_standard_output(
    report: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "σ" in str(report)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert str(report).isascii()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for suffix in (".h5", ".keras"):
        (tmp_path / f"m{suffix}").write_bytes(small_file(suffix).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(
    "terminal",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252", "COLUMNS": "20"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb"},
        {"NO_COLOR": "1", "COLUMNS": "20", "PYTHONUTF8": "1"},
    ],
    ids=str,
)
def test_commands_on_many_terminals(folder: Path, terminal: dict[str, str]) -> None:
    encoding = terminal.get("PYTHONIOENCODING", "utf-8" if "NO_COLOR" in terminal else "ascii")
    for words in (["apply", "m.h5"], ["apply", "--help"], ["inspect", "größe→.h5"]):
        done = subprocess.run(
            [*PROGRAM, *words], env=os.environ | terminal, capture_output=True, check=False
        )
        said = done.stderr.decode("utf-8" if "NO_COLOR" in terminal else encoding)
        shown = done.stdout.decode(encoding)
        if words[0] == "inspect":
            assert done.returncode == 1
            assert said.startswith("error: gr")
            assert said.count("\n") == 1
        else:
            assert (done.returncode, said) == (0, "")
            assert shown
    assert (folder / "m-orth.h5").exists()


def test_an_encoding_that_takes_no_error_handler_is_shown_in_ascii(folder: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "inspect", "größe→.h5"],
        env=os.environ | {"PYTHONIOENCODING": "idna"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: gro\\xdfe->.h5 does not exist")


# Streams that take nothing


def shell(line: str) -> tuple[int, str]:
    """A command's exit code and what it says on standard error."""
    program = " ".join(PROGRAM)
    done = subprocess.run(
        ["bash", "-c", line.replace("orthwrap", program)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.dear
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("words", ["apply m.h5 --force", "inspect m.h5 -q --json -", "--help"])
def test_full_standard_output_is_one_line(folder: Path, words: str) -> None:
    code, said = shell(f"orthwrap {words} > /dev/full")
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("error: standard output: No space left on device")
    assert ("m-orth.h5 had been written before" in said) == words.startswith("apply")


@pytest.mark.dear
@pytest.mark.parametrize("words", ["apply m.h5 --force", "inspect m.h5 -q --json -", "--help"])
def test_a_reader_that_is_gone_is_no_traceback(folder: Path, words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, *words.split()], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.slow
def test_closed_streams(folder: Path) -> None:
    assert shell("orthwrap apply m.h5 >&-") == (0, "")
    assert (folder / "m-orth.h5").exists()
    code, said = shell("orthwrap inspect m.h5 --json - >&-")
    assert (code, said.count("\n")) == (1, 1)
    assert "standard output is closed" in said
    assert shell("orthwrap inspect no.h5 >&- 2>&-") == (1, "")
    # A file opened while a stream is closed gets no words meant for the stream.
    assert shell("orthwrap apply m.h5 -o a.h5 <&- >&- 2>&-")[0] == 0
    orthwrap.inspect("a.h5")


def test_last_words_of_a_library_are_passed_on() -> None:
    program = (
        "import os; from orthwrap_cli.quiet import without_chatter\n"
        "with without_chatter():\n"
        "    os.write(2, b'I0000 00:00:1.5 1 chatter\\nlast words\\n'); os.abort()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.stderr == b"last words\n"


# Names of files


def test_names_that_are_not_utf_8(folder: Path) -> None:
    for suffix in (".h5", ".keras"):
        path = Path(os.fsdecode(b"\xff" + suffix.encode()))
        try:
            path.write_bytes(small_file(suffix).read_bytes())
        except OSError:
            pytest.skip("this file system takes no such names")
        report = orthwrap.inspect(path)
        assert json.loads(json.dumps(report.to_json()))["model"]["path"] == str(path)
        assert "\\udcff" in str(report)
        result = orthwrap.apply(path)
        assert result.output == Path(os.fsdecode(b"\xff-orth" + suffix.encode()))
        plain = orthwrap.strip(result.output, os.fsdecode(b"\xfe" + suffix.encode())).output
        upgraded = orthwrap.upgrade(plain).output
        compared = orthwrap.compare(path, upgraded, measure=False).to_json()
        assert compared["summary"]["same"] == 3
    # A conversion is written by Keras.
    converted = orthwrap.apply("m.h5", os.fsdecode(b"\xfd.keras")).output
    assert len(orthwrap.inspect(converted, measure=False).layers) == 3
    assert not [p for p in os.listdir(os.fsencode(folder)) if p.endswith(b".tmp")]


@pytest.mark.parametrize("seconds", [0, -(10**9), 315532799, 4354819200, 2**33])
def test_unpacked_models_of_any_date(folder: Path, seconds: int) -> None:
    with zipfile.ZipFile("m.keras") as z:
        z.extractall("unpacked.keras")
    for path in Path("unpacked.keras").iterdir():
        os.utime(path, (seconds, seconds))
    out = orthwrap.apply("unpacked.keras", "packed.keras").output
    with zipfile.ZipFile(out) as z:
        assert all(1980 <= info.date_time[0] <= 2107 for info in z.infolist())
    assert orthwrap.inspect(out).summary["regularized"] == 3


# Full places


@pytest.fixture
def tiny() -> Iterator[Path]:
    """A file system of 300 KB of its own."""
    place = Path(tempfile.mkdtemp(prefix="orthwrap-tiny-"))
    words = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", place]
    if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
        place.rmdir()
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)
    place.rmdir()


def make_old(path: Path) -> None:
    """A file of Keras 2, of 400 KB: reading it makes a copy in the temporary folder."""
    path.write_bytes(small_file(".h5").read_bytes())
    with h5py.File(path, "r+") as f:
        f.attrs["keras_version"] = "2.4.0"
        f["padding"] = np.ones(400_000, np.uint8)


def make_compressed(path: Path) -> None:
    """An archive whose weights are unpacked into the temporary folder to be read."""
    with zipfile.ZipFile(small_file(".keras")) as z, zipfile.ZipFile(path, "w", 8) as out:
        for name in z.namelist():
            data = z.read(name) + (bytes(400_000) if name.endswith(".h5") else b"")
            out.writestr(name, data)


@pytest.mark.parametrize("make", [make_old, make_compressed])
def test_a_full_temporary_folder_is_named(
    folder: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    path = folder / ("in.h5" if make is make_old else "in.keras")
    make(path)
    orthwrap.inspect(path)  # where there is room
    monkeypatch.setattr(tempfile, "tempdir", str(tiny))
    with pytest.raises(orthwrap.FileFault) as caught:
        orthwrap.inspect(path)
    assert str(caught.value).startswith(f"cannot write into {tiny}, where temporary files lie: No ")
    assert str(path) not in str(caught.value)
    assert list(tiny.iterdir()) == []


def test_a_full_output_is_named(folder: Path, tiny: Path) -> None:
    (tiny / "filling").write_bytes(bytes(290_000))
    for suffix in (".h5", ".keras"):
        with pytest.raises(orthwrap.FileFault, match=f"cannot write {tiny}/out{suffix}: No space"):
            orthwrap.apply(f"m{suffix}", tiny / f"out{suffix}")
    assert [p.name for p in tiny.iterdir()] == ["filling"]


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("make", [make_old, make_compressed])
def test_a_file_that_may_not_grow_is_named(folder: Path, make: Any) -> None:
    path = folder / ("in.h5" if make is make_old else "in.keras")
    make(path)
    with files_of_at_most(100_000), pytest.raises(orthwrap.FileFault) as caught:
        orthwrap.inspect(path)
    assert f"{os.strerror(errno.EFBIG)}: make room" in str(caught.value)
    assert str(path) not in str(caught.value)
    with files_of_at_most(10_000), pytest.raises(orthwrap.FileFault) as caught:
        orthwrap.apply("m.h5", "out.h5")
    assert str(caught.value) == f"cannot write {folder}/out.h5: {os.strerror(errno.EFBIG)}"
    assert not (folder / "out.h5").exists()
