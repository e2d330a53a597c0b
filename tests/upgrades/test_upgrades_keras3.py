"""Forms that Keras 3 wrote and does not read back: told by the form, whatever the version says.

The oracle is the model as Keras had it before it was saved.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

import orthwrap
from orthwrap.opening import opened
from orthwrap.upgrades import modernise
from tests.support.upgrade_helpers import load

L = keras.layers
IMAGE = (8, 8, 3)


def backbone(shape: tuple[int, ...] = IMAGE) -> Any:
    x = keras.Input(shape)
    y = L.Conv2D(3, 3)(x) if len(shape) == 3 else L.Dense(3)(x)
    return keras.Model(x, L.GlobalAveragePooling2D()(y) if len(shape) == 3 else y)


def transfer() -> Any:
    return keras.Sequential([keras.Input(IMAGE), backbone(), L.Flatten(), L.Dense(2)])


def three_deep() -> Any:
    inner = keras.Sequential([keras.Input(IMAGE), backbone()])
    middle = keras.Sequential([keras.Input(IMAGE), inner, L.Dense(3)])
    return keras.Sequential([keras.Input(IMAGE), middle, L.Dense(2)])


def distributed() -> Any:
    return keras.Sequential([keras.Input((2, *IMAGE)), L.TimeDistributed(backbone()), L.LSTM(3)])


def in_a_graph() -> Any:
    x = keras.Input(IMAGE)
    return keras.Model(x, keras.Sequential([keras.Input(IMAGE), backbone(), L.Dense(2)])(x))


def two_in_a_row() -> Any:
    parts = [backbone((4,)), backbone((3,)), L.Dense(2)]
    return keras.Sequential([keras.Input((4,)), *parts])


def as_lists(value: Any) -> Any:
    """Keras 3.0 to 3.10 wrote the one input or output of a model as a list of it."""
    if isinstance(value, list):
        return [as_lists(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: as_lists(item) for key, item in value.items()}
    for key in ("input_layers", "output_layers"):
        if key in value and isinstance(value[key][0], str):
            value[key] = [value[key]]
    return value


def rewritten(path: Path, change: Callable[[Any], Any], version: str) -> None:
    """The same file with another config, by another release."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            config = change(json.loads(file.attrs["model_config"]))
            file.attrs.create("model_config", json.dumps(config), dtype=h5py.string_dtype())
            file.attrs["keras_version"] = version
        return
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    members["config.json"] = json.dumps(change(json.loads(members["config.json"]))).encode()
    members["metadata.json"] = json.dumps({"keras_version": version}).encode()
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)


def inputs_of(model: Any) -> Any:
    rng = np.random.default_rng(0)
    made = [
        rng.integers(0, 5, (2, *x.shape[1:])) if "int" in str(x.dtype)
        else rng.normal(size=(2, *x.shape[1:])).astype("float32")
        for x in model.inputs
    ]  # fmt: skip
    made = [keras.ops.convert_to_tensor(array) for array in made]
    return made if len(made) > 1 else made[0]


def check(model: Any, path: Path, upgrades: set[str]) -> None:
    """The upgraded file loads with plain Keras, gives the same outputs, and is left alone then."""
    given = inputs_of(model)
    expected = keras.tree.flatten(model(given, training=False))
    new = path.with_name(f"new-{path.name}")
    done = orthwrap.upgrade(path, new)
    assert {u["name"] for u in done.report.upgrades} == upgrades
    found = keras.tree.flatten(load(new)(given, training=False))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    with opened(new) as again:
        assert again.upgrades == ()


@pytest.mark.parametrize("version", ["3.0.5", "3.10.0", "3.15.1"])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(
    "make", [transfer, three_deep, distributed, in_a_graph, two_in_a_row], ids=lambda f: f.__name__
)
def test_a_model_within(make: Callable[[], Any], suffix: str, version: str, tmp_path: Path) -> None:
    model = make()
    path = tmp_path / f"model{suffix}"
    model.save(path)
    rewritten(path, as_lists, version)
    check(model, path, {"single tensor"})


def test_the_release_that_wrote_it_stays_named(tmp_path: Path) -> None:
    path, new = tmp_path / "model.h5", tmp_path / "new.h5"
    transfer().save(path)
    rewritten(path, as_lists, "3.7.0")
    orthwrap.upgrade(path, new)
    with h5py.File(path) as old, h5py.File(new) as file:
        assert file.attrs["keras_version"] == "3.7.0"
        assert file.attrs["backend"] == old.attrs["backend"]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_attaching_brings_it_up_to_date(suffix: str, tmp_path: Path) -> None:
    model = transfer()
    path, out = tmp_path / f"model{suffix}", tmp_path / f"out{suffix}"
    model.save(path)
    rewritten(path, as_lists, "3.8.0")
    report = orthwrap.apply(path, out).report
    assert report.summary["regularized"] == 2
    attached = load(out)
    assert len(attached.losses) == 2
    given = inputs_of(model)
    np.testing.assert_array_equal(attached(given), model(given))


def test_a_root_of_one_tensor_is_left(tmp_path: Path) -> None:
    """Keras calls it rightly, and nothing around it passes a list on."""
    path = tmp_path / "model.keras"
    backbone().save(path)
    rewritten(path, as_lists, "3.4.0")
    with opened(path) as found:
        assert found.upgrades == ()


def masked() -> Any:
    """A mask is an operation of the graph."""
    x = keras.Input((6,), dtype="int32")
    y = L.LSTM(3, return_sequences=True)(L.Embedding(10, 4, mask_zero=True)(x))
    return keras.Model(x, L.Dense(2)(y))


def operations() -> Any:
    x = keras.Input((4,))
    y = keras.ops.concatenate([keras.ops.tanh(x) * 2.0, x], axis=-1)[:, :6]
    y = keras.ops.where(y > 0.1, y, keras.ops.mean(y, axis=-1, keepdims=True)) + 1.0
    return keras.Model(x, keras.ops.cast(keras.ops.reshape(L.Dense(6)(y), (-1, 3, 2)), "float32"))


def axes(layer: Any) -> Callable[[], Any]:
    def make() -> Any:
        return keras.Sequential([keras.Input((7, 4)), layer(axis=[1, 2])])

    return make


def attention() -> Any:
    a, b = keras.Input((6, 8)), keras.Input((5, 8))
    return keras.Model([a, b], [L.Attention(use_scale=True)([a, b]), L.AdditiveAttention()([a, b])])


def application() -> Any:
    from keras.src.applications import convnext

    return convnext.ConvNeXt(
        [1, 1, 1, 1], [4, 4, 8, 8], weights=None, include_top=False, input_shape=(32, 32, 3)
    )


@pytest.mark.parametrize(
    ("make", "upgrades"),
    [
        (application, "application's layer, operation in .h5"),
        (masked, "operation in .h5"),
        (operations, "operation in .h5"),
        (axes(L.LayerNormalization), "axis as list"),
        (axes(L.UnitNormalization), "axis as list"),
        (axes(L.Softmax), "axis as list"),
        (attention, "attention score"),
    ],
)
def test_h5_of_any_keras_3(make: Callable[[], Any], upgrades: str, tmp_path: Path) -> None:
    """Keras refuses these files, or computes over another axis without a word."""
    model = make()
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).uniform(0.5, 1.5, weight.shape))
    model.save(tmp_path / "model.h5")
    check(model, tmp_path / "model.h5", set(upgrades.split(", ")))


@pytest.mark.parametrize("make", [masked, operations])
def test_h5_that_orthwrap_has_keras_write(make: Callable[[], Any], tmp_path: Path) -> None:
    """From a live model, and from a `.keras`."""
    model = make()
    model.save(tmp_path / "model.keras")
    given = inputs_of(model)
    expected = keras.tree.flatten(model(given, training=False))
    for source in (model, tmp_path / "model.keras"):
        out = tmp_path / "out.h5"
        orthwrap.apply(source, out, target="all", force=True)
        found = keras.tree.flatten(load(out)(given, training=False))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_arguments_that_are_gone(tmp_path: Path) -> None:
    """Keras 3.0 to 3.5 wrote the range of values of rotated images, which it never used."""

    def older(config: Any) -> Any:
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "RandomRotation":
                layer["config"]["value_range"] = [0, 255]
        return config

    model = keras.Sequential([keras.Input(IMAGE), L.RandomRotation(0.2)])
    model.save(tmp_path / "model.keras")
    rewritten(tmp_path / "model.keras", older, "3.3.3")
    check(model, tmp_path / "model.keras", {"argument retired"})


def test_settings_of_operations_that_have_other_names(tmp_path: Path) -> None:
    def older(config: Any) -> Any:
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "Threshold":
                own = layer["config"]
                own["threshold_value"] = own.pop("threshold")
                own["value"] = own.pop("default_value")
        return config

    x = keras.Input((4,))
    model = keras.Model(x, keras.ops.threshold(x, 0.1, 0.3))
    model.save(tmp_path / "model.keras")
    rewritten(tmp_path / "model.keras", older, "3.9.2")
    check(model, tmp_path / "model.keras", {"operation renamed"})


def test_classes_of_the_users_are_left() -> None:
    own = {"name": "n", "trainable": True, "axis": [1, 2], "score_mode": "dot"}
    layers = [
        {"class_name": f"mine>{name}", "config": dict(own), "name": name}
        for name in ("LayerNormalization", "Attention", "Tanh")
    ]
    layers.append({"class_name": "Add", "config": dict(own), "inbound_nodes": [], "name": "add"})
    model = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    assert modernise(model, keras_version="3.9.0").upgrades == ()


@pytest.mark.dear
@pytest.mark.parametrize(
    ("loss", "metrics"),
    [
        ("mse", ["mse", "mae"]),
        (["mse", "mae"], None),
        ({"p": "mape", "q": "MSE"}, {"p": ["mae"], "q": ["mse"]}),
        ("mean_squared_error", ["mae"]),
    ],
)
def test_h5_compiled_with_abbreviations(loss: Any, metrics: Any, tmp_path: Path) -> None:
    """Keras cannot load such a file itself; what is attached to can be, and trains on."""
    x = keras.Input((4,))
    outputs = [L.Dense(2, name="p")(x), L.Dense(2, name="q")(x)]
    model = keras.Model(x, outputs[0] if isinstance(loss, str) else outputs)
    model.compile("sgd", loss, metrics=metrics)
    path, out = tmp_path / "model.h5", tmp_path / "out.h5"
    given, zeros = np.ones((2, 4), "float32"), np.zeros((2, 2), "float32")
    wanted: Any = zeros
    if not isinstance(loss, str):
        wanted = dict.fromkeys("pq", zeros) if isinstance(loss, dict) else [zeros, zeros]
    expected = model.evaluate(given, wanted, verbose=0, return_dict=True)
    model.save(path)
    orthwrap.apply(path, out, factor=1e-12)
    found = load(out, compile=True)
    again = found.evaluate(given, wanted, verbose=0, return_dict=True)  # metrics take long names
    assert sorted(again.values()) == pytest.approx(sorted(expected.values()))
    if loss == "mean_squared_error":
        with opened(path) as plain:
            assert plain.upgrades == ()


def compiled_on_torch(optimizer: Any, path: Path) -> Any:
    """A trained model, in a file whose optimizers have the names that Keras writes on PyTorch."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    model.compile(optimizer, "mse", jit_compile=False)
    model.fit(np.ones((8, 4), "float32"), np.ones((8, 2), "float32"), verbose=0)
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(held["config.json"])
    node = config["compile_config"]["optimizer"]
    node = node["config"].get("inner_optimizer", node)
    name = node["class_name"]
    module = f"keras.src.backend.torch.optimizers.torch_{name.lower()}"
    node |= {"module": module, "registered_name": name}
    held["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in held.items():
            archive.writestr(name, data)
    return model


@pytest.mark.dear
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.Adam(0.1),
        lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 9), 0.9),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop(0.1)),
    ],
)
def test_compiled_on_pytorch(make: Callable[[], Any], tmp_path: Path) -> None:
    """Elsewhere its optimizer is another class, which Keras cannot train with, or not import."""
    path, out = tmp_path / "m.keras", tmp_path / "out.keras"
    model = compiled_on_torch(make(), path)
    data = np.ones((8, 4), "float32"), np.zeros((8, 2), "float32")
    (upgrade,) = orthwrap.upgrade(path, out).report.upgrades
    assert upgrade["layers"] == ["training"]
    found = [orthwrap.load_model(path), load(out, compile=True)]
    for each in (model, *found):
        each.fit(*data, verbose=0)
    for each in found:
        assert type(each.optimizer) is type(model.optimizer)
        assert int(each.optimizer.iterations) == 2
        np.testing.assert_array_equal(each.get_weights()[0], model.get_weights()[0])


def test_a_broken_training_config_stops_no_reading(tmp_path: Path) -> None:
    """What is attached to is the model; how it was compiled stays as it stands."""
    path, out = tmp_path / "model.h5", tmp_path / "out.h5"
    transfer().save(path)
    for text in ("{not json", "[]", '"mse"', '{"loss": 3}'):
        with h5py.File(path, "r+") as file:
            file.attrs["training_config"] = text
        orthwrap.apply(path, out, force=True)
        with h5py.File(out) as file:
            assert file.attrs["training_config"] == text
