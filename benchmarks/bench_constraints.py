"""What the constraints cost, and how near they come, on networks of `keras.applications`.

    python benchmarks/bench_constraints.py [--networks 10] [--eager] [--constrain orthogonal]

Each network has random weights, and takes two steps of SGD on one random batch, the second of them
timed with the constraint and without. The residual is that of every full-rank kernel after the
first step, by an SVD in float64; after the model was saved and loaded again, after one more.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import orthwrap
from orthwrap.live.live_store import LiveStore
from orthwrap.survey import survey

NETWORKS = (
    *("MobileNetV3Small", "MobileNetV2", "MobileNet", "EfficientNetV2B0", "NASNetMobile"),
    *("DenseNet121", "ResNet50", "Xception", "ConvNeXtTiny", "InceptionV3"),
)
SIDE = {"Xception": 71, "InceptionV3": 75}


def residuals(model: Any) -> dict[str, float]:
    """By kernel, of W over its own RMS singular value; those that lack a direction are left out."""
    found = {}
    for slot in survey(LiveStore(model)).slots:
        for kernel in slot.kernels:
            if kernel.weight is None or kernel.layout is None:
                continue
            w = kernel.layout.to_matrices(kernel.weight.array().astype("float64"), np)
            sigma = np.linalg.svd(w, compute_uv=False)
            rms = np.sqrt(np.mean(sigma**2))
            if sigma.min() > 1e-7 * sigma.max():
                away = np.mean(((sigma / rms) ** 2 - 1) ** 2)
                found[f"{slot.layer.path}/{kernel.spec.name}"] = float(np.sqrt(away))
    return found


def seconds_of_step(model: Any, x: Any, y: Any, steps: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        model.train_on_batch(x, y)
    return (time.perf_counter() - start) / steps


def measured(name: str, constrain: str, eager: bool) -> str:
    keras.utils.set_random_seed(0)
    side = SIDE.get(name, 64)
    plain = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classes=10)
    made = orthwrap.apply(plain, target="all", constrain=constrain, measure=False).model
    x = np.random.default_rng(0).normal(size=(8, side, side, 3)).astype("float32")
    y = np.arange(8) % 10
    took = []
    for model in (plain, made):
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=eager)
        model.train_on_batch(x, y)
        first = residuals(model) if model is made else {}
        took.append(seconds_of_step(model, x, y))
        if model is made:
            worst = max(first.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        made.save(path)
        again = keras.models.load_model(path)
    again.train_on_batch(x, y)
    resumed = max(residuals(again).values())
    return (
        f"{name:18} {len(first):4} kernels  worst residual {worst:.1e}, resumed {resumed:.1e}  "
        f"step {took[0]:.2f} s → {took[1]:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=len(NETWORKS))
    parser.add_argument("--constrain", default="orthogonal")
    parser.add_argument("--eager", action="store_true")
    given = parser.parse_args()
    print(f"{given.constrain}, {keras.backend.backend()}, {'eager' if given.eager else 'compiled'}")
    for name in NETWORKS[: given.networks]:
        print(measured(name, given.constrain, given.eager), flush=True)


if __name__ == "__main__":
    main()
