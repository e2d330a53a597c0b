"""Trains a model whose kernels are split over 4 devices; prints what moved between them, as JSON.

Run on JAX in a process of its own: how many devices there are is settled as it starts.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jax
import keras
import numpy as np

import orthwrap

# Rows × columns, and along which of them each is split: 'tall' along its smaller side.
SHAPES = {"tall": (512, 64, (None, "model")), "long": (768, 96, ("model", None))}
_MOVED = re.compile(r"= \(?(\S+?\[[\d,]*\]).*? (all-gather|all-reduce|all-to-all)(?:-start)?\(")


def model(split: bool) -> Any:
    keras.utils.set_random_seed(0)
    if split:
        devices = keras.distribution.list_devices("cpu")
        mesh = keras.distribution.DeviceMesh((1, 4), ["batch", "model"], devices)
        layouts = keras.distribution.LayoutMap(mesh)
        for name, (_, _, axes) in SHAPES.items():
            layouts[f"{name}/kernel"] = axes
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
        )
    inputs = [keras.Input((SHAPES[name][0],), name=f"in_{name}") for name in SHAPES]
    penalties = {"tall": orthwrap.SO(0.1), "long": orthwrap.Frobenius(0.1)}
    outputs = [
        keras.layers.Dense(SHAPES[n][1], name=n, kernel_regularizer=penalties[n])(x)
        for n, x in zip(SHAPES, inputs, strict=True)
    ]
    made = keras.Model(inputs, keras.layers.Concatenate()(outputs))
    made.compile(keras.optimizers.SGD(0.1), "mse")
    return made


def trained(split: bool, pulled: bool) -> tuple[list[list[float]], list[str]]:
    """Some of each kernel after two steps, and each array that a step moves between devices."""
    made = model(split)
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(8, m)).astype("float32") for m, _, _ in SHAPES.values()]
    y = np.zeros((8, sum(n for _, n, _ in SHAPES.values())), "float32")
    callbacks = [orthwrap.Pull(0.05)] if pulled else []
    made.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
    kernels = [np.asarray(made.get_layer(n).kernel.value).ravel()[:200].tolist() for n in SHAPES]
    if not split:
        return kernels, []
    if pulled:  # which ended with the training
        orthwrap.Pull(0.05).start(made)
    optimizer, metrics = made.optimizer.variables, made.metrics_variables
    held = (made.trainable_variables, made.non_trainable_variables, optimizer, metrics)
    state = tuple([v.value for v in variables] for variables in held)
    text = jax.jit(made.train_step).lower(state, (x, y, None)).compile().as_text()
    return kernels, [f"{kind} {shape}" for shape, kind in _MOVED.findall(text)]


def main() -> None:
    found: dict[str, Any] = {"shapes": [(m, n) for m, n, _ in SHAPES.values()]}
    for pulled in (False, True):
        keras.distribution.set_distribution(None)
        whole, _ = trained(split=False, pulled=pulled)
        split, moved = trained(split=True, pulled=pulled)
        name = "pulled" if pulled else "penalized"
        found[name] = {"whole": whole, "split": split, "moved": moved}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
