"""The wheel, installed into an environment of its own, works from outside the checkout.

`make release-check` hands over what it has made: `ORTHWRAP_DIST`, a folder with sdist and wheel,
and `ORTHWRAP_INSTALLED`, an environment with the wheel and its dependencies.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from orthwrap._version import __version__
from tests.conftest import REPOSITORY
from tests.support.samples import small_file

pytestmark = pytest.mark.slow

# Pages that a reader is sent to; any other address does not belong into what is released.
PAGES = (
    b"http://www.apache.org/licenses/",
    b"https://protobuf.dev/",
    b"https://json-schema.org/draft/",
    b"http://www.w3.org/2000/svg",
    # Of the tools that docs/comparison.md speaks of.
    *(b"https://keras.io/api/", b"https://docs.pytorch.org/docs/", b"https://huggingface.co/docs/"),
    *(b"https://github.com/deel-ai/", b"https://github.com/lezcano/geotorch"),
    *(b"https://github.com/calculatedcontent/", b"https://github.com/tensorflow/"),
)
# Places on the machine where it was built.
LOCAL = tuple(f"{place}/".encode() for place in (REPOSITORY, Path.home()) if len(place.parts) > 1)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was made from it."""
    if "ORTHWRAP_DIST" in os.environ:
        return REPOSITORY / os.environ["ORTHWRAP_DIST"]
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, REPOSITORY]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it."""
    if "ORTHWRAP_INSTALLED" in os.environ:
        return Path(os.environ["ORTHWRAP_INSTALLED"])
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    (wheel,) = dist.glob("*.whl")
    python = venv / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(list(map(str, pip)), check=True, capture_output=True)
    # The dependencies are the ones that are here already; of them orthwrap is not one, because an
    # editable install lives in a .pth file, which Python does not read from a folder added by one.
    site = next((venv / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return venv


def files_of(dist: Path) -> dict[str, bytes]:
    """Name → content of all that is in the wheel, and in the sdist without its tests."""
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as z:
        files = {name: z.read(name) for name in z.namelist()}
    with tarfile.open(sdist) as t:
        for member in t.getmembers():
            name = member.name.partition("/")[2]
            content = t.extractfile(member)
            if content is not None and not name.startswith("tests/"):
                files[f"sdist/{name}"] = content.read()
    return files


def test_the_wheel_holds_the_two_packages_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
    tops = {n.split("/")[0] for n in names if ".dist-info" not in n}
    assert tops == {"orthwrap", "orthwrap_cli"}
    assert {"orthwrap/py.typed", "orthwrap_cli/py.typed"} <= set(names)
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_the_sdist_holds_what_the_readme_links_to(dist: Path) -> None:
    names = {name.removeprefix("sdist/") for name in files_of(dist)}
    linked = re.findall(r"\]\(([^)#:]+)\)", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert linked
    assert set(linked) <= names


def test_no_address_and_no_place_on_this_machine_is_inside(dist: Path) -> None:
    found = {}
    for name, content in files_of(dist).items():
        addresses = re.findall(rb"\w+://[\w./~-]+", content)
        alien = [a for a in addresses if not a.startswith(PAGES)]
        alien += [place for place in LOCAL if place in content]
        if alien:
            found[name] = alien
    assert found == {}


@pytest.mark.dear
def test_the_installed_wheel_runs_from_outside_the_checkout(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.h5").write_bytes(small_file(".h5").read_bytes())
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(program: str, *words: str) -> str:
        command = [str(installed / "bin" / program), *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("python", "-c", "import orthwrap, orthwrap_cli; print(orthwrap.__file__)")
    assert str(installed) in where
    assert "inspect" in run("orthwrap", "--help")
    run("orthwrap", "apply", "model.h5")
    run("orthwrap", "inspect", "model-orth.h5")
    run("orthwrap", "strip", "model-orth.h5")
    run("orthwrap", "compare", "model.h5", "model-orth-plain.h5")
    run("orthwrap", "regularizers")
    assert __version__ in run("python", "-m", "orthwrap", "--version")
