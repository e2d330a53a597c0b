"""SavedModel folders: what is read, where it goes, what is refused. The oracle is TensorFlow."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import orthwrap
from orthwrap.errors import FileFault
from orthwrap.stores.tensor_bundle import Checkpoint
from orthwrap.upgrades.saved_models.layer_arrays import arrays_of
from tests.support.hostile import flipped
from tests.support.saved_models import dense, kernels, node, sequential, write, write_config
from tests.support.upgrade_helpers import (
    TOLERANCE,
    difference,
    load,
    make_vintages,
    oracle,
    real,
    run,
    upgrade,
)

PREFIX = "variables/variables"


@pytest.fixture(scope="module")
def vintages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vintages(tmp_path_factory.mktemp("made"), "folders") / "folders"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "m", sequential(dense("a"), dense("b", 2)), kernels((4, 3), (3, 2)))


def refusal(folder: Path, target: Path) -> str:
    """The one line that a folder is refused with; nothing is left behind."""
    before = set(target.parent.iterdir())
    with pytest.raises(FileFault) as caught:
        upgrade(folder, target)
    assert "\n" not in str(caught.value)
    assert set(target.parent.iterdir()) == before
    return str(caught.value)


# What Keras 2 wrote


@pytest.mark.dear
@pytest.mark.slow
def test_outputs_and_weights_are_those_of_keras_2(vintages: Path, tmp_path: Path) -> None:
    wrong = []
    folders = sorted(path for path in vintages.iterdir() if path.is_dir())
    for folder in folders:
        out = tmp_path / f"{folder.name}.keras"
        upgrades = {upgrade.name for upgrade in upgrade(folder, out)}
        model = load(out)
        inputs, outputs = oracle(vintages / f"{folder.name}.npz")
        worst = difference(run(model, inputs), outputs)
        if not worst < TOLERANCE:
            wrong.append(f"{folder.name}: outputs differ by {worst}")
        with np.load(vintages / f"{folder.name}.npz") as data:
            theirs = sorted((a.shape, a.tobytes()) for k, a in data.items() if k[0] == "w")
        ours = [np.asarray(w) for w in model.weights if "seed" not in w.path]
        if "hard_sigmoid" not in upgrades and theirs != sorted(
            (a.shape, a.tobytes()) for a in ours
        ):
            wrong.append(f"{folder.name}: weights differ")
    assert len(folders) > 8
    assert not wrong


@pytest.mark.slow
def test_apply_and_load(vintages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.keras"
    result = orthwrap.apply(vintages / "folder_layers", out, target="all", factor=0.01)
    assert result.report.model.format == "saved_model"
    model = orthwrap.load_model(out)
    inputs, outputs = oracle(vintages / "folder_layers.npz")
    assert difference(run(model, inputs), outputs) < TOLERANCE
    assert len(model.losses) >= 8
    assert orthwrap.compare(vintages / "folder_layers", out).to_json()["layers"]


@pytest.mark.slow
def test_what_has_no_place_is_said(vintages: Path) -> None:
    (left,) = (
        upgrade["layers"]
        for upgrade in orthwrap.inspect(vintages / "folder_compiled", measure=False).upgrades
        if upgrade["name"] == "left behind"
    )
    assert set(left) == {"optimizer", "metrics", "training configuration"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["folder_layers", "folder_compiled", "SM_medaka_r941_min_sup_g507"]
)
def test_arrays_are_those_that_tensorflow_reads(vintages: Path, name: str) -> None:
    import tensorflow as tf

    folder = vintages / name if name.startswith("folder") else real(name)
    theirs = tf.train.load_checkpoint(str(folder / PREFIX))
    ours = Checkpoint(folder / PREFIX)
    assert set(ours.entries) == set(theirs.get_variable_to_shape_map())
    numbers = [key for key, entry in ours.entries.items() if entry.dtype is not None]
    assert len(numbers) > 10
    for key in numbers:
        expected = np.asarray(theirs.get_tensor(key))
        assert ours.array(key).dtype == expected.dtype
        np.testing.assert_array_equal(ours.array(key), expected)


def test_every_type_of_number(tmp_path: Path) -> None:
    import tensorflow as tf

    kinds = (
        "float32 float64 float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64"
    )
    arrays = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in kinds.split()}
    arrays |= {"empty": np.zeros((0, 3)), "scalar": np.float32(2.5)}
    names = list(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "v"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(array) for array in arrays.values()],
    )
    found = Checkpoint(tmp_path / "v")
    for name, array in arrays.items():
        assert found.array(name).dtype == array.dtype
        np.testing.assert_array_equal(found.array(name), array)


def test_a_folder_of_keras_3_holds_no_layers(tmp_path: Path, run: Callable[..., Any]) -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(tmp_path / "exported", verbose=False)
    done = run("inspect", tmp_path / "exported")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "without a Keras config (exported for serving)" in done.stderr


def test_strip_says_what_to_do(small: Path, run: Callable[..., Any]) -> None:
    done = run("strip", small)
    assert done.returncode == 1
    assert "orthwrap upgrade" in done.stderr


def test_neither_tensorflow_nor_tf_keras_is_imported(small: Path) -> None:
    code = (
        "import sys, orthwrap\n"
        f"orthwrap.inspect({str(small)!r}); orthwrap.upgrade({str(small)!r}, 'out.keras')\n"
        "print(sorted({'tensorflow', 'tf_keras', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=small.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_no_line_of_orthwrap_imports_tf_keras() -> None:
    root = Path(orthwrap.__file__).parents[1]
    for path in (*root.glob("orthwrap/**/*.py"), *root.glob("cli/**/*.py")):
        assert "import tf_keras" not in path.read_text("utf-8"), path


# Config and weights that disagree

WIDE = np.zeros((4, 5), "float32")
DISAGREE: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "units": ([dense("a")], kernels((4, 5)), "'a' .Dense.*kernel of shape .?., 3., .*4, 5"),
    "rank": ([dense("a")], {**kernels((4, 3)), "layer-0/kernel": np.zeros((1, 4, 3))}, "kernel"),
    "bias": ([dense("a")], {**kernels((4, 3)), "layer-0/bias": np.zeros(4)}, "bias of shape .3,."),
    "no kernel": ([dense("a")], {"layer-0/bias": np.zeros(3)}, "kernel.*has none"),
    "no bias": ([dense("a")], {"layer-0/kernel": np.zeros((4, 3))}, "bias.*has none"),
    "a bias more": ([dense("a", use_bias=False)], kernels((4, 3)), "'layer-0/bias' is none"),
    "a layer more": ([dense("a")], kernels((4, 3), (3, 3)), "has 1 layers, the checkpoint 2"),
    "a layer less": ([dense("a"), dense("b")], kernels((4, 3)), "has 2 layers, the checkpoint 1"),
    "text": ([dense("a")], {**kernels((4, 3)), "layer-0/kernel": "text"}, "kernel of shape"),
    "custom": ([node("Mine", "m")], {"layer-0/w": WIDE}, "'m' .Mine.*none that orthwrap knows"),
    "deep": ([node("Mine", "m")], {"layer-0/inner/0/w": WIDE}, "'m' .Mine.*inner/0/w"),
    "dropout": ([node("Dropout", "d", rate=0.1)], {"layer-0/w": WIDE}, "'d' .Dropout"),
    "inner": (
        [node("TimeDistributed", "t", layer=dense("a"))],
        {"layer-0/kernel": WIDE},
        "no 'layer'; the two disagree",
    ),
    "vocabulary": (
        [node("StringLookup", "words", vocabulary=None)],
        {"layer-0/w": WIDE},
        "'words' .StringLookup.*vocabulary is not in its config",
    ),
    "no size": ([dense("a", units={"class_name": "X"})], kernels((4, 3)), "TypeError"),
    "truth": ([dense("a", units=True)], kernels((4, 3)), "expected a size"),
    "negative": ([dense("a", units=-3)], kernels((4, 3)), "expected a size"),
}


@pytest.mark.parametrize("case", DISAGREE)
def test_config_and_weights_disagree(case: str, tmp_path: Path) -> None:
    import re

    layers, arrays, expected = DISAGREE[case]
    folder = write(tmp_path / "m", sequential(*layers), arrays)
    told = refusal(folder, tmp_path / "out.keras")
    assert re.search(expected, told), told


def test_a_layer_of_a_class_without_arrays_stays(tmp_path: Path) -> None:
    """Nothing but its config is needed, and nobody has to know its class."""
    config = sequential(dense("a"), node("Mine", "m"))
    folder = write(tmp_path / "m", config, kernels((4, 3)), ["layer-1"])
    assert [row.path for row in orthwrap.inspect(folder).layers] == ["a"]


@pytest.mark.slow
def test_the_table_agrees_with_keras_2(vintages: Path) -> None:
    """Shapes of the table for a model of every kind of layer, against the arrays themselves."""
    from orthwrap.stores.saved_model import SavedModelFolder, described
    from orthwrap.upgrades.by_format import modernised

    for folder in (path for path in vintages.iterdir() if path.is_dir()):
        placed = modernised(described(SavedModelFolder(folder))).placed
        with np.load(vintages / f"{folder.name}.npz") as data:
            count = sum(key[0] == "w" and "StateVar" not in key for key in data.files)
        assert sum(map(len, placed.values())) == count, folder.name
    assert arrays_of("Conv2D", {"filters": 4, "kernel_size": [3, 2]}) == {
        "kernel": (3, 2, None, 4),
        "bias": (4,),
    }


# Broken and hostile files


def test_what_is_no_regular_file_is_refused(small: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"x" * 100)
    files = ["keras_metadata.pb", f"{PREFIX}.index", f"{PREFIX}.data-00000-of-00001"]
    for name in files:
        path, kept = small / name, (small / name).read_bytes()
        makers: dict[str, Callable[[], object]] = {
            "link": lambda path=path: path.symlink_to(outside),
            "dangling": lambda path=path: path.symlink_to(tmp_path / "nowhere"),
            "pipe": lambda path=path: os.mkfifo(path),
            "folder": lambda path=path: path.mkdir(),
        }
        for what, make in makers.items():
            path.unlink()
            make()
            told = refusal(small, tmp_path / "out.keras")
            assert ("is a link" if what in ("link", "dangling") else "not a regular file") in told
            assert name in told
            path.rmdir() if what == "folder" else path.unlink()
            path.write_bytes(kept)
    (small / "variables").rename(tmp_path / "elsewhere")
    assert "found none" in refusal(small, tmp_path / "out.keras")
    (small / "variables").symlink_to(tmp_path / "elsewhere")
    assert "expected a folder" in refusal(small, tmp_path / "out.keras")


def test_a_missing_file_is_named(small: Path, tmp_path: Path) -> None:
    for name in (f"{PREFIX}.data-00000-of-00001", f"{PREFIX}.index"):
        (small / name).unlink()
        assert f"{name}: expected" in refusal(small, tmp_path / "out.keras")


def test_a_data_file_that_is_too_short(small: Path, tmp_path: Path) -> None:
    data = small / f"{PREFIX}.data-00000-of-00001"
    whole = data.read_bytes()
    for length in range(0, len(whole), 7):
        data.write_bytes(whole[:length])
        refusal(small, tmp_path / "out.keras")


@pytest.mark.dear
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=6))
@pytest.mark.parametrize("name", ["index", "data-00000-of-00001"])
def test_flipped_bytes(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[int, int]]
) -> None:
    """Whatever stands there, a result or one line, and nothing else that is raised."""
    folder = _whole_folder(tmp_path_factory)
    path = folder / f"{PREFIX}.{name}"
    whole = path.read_bytes()
    try:
        path.write_bytes(flipped(whole, changes))
        with contextlib.suppress(FileFault):
            upgrade(folder, folder / "out.keras")
    finally:
        path.write_bytes(whole)


_FOLDERS: list[Path] = []


def _whole_folder(factory: pytest.TempPathFactory) -> Path:
    if not _FOLDERS:
        place = factory.mktemp("flipped") / "m"
        arrays = kernels((4, 3), (3, 2))
        _FOLDERS.append(write(place, sequential(dense("a"), dense("b", 2)), arrays))
    return _FOLDERS[0]


def entry(kind: int, shape: list[int], size: int, offset: int = 0) -> bytes:
    """A BundleEntryProto."""
    from tensorflow.core.framework import tensor_shape_pb2
    from tensorflow.core.protobuf import tensor_bundle_pb2

    message = tensor_bundle_pb2.BundleEntryProto(dtype=kind, offset=offset, size=size)
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=n) for n in shape]
    message.shape.CopyFrom(tensor_shape_pb2.TensorShapeProto(dim=dims))
    return bytes(message.SerializeToString())


def number(value: int) -> bytes:
    """A varint."""
    out = b""
    while True:
        value, low = value >> 7, value & 127
        out += bytes([low | (128 if value else 0)])
        if not value:
            return out


def table(entries: dict[str, bytes]) -> bytes:
    """A LevelDB table of one block, without checksums."""

    def block(rows: list[tuple[bytes, bytes]]) -> bytes:
        body = b"".join(
            number(0) + number(len(key)) + number(len(value)) + key + value for key, value in rows
        )
        return body + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")

    rows = [(key.encode(), value) for key, value in sorted(entries.items())]
    data = block(rows)
    index = block([(b"~", number(0) + number(len(data)))])
    place = len(data) + 5
    footer = (number(0) * 2 + number(place) + number(len(index))).ljust(40, b"\0")
    magic = bytes.fromhex("57fb808b247547db")
    return data + bytes(5) + index + bytes(5) + footer + magic


HEADER = {"": b"\x08\x01"}  # one data file
KERNEL = "layer-0/kernel/.ATTRIBUTES/VARIABLE_VALUE"
HUGE = 1 << 40


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({KERNEL: entry(1, [1 << 40, 3], 12 * HUGE)}, "no real model"),
        ({KERNEL: entry(1, [4, 3], 40)}, "shape and size disagree"),
        ({KERNEL: entry(1, [-1, 3], 12)}, "disagree"),
        ({KERNEL: entry(1, [0] * 40, 0)}, "40 axes"),
        ({KERNEL: entry(1, [4, 3], 48, HUGE)}, "reaches beyond"),
        ({KERNEL: entry(14, [4, 3], 24)}, "no array of numbers"),
        ({KERNEL: entry(1, [4, 3], 48) + b"\x18\x05"}, "data file that is not there"),
        ({KERNEL: entry(1, [4, 3], 48) + b"\x3a\x00"}, "no array of numbers"),
        ({"_CHECKPOINTABLE_OBJECT_GRAPH": entry(7, [], HUGE)}, "more objects"),
        ({"_CHECKPOINTABLE_OBJECT_GRAPH": entry(7, [], 30)}, "graph of objects"),
        ({"_CHECKPOINTABLE_OBJECT_GRAPH": entry(1, [], 4)}, "no graph of objects"),
        ({"": b"\x08\x00"}, "0 data files"),
        ({"": b"\x08\x01\x10\x01"}, "little-endian"),
        ({"": b"\x08\xff\xff\xff\x7f"}, "data files"),
    ],
)
def test_forged_indexes(tmp_path: Path, entries: dict[str, bytes], expected: str) -> None:
    folder = write(tmp_path / "m", sequential(dense("a", use_bias=False)), _kernel())
    found = Checkpoint(folder / PREFIX).entries["_CHECKPOINTABLE_OBJECT_GRAPH"]
    honest = {
        **HEADER,
        KERNEL: entry(1, [4, 3], 48),
        "_CHECKPOINTABLE_OBJECT_GRAPH": entry(7, [], found.size, found.offset),
    }
    index = folder / f"{PREFIX}.index"
    index.write_bytes(table(honest))
    assert upgrade(folder, tmp_path / "honest.keras")
    index.write_bytes(table({**honest, **entries}))
    assert expected in refusal(folder, tmp_path / "out.keras")


def _kernel() -> dict[str, Any]:
    return {"layer-0/kernel": np.ones((4, 3), "float32")}


def test_one_array_under_many_names(tmp_path: Path) -> None:
    """A file of 1 MB does not become one of 2 GB."""
    count = 500
    layers = [dense(f"d{i}", 512, use_bias=False) for i in range(count)]
    paths = [f"layer-{i}/kernel" for i in range(count)]
    arrays = dict.fromkeys(paths, np.zeros((1, 1), "float32"))
    folder = write(tmp_path / "m", sequential(*layers, width=512), arrays)
    found = Checkpoint(folder / PREFIX).entries["_CHECKPOINTABLE_OBJECT_GRAPH"]
    data = folder / f"{PREFIX}.data-00000-of-00001"
    with data.open("ab") as file:
        file.write(bytes(1 << 20))
    entries = {
        f"{path}/.ATTRIBUTES/VARIABLE_VALUE": entry(
            1, [512, 512], 1 << 20, data.stat().st_size - (1 << 20)
        )
        for path in paths
    }
    graph = {"_CHECKPOINTABLE_OBJECT_GRAPH": entry(7, [], found.size, found.offset)}
    (folder / f"{PREFIX}.index").write_bytes(table({**HEADER, **entries, **graph}))
    assert "no real model" in refusal(folder, tmp_path / "out.keras")


def test_holes_hold_nothing(tmp_path: Path) -> None:
    """A data file of 1 TB that takes no room on disk is not read through."""
    side = 1 << 19
    config = sequential(dense("a", side, use_bias=False), width=side)
    folder = write(tmp_path / "m", config, _kernel())
    found = Checkpoint(folder / PREFIX).entries["_CHECKPOINTABLE_OBJECT_GRAPH"]
    data = folder / f"{PREFIX}.data-00000-of-00001"
    os.truncate(data, 4 * side * side + 4096)
    entries = {
        **HEADER,
        KERNEL: entry(1, [side, side], 4 * side * side, 4096),
        "_CHECKPOINTABLE_OBJECT_GRAPH": entry(7, [], found.size, found.offset),
    }
    (folder / f"{PREFIX}.index").write_bytes(table(entries))
    assert "no real model" in refusal(folder, tmp_path / "out.keras")


def test_objects_that_hold_each_other(tmp_path: Path) -> None:
    """A graph of objects may have rings, and links to nowhere."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2 as proto

    from tests.support import saved_models

    def with_ring(paths: list[str], keep: Any = None, nowhere: bool = False) -> bytes:
        graph = proto.TrackableObjectGraph.FromString(honest(paths, keep))
        child = graph.nodes[1].children.add()
        child.node_id, child.local_name = 99 if nowhere else 0, "ring"
        return bytes(graph.SerializeToString())

    honest = saved_models.graph_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_models, "graph_of", with_ring)
        ring = write(tmp_path / "ring", sequential(dense("a")), kernels((4, 3)))
        patch.setattr(
            saved_models, "graph_of", lambda paths, keep=None: with_ring(paths, keep, True)
        )
        lost = write(tmp_path / "lost", sequential(dense("a")), kernels((4, 3)))
    assert upgrade(ring, tmp_path / "ring.keras")
    assert "objects which it does not hold" in refusal(lost, tmp_path / "out.keras")


def test_many_wrappers_around_one_another(tmp_path: Path) -> None:
    """Each Bidirectional doubles what is inside: thirty of them are no model."""
    inner = node("LSTM", "cell", units=2)
    for depth in range(30):
        inner = node("Bidirectional", f"b{depth}", layer=inner)
    folder = write(tmp_path / "m", sequential(inner), {"layer-0/w": WIDE})
    assert "forward_layer" in refusal(folder, tmp_path / "out.keras")


def test_names_stay_inside_the_file(tmp_path: Path) -> None:
    """Class names become names of groups: what could lead elsewhere is not in them."""
    config = sequential({**dense("a"), "class_name": "../../x>Dense"})
    folder = write(tmp_path / "m", config, kernels((4, 3)))
    upgrade(folder, tmp_path / "out.keras")
    import zipfile

    with zipfile.ZipFile(tmp_path / "out.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        assert list(file) == ["layers"]
        assert list(file["layers"]) == ["dense"]


def test_a_config_that_says_keras_3(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m", sequential(dense("a")), version="3.1.0")
    assert "Keras 3.1.0" in refusal(folder, tmp_path / "out.keras")
