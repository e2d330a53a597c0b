"""The house: what a room may know. The floors themselves stand in pyproject.toml."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator

import orthwrap
from tests.conftest import REPOSITORY

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


# A function's lines from the first statement after its docstring to its last: its signature, which
# may list many keywords, and its docstring do not count.
LIMIT = 40
# Still longer. Whoever shortens one takes it out; none comes in.
LONGER = {"orthwrap/training/fit.py:finetune"}


def functions() -> Iterator[tuple[str, int]]:
    """Every function and method by its place, and how many lines its body has."""
    for folder in ("orthwrap", "cli"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                body = node.body[ast.get_docstring(node) is not None :]
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                yield f"{path.relative_to(REPOSITORY)}:{node.name}", lines


def test_functions_are_short() -> None:
    found = list(functions())
    assert len(found) > 1500
    assert {place for place, lines in found if lines > LIMIT} <= LONGER


# Tests that are of no room: what several share, a file of 0.1.0, walls that all rooms stand behind,
# grammars of broken files, the project itself.
OF_ALL = {"support", "files", "peers", "walls", "fuzz", "project", "cli"}


def test_tests_mirror_the_house() -> None:
    """A room's tests stand in the folder of its name; beside `conftest.py`, a module's own."""
    folders = {path.parent.name for path in (REPOSITORY / "tests").glob("*/*.py")}
    rooms = {m.name for m in pkgutil.iter_modules(orthwrap.__path__) if m.ispkg}
    assert folders - OF_ALL == rooms
    modules = {m.name for m in pkgutil.iter_modules(orthwrap.__path__) if not m.ispkg}
    alone = {path.stem for path in (REPOSITORY / "tests").glob("*.py")} - {"conftest"}
    assert alone <= {f"test_{m}" for m in modules}
