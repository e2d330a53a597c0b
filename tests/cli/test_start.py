"""Ctrl-C and a lack of memory while a command is loaded: one line, no traceback.

What happens at which import is said to the command by a `sitecustomize`, so no test waits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.samples import small_file

SITE = """
import _signal, os, sys

class At:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["AT"]:
            sys.meta_path.remove(self)
            for word in os.environ["DO"].split():
                DO[word]()

def fail(error):
    raise error

DO = {
    "interrupt": lambda: os.kill(os.getpid(), _signal.SIGINT),
    "ignore": lambda: _signal.signal(_signal.SIGINT, _signal.SIG_IGN),
    "memory": lambda: fail(MemoryError()),
    "import": lambda: fail(ImportError("x.so: failed to map segment")),
    "system": lambda: fail(OSError(12, "Cannot allocate memory", "x.so")),
}
sys.meta_path.insert(0, At())
"""
# In the order in which they are imported: by the package, by the commands, and by one of them.
MODULES = ["orthwrap.errors", "orthwrap.text", "typer", "numpy", "h5py"]
ENTRIES: dict[str, list[str | None]] = {
    "module": [sys.executable, "-m", "orthwrap"],
    "script": [sys.executable, shutil.which("orthwrap", path=str(Path(sys.executable).parent))],
}


def start(
    entry: str, folder: Path, at: str, do: str, *words: str
) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(SITE)
    (folder / "m.h5").write_bytes(small_file(".h5").read_bytes())
    command = ENTRIES[entry]
    if command[-1] is None:
        pytest.skip("the script is not installed")
    places = [str(folder), *(str(Path(p).absolute()) for p in ("", "cli"))]
    env = os.environ | {"AT": at, "DO": do, "PYTHONPATH": os.pathsep.join(places)}
    return subprocess.run(
        [*map(str, command), "apply", "m.h5", *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("entry", "at"),
    [*(("module", at) for at in MODULES), ("script", "orthwrap.errors"), ("script", "typer")],
)
def test_interrupted_while_it_is_loaded(tmp_path: Path, entry: str, at: str) -> None:
    done = start(entry, tmp_path, at, "interrupt")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted: nothing was written\n"
    assert not (tmp_path / "m-orth.h5").exists()


def test_interrupted_while_its_report_is_shown(tmp_path: Path) -> None:
    done = start("module", tmp_path, "orthwrap.report.terminal", "interrupt")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted: m-orth.h5 is written, its report was not shown\n"
    assert (tmp_path / "m-orth.h5").exists()


@pytest.mark.dear
@pytest.mark.parametrize("entry", ENTRIES)
def test_an_ignored_interrupt_stays_ignored(tmp_path: Path, entry: str) -> None:
    """As a shell has it for what runs in the background."""
    done = start(entry, tmp_path, "orthwrap_cli", "ignore interrupt")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "at"),
    [("module", "typer"), ("module", "numpy"), ("module", "h5py"), ("script", "numpy")],
)
@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("memory", "memory"),
        ("import", "x.so: failed to map segment"),
        ("system", "x.so: Cannot allocate memory"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(
    tmp_path: Path, entry: str, at: str, error: str, words: str
) -> None:
    done = start(entry, tmp_path, at, error)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not (tmp_path / "m-orth.h5").exists()


def test_debug_shows_where(tmp_path: Path) -> None:
    done = start("module", tmp_path, "typer", "import", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize("megabytes", [60, 120, 160])
def test_too_little_address_space(tmp_path: Path, megabytes: int) -> None:
    (tmp_path / "m.h5").write_bytes(small_file(".h5").read_bytes())
    line = f"ulimit -v {megabytes << 10}; exec {sys.executable} -m orthwrap inspect m.h5 -q"
    places = os.pathsep.join(str(Path(p).absolute()) for p in ("", "cli"))
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1)
    assert done.stderr.count("\n") == done.returncode
    assert "Traceback" not in done.stderr


def test_a_check_loads_what_it_needs_alone(tmp_path: Path) -> None:
    """What takes long to load: other commands, and what waits for Keras, which is not there."""
    (tmp_path / "m.h5").write_bytes(small_file(".h5").read_bytes())
    code = (
        "import sys\n"
        "from orthwrap_cli.main import app\n"
        "app(['check', 'm.h5', '--max', 'residual=100', '-q'], standalone_mode=False)\n"
        "print(*sys.modules)"
    )
    places = os.pathsep.join(str(Path(p).absolute()) for p in ("", "cli"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "orthwrap.verbs.check" in loaded
    assert not loaded & {"wrapt", "asyncio", "keras", "orthwrap_cli.apply", "orthwrap_cli.bench"}
    assert not loaded & {"orthwrap.verbs.apply", "orthwrap.training.fit", "matplotlib", "jinja2"}
