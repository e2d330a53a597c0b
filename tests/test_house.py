"""The house: what a room may know. The floors themselves stand in pyproject.toml."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import orthwrap

# Rooms that promise to do without Keras, TensorFlow, JAX and PyTorch when they are imported.
WITHOUT_FRAMEWORKS = (
    *("surgery", "report", "opening", "plan", "survey", "upgrades", "penalties", "stores"),
    *("rules", "model_config", "data", "keras_inside", "errors", "text", "verbs", "loading"),
)
# What a penalty imports as it computes, and not before.
TENSORS = ("orthwrap.penalties.activity", "orthwrap.penalties.tensors")
IMPORTS = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("keras", "tensorflow", "tf_keras", "jax", "torch"):
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Blocked())
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except AssertionError as e:
        print(f"{name}: {e}")
"""


def test_files_are_read_without_any_framework() -> None:
    modules = [
        m.name
        for m in pkgutil.walk_packages(orthwrap.__path__, "orthwrap.")
        if m.name.split(".")[1] in WITHOUT_FRAMEWORKS and m.name not in TENSORS
    ]
    assert len(modules) > 90
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *modules], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""


def test_every_module_says_what_it_is() -> None:
    for m in pkgutil.walk_packages(orthwrap.__path__, "orthwrap."):
        spec = m.module_finder.find_spec(m.name, None)  # type: ignore[call-arg]
        assert spec is not None
        assert spec.origin is not None
        with open(spec.origin, encoding="utf-8") as f:
            first = f.readline()
        assert first.startswith('"""'), m.name
        assert "TODO" not in first, m.name


def test_no_two_modules_have_one_name() -> None:
    """What is looked for by its name is found once."""
    names = [
        m.name.rpartition(".")[2]
        for m in pkgutil.walk_packages(orthwrap.__path__, "orthwrap.")
        if not m.ispkg
    ]
    twice = sorted({n for n in names if names.count(n) > 1})
    assert twice == []
