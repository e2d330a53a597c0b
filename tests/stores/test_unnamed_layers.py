"""Layers of classes whose config leaves the name out: which weights are theirs in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import orthwrap


class Mixes(layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """A `get_config` that forgets `super`, as many do: Keras numbers it anew when it is loaded."""

    def __init__(self, units: int = 6) -> None:
        super().__init__()
        self.units = units

    def build(self, shape: Any) -> None:
        options = {"regularizer": getattr(self, "kernel_regularizer", None)}
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel", **options)

    def call(self, x: Any) -> Any:
        return x @ self.kernel

    def get_config(self) -> dict[str, Any]:
        return {"units": self.units}


class Takes(Mixes):
    def __init__(self, units: int = 6, kernel_regularizer: Any = None) -> None:
        super().__init__(units)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def get_config(self) -> dict[str, Any]:
        held = keras.regularizers.serialize(self.kernel_regularizer)
        return {**super().get_config(), "kernel_regularizer": held}


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    keras.utils.clear_session(free_memory=False)
    with keras.saving.custom_object_scope({"Mixes": Mixes, "Takes": Takes}):
        yield


def row(cls: Any) -> Any:
    """Names that a path made up from the config would take for another layer's."""
    cls()(keras.Input((5,)))  # takes the first name
    middle = [cls(6), cls(4)]
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(5, name="first"), *middle, layers.Dense(3, name="last")]
    )


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_such_layers_are_not_overlooked(suffix: str, tmp_path: Path) -> None:
    row(Mixes).save(tmp_path / f"m{suffix}")
    report = orthwrap.inspect(tmp_path / f"m{suffix}")
    assert sorted(u.weights for u in report.not_looked_into) == [24, 30]
    with pytest.raises(orthwrap.OrthwrapError, match="class Mixes is not known"):
        orthwrap.apply(tmp_path / f"m{suffix}", target="class:Mixes", dry_run=True)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_figures_of_such_layers_are_of_their_own_kernels(suffix: str, tmp_path: Path) -> None:
    model = row(Takes)
    path, target = tmp_path / f"m{suffix}", tmp_path / f"out{suffix}"
    model.save(path)
    report = orthwrap.apply(path, target, target="class:Takes", factor=0.1, scale="unit").report
    found = [r.before.residual for r in report.layers if r.class_name == "Takes" and r.before]
    expected = []
    for layer in model.layers[1:3]:
        kernel = keras.ops.convert_to_numpy(layer.kernel).astype("float64")
        kernel = kernel if kernel.shape[0] >= kernel.shape[1] else kernel.T
        gram = kernel.T @ kernel - np.eye(kernel.shape[1])
        expected.append(float(np.sqrt((gram**2).sum() / len(gram))))
    assert found == pytest.approx(expected)
    loaded = keras.models.load_model(target)
    assert sum(map(float, loaded.losses)) == pytest.approx(report.summary["penalty_before"])
