"""Configs from strangers: whatever is in them, the outcome is a result or one line."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orthwrap.errors import FileFault, OrthwrapError
from orthwrap.stores.edits import Described
from orthwrap.stores.saved_model import SavedModelFolder
from orthwrap.upgrades import modernise, modernised
from orthwrap.upgrades.saved_models.whole_folder import model_config, plain_config
from tests.support.hostile import places
from tests.support.saved_models import field
from tests.support.upgrade_helpers import upgrade, write_h5
from tests.upgrades.test_upgrades_table import functional, layer, node, sequential

SEEDS: list[tuple[Any, str]] = [
    (sequential(layer("Dense", units=2, activation="hard_sigmoid")), "2.3.1"),
    (
        {
            "class_name": "Sequential",
            "config": [
                layer(
                    "Bidirectional",
                    layer=layer("CuDNNGRU", units=2),
                    batch_input_shape=[None, 3, 2],
                ),
                layer("LeakyReLU", alpha=0.1),
            ],
        },
        "2.1.3",
    ),
    (
        {
            "class_name": "Sequential",
            "config": [
                layer(
                    "Convolution2D",
                    nb_filter=2,
                    nb_row=3,
                    nb_col=3,
                    dim_ordering="th",
                    W_regularizer={"name": "x", "l2": 1.0},
                    batch_input_shape=[None, 2, 5, 5],
                ),
                layer("LSTM", output_dim=3, inner_activation="hard_sigmoid"),
                layer("Merge", mode="concat", concat_axis=-1),
            ],
        },
        "1.2.2",
    ),
    (
        functional(
            node(
                "TFOpLambda",
                "op",
                [["in", 0, 0, {"y": 2.0, "name": None}]],
                function="math.truediv",
            ),
            node(
                "SlicingOpLambda",
                "cut",
                [["op", 0, 0, {"slice_spec": [{"start": 0, "stop": 1, "step": 1}, 0]}]],
                function="__operators__.getitem",
            ),
            node(
                "TensorFlowOpLayer",
                "t",
                [[["cut", 0, 0, {}]]],
                constants={"1": [1]},
                node_def={"op": "Mean", "attr": {"keep_dims": {"b": True}}},
            ),
            node("MultiHeadAttention", "m/x", [[["t", 0, 0, {"value": ["op", 0, 0]}]]]),
            node("BatchNormalization", "b", [[["m/x", 0, 0, {}]]], axis=[3]),
            outputs=[["b", 0, 0]],
        ),
        "2.6.0",
    ),
]
TRAINING = {
    "optimizer_config": {"class_name": "Adam", "config": {"lr": 0.1, "decay": 0.1}},
    "loss": {"o": "mse"},
    "metrics": [[{"class_name": "MeanMetricWrapper", "config": {"fn": "accuracy"}}]],
    "loss_weights": None,
}

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.sampled_from(["", "in", "op", "Sequential", "Functional", "Lambda", "a/b", "GRU", "\n"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["class_name", "config", "layers", "layer", "name", "module", "items"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn, seed: Any) -> Any:
    """A config with up to three values replaced, removed or swapped."""
    config = copy.deepcopy(seed)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([(), *places(config)]))
        if not path:
            continue
        holder = config
        for key in path[:-1]:
            holder = holder[key]
        action = draw(st.sampled_from(["replace", "remove", "swap"]))
        if action == "remove":
            del holder[path[-1]]
        elif action == "swap":
            other = draw(st.sampled_from([(), *places(config)]))
            value = config
            for key in other:
                value = value[key]
            holder[path[-1]] = copy.deepcopy(value)
        else:
            holder[path[-1]] = draw(JUNK)
    return config


def told(call: Callable[[], object]) -> str:
    """The error that a call raises on purpose, '' where it succeeds; any other goes on."""
    try:
        call()
    except OrthwrapError as err:
        return str(err)
    return ""


def outcome(config: Any, training: Any, version: str) -> None:
    def h5() -> None:
        result = modernise(
            config, training_config=training, keras_version=version, backend="theano", weights=None
        )
        json.dumps(result.model_config)
        json.dumps(result.training_config)

    messages = [
        told(h5),
        told(lambda: modernised(Described("keras", config, version))),
    ]
    for message in messages:
        assert "\n" not in message
        assert len(message) < 600


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_configs(data: st.DataObject) -> None:
    seed, version = data.draw(st.sampled_from(SEEDS))
    outcome(data.draw(mutated(seed)), None, version)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_training_configs(data: st.DataObject) -> None:
    outcome(SEEDS[0][0], data.draw(mutated(TRAINING)), "2.3.1")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(junk=JUNK, version=st.sampled_from(["", "1.0", "2.1", "2.9", "x"]))
def test_junk(junk: Any, version: str) -> None:
    outcome(junk, junk, version)


@pytest.mark.parametrize("key", ["layers", "layer", "inbound_nodes", "kernel_initializer"])
def test_depth(key: str) -> None:
    deep: Any = []
    for _ in range(400):
        deep = {"class_name": "Sequential", "config": {"name": "x", key: deep, "layers": [deep]}}
    with pytest.raises(FileFault) as caught:
        modernise(deep, training_config=None, keras_version="2.3", backend="", weights=None)
    assert "\n" not in str(caught.value)


def test_weights_of_the_wrong_shape(tmp_path: Path) -> None:
    for shapes in ([(3, 4)], [(3, 12), (4, 12), (12,)], [(), (), ()], [(2, 6), (2, 6), (7,)], []):
        weights = [(f"w{i}", np.zeros(shape)) for i, shape in enumerate(shapes)]
        config = sequential(layer("CuDNNGRU", units=2), shape=(None, 3, 2))
        path = write_h5(tmp_path / "old.h5", config, {"cudnngru": weights})
        assert "\n" not in told(lambda path=path: upgrade(path, tmp_path / "new.h5"))


@pytest.mark.parametrize("kind", ["soft", "external", "virtual", "elsewhere"])
def test_links_that_lead_elsewhere(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["k"] = np.ones((4, 2), "float32")
    config = sequential(layer("Dense", units=2, activation="hard_sigmoid"))
    path = write_h5(tmp_path / "old.h5", config, {"dense": [("k", np.zeros((4, 2)))]})
    with h5py.File(path, "r+") as file:
        group = file["model_weights/dense"]
        del group["k"]
        if kind == "soft":
            group["k"] = h5py.SoftLink("/model_weights/dense/loop")
        elif kind == "external":
            group["k"] = h5py.ExternalLink(str(secret), "k")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4, 2), "float32")
            layout[:] = h5py.VirtualSource(str(secret), "k", (4, 2))
            group.create_virtual_dataset("k", layout)
        else:
            (tmp_path / "raw").write_bytes(b"\1" * 32)
            group.create_dataset("k", (4, 2), "float32", external=[(str(tmp_path / "raw"), 0, 32)])
    with pytest.raises(FileFault) as caught:
        upgrade(path, tmp_path / "new.h5")
    assert "\n" not in str(caught.value)


def test_a_shape_beyond_the_file(tmp_path: Path) -> None:
    config = sequential(layer("Dense", units=2, activation="hard_sigmoid"))
    path = write_h5(tmp_path / "old.h5", config, {"dense": [("k", np.zeros((4, 2)))]})
    with h5py.File(path, "r+") as file:
        group = file["model_weights/dense"]
        del group["k"]
        group.create_dataset("k", (1 << 30, 1 << 10), "float32", chunks=(1 << 10, 1 << 10))
    assert "does not fit" in told(lambda: upgrade(path, tmp_path / "new.h5"))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    config = sequential(layer("Dense", units=2, activation="hard_sigmoid"))
    path = write_h5(folder / "old.h5", config, {"dense": [("k", np.zeros((4, 2)))]})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    assert "\n" not in told(lambda: upgrade(path, folder / "new.h5"))


@pytest.mark.parametrize("text", ["", "[1", "[]", "3", '{"class_name": 3}', "[" * 100_000])
def test_attributes_that_are_no_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        file.attrs.create("model_config", text, dtype=h5py.string_dtype())
        file.create_group("model_weights")
    with pytest.raises(FileFault):
        upgrade(path)


def archive(path: Path, *members: tuple[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def test_archives(tmp_path: Path) -> None:
    config = json.dumps(sequential(layer("Dense", units=2, activation="hard_sigmoid")))
    whole = ("config.json", config), ("metadata.json", '{"keras_version": "2.13.0"}')
    target = tmp_path / "new.keras"
    bomb = archive(tmp_path / "a.keras", *whole, ("model.weights.h5", b"\0" * (64 << 20)))
    assert "would unpack to" in told(lambda: upgrade(bomb, target))
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = archive(tmp_path / "b.keras", *whole, ("config.json", "{}"))
    assert "names a member twice" in told(lambda: upgrade(twice, target))
    short = archive(tmp_path / "c.keras", *whole[:1])
    assert "metadata.json" in told(lambda: upgrade(short, target))
    junk = archive(tmp_path / "d.keras", *whole, ("model.weights.h5", "junk"))
    assert "broken weights (model.weights.h5" in told(lambda: upgrade(junk, target))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def saved_model(folder: Path, metadata: Any) -> Path:
    """A SavedModel folder's `keras_metadata.pb` with one root node."""
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    folder.mkdir()
    message = field(1, field(3, b"root") + field(5, text))
    (folder / "saved_model.pb").touch()
    (folder / "keras_metadata.pb").write_bytes(message)
    return folder


def test_thirty_bidirectional_layers_around_one_another() -> None:
    inner = layer("LSTM", units=2)
    for _ in range(30):
        inner = layer("Bidirectional", layer=inner)
    with pytest.raises(FileFault, match="too many Bidirectional"):
        modernise(sequential(inner), keras_version="2.9.0")


def test_saved_model_config(tmp_path: Path) -> None:
    config = sequential(layer("Dense", units=2))
    config["config"]["layers"][0]["config"]["batch_input_shape"] = {
        "class_name": "__tuple__",
        "items": [None, 4],
    }
    folder = saved_model(tmp_path / "m", {"model_config": config, "keras_version": "2.7.0"})
    store = SavedModelFolder(folder)
    found = model_config(plain_config(store.metadata))
    assert found["config"]["layers"][0]["config"]["batch_input_shape"] == [None, 4]
    assert store.record.keras_version == "2.7.0"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"class_name": "Mine", "model_config": {"class_name": "Mine", "config": {}}}, "Mine"),
        ({"model_config": 3}, "written in Python"),
        ([1], "no object"),
        (b"not json", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"{" * 2_000_000, "exhaust memory"),
        ({"model_config": sequential(layer("Dense", units=2))}, "expected a folder"),
        (b"\xff\xfe", "broken"),
        (b"", "without a Keras config"),
    ],
)
def test_saved_models_that_cannot_be_rebuilt(tmp_path: Path, metadata: Any, expected: str) -> None:
    folder = saved_model(tmp_path / "m", metadata)
    with pytest.raises(FileFault, match=expected) as caught:
        upgrade(folder, tmp_path / "out.keras")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.keras").exists()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200))
def test_broken_protocol_buffers(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("sm")
    (folder / "saved_model.pb").write_bytes(data)
    with pytest.raises(FileFault):
        SavedModelFolder(folder)
