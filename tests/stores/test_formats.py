"""A format of model files is one row of the table: it is then inspected, edited and written."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import orthwrap
from orthwrap.errors import FileFault
from orthwrap.model_config.layers import KernelSpec
from orthwrap.model_config.tree import Layer, Node, walk
from orthwrap.stores import formats
from orthwrap.stores.edits import Described, Edits
from orthwrap.stores.files import format_at, open_file
from orthwrap.stores.formats import Format
from orthwrap.stores.outputs import format_of, output_for
from orthwrap.stores.store import ModelRecord, Unclaimed, WeightRef
from orthwrap.upgrades import by_format, modernise
from orthwrap_cli.main import app


class NumpyStore:
    """A format that orthwrap knows nothing of: config and kernels as the members of an `.npz`."""

    format = "numpy"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.old_names: Mapping[str, str] = {}
        with np.load(path) as data:
            self.arrays = dict(data)
        self.root: Node = json.loads(str(self.arrays.pop("config")))
        version = str(self.arrays.pop("version"))
        count = sum(a.size for a in self.arrays.values())
        self.record = ModelRecord(str(path), self.format, version, count)

    def layers(self) -> tuple[Layer, ...]:
        return walk(self.root)

    def weights(self, layer: Layer, specs: Sequence[KernelSpec]) -> list[WeightRef | None]:
        found = [self.arrays.get(f"{layer.path}.{spec.name}") for spec in specs]
        return [
            None if a is None else WeightRef(a.shape, lambda a=a: a, (layer.path, a.shape))
            for a in found
        ]

    def unclaimed(self, layers: Sequence[Layer], specified: Container[str]) -> list[Unclaimed]:
        return []

    def close(self) -> None:
        pass

    def write(self, target: Path, root: Node, version: str | None = None) -> None:
        said = {"config": json.dumps(root), "version": version or self.record.keras_version}
        with target.open("wb") as file:
            np.savez(file, **said, **self.arrays)

    def check_copy(self, target: Path, root: Node) -> None:
        if NumpyStore(target).root != root:
            raise FileFault(f"{target} did not read back")


def is_numpy(path: Path) -> bool:
    return path.is_file() and path.suffix in (".npm", ".model")


ROW = Format("numpy", is_numpy, NumpyStore, suffixes=(".npm",))
KERNELS = {
    "wide": np.linalg.qr(np.random.default_rng(0).normal(size=(6, 4)))[0],
    "deep": 2 * np.eye(4),
}


def write(path: Path, version: str = "3.5.0") -> Path:
    units = {"wide": 4, "deep": 4}
    layers: list[Any] = [{"class_name": "InputLayer", "config": {"batch_shape": [None, 6]}}]
    layers += [
        {"class_name": "Dense", "config": {"name": name, "units": n, "use_bias": False}}
        for name, n in units.items()
    ]
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}
    said = {"config": json.dumps(config), "version": version}
    with path.open("wb") as file:
        np.savez(file, **said, **{f"{name}.kernel": a for name, a in KERNELS.items()})
    return path


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Format:
    monkeypatch.setattr(formats, "FORMATS", (ROW, *formats.FORMATS))
    return ROW


def test_it_is_inspected(row: Format, tmp_path: Path) -> None:
    report = orthwrap.inspect(write(tmp_path / "m.npm"))
    assert report.model.format == "numpy"
    assert report.model.parameters == 40
    found = {layer.path: layer.before.residual for layer in report.layers if layer.before}
    # ‖WᵀW − I‖_F² / r: 0 for orthonormal columns, (4 − 1)² for twice the identity.
    assert found == {"wide": pytest.approx(0, abs=1e-7), "deep": pytest.approx(3)}


def test_it_is_edited_and_given_back(row: Format, tmp_path: Path) -> None:
    source = write(tmp_path / "m.npm")
    before = NumpyStore(source)
    result = orthwrap.apply(source, target="deep", scale="unit")
    assert result.output == tmp_path / "m-orth.npm"
    after = NumpyStore(result.output)
    layers = after.root["config"]["layers"]
    assert [bool(n["config"].get("kernel_regularizer")) for n in layers] == [False, False, True]
    for name, array in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[name], array)
    plain = orthwrap.strip(result.output).output
    assert plain == tmp_path / "m-orth-plain.npm"
    assert NumpyStore(plain).root == before.root


def test_commands_know_it(row: Format, tmp_path: Path) -> None:
    write(tmp_path / "m.npm")
    out = tmp_path / "x.npm"
    words = ["apply", str(tmp_path / "m.npm"), "-o", str(out), "--quiet"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert NumpyStore(out).root["config"]["layers"][1]["config"]["kernel_regularizer"]


def test_suffixes_follow(row: Format, tmp_path: Path) -> None:
    assert format_of(tmp_path / "x.npm") == "numpy"
    assert output_for(tmp_path / "m.model", None, "apply", "numpy").name == "m.model-orth.npm"
    with pytest.raises(FileFault, match=r"must end in \.npm, \.h5, \.hdf5 or \.keras"):
        format_of(tmp_path / "x.pt")


def test_without_the_row_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFault):
        orthwrap.inspect(write(tmp_path / "m.npm"))


class Editing:
    """What brings the format up to date: it is described, and its edits are carried out."""

    @staticmethod
    def described(store: NumpyStore) -> Described:
        return Described(store.format, store.root, keras_version=store.record.keras_version or "")

    @staticmethod
    def write_edited(store: NumpyStore, target: Path, edits: Edits) -> None:
        assert not edits.weight_edits
        store.write(target, edits.model_config, edits.keras_version)


def test_an_older_file_is_brought_up_to_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = Format("numpy", is_numpy, NumpyStore, Editing(), suffixes=(".npm",))
    monkeypatch.setattr(formats, "FORMATS", (row, *formats.FORMATS))
    old = write(tmp_path / "m.npm", "2.3.1")
    assert orthwrap.inspect(old).upgrades == ()  # no rule says what Keras 2 wrote in it

    monkeypatch.setitem(
        by_format._BY_FORMAT,
        "numpy",
        lambda old: modernise(old.config, keras_version=old.keras_version),
    )
    store = NumpyStore(old)
    norm = {"class_name": "BatchNormalization", "config": {"name": "norm", "axis": [1]}}
    store.root["config"]["layers"].append(norm)
    store.write(old, store.root)
    result = orthwrap.upgrade(old)
    assert result.output == tmp_path / "m-keras3.npm"
    assert NumpyStore(result.output).root["config"]["layers"][-1]["config"]["axis"] == 1
    assert NumpyStore(result.output).record.keras_version.startswith("3.")
    assert NumpyStore(old).record.keras_version == "2.3.1"


def test_a_model_file_is_told_by_what_is_in_it(tmp_path: Path) -> None:
    """The first row that recognises it is it, for each that orthwrap has."""
    with zipfile.ZipFile(tmp_path / "a.h5", "w") as archive:
        archive.writestr("config.json", "{}")
    with h5py.File(tmp_path / "b.keras", "w"):
        pass
    (tmp_path / "c.keras").mkdir()
    (tmp_path / "c.keras" / "config.json").touch()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "saved_model.pb").touch()
    names = ("a.h5", "b.keras", "c.keras", "d")
    found = [format_at(tmp_path / name).name for name in names]
    assert found == ["keras", "h5", "keras", "saved_model"]
    with pytest.raises(FileFault, match="upgrade"):
        open_file(tmp_path / "d")
