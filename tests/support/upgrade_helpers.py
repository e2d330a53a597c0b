"""Shared by the tests of `orthwrap.upgrades`: files, loading, comparing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from orthwrap.opening import opened
from orthwrap.upgrades import Upgrade
from tests.conftest import REAL_MODELS

TOLERANCE = 1e-5


def real(name: str) -> Path:
    """A real model file, or a skip where they are not at hand."""
    path = REAL_MODELS / name
    if not path.exists():
        pytest.skip(f"{name} is not at hand")
    return path


def upgrade(source: Path, target: Path | None = None) -> tuple[Upgrade, ...]:
    """What opening a file does to it; its modernised copy goes to `target`, where there is one."""
    with opened(source) as found:
        if found.upgrades and target is not None:
            shutil.copyfile(found.store.path, target)
        return found.upgrades


def load(path: Path, compile: bool = False) -> Any:
    """Load with Keras 3, orthwrap's function registered."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        # TensorFlow's own imports warn on recent Pythons.
        warnings.simplefilter("ignore")
        import keras

        from orthwrap.upgrades.functions import register

        register()
    # Keras tells through absl that a model without a training config is not compiled.
    logging.getLogger("absl").setLevel(logging.ERROR)
    return keras.models.load_model(path, compile=compile)


def oracle(path: Path) -> tuple[list[Any], list[Any]]:
    """Inputs x0… and outputs y0… of an .npz."""
    with np.load(path) as data:
        keys = [key for key in data.files if key[1:].isdigit()]
        keys.sort(key=lambda key: (key[0], int(key[1:])))
        return (
            [data[key] for key in keys if key[0] == "x"],
            [data[key] for key in keys if key[0] == "y"],
        )


def run(
    model: Any, inputs: list[Any], names: list[str] | None = None, compiled: bool = False
) -> list[Any]:
    """Outputs as float32 arrays; `compiled` is for loops over many steps."""
    fed: Any = dict(zip(names, inputs, strict=True)) if names else inputs
    fed = fed if len(inputs) > 1 else inputs[0]
    outputs = model.predict(fed, verbose=0) if compiled else model(fed, training=False)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [np.asarray(output, "float32") for output in outputs]


def difference(found: list[Any], expected: list[Any]) -> float:
    """The largest difference, relative to outputs beyond 1."""
    assert len(found) == len(expected)
    scale = max(1.0, *(float(np.abs(array).max()) for array in expected))
    worst = 0.0
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        worst = max(worst, float(np.abs(mine - theirs).max()))
    return worst / scale


def config_of(path: Path) -> Any:
    """The model config of an .h5."""
    with h5py.File(path) as file:
        return json.loads(file.attrs["model_config"])


def write_h5(
    path: Path,
    config: Any,
    weights: dict[str, list[tuple[str, Any]]],
    version: str = "2.1.3",
    backend: str | None = "tensorflow",
    training: Any = None,
    at_root: bool = False,
) -> Path:
    """An .h5 as Keras 1 and 2 wrote it, layers in `model_weights` or at the root."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version
        if backend is not None:
            file.attrs["backend"] = backend
        file.attrs["model_config"] = json.dumps(config)
        if training is not None:
            file.attrs["training_config"] = json.dumps(training)
        group = file if at_root else file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for layer, arrays in weights.items():
            inner = group.require_group(layer)
            inner.attrs["weight_names"] = [name.encode() for name, _ in arrays]
            for name, array in arrays:
                inner.create_dataset(name, data=array)
    return path


def make_vintages(folder: Path, groups: str, *names: str) -> Path:
    """Run the generator with tf_keras in its own process."""
    if find_spec("tf_keras") is None:
        pytest.skip("tf_keras is not installed")
    script = Path(__file__).with_name("vintages.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), groups, *names],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder
