"""The wheel, installed into an environment of its own, works from outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.samples import small_file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out]
    subprocess.run([*map(str, command), str(REPOSITORY)], check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
    tops = {n.split("/")[0] for n in names if ".dist-info" not in n}
    assert tops == {"orthwrap", "orthwrap_cli"}
    assert {"orthwrap/py.typed", "orthwrap_cli/py.typed"} <= set(names)
    assert any(n.endswith("licenses/LICENSE") for n in names)


@pytest.mark.slow
def test_the_installed_wheel_runs_from_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(list(map(str, pip)), check=True, capture_output=True)
    # The dependencies are the ones that are here already; of them orthwrap is not one, because an
    # editable install lives in a .pth file, which Python does not read from a folder added by one.
    site = next((venv / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    work = tmp_path / "work"
    work.mkdir()
    (work / "model.h5").write_bytes(small_file(".h5").read_bytes())
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=work, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(str(python), "-c", "import orthwrap, orthwrap_cli; print(orthwrap.__file__)")
    assert str(venv) in where
    orthwrap = str(venv / "bin" / "orthwrap")
    assert "inspect" in run(orthwrap, "--help")
    run(orthwrap, "apply", "model.h5")
    run(orthwrap, "inspect", "model-orth.h5")
    run(orthwrap, "strip", "model-orth.h5")
    run(orthwrap, "compare", "model.h5", "model-orth-plain.h5")
