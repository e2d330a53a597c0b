"""Trains the models of a folder with and without `devices`, and prints what came of each, as JSON.

Run in a process of its own: how many devices a backend has is settled as it starts.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

import orthwrap
from orthwrap.errors import OrthwrapError

CASES: dict[str, dict[str, Any]] = {
    "auto": {"factor": "auto", "optimizer": "adam", "learning_rate": 0.01},
    "sketch": {
        "options": {"estimate": "sketch", "every": 2},
        "schedule": "0:1, 6:0.2",
        "schedule_by": "step",
        "validation": "odd.npz",
    },
    "distilled": {"distill": True, "regularizer": "srip", "epochs": 1},
    "goal": {"factor": None, "goal": "3x", "epochs": 3, "validation": "odd.npz"},
    "norm": {"epochs": 1},
    "activity": {"on": "activity", "epochs": 1},
}


def trained(folder: Path, name: str, devices: int | None, **more: Any) -> Any:
    """The result of one case."""
    words: dict[str, Any] = {
        "factor": 0.1,
        "data": str(folder / "even.npz"),
        "seed": 1,
        "epochs": 2,
        "batch_size": 8,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "measure": False,
        **CASES.get(name, {}),
        **more,
    }
    if "validation" in words:
        words["validation"] = str(folder / words["validation"])
    model = folder / ("norm.keras" if name == "norm" else "plain.keras")
    output = folder / "out.keras"
    return orthwrap.apply(str(model), output, force=True, devices=devices, **words)


def told(result: Any) -> dict[str, Any]:
    training = result.report.training
    weights = [np.asarray(keras.ops.convert_to_numpy(v)) for v in result.model.weights]
    return {
        "weights": np.concatenate([w.ravel() for w in weights]).tolist(),
        "history": training.history,
        "factors": training.factors,
        "before": training.metrics_before,
        "after": training.metrics_after,
        "choices": training.choices,
    }


def error_of(folder: Path, devices: int, **more: Any) -> str:
    try:
        trained(folder, "plain", devices, **more)
    except OrthwrapError as e:
        return f"{type(e).__name__}: {e}"
    return "none"


def one_step(folder: Path, devices: int | None) -> list[float]:
    """How far a step of rate 1 moves the kernels where only the penalty has a gradient."""
    result = trained(
        folder,
        "plain",
        devices,
        scale="unit",
        data=str(folder / "still.npz"),
        loss="mse",
        learning_rate=1.0,
        epochs=1,
    )
    kernels = [
        np.asarray(keras.ops.convert_to_numpy(v))
        for v in result.model.weights
        if v.name == "kernel"
    ]
    return np.concatenate([k.ravel() for k in kernels]).tolist()


def resumed(folder: Path, devices: int) -> dict[str, Any]:
    """Two epochs in two runs."""
    where = folder / "checkpoints"
    trained(folder, "sketch", devices, epochs=1, checkpoint_dir=where)
    return told(trained(folder, "sketch", devices, checkpoint_dir=where, resume=True))


def main(folder: Path) -> None:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="__array__ implementation")
    found: dict[str, Any] = {}
    is_jax = keras.backend.backend() == "jax"
    for name in CASES:
        if name == "activity" and is_jax:
            continue  # it sees whole batches there
        found[name] = [told(trained(folder, name, devices)) for devices in (2, None)]
    found["step"] = [one_step(folder, 2)]
    if not is_jax:  # which compiles much at each run
        found["resumed"] = [resumed(folder, 2), found["sketch"][0]]
    found["errors"] = {
        "uneven": error_of(folder, 2, batch_size=7),
        "too many": error_of(folder, 4),
        "few samples": error_of(folder, 2, data=str(folder / "one.npz")),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
