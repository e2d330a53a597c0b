"""Layers that nothing could be found in are named: what they hold, why, and what to do."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from orthwrap.report.record import Report
from tests.support import models


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    keras.utils.clear_session(free_memory=False)
    own = (TCN, Scale, Bare, Task, Backbone, Wider)
    with keras.saving.custom_object_scope({cls.__name__: cls for cls in own}):
        yield


class TCN(layers.Layer):
    """Layers that are made in build; the config has their number alone."""

    def __init__(self, filters: int = 8, blocks: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.blocks = filters, blocks

    def build(self, shape: Any) -> None:
        self.convolutions = []
        for i in range(self.blocks):
            layer = layers.Conv1D(self.filters, 3, padding="causal", name=f"block{i}")
            layer.build((*shape[:-1], shape[-1] if i == 0 else self.filters))
            self.convolutions.append(layer)

    def call(self, x: Any) -> Any:
        for layer in self.convolutions:
            x = layer(x)
        return x

    def compute_output_shape(self, shape: Any) -> Any:
        return (*shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "blocks": self.blocks}


class Scale(layers.Layer):
    """A weight for each channel: nothing that could be a kernel."""

    def build(self, shape: Any) -> None:
        self.gamma = self.add_weight(shape=(shape[-1],), name="gamma")

    def call(self, x: Any) -> Any:
        return x * self.gamma


class Bare(layers.Layer):
    """A kernel of its own, without a regularizer in its config."""

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(shape[-1], 4), name="w")

    def call(self, x: Any) -> Any:
        return x @ self.w

    def compute_output_shape(self, shape: Any) -> Any:
        return (*shape[:-1], 4)


class Wider(layers.Dense):
    """A known layer with one more inside."""

    def build(self, shape: Any) -> None:
        super().build(shape)
        self.inner = layers.Dense(self.units, name="inner")
        self.inner.build(shape)

    def call(self, x: Any) -> Any:
        return super().call(x) + self.inner(x)


class Backbone(keras.Model):
    def __init__(self, units: int = 8, **kwargs: Any) -> None:
        inputs = layers.Input((6,))
        super().__init__(inputs, layers.Dense(units, name="stem")(inputs), **kwargs)
        self.units = units

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "trainable": self.trainable, "units": self.units}


class Task(keras.Model):
    """A backbone that its config holds, which holds nothing, and a head that it does not name."""

    def __init__(self, backbone: Any, **kwargs: Any) -> None:
        inputs = layers.Input((6,))
        super().__init__(inputs, layers.Dense(3, name="head")(backbone(inputs)), **kwargs)
        self.backbone = backbone

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "backbone": keras.saving.serialize_keras_object(self.backbone)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        return cls(keras.saving.deserialize_keras_object(config.pop("backbone")), **config)


def around(*middle: Any, shape: tuple[int, ...] = (6,), name: str = "around") -> Any:
    x = inputs = layers.Input(shape)
    for layer in middle:
        x = layer(x)
    x = x if len(shape) == 1 else layers.GlobalAveragePooling1D()(x)
    return models.randomized(keras.Model(inputs, layers.Dense(2, name="head")(x), name=name))


def tcn() -> Any:
    return around(TCN(name="tcn"), shape=(10, 3))


def nested_tcn() -> Any:
    x = layers.Input((10, 3))
    inner = keras.Model(x, TCN(name="tcn")(layers.Conv1D(3, 1, name="c")(x)), name="inner")
    return around(inner, shape=(10, 3))


TCN_WEIGHTS = 3 * 3 * 8 + 8 + 3 * 8 * 8 + 8

# Model → what is not looked into in a file: path → (class, weights); and in memory.
CASES: dict[str, tuple[Any, dict[str, tuple[str, int]], dict[str, tuple[str, int]]]] = {
    "tcn": (tcn, {"tcn": ("TCN", TCN_WEIGHTS)}, {}),
    "nested": (nested_tcn, {"inner/tcn": ("TCN", TCN_WEIGHTS)}, {}),
    "several": (
        lambda: around(TCN(name="z"), TCN(4, 1, name="a"), shape=(10, 3)),
        {"z": ("TCN", TCN_WEIGHTS), "a": ("TCN", 3 * 8 * 4 + 4)},
        {},
    ),
    "wrapped": (
        lambda: around(layers.TimeDistributed(Bare(name="bare"), name="td"), shape=(10, 3)),
        {"td/bare": ("Bare", 12)},
        {"td/bare": ("Bare", 12)},
    ),
    "own": (
        lambda: around(Bare(name="bare")),
        {"bare": ("Bare", 24)},
        {"bare": ("Bare", 24)},
    ),
    "nothing to see": (
        lambda: around(Scale(name="s"), layers.BatchNormalization(), layers.PReLU()),
        {},
        {},
    ),
    "normalization of two axes": (
        lambda: around(layers.LayerNormalization(axis=(1, 2)), shape=(10, 3)),
        {},
        {},
    ),
    "wider": (lambda: around(Wider(4, name="w")), {"w": ("Wider", 28)}, {"w": ("Wider", 28)}),
    "backbone inside": (
        lambda: around(Backbone(name="b")),
        {"b": ("Backbone", 56)},
        {},
    ),
    "task": (
        lambda: models.randomized(Task(Backbone(name="b"))),
        {"b": ("Backbone", 56), "": ("Task", 27)},
        {},
    ),
    "backbone": (lambda: models.randomized(Backbone()), {"": ("Backbone", 56)}, {}),
    "keras alone": (models.wrapped, {}, {}),
}


def told(source: Any) -> dict[str, tuple[str, int]]:
    report = orthwrap.inspect(source, measure=False)
    assert report.summary.get("not_looked_into", 0) == len(report.not_looked_into)
    return {u.path: (u.class_name, u.weights) for u in report.not_looked_into}


@pytest.mark.parametrize("name", CASES)
def test_what_was_not_looked_into_is_named(name: str, tmp_path: Path) -> None:
    make, in_files, in_memory = CASES[name]
    model = make()
    assert told(model) == in_memory
    model.save(tmp_path / "m.keras")
    assert told(tmp_path / "m.keras") == in_files
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert told(tmp_path / "unpacked") == in_files
    if name != "task":  # which an .h5 cannot hold
        model.save(tmp_path / "m.h5")
        assert told(tmp_path / "m.h5") == in_files


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_it_is_shown_and_comes_back_from_json(suffix: str, tmp_path: Path) -> None:
    tcn().save(tmp_path / f"m{suffix}")
    report = orthwrap.apply(tmp_path / f"m{suffix}", dry_run=True).report
    text = " ".join(str(report).split())
    assert "1 layer was not looked into" in text
    assert f"tcn (TCN, {TCN_WEIGHTS} weights) was not looked into: the config of" in text
    assert "orthwrap.apply(model" in text
    data = json.loads(json.dumps(report.to_json()))
    (entry,) = data["not_looked_into"]
    assert set(entry) == {"path", "class_name", "weights", "reason", "advice"}
    assert data["summary"]["not_looked_into"] == 1
    assert Report.from_json(data).not_looked_into == report.not_looked_into


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("target", ["class:TCN", "tcn", "t*"])
def test_a_target_of_it_says_that_it_was_not_looked_into(
    target: str, suffix: str, tmp_path: Path
) -> None:
    tcn().save(tmp_path / f"m{suffix}")
    with pytest.raises(orthwrap.NoMatchError, match=r"tcn \(TCN, .* not looked into"):
        orthwrap.apply(tmp_path / f"m{suffix}", target=target)


def test_a_target_of_what_holds_layers_says_how_to_name_them() -> None:
    for target in ("class:TCN", "tcn"):
        with pytest.raises(orthwrap.NoMatchError, match="tcn/block0, tcn/block1; write 'tcn/\\*'"):
            orthwrap.apply(tcn(), target=target)
    assert orthwrap.apply(tcn(), target="tcn/*").report.summary["regularized"] == 2


def test_a_model_of_which_nothing_is_seen_says_why(tmp_path: Path) -> None:
    models.randomized(Backbone()).save(tmp_path / "m.keras")
    with pytest.raises(orthwrap.NoMatchError, match=r"the model \(Backbone, 56 weights\) was not"):
        orthwrap.apply(tmp_path / "m.keras")


def test_the_advice_helps(tmp_path: Path) -> None:
    tcn().save(tmp_path / "m.keras")
    model = keras.models.load_model(tmp_path / "m.keras")
    result = orthwrap.apply(model)
    assert {r.path for r in result.report.layers if r.carries} == {
        "tcn/block0",
        "tcn/block1",
        "head",
    }
    assert len(result.model.losses) == 3
    x = np.ones((1, 10, 3), "float32")
    np.testing.assert_array_equal(result.model(x), model(x))
