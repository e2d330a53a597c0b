"""The one list of penalties, and what follows from it."""

from __future__ import annotations

import ast
import importlib.util
import pickle
import re
import subprocess
import sys

import keras
import pytest

import orthwrap
from orthwrap.penalties.attachment import Attachment
from orthwrap.penalties.options import Option
from orthwrap.penalties.penalty import Penalty
from orthwrap.penalties.table import PENALTIES
from orthwrap.regularizers import CLASSES
from tests.conftest import REPOSITORY


def test_the_list() -> None:
    assert list(PENALTIES) == [
        *("so", "dso", "mc", "srip", "lorth", "offdiag", "cosine", "frobenius"),
        *("spectral", "band"),
    ]
    assert {name for name, p in PENALTIES.items() if p.sketch} == {"so", "lorth", "offdiag"}
    for name, penalty in PENALTIES.items():
        assert penalty.name == name
        assert penalty.default_factor > 0
        assert re.search(r"arXiv:\d{4}\.\d{5}|keras\.regularizers", penalty.source)


def test_the_classes_keep_their_names() -> None:
    names = [
        *("SO", "DSO", "MC", "SRIP", "LOrth", "OffDiag", "Cosine", "Frobenius"),
        *("Spectral", "Band"),
    ]
    assert [cls.__name__ for cls in CLASSES.values()] == names
    for name in names:
        cls = getattr(orthwrap.regularizers, name)
        assert cls is getattr(orthwrap, name)
        assert cls.__module__ == "orthwrap.regularizers"
        assert cls.__doc__
        assert name in orthwrap.__all__
        assert name in dir(orthwrap.regularizers)
    with pytest.raises(AttributeError, match="no attribute 'Nobody'"):
        _ = orthwrap.Nobody


@pytest.mark.parametrize("class_name", ["SO", "LOrth", "SRIP"])
def test_what_0_1_0_wrote_is_read(class_name: str) -> None:
    node = {
        "module": "orthwrap.regularizers",
        "class_name": class_name,
        "config": {
            "factor": 0.02,
            "scale": "preserve",
            "alpha": 0.5,
            "every": 3,
            "layout": {"name": "conv", "rows": [0, 1, 2], "columns": [3], "strides": [1, 1]},
            "on": "kernel",
            "combined_with": None,
            "replaced": None,
        },
        "registered_name": f"orthwrap>{class_name}",
    }
    made = keras.saving.deserialize_keras_object(node)
    assert keras.saving.serialize_keras_object(made) == node
    assert Attachment.from_node(node).to_node() == node
    again = pickle.loads(pickle.dumps(type(made)))
    assert again is type(made)
    assert issubclass(again, getattr(orthwrap.regularizers, class_name))


def test_none_of_it_imports_what_computes() -> None:
    code = (
        "import sys, orthwrap.penalties.table, orthwrap.penalties.template\n"
        "assert not {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_other_code_asks_for_a_penaltys_name() -> None:
    found = []
    for path in (
        p for d in ("orthwrap", "cli", "benchmarks") for p in (REPOSITORY / d).rglob("*.py")
    ):
        own = (
            path.stem if path.parent.name == "penalties" else "cosine" * (path.stem == "schedules")
        )
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Compare):
                continue
            sides = [node.left, *node.comparators]
            texts = {n.value for s in sides for n in ast.walk(s) if isinstance(n, ast.Constant)}
            if texts & (set(PENALTIES) - {own}):
                found.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert found == []


def test_the_docs_list_them() -> None:
    spec = importlib.util.spec_from_file_location("page", REPOSITORY / "docs" / "regularizers.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert page.PAGE.read_text(encoding="utf-8") == page.text(), "run: make docs"
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in PENALTIES)


def test_an_option_cannot_mean_something_else() -> None:
    with pytest.raises(orthwrap.ValueFault, match="cannot be called 'scale'"):
        Penalty(
            "mine", "", "", "", lambda w: w, lambda m: 0.0, own_options=(Option("scale", 1, int),)
        )
