"""Module paths that stand in users' files stay importable: a file as 0.1.0 wrote it."""

from __future__ import annotations

import importlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

import orthwrap
from tests.conftest import REPOSITORY
from tests.files.make_0_1_0 import PENALTIES, inputs

FILE = REPOSITORY / "tests" / "files" / "written_by_0_1_0.keras"
CLASSES = {
    *("SO", "DSO", "MC", "SRIP", "LOrth", "OffDiag", "Cosine", "Frobenius", "Attached"),
    "OrthogonalityRegularizer",
}


def config() -> Any:
    with zipfile.ZipFile(FILE) as archive:
        return json.loads(archive.read("config.json"))


def nodes(value: Any) -> list[dict[str, Any]]:
    """Every object of a config that says of which module it is."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, dict) and "module" in value else []
    return own + [node for item in inner for node in nodes(item)]


def test_the_file_names_what_must_stay() -> None:
    assert FILE.stat().st_size < 20_000
    ours = [node for node in nodes(config()) if node["module"].startswith("orthwrap")]
    modules = {node["module"] for node in ours}
    assert modules == {"orthwrap.regularizers", "orthwrap.upgrades.functions"}
    named = {n["class_name"] for n in ours if n["module"] == "orthwrap.regularizers"}
    assert named == CLASSES - {"Attached", "OrthogonalityRegularizer"}
    for name in CLASSES:
        assert getattr(importlib.import_module("orthwrap.regularizers"), name).__name__ == name
    assert callable(importlib.import_module("orthwrap.upgrades.functions").register)


def test_it_gives_what_it_gave_then() -> None:
    expected = json.loads(FILE.with_suffix(".json").read_text())
    model = orthwrap.load_model(FILE)
    outputs = ops.convert_to_numpy(model(inputs()))
    np.testing.assert_allclose(outputs, expected["outputs"], atol=1e-6)
    losses = [float(loss) for loss in model.losses]
    names = ("lorth", "frobenius", *PENALTIES)
    assert len(losses) == len(names)
    for name, found, then in zip(names, losses, expected["losses"], strict=True):
        if name == "srip":  # then estimated from below
            assert then * (1 - 1e-3) <= found < 2 * then
        else:
            assert found == pytest.approx(then, rel=1e-5), name


def test_it_is_read_without_keras(tmp_path: Path) -> None:
    report = orthwrap.inspect(FILE)
    found = {row.path: row.regularizer.name for row in report.layers if row.regularizer}
    named = {name: name for name in PENALTIES}
    assert found == {"conv": "lorth", "lstm": "frobenius", **named}
    plain = orthwrap.strip(FILE, tmp_path / "plain.keras").output
    with zipfile.ZipFile(plain) as archive:
        text = archive.read("config.json").decode()
    assert "orthwrap.regularizers" not in text
    assert json.loads(text)["config"]["layers"][1]["config"]["kernel_regularizer"] == {
        "class_name": "L1L2",
        "config": {"l1": 0.0, "l2": 0.01},
    }
