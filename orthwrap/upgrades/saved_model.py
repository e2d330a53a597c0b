"""SavedModel folders: their Keras config, and a `.keras` or `.h5` made from them.

Keras 2 wrote its config into the folder: TensorFlow 2.5 and later into `keras_metadata.pb`, those
before into the objects of `saved_model.pb`. The weights are a TensorFlow checkpoint, which
tf_keras reads by the structure of the model: so the model is built from the config, in a process
of its own, and the graphs and functions in the folder, which may hold any operation, never run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from orthwrap.errors import FileFault
from orthwrap.upgrades import wire
from orthwrap.upgrades.h5_file import upgrade_h5
from orthwrap.upgrades.keras_zip import upgrade_keras_zip
from orthwrap.upgrades.modernise import readable_faults
from orthwrap.upgrades.records import Config, Upgrade
from orthwrap.upgrades.run import class_of

GRAPH = "saved_model.pb"
METADATA = "keras_metadata.pb"
CHECKPOINT = "variables/variables"
_WORKER = "orthwrap.upgrades.saved_model_worker"
# Protocol buffers end at 2 GB; a config in a file of more than this is none.
_LONGEST = 1 << 30
_PATIENCE_S = 1800


def read_config(folder: str | Path) -> tuple[Config, str]:
    """The model's config in a SavedModel folder, and the version of Keras that wrote it."""
    folder = Path(folder)
    with readable_faults(str(folder)):
        metadata = _metadata(folder)
        if metadata is None:
            raise FileFault(
                f"{folder}: a SavedModel without a Keras config (exported for serving); "
                "its layers cannot be told, use the model that it was exported from"
            )
        value = plain(json.loads(metadata))
        if not isinstance(value, dict):
            raise FileFault(f"{folder}: the Keras config is no object; the folder is broken")
        version = value.get("keras_version")
        config = value.get("model_config")
        inner = config.get("config") if isinstance(config, dict) else None
        if not isinstance(config, dict) or not isinstance(inner, dict) or "layers" not in inner:
            name = class_of(value) or class_of(config) or "?"
            raise FileFault(
                f"{folder}: model class {name!r} is written in Python and its code is not in the "
                "folder; save it as .h5 or .keras with its own Keras, built with the functional "
                "API or Sequential"
            )
        return config, version if isinstance(version, str) else "2"


def _metadata(folder: Path) -> str | None:
    """The root object's metadata."""
    beside = folder / METADATA
    try:
        if beside.is_file():
            for node in wire.messages(_read(beside), 1):
                if wire.text(wire.first(node, 3)) == "root":
                    return wire.text(wire.first(node, 5)) or None
            return None
        graph = folder / GRAPH
        if not graph.is_file():
            raise FileFault(f"{folder}: expected a SavedModel, found no {GRAPH}")
        message: memoryview | None = _read(graph)
        # SavedModel.meta_graphs → object_graph_def → nodes[0] → user_object → metadata
        for number in (2, 7, 1, 4, 3):
            message = wire.first(message, number) if message is not None else None
        found = wire.text(message)
        return found if found.lstrip().startswith("{") else None
    except wire.WireError as err:
        raise FileFault(f"{folder}: expected a SavedModel, found a broken one ({err})") from err


def _read(path: Path) -> memoryview:
    if path.stat().st_size > _LONGEST:
        raise FileFault(f"{path}: too long for a model's description")
    return memoryview(path.read_bytes())


def plain(value: Any) -> Any:
    """Tuples and shapes as lists; the metadata tells them apart."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        if value.get("class_name") in {"__tuple__", "TensorShape"} and "items" in value:
            return plain(value["items"])
        return {key: plain(item) for key, item in value.items()}
    return value


def find_lambdas(value: Any) -> list[str]:
    """Names of Lambda layers, and of functions that are kept as code."""
    if isinstance(value, list):
        return [name for item in value for name in find_lambdas(item)]
    if not isinstance(value, dict):
        return []
    found = []
    if class_of(value) in {"Lambda", "__lambda__"}:
        inner = value.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        found.append(name if isinstance(name, str) else class_of(value))
    return found + [name for item in value.values() for name in find_lambdas(item)]


def upgrade_saved_model(folder: str | Path, target: str | Path) -> tuple[Upgrade, ...]:
    """Write the model of a SavedModel folder to `target`, a new `.keras` or `.h5`."""
    folder, target = Path(folder), Path(target)
    if target.suffix not in {".keras", ".h5", ".hdf5"}:
        raise FileFault(f"{target}: expected a name that ends in .keras or .h5")
    config, version = read_config(folder)
    with readable_faults(str(folder)):
        lambdas = find_lambdas(config)
    if lambdas:
        raise FileFault(
            f"{folder}: layer {lambdas[0]!r} is a Lambda, whose code would have to run to rebuild "
            "the model; save it as .h5 or .keras with its own Keras"
        )
    # Beside the target, so that moving the result needs no second copy.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".orthwrap-") as scratch:
        middle = Path(scratch) / f"model{target.suffix}"
        _run_worker(folder, middle)
        upgrade = upgrade_keras_zip if target.suffix == ".keras" else upgrade_h5
        upgrades = upgrade(middle, target)
        if not upgrades:
            shutil.move(middle, target)
    root = config["config"].get("name")
    first = Upgrade(
        "SavedModel", f"tf.keras {version}", (root if isinstance(root, str) else "model",)
    )
    return (first, *upgrades)


def _run_worker(folder: Path, out: Path) -> None:
    package = Path(__file__).parents[2]
    inherited = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(package), *([inherited] if inherited else [])]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # -P: modules that happen to lie in the current folder must not be imported.
    command = [sys.executable, "-P", "-m", _WORKER, str(folder.resolve()), str(out.resolve())]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as err:
        raise FileFault(f"{folder}: tf_keras did not finish reading it") from err
    if done.returncode or not out.is_file():
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        told = [line for line in lines if line.startswith("error: ")]
        reason = told[-1].removeprefix("error: ") if told else f"tf_keras failed: {lines[-1]:.200}"
        raise FileFault(f"{folder}: {reason}")
