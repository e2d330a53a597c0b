"""What a report claims is what a file that was written makes Keras apply, no more."""

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
from tests.support import models


@pytest.fixture(autouse=True)
def _clean_session() -> None:
    keras.utils.clear_session(free_memory=False)


@pytest.fixture
def known() -> Iterator[None]:
    """The classes below, for Keras to load files by."""
    classes = (Backbone, Head, Trained, Wide, Inside, Ignores, Lists)
    with keras.saving.custom_object_scope({cls.__name__: cls for cls in classes}):
        yield


class Backbone(keras.Model):
    """A functional model whose config says how to build it anew, and not what it is made of."""

    def __init__(self, units: int = 5, **kwargs: Any) -> None:
        inputs = layers.Input((6,))
        x = layers.Dense(units, name="stem")(inputs)
        super().__init__(inputs, layers.Dense(4, name="top")(x), **kwargs)
        self.units = units

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "trainable": self.trainable, "units": self.units}


class Head(keras.Model):
    """A task: its backbone stands in its config, the layer on top of it does not."""

    def __init__(self, backbone: Any, classes: int = 3, **kwargs: Any) -> None:
        inputs = layers.Input((6,))
        outputs = layers.Dense(classes, name="logits")(backbone(inputs))
        super().__init__(inputs, outputs, **kwargs)
        self.backbone, self.classes = backbone, classes

    def get_config(self) -> dict[str, Any]:
        held = keras.saving.serialize_keras_object(self.backbone)
        return {"name": self.name, "backbone": held, "classes": self.classes}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        return cls(keras.saving.deserialize_keras_object(config.pop("backbone")), **config)


class Trained(keras.Model):
    """A class that only trains in its own way; its config is Keras's."""

    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


class Wide(keras.Model):
    """It has Keras's list of layers in its config, and builds itself without regard to that."""

    def __init__(self, *args: Any, units: int = 5, **kwargs: Any) -> None:
        inputs = layers.Input((6,))
        super().__init__(inputs, layers.Dense(units, name="only")(inputs), name=kwargs.get("name"))
        self.units = units

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


class Inside(layers.Layer):
    """A layer within, of which the config says nothing."""

    def __init__(self, units: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.inner = layers.Dense(units, name="inner")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


class Ignores(Inside):
    """A layer within, in the config, of which only the units are read."""

    def get_config(self) -> dict[str, Any]:
        held = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "inner": held}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        config.pop("inner")
        return cls(**config)


class Lists(layers.Layer):
    """Layers within that come from the config, in a list called as a model's."""

    def __init__(self, layers: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = list(layers)

    def build(self, shape: Any) -> None:
        for layer in self.layers:
            if not layer.built:
                layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def get_config(self) -> dict[str, Any]:
        held = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        return {**super().get_config(), "layers": held}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        held = [keras.saving.deserialize_keras_object(c) for c in config.pop("layers")]
        return cls(held, **config)


def around(*middle: Any) -> Any:
    """A model of Keras's own with these layers in the middle."""
    x = inputs = layers.Input((6,), name="x")
    for layer in middle:
        x = layer(x)
    return models.randomized(keras.Model(inputs, layers.Dense(2, name="head")(x), name="around"))


def trained() -> Any:
    inputs = layers.Input((6,))
    x = layers.Dense(5, name="first")(inputs)
    return models.randomized(Trained(inputs, layers.Dense(2, name="second")(x)))


def lists() -> Any:
    return Lists([layers.Dense(5, name="a"), layers.Dense(4, name="b")], name="own")


# Model → the paths that a file of it keeps. All have two or three kernels.
KEPT: dict[str, tuple[Any, set[str]]] = {
    "trained": (trained, {"first", "second"}),
    "inside": (lambda: around(Inside(name="own")), {"head"}),
    "ignores": (lambda: around(Ignores(name="own")), {"head"}),
    "lists": (lambda: around(lists()), {"own/a", "own/b", "head"}),
    "backbone": (lambda: around(Backbone(name="own")), {"head"}),
    "deep": (
        lambda: around(keras.Sequential([layers.Input((6,)), Inside(name="own")], name="deep")),
        {"head"},
    ),
    "task": (lambda: Head(around()), {"around/head"}),
    "task of a task": (lambda: Head(Head(around(), name="task")), {"task/around/head"}),
}


def claimed(report: Any) -> set[str]:
    return {r.path for r in report.layers if r.carries}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", KEPT)
def test_a_written_model_carries_what_is_claimed(
    name: str, suffix: str, known: None, tmp_path: Path
) -> None:
    if (name, suffix) == ("task", ".h5"):
        pytest.skip("what this class serializes is no config of an .h5")
    make, kept = KEPT[name]
    original = make()
    target = tmp_path / f"out{suffix}"
    planned = orthwrap.apply(original, target, dry_run=True)
    result = orthwrap.apply(original, target)
    assert claimed(result.report) == claimed(planned.report) == kept
    loaded = keras.models.load_model(target)
    assert len(loaded.losses) == len(result.model.losses) == len(kept)
    for record in result.report.layers:
        if not record.carries:
            assert record.decision == "unsupported"
            assert record.regularizer is None
            assert "file" in record.reason
    assert original.losses == []


@pytest.mark.parametrize("name", KEPT)
def test_a_model_in_memory_carries_all_and_says_what_a_file_would_lose(
    name: str, known: None
) -> None:
    make, kept = KEPT[name]
    result = orthwrap.apply(make())
    carried = claimed(result.report)
    assert kept <= carried
    assert len(result.model.losses) == len(carried) == result.report.summary["kernels"]
    lost = {r.path for r in result.report.layers if "loses" in r.reason}
    assert lost == carried - kept
    assert any("not in the model's config" in w for w in result.report.warnings) == bool(lost)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_that_would_carry_nothing_is_not_written(
    in_place: bool, known: None, tmp_path: Path
) -> None:
    for model, cls in ((Backbone(), "Backbone"), (Wide(), "Wide")):
        target = tmp_path / "out.keras"
        with pytest.raises(orthwrap.OrthwrapError, match=f"{cls}.*leave the output out"):
            orthwrap.apply(model, target, in_place=in_place)
        assert not target.exists()
        assert model.losses == []


@pytest.mark.parametrize("name", ["trained", "lists", "task", "task of a task"])
def test_a_file_keeps_what_is_claimed_of_it_without_keras(
    name: str, known: None, tmp_path: Path
) -> None:
    make, kept = KEPT[name]
    make().save(tmp_path / "in.keras")
    report = orthwrap.apply(tmp_path / "in.keras", tmp_path / "out.keras").report
    assert claimed(report) == kept
    assert len(keras.models.load_model(tmp_path / "out.keras").losses) == len(kept)


def test_what_a_class_of_others_holds_in_a_file_is_its_to_keep(known: None, tmp_path: Path) -> None:
    around(lists()).save(tmp_path / "in.keras")
    report = orthwrap.apply(tmp_path / "in.keras", tmp_path / "out.keras").report
    told = {r.path for r in report.layers if "kept if class Lists makes it" in r.reason}
    assert told == {"own/a", "own/b"}


class Whole(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """Listed by Keras, and yet it makes its layers itself: Keras goes by what `__init__` takes."""

    def __init__(self, *given: Any, **words: Any) -> None:
        if not given and "inputs" not in words:
            inputs = layers.Input((4,))
            words |= {"inputs": inputs, "outputs": layers.Dense(3, name="a")(inputs)}
        super().__init__(*given, **words)


def test_of_a_class_that_keras_lists_a_file_is_claimed_with_its_condition(tmp_path: Path) -> None:
    Whole().save(tmp_path / "in.keras")
    report = orthwrap.apply(tmp_path / "in.keras", tmp_path / "out.keras").report
    with keras.saving.custom_object_scope({"Whole": Whole}):
        assert keras.models.load_model(tmp_path / "out.keras").losses == []
    (row,) = report.layers
    assert "kept if class Whole makes it from this config" in row.reason


class Revived(keras.Model):
    """More in its config than Keras wrote, and made from its list of layers all the same."""

    def __init__(self, *args: Any, alpha: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alpha = alpha

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}


def test_where_keras_loads_a_file_it_is_tried_what_a_class_keeps(
    known: None, tmp_path: Path
) -> None:
    inputs = layers.Input((6,))
    model = Revived(inputs, layers.Dense(3, name="own")(inputs), alpha=0.25)
    for suffix, other in ((".h5", ".keras"), (".keras", ".h5")):
        model.save(tmp_path / f"in{suffix}")
        out = tmp_path / f"out{other}"
        result = orthwrap.apply(tmp_path / f"in{suffix}", out, custom_objects={"Revived": Revived})
        assert claimed(result.report) == {"own"}
        loaded = keras.models.load_model(out, custom_objects={"Revived": Revived})
        assert len(loaded.losses) == 1
        assert loaded.alpha == 0.25


def test_a_file_of_a_class_that_builds_itself_is_refused(known: None, tmp_path: Path) -> None:
    source = tmp_path / "in.keras"
    models.randomized(Wide()).save(source)
    with zipfile.ZipFile(source) as archive:
        assert json.loads(archive.read("config.json"))["config"]["layers"]
    with pytest.raises(orthwrap.OrthwrapError, match="Wide has a get_config of its own"):
        orthwrap.apply(source, tmp_path / "out.keras")
    (record,) = orthwrap.inspect(source).layers
    assert record.before.residual > 0


def test_the_rest_of_a_file_is_attached_to(known: None, tmp_path: Path) -> None:
    source = tmp_path / "in.keras"
    around(Wide(name="own")).save(source)
    report = orthwrap.apply(source, tmp_path / "out.keras").report
    assert claimed(report) == {"head"}
    assert len(keras.models.load_model(tmp_path / "out.keras").losses) == 1


@pytest.mark.parametrize("name", ["inside", "ignores", "lists", "backbone"])
def test_a_file_that_keras_converts_carries_what_is_claimed(
    name: str, known: None, tmp_path: Path
) -> None:
    make, kept = KEPT[name]
    make().save(tmp_path / "in.h5")
    result = orthwrap.apply(tmp_path / "in.h5", tmp_path / "out.keras")
    assert claimed(result.report) == kept
    assert len(keras.models.load_model(tmp_path / "out.keras").losses) == len(kept)


def test_a_second_apply_of_a_copy_carries_as_much_as_the_first(known: None) -> None:
    once = orthwrap.apply(around(Inside(name="own")))
    twice = orthwrap.apply(once.model)
    assert claimed(twice.report) == {"own/inner", "head"}
    assert len(twice.model.losses) == 2
    x = np.ones((1, 6), "float32")
    assert np.array_equal(once.model(x), twice.model(x))
