"""Real files of strangers: upgraded, loaded with Keras 3, compared with their own generation."""

from __future__ import annotations

import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from orthwrap.errors import FileFault
from tests.conftest import REAL_MODELS
from tests.support.upgrade_helpers import (
    TOLERANCE,
    config_of,
    difference,
    load,
    oracle,
    real,
    run,
    upgrade,
)

WHOLE = [
    "astrorapid_lstm.hdf5",
    "dl4j_k213_conv2d_reshape_th.h5",
    "dl4j_wgan_disc.h5",
    "facemask_mobilenetv2.h5",
    "fer_minixception.hdf5",
    "inaspeech_smn.hdf5",
    "medaka_flip213_gru.hdf5",
    "mmsplice_donor.h5",
    "sudoku_cnn.h5",
    "tm_waste_nested.h5",
]
# Keras 1 and CuDNN have no oracle of their own; other tests compare their outputs.
LOADABLE = [
    *WHOLE,
    "dl4j_k110_lstm.h5",
    "dl4j_k112_cnn.h5",
    "dl4j_k122_conv2d_reshape_tf.h5",
    "medaka_flip235_cudnngru.hdf5",
]


def upgraded(name: str, tmp_path: Path) -> Path:
    old, new = real(name), tmp_path / "new.h5"
    return new if upgrade(old, new) else old


@pytest.mark.dear
@pytest.mark.parametrize("name", WHOLE)
def test_outputs_are_those_of_its_own_generation(name: str, tmp_path: Path) -> None:
    model = load(upgraded(name, tmp_path))
    inputs, outputs = oracle(REAL_MODELS / "expected" / f"{name}.npz")
    recurrent = "gru" in name or "lstm" in name
    assert difference(run(model, inputs, compiled=recurrent), outputs) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADABLE)
def test_compiles_as_it_was_compiled(name: str, tmp_path: Path) -> None:
    with h5py.File(real(name)) as file:
        trained = "training_config" in file.attrs
    new = upgraded(name, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load(new, compile=True)
    assert model.compiled == trained
    assert all(size is None or size > 0 for size in model.input_shape)


def test_cudnn_weights_follow_nvidia(tmp_path: Path) -> None:
    """A forward pass from the raw arrays: per gate, kernels transposed, two biases."""
    old = real("medaka_flip235_cudnngru.hdf5")
    model = load(upgraded(old.name, tmp_path))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 10)).astype("float32")
    with h5py.File(old) as file:
        group = file["model_weights"]
        arrays = {
            name.decode(): [group[name][w][()] for w in group[name].attrs["weight_names"]]
            for name in group.attrs["layer_names"]
        }
    y: Any = x
    for name in ("bidirectional_1", "bidirectional_2"):
        ahead, behind = arrays[name][:3], arrays[name][3:]
        y = np.concatenate([cudnn_gru(y, *ahead), cudnn_gru(y[:, ::-1], *behind)[:, ::-1]], -1)
    kernel, bias = next(a for name, a in arrays.items() if len(a) == 2)
    logits = y @ kernel + bias
    e = np.exp(logits - logits.max(-1, keepdims=True))
    assert difference(run(model, [x]), [e / e.sum(-1, keepdims=True)]) < TOLERANCE


def cudnn_gru(x: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
    units = len(recurrent)
    w = [part.reshape(-1, order="C").reshape(units, -1) for part in np.hsplit(kernel, 3)]
    u = np.hsplit(recurrent, 3)
    inside, outside = bias.reshape(2, 3, units)
    h = np.zeros((len(x), units))
    out = []
    for t in range(x.shape[1]):
        a = [x[:, t] @ w[g].T + inside[g] for g in range(3)]
        b = [h @ u[g].T + outside[g] for g in range(3)]
        z, r = (1 / (1 + np.exp(-(a[g] + b[g]))) for g in range(2))
        h = z * h + (1 - z) * np.tanh(a[2] + r * b[2])
        out.append(h)
    return np.stack(out, 1)


@pytest.mark.parametrize("name", ["astrorapid_tcn_custom.hdf5", "mmsplice_acceptor_custom.h5"])
def test_custom_layers_stay_as_they_are(name: str, tmp_path: Path) -> None:
    custom = {"astrorapid_tcn_custom.hdf5": "TCN", "mmsplice_acceptor_custom.h5": "ConvDNA"}[name]
    new = upgraded(name, tmp_path)

    def nodes(path: Path) -> list[Any]:
        return [
            {key: node[key] for key in ("class_name", "config")}
            for node in config_of(path)["config"]["layers"]
            if node["class_name"] == custom
        ]

    assert nodes(new)
    assert nodes(new) == nodes(real(name))


def test_lambda_is_neither_run_nor_changed(tmp_path: Path) -> None:
    old = real("dl4j_k209_lambda.h5")
    new = upgraded(old.name, tmp_path)
    assert [
        n["config"] for n in config_of(new)["config"]["layers"] if n["class_name"] == "Lambda"
    ] == [n["config"] for n in config_of(old)["config"]["layers"] if n["class_name"] == "Lambda"]


def test_the_rest_of_the_file_keeps_its_bytes(tmp_path: Path) -> None:
    old = real("medaka_flip213_gru.hdf5")
    new = upgraded(old.name, tmp_path)
    edited = ("model_weights/bidirectional",)

    def arrays(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: (
                    found.update({name: item[()]})
                    if isinstance(item, h5py.Dataset) and not name.startswith(edited)
                    else None
                )
            )
        return found

    before, after = arrays(old), arrays(new)
    before = {
        name.replace("optimizer_weights", "optimizer_weights_keras2"): value
        for name, value in before.items()
    }
    assert before.keys() == after.keys()
    assert any(name.startswith("optimizer_weights") for name in before)
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])


@pytest.mark.parametrize("name", LOADABLE)
def test_the_input_is_never_changed(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    shutil.copyfile(real(name), copy)
    before = copy.read_bytes()
    upgrade(copy, tmp_path / "new.h5")
    assert copy.read_bytes() == before


def test_keras_3_is_left_alone(tmp_path: Path) -> None:
    old = real("deeplc_k333.keras")
    assert upgrade(old, tmp_path / "new.keras") == ()
    assert not (tmp_path / "new.keras").exists()


def test_keras_3_h5_is_left_alone_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    def read(*_: Any) -> None:
        raise AssertionError("an array was read")

    path = tmp_path / "three.h5"
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "hard_sigmoid")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", read)
    assert upgrade(path, tmp_path / "new.h5") == ()
    assert not (tmp_path / "new.h5").exists()


@pytest.mark.parametrize(
    "name", ["W_deepcut_weights.h5", "W_har_model_save", "X_dl4j_not_keras_inputs_outputs.h5"]
)
def test_no_model_inside(name: str) -> None:
    with pytest.raises(FileFault) as caught:
        upgrade(real(name))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_saved_model(tmp_path: Path) -> None:
    name = "SM_medaka_r941_min_sup_g507"
    out = tmp_path / "model.keras"
    upgrades = upgrade(real(name), out)
    assert upgrades[0].name == "SavedModel"
    inputs, outputs = oracle(REAL_MODELS / "expected" / f"{name}.npz")
    assert difference(run(load(out), inputs), outputs) < TOLERANCE
    assert list(tmp_path.iterdir()) == [out]


def test_not_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.keras"
    path.write_bytes(b"PK nothing")
    with pytest.raises(FileFault):
        upgrade(path, tmp_path / "y.keras")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "[1, 2]")
        archive.writestr("metadata.json", "{}")
    with pytest.raises(FileFault):
        upgrade(path, tmp_path / "y.keras")
