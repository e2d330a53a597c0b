"""Models of tf_keras, of every layer type and application, upgraded and loaded with Keras 3."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support.upgrade_helpers import (
    TOLERANCE,
    difference,
    load,
    make_vintages,
    oracle,
    run,
    upgrade,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vintages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    groups = "layers,functional,operations,cudnn,compiled,applications"
    return make_vintages(tmp_path_factory.mktemp("vintages"), groups)


def failures(
    folder: Path,
    tmp_path: Path,
    suffix: str,
    prepare: Any = None,
    skipped: str | tuple[str, ...] = (),
) -> list[str]:
    """Names whose upgraded model does not load or does not give the old outputs."""
    import keras

    wrong = []
    found = 0
    for path in sorted(folder.glob(f"*{suffix}")):
        name = path.stem
        if name.startswith(skipped):
            continue
        new = tmp_path / path.name
        old = prepare(path, tmp_path / f"old-{path.name}") if prepare else path
        if old is None:
            continue
        found += 1
        try:
            model = load(new if upgrade(old, new) else old)
            inputs, outputs = oracle(path.with_suffix(".npz"))
            names = ["a", "b"] if name == "dict_inputs" else None
            worst = difference(run(model, inputs, names), outputs)
            if not worst < TOLERANCE:
                wrong.append(f"{name}: outputs differ by {worst:.2g}")
        except Exception as err:
            wrong.append(f"{name}: {type(err).__name__}: {' '.join(str(err).split())[:300]}")
        if found % 50 == 0:  # it collects garbage, which takes long late in a run
            keras.backend.clear_session()
    assert found
    return wrong


def test_h5(vintages: Path, tmp_path: Path) -> None:
    assert failures(vintages, tmp_path, ".h5") == []


def test_keras_zip(vintages: Path, tmp_path: Path) -> None:
    # Operations go the same way in both formats; a few are enough here.
    rarely = ("op_r", "op_s", "op_c", "op_k", "op_m", "op_p")
    assert failures(vintages, tmp_path, ".keras", skipped=rarely) == []


def without_modules(value: Any) -> Any:
    """Configs before Keras 2.12 named no modules."""
    if isinstance(value, list):
        return [without_modules(item) for item in value]
    if not isinstance(value, dict) or value.get("class_name") == "Policy":
        return value
    new = {"module", "registered_name", "build_config", "shared_object_id"}
    return {key: without_modules(item) for key, item in value.items() if key not in new}


def older_sequentials(value: Any, bare: bool) -> Any:
    """No InputLayer (before tf.keras 2.2), and a bare list of layers (before Keras 2.2)."""
    if isinstance(value, list):
        return [older_sequentials(item, bare) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: older_sequentials(item, bare) for key, item in value.items()}
    if value.get("class_name") == "Functional":
        value["class_name"] = "Model"
    if value.get("class_name") == "Sequential":
        layers = value["config"]["layers"]
        if layers and layers[0]["class_name"] == "InputLayer":
            shape = layers.pop(0)["config"]["batch_input_shape"]
            if layers and layers[0]["class_name"] not in {"Sequential", "Functional", "Model"}:
                layers[0]["config"]["batch_input_shape"] = shape
        if bare:
            value["config"] = layers
    return value


@pytest.mark.parametrize(("bare", "version"), [(False, "2.3.1"), (True, "2.1.3")])
def test_older_forms(vintages: Path, tmp_path: Path, bare: bool, version: str) -> None:
    def prepare(path: Path, old: Path) -> Path | None:
        if path.stem == "deferred":  # its input shape is in what the bare list leaves out
            return None
        shutil.copy(path, old)
        with h5py.File(old, "r+") as file:
            config = without_modules(json.loads(file.attrs["model_config"]))
            if bare and config["class_name"] != "Sequential":
                return None
            del file.attrs["model_config"]
            file.attrs["model_config"] = json.dumps(older_sequentials(config, bare))
            file.attrs["keras_version"] = version
        return old

    # Those were written from 2.4 on only, or differ in nothing that ages.
    younger: tuple[str, ...] = (
        "op_",
        "random",
        "activation",
        "crop",
        "upsample",
        "global",
        "depthwise",
        "conv",
    )
    younger += ("max_", "avg_", "zero_", "spatial", "gaussian", "separable", "cudnn")
    assert failures(vintages, tmp_path, ".h5", prepare, younger) == []


def test_a_second_upgrade_does_nothing(vintages: Path, tmp_path: Path) -> None:
    """An upgraded file says Keras 3, so that its weights are not scaled twice."""
    for name in ("slashes", "op_arithmetic", "encoder_decoder", "nested_twice", "lstm_hard"):
        new, again = tmp_path / f"{name}.h5", tmp_path / f"{name}-again.h5"
        assert upgrade(vintages / f"{name}.h5", new)
        assert upgrade(new, again) == ()
        assert not again.exists()


def test_names_of_2_13(vintages: Path, tmp_path: Path) -> None:
    """2.12 and 2.13 put the layers of functional models under an attribute's name."""
    for name in ("nested_recurrent", "hard_branches", "deep"):
        old, new = tmp_path / f"{name}.keras", tmp_path / f"{name}-new.keras"
        with zipfile.ZipFile(vintages / old.name) as source, zipfile.ZipFile(old, "w") as target:
            for entry in source.infolist():
                data = source.read(entry)
                if entry.filename == "model.weights.h5":
                    weights = tmp_path / "weights.h5"
                    weights.write_bytes(data)
                    with h5py.File(weights, "r+") as file:
                        found: list[str] = []
                        file.visit(lambda n, found=found: found.append(n))
                        for group in sorted(found, key=len, reverse=True):
                            if group.endswith("layers"):
                                parent = group.removesuffix("layers")
                                file.move(group, f"{parent}_layer_checkpoint_dependencies")
                    data = weights.read_bytes()
                target.writestr(entry.filename, data)
        assert upgrade(old, new)
        inputs, outputs = oracle(vintages / f"{name}.npz")
        assert difference(run(load(new), inputs), outputs) < TOLERANCE


def test_compiled(vintages: Path, tmp_path: Path) -> None:
    """The loss that a model was compiled with gives its old value, and training goes on."""
    folder = vintages / "compiled"
    wrong = []
    for old in sorted([*folder.glob("*.h5"), *folder.glob("*.keras")]):
        new = tmp_path / old.name
        try:
            path = new if upgrade(old, new) else old
            with warnings.catch_warnings():
                # The variables of optimizers are others in Keras 3.
                warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
                model = load(path, compile=True)
            model.run_eagerly = True
            inputs, outputs = oracle(old.with_suffix(".npz"))
            with np.load(old.with_suffix(".npz")) as data:
                expected = float(data["loss"])
            targets = [np.eye(3, dtype="float32")[[0, 2]] for _ in outputs]
            fed = targets if len(targets) > 1 else targets[0]
            with warnings.catch_warnings():
                # Softmax outputs taken for logits: Keras asks whether that was meant.
                warnings.filterwarnings("ignore", message=".*from_logits=True")
                found = model.evaluate(inputs[0], fed, verbose=0, return_dict=True)["loss"]
            if not abs(found - expected) < 1e-4 * max(1.0, abs(expected)):
                wrong.append(f"{old.name}: loss {found} was {expected}")
            if old.stem in {"compiled_adam", "compiled_old_sgd", "compiled_two"}:
                model.train_on_batch(inputs[0], fed)
        except Exception as err:
            wrong.append(f"{old.name}: {type(err).__name__}: {' '.join(str(err).split())[:300]}")
    assert not wrong, "\n".join(wrong)


def test_applications(vintages: Path, tmp_path: Path) -> None:
    assert failures(vintages / "applications", tmp_path, ".h5") == []
