"""Writes `written_by_0_1_0.keras` and what it gave then. To be run with orthwrap 0.1.0 alone.

A `.keras` of Keras 2.13 is apt: 0.1.0 brought it to Keras 3, for which one layer needs a function
of orthwrap's, and attached every class of regularizer that it had. No Keras has saved it since.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import orthwrap

HERE = Path(__file__).parent
PENALTIES = ("so", "dso", "mc", "srip", "offdiag", "cosine")


def layer(class_name: str, name: str, **config: Any) -> dict[str, Any]:
    node = {"module": "keras.layers", "class_name": class_name, "registered_name": None}
    return {**node, "config": {"name": name, **config}}


def old_file(path: Path) -> None:
    l2 = {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 0.01}}
    window = {"filters": 4, "kernel_size": [3, 3], "padding": "valid"}
    layers = [
        layer("InputLayer", "in", batch_input_shape=[None, 6, 6, 2], dtype="float32"),
        layer("Conv2D", "conv", activation="relu", kernel_regularizer=l2, **window),
        layer("Reshape", "rows", target_shape=[4, 16]),
        layer("LSTM", "lstm", units=4, activation="hard_sigmoid", recurrent_activation="sigmoid"),
        *(layer("Dense", name, units=4, activation="tanh") for name in PENALTIES),
    ]
    root = {"module": "keras", "class_name": "Sequential", "registered_name": None}
    random = np.random.default_rng(0)
    shapes = {"conv2d": [(3, 3, 2, 4), (4,)], "lstm/cell": [(16, 16), (4, 16), (16,)]}
    dense = ["dense", *(f"dense_{i}" for i in range(1, len(PENALTIES)))]
    shapes |= {name: [(4, 4), (4,)] for name in dense}
    with tempfile.TemporaryFile() as weights, zipfile.ZipFile(path, "w", 8) as archive:
        with h5py.File(weights, "w") as file:
            for group, arrays in shapes.items():
                for i, shape in enumerate(arrays):
                    array = random.normal(0, 0.5, shape).astype("float32")
                    file[f"layers/{group}/vars/{i}"] = array
        config = {**root, "config": {"name": "old", "layers": layers}}
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.13.1"}))
        weights.seek(0)
        archive.writestr("model.weights.h5", weights.read())


def inputs() -> Any:
    return np.linspace(-1, 1, 2 * 72).reshape(2, 6, 6, 2).astype("float32")


def main() -> None:
    assert orthwrap.__version__ == "0.1.0", orthwrap.__version__
    old, new = Path(tempfile.mkdtemp()) / "old.keras", HERE / "written_by_0_1_0.keras"
    old_file(old)
    rules = [
        orthwrap.Rule(target="conv", regularizer="lorth", factor=0.02),
        orthwrap.Rule(target="lstm@recurrent", regularizer="frobenius", factor=0.003),
        *(orthwrap.Rule(target=n, regularizer=n, factor=0.1) for n in PENALTIES[:-1]),
        orthwrap.Rule(target="cosine", regularizer="cosine", factor=0.5, scale="preserve"),
    ]
    orthwrap.apply(old, new, rules=rules, force=True)
    model = orthwrap.load_model(new)
    outputs = np.asarray(model(inputs())).tolist()
    expected = {"outputs": outputs, "losses": [float(loss) for loss in model.losses]}
    new.with_suffix(".json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
