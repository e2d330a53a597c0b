"""An upgrade rule is one row of a table; and what upgrades may know of the world."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import orthwrap
from orthwrap.stores.edits import Weight
from orthwrap.upgrades import modernise, rewriting
from orthwrap.upgrades.layers import rewrites
from orthwrap.upgrades.layers.rewrites import Rewrite
from tests.support.upgrade_helpers import write_h5

UPGRADES = Path(orthwrap.__file__).parent / "upgrades"
# What a module that decides has no use for: files, processes, and the formats of files.
OUTSIDE = {
    *("h5py", "io", "os", "pathlib", "shutil", "subprocess", "sys", "tempfile", "zipfile"),
    *("tensorflow", "urllib", "importlib", "pickle"),
}


def transposed(layer: rewriting.OldLayer) -> str | None:
    """Once, says this rule, a class `Turned` kept its kernel the other way round."""
    if layer.class_name != "Turned":
        return None
    layer.class_name = "Dense"
    units = layer.config.pop("outputs")
    layer.config["units"] = units

    def turn(weights: list[Weight]) -> list[Weight]:
        return [w._replace(array=w.array.T) if w.array.ndim == 2 else w for w in weights]

    layer.transforms.append(turn)
    return "kernel turned"


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Rewrite:
    row = Rewrite("turned kernel", "Keras 0.9", transposed)
    monkeypatch.setattr(rewrites, "LAYER_REWRITES", (row, *rewrites.LAYER_REWRITES))
    return row


def config() -> dict[str, Any]:
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 5], "name": "in"}},
        {"class_name": "Turned", "config": {"name": "t", "outputs": 3, "use_bias": False}},
    ]
    return {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}


def test_a_row_acts_on_a_config(rule: Rewrite) -> None:
    result = modernise(config(), keras_version="2.3.1")
    node = result.model_config["config"]["layers"][1]
    assert (node["class_name"], node["config"]["units"]) == ("Dense", 3)
    assert "outputs" not in node["config"]
    (used,) = [u for u in result.upgrades if u.name == rule.name]
    assert (used.vintage, used.layers, used.detail) == ("Keras 0.9", ("t",), "kernel turned")


def test_a_row_acts_on_a_file(rule: Rewrite, tmp_path: Path) -> None:
    kernel = np.arange(15, dtype="float32").reshape(3, 5)
    old = write_h5(tmp_path / "old.h5", config(), {"t": [("t/kernel:0", kernel)]})
    report = orthwrap.inspect(old)
    assert rule.name in [upgrade["name"] for upgrade in report.upgrades]
    (row,) = report.layers
    assert (row.path, row.class_name, row.shape) == ("t", "Dense", (5, 3))
    assert row.before is not None
    singular = np.linalg.svd(kernel, compute_uv=False)
    assert row.before.sigma_max == pytest.approx(singular[0], rel=1e-5)


def test_without_the_row_the_class_stays_as_it_is() -> None:
    node = modernise(config(), keras_version="2.3.1").model_config["config"]["layers"][1]
    assert node["class_name"] == "Turned"


@pytest.mark.parametrize(
    "path", sorted(UPGRADES.rglob("*.py")), ids=lambda path: str(path.relative_to(UPGRADES))
)
def test_upgrades_open_nothing(path: Path) -> None:
    found = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imports = {a.name for n in found if isinstance(n, ast.Import) for a in n.names}
    imports |= {n.module or "" for n in found if isinstance(n, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in imports} & OUTSIDE
    assert {name for name in imports if name.startswith("orthwrap.stores")} <= {
        "orthwrap.stores.edits"
    }
    called = {n.func.id for n in found if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not called & {"open", "exec", "eval", "compile", "__import__"}


def test_the_modules_were_found() -> None:
    assert len(list(UPGRADES.rglob("*.py"))) > 20
