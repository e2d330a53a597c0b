"""What the README says is so: its Python runs, its commands exist, its rules file is one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from orthwrap.rules.file import read_rules
from orthwrap.rules.patterns import SHORTHANDS
from orthwrap_cli.examples import EXAMPLES
from tests.cli.test_cli import call
from tests.conftest import REPOSITORY
from tests.support.samples import small_file

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_the_python_runs_from_top_to_bottom(tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")), encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # where Python itself looks, run as a command there
    (tmp_path / "model.h5").write_bytes(small_file(".h5").read_bytes())
    np.savez(tmp_path / "mydata.npz", x=np.ones((8, 8, 8, 1)), y=np.arange(8))
    (tmp_path / "my_data.py").write_text(
        "import numpy as np\ndef make(): return np.ones((8, 8, 8, 1)), np.arange(8)\n"
    )
    for i in range(10):
        folder = tmp_path / "photos" / f"class{i}"
        folder.mkdir(parents=True)
        image = np.full((8, 8, 1), 20 * i, np.uint8)
        (folder / "photo.png").write_bytes(tf.io.encode_png(image).numpy())
    lines = re.findall(r"^\$ orthwrap (.*?)(?: +#.*)?$", README, re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        call(*line.split())
    assert (tmp_path / "model-orth-plain.h5").exists()


def test_the_rules_file_is_one(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    first, second = read_rules(path)
    assert first.target == ("stem*", "class:Conv2D")
    assert (second.regularizer, second.options) == ("srip", {"steps": 3})


def test_every_option_it_names_exists() -> None:
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    texts = [call(command, "--help")[0] for command in EXAMPLES]
    assert options <= set(re.findall(r"--[a-z-]+", "".join(texts)))


def test_every_shorthand_is_there() -> None:
    assert all(f"`{name}`" in README for name in SHORTHANDS)
