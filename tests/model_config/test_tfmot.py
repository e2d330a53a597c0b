"""Models wrapped by TensorFlow's model optimization toolkit, which nothing in Keras 3 can load."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from tests.support import models

# What tfmot 0.8 writes: class, its module within the package, and the way back to the model.
TFMOT: dict[str, tuple[str, str]] = {
    "PruneLowMagnitude": ("sparsity.keras.pruning_wrapper", "strip_pruning"),
    "ClusterWeights": ("clustering.keras.cluster_wrapper", "strip_clustering"),
    "QuantizeWrapper": ("quantization.keras.quantize_wrapper", "before quantize_model"),
    "QuantizeWrapperV2": ("quantization.keras.quantize_wrapper", "before quantize_model"),
    "QuantizeAnnotate": ("quantization.keras.quantize_annotate", "before quantize_annotate_layer"),
}


def wrapped_nodes(nodes: list[Any], name: str, module: str | None) -> list[Any]:
    """The layers of a config, those with a kernel in a wrapper of this class."""

    def wrapped(node: Any) -> Any:
        if node["class_name"] not in ("Dense", "Conv2D"):
            return node
        config = {"name": f"wrapped_{node['config']['name']}", "trainable": True, "layer": node}
        found = {"class_name": name, "config": config}
        for key in ("name", "inbound_nodes"):
            if key in node:
                found[key] = node[key]
        return found if module is None else {**found, "module": module, "registered_name": name}

    return [wrapped(node) for node in nodes]


def wrapped_file(path: Path, name: str) -> Path:
    """A file of tf.keras 2.15 whose layers are wrapped, as far as its config says so."""
    model = models.dense()
    module = f"tensorflow_model_optimization.python.core.{TFMOT[name][0]}"
    if path.suffix == ".h5":
        model.save(path)
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            config["config"]["layers"] = wrapped_nodes(config["config"]["layers"], name, None)
            file.attrs["model_config"] = json.dumps(config)
            file.attrs["keras_version"] = "2.15.0"
        return path
    plain = path.with_name("plain.keras")
    model.save(plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            data = old.read(member)
            if member == "config.json":
                config = json.loads(data)
                config["config"]["layers"] = wrapped_nodes(config["config"]["layers"], name, module)
                data = json.dumps(config).encode()
            new.writestr(member, data)
    return path


class PruneLowMagnitude(layers.Wrapper):  # type: ignore[misc]  # Keras is untyped
    """Called as tfmot's, in a live model."""

    def call(self, inputs: Any) -> Any:
        return self.layer(inputs)


def assert_one_line(error: BaseException, *words: str) -> None:
    text = str(error)
    assert "\n" not in text
    for word in words:
        assert word in text
    assert len(text) < 300


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("name", TFMOT)
def test_wrapped_file_is_refused_with_the_way(name: str, suffix: str, tmp_path: Path) -> None:
    path = wrapped_file(tmp_path / f"wrapped{suffix}", name)
    before, there = path.read_bytes(), sorted(tmp_path.iterdir())
    data = (np.zeros((4, 6)), np.zeros(4))
    for call in (
        lambda: orthwrap.apply(path),
        lambda: orthwrap.apply(path, dry_run=True, target="class:Dense"),
        lambda: orthwrap.apply(path, data=data),
        lambda: orthwrap.finetune(path, data),
        lambda: orthwrap.upgrade(path),
        lambda: orthwrap.load_model(path),
    ):
        with pytest.raises(orthwrap.OrthwrapError) as caught:
            call()
        assert_one_line(caught.value, name, "wrapped_wide and 1 more", TFMOT[name][1])
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_inspect_of_a_wrapped_file_says_so(suffix: str, tmp_path: Path) -> None:
    path = wrapped_file(tmp_path / f"wrapped{suffix}", "PruneLowMagnitude")
    report = orthwrap.inspect(path, measure=False)
    assert any("strip_pruning" in warning for warning in report.warnings)
    assert "wrapped_wide/wide" in {r.path for r in report.layers}


@pytest.mark.parametrize("in_place", [False, True])
def test_wrapped_live_model_is_refused_with_the_way(in_place: bool) -> None:
    inputs = layers.Input((6,))
    within = keras.Sequential([layers.Input((6,)), PruneLowMagnitude(layers.Dense(3), name="own")])
    model = keras.Model(inputs, layers.Dense(2)(within(inputs)))
    with pytest.raises(orthwrap.ValueFault) as caught:
        orthwrap.apply(model, in_place=in_place)
    assert_one_line(caught.value, "/own", "strip_pruning")
    with pytest.raises(orthwrap.ValueFault, match="strip_pruning"):
        orthwrap.finetune(model, (np.zeros((4, 6)), np.zeros((4, 2))))
    assert model.losses == []


def test_layers_that_only_share_a_name_are_no_wrappers() -> None:
    class QuantizeLayer(layers.Dense):  # type: ignore[misc]  # Keras is untyped
        pass

    class ClusterWeights(layers.Layer):  # type: ignore[misc]  # Keras is untyped
        def call(self, x: Any) -> Any:
            return x

    inputs = layers.Input((6,))
    model = keras.Model(inputs, ClusterWeights()(QuantizeLayer(3, name="own")(inputs)))
    assert [r.path for r in orthwrap.apply(model).report.layers if r.carries] == ["own"]
