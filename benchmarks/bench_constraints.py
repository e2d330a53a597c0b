"""How near the constraints come on networks of `keras.applications`, and what they cost.

    python benchmarks/bench_constraints.py [--networks MobileNet …] [--how compiled eager]

Each network has random weights and takes steps of SGD on one random batch, in its smallest size.
The residual is the worst of its kernels by an SVD in float64, of W/α against the constraint's own
α: after the first step, and after the file was saved, loaded, and made one more. Then `strip`
takes the constraints off the file, which is loaded by a process that has no orthwrap. What is in
the JSON already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from common import RESULTS, machine, write

import orthwrap
from orthwrap.live.live_store import LiveStore
from orthwrap.survey import survey

# The smallest input that each takes, in the order of their sizes.
SIDES = {
    "MobileNetV3Small": 32,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "EfficientNetB0": 32,
    "NASNetMobile": 32,
    "DenseNet121": 32,
    "ResNet50": 32,
    "Xception": 71,
    "InceptionV3": 75,
    "ConvNeXtTiny": 32,
}
_FULL_RANK = 1e-7  # σ_min over σ_max, below which float32 tells no direction from rounding

_WITHOUT = """
import sys
sys.modules["orthwrap"] = None
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
given = np.load(sys.argv[2])
print(float(np.abs(model.predict(given["x"], verbose=0) - given["y"]).max()))
"""


def residuals(model: Any) -> tuple[dict[str, float], int]:
    """By kernel that is held, of W/α; and how many lack a direction, and are left out."""
    found, lacking = {}, 0
    for slot in survey(LiveStore(model)).slots:
        for kernel in slot.kernels if slot.held is not None else ():
            w = kernel.layout.to_matrices(kernel.weight.array().astype("float64"), np)
            sigma = np.linalg.svd(w / slot.held.alpha, compute_uv=False)
            if np.any(sigma.min(-1) <= _FULL_RANK * sigma.max(-1)):
                lacking += 1
                continue
            away = np.sqrt(np.mean((sigma**2 - 1) ** 2))
            found[f"{slot.layer.path}/{kernel.spec.name}"] = float(away)
    return found, lacking


def step_seconds(model: Any, x: Any, y: Any) -> float:
    start = time.perf_counter()
    model.train_on_batch(x, y)
    return time.perf_counter() - start


def measured(name: str, constrain: str, how: str) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    side = SIDES[name]
    network = getattr(keras.applications, name)
    plain = network(weights=None, input_shape=(side, side, 3), classes=10)
    made = orthwrap.apply(plain, target="all", constrain=constrain, measure=False).model
    x = np.random.default_rng(0).normal(size=(8, side, side, 3)).astype("float32")
    y = np.arange(8) % 10
    took, first, lacking = {}, {}, 0
    for model, which in ((plain, "plain"), (made, "held")):
        model.compile(
            "sgd",
            "sparse_categorical_crossentropy",
            run_eagerly=how == "eager",
            jit_compile=how == "compiled",  # of itself, Keras compiles nothing on PyTorch
        )
        model.train_on_batch(x, y)
        if model is made:
            first, lacking = residuals(model)
        took[which] = step_seconds(model, x, y)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        made.save(path)
        again = keras.models.load_model(path)
        again.train_on_batch(x, y)
        resumed = max(residuals(again)[0].values())
        alone = _without_orthwrap(path, x, made.predict(x, verbose=0))
    return {
        "network": name,
        "how": how,
        "kernels": len(first),
        "without_rank": lacking,
        "worst": max(first.values()),
        "worst_kernel": max(first, key=first.__getitem__),
        "resumed": resumed,
        "stripped_differs": alone,
        "step": took,
    }


def _without_orthwrap(path: Path, x: Any, y: Any) -> float:
    """How far outputs of the stripped file are off where orthwrap cannot be imported."""
    stripped = orthwrap.strip(path).output
    given = path.with_suffix(".npz")
    np.savez(given, x=x, y=y)
    run = [sys.executable, "-c", _WITHOUT, str(stripped), str(given)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout.split()[-1])


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['network']:17} {row['how']:8} {row['kernels']:4} kernels  worst {row['worst']:.1e}  "
        f"resumed {row['resumed']:.1e}  stripped differs {row['stripped_differs']:.0e}  "
        f"step {row['step']['plain']:.2f} s → {row['step']['held']:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--how", nargs="+", default=["compiled", "eager"])
    parser.add_argument("--constrain", default="orthogonal")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    backend = keras.backend.backend()
    path = given.output or RESULTS / f"constraints-{backend}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {(r["network"], r["how"], r["constrain"]) for r in rows}
    for name in given.networks:
        for how in given.how:
            if (name, how, given.constrain) in done:
                continue
            keras.backend.clear_session()
            row = {**measured(name, given.constrain, how), "constrain": given.constrain}
            rows.append(row)
            print(line(row), flush=True)
            write(path, machine(), backend=backend, rows=rows)


if __name__ == "__main__":
    main()
