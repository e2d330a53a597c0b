"""What penalties cost on all of a model's kernels, against the textbook one-liner, in turn.

    KERAS_BACKEND=torch python benchmarks/bench_kernels.py resnet50 [--small] [--seconds 20]

Loss and gradient, without a model around them, on whatever device the backend has; TensorFlow is
not needed on the others. The report goes to results/kernels-BACKEND-MODEL.json, and `cost_page.py`
makes a table of it. The yardsticks are written in the backend's own words:

one-liner: sum(square(WᵀW − I)) of each kernel as a matrix, with the backend's own gradient;
two products: WᵀW and W·G alone, which any exact method needs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bench_steps

ONE_LINER, PRODUCTS = "one-liner", "two products"
WAYS = ("so", "offdiag", "frobenius", "srip")


def one_liner(kernel: Any) -> Any:
    """Of a kernel, a variable or a tensor."""
    import keras

    kernel = kernel.value if isinstance(kernel, keras.Variable) else kernel
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        w = kernel.flatten(0, -2)
        eye = torch.eye(w.shape[-1], device=w.device)
        return torch.sum(torch.square(w.mT @ w - eye))
    if backend == "jax":
        import jax.numpy as jnp

        w = kernel.reshape(-1, kernel.shape[-1])
        return jnp.sum(jnp.square(w.T @ w - jnp.eye(w.shape[-1])))
    import tensorflow as tf

    w = tf.reshape(kernel, (-1, kernel.shape[-1]))
    return tf.reduce_sum(tf.square(tf.matmul(w, w, transpose_a=True) - tf.eye(w.shape[1])))


def two_products(kernels: list[Any], compiled: bool) -> Callable[[], None]:
    """Of the kernels as matrices, each from its smaller side."""
    import keras
    from keras import ops

    from orthwrap.costs import passes

    def products(values: Any) -> list[Any]:
        made = []
        for value in values:
            w = ops.reshape(value, (-1, value.shape[-1]))
            turned = ops.transpose(w)
            is_tall = w.shape[0] >= w.shape[1]
            made.append(w @ (turned @ w) if is_tall else (w @ turned) @ w)
        return made

    values = [kernel.value for kernel in kernels]
    call = passes.compiled_call(products, values, keras.backend.backend(), compiled)
    return passes.waiting(call)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("model", choices=bench_steps.MODELS)
    options.add_argument("--seconds", type=float, default=20, help="of measuring")
    options.add_argument("--small", action="store_true", help="a small model of the kind")
    options.add_argument("--regularizer", "-r", nargs="*", default=WAYS)
    options.add_argument("--output", type=Path, default=bench_steps.RESULTS)
    given = options.parse_args()

    import keras

    from orthwrap.costs import passes, timing
    from orthwrap.costs.benching import Bench, warm
    from orthwrap.costs.device import device
    from orthwrap.costs.wanted import Wanted
    from orthwrap.live.live_store import LiveStore
    from orthwrap.report.versions import versions
    from orthwrap.survey import survey

    keras.utils.set_random_seed(0)
    model = bench_steps.MODELS[given.model](given.small)
    wanted = Wanted(target=bench_steps.TARGETS.get(given.model), regularizers=given.regularizer)
    bench = Bench(model, survey(LiveStore(model)), None, None, wanted)
    chosen, _ = bench.variants()
    compiled = bench.is_compiled
    pairs = [(one_liner, kernel) for kernel in bench.trained]
    functions = {
        ONE_LINER: warm(passes.loss_and_gradients(pairs, compiled), passes.times()),
        PRODUCTS: warm(two_products(bench.trained, compiled), passes.times()),
        **{v.name: bench.timed(v) for v in chosen},
    }
    seconds = timing.in_turn(functions, most=100, until=time.monotonic() + given.seconds)
    against = seconds[ONE_LINER]
    rows = [
        {
            "name": name,
            "seconds": asdict(timing.quartiles(taken)),
            "ratio": asdict(timing.quartiles(taken / against)),
        }
        for name, taken in seconds.items()
    ]
    backend = keras.backend.backend()
    report = {
        "schema": "orthwrap.benchmark/1",
        "model": given.model,
        "backend": backend,
        "device": asdict(device()),
        "versions": versions(),
        "kernels": len(bench.trained),
        "rounds": len(against),
        "rows": rows,
    }
    for row in rows:
        spread = "{low:.2f} to {high:.2f}".format(**row["ratio"])
        milliseconds = 1e3 * row["seconds"]["median"]
        print(f"{row['name']:24} {milliseconds:9.2f} ms {row['ratio']['median']:7.2f}  {spread}")
    names = ["kernels", backend, given.model, *["small"] * given.small]
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / f"{'-'.join(names)}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
