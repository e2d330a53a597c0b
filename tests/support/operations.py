"""How many operations loss and gradient of penalties take, on the backend that Keras has.

    KERAS_BACKEND=jax python -m tests.support.operations > benchmarks/results/operations-jax.json

counts those of ResNet-50's 54 kernels, which `benchmarks/cost_page.py` makes a table of.
"""

from __future__ import annotations

import json
import operator
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any

import keras
import numpy as np

BACKEND = keras.backend.backend()


def one_liner(w: Any) -> Any:
    """The textbook's, for the backend's own automatic gradient."""
    if BACKEND == "torch":
        import torch

        w = w.value.reshape(-1, w.shape[-1])
        return ((w.T @ w - torch.eye(w.shape[1])) ** 2).sum()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        w = tf.reshape(w, (-1, w.shape[-1]))
        return tf.reduce_sum(tf.square(tf.matmul(w, w, transpose_a=True) - tf.eye(w.shape[1])))
    import jax.numpy as jnp

    w = jnp.reshape(w, (-1, w.shape[-1]))
    return jnp.sum(jnp.square(w.T @ w - jnp.eye(w.shape[1])))


def operations(penalties: Sequence[Callable[[Any], Any]], shapes: Sequence[Any]) -> float:
    """For each kernel, of the sum of the penalties and its gradients: dispatched, or in a graph."""
    count = {"torch": _dispatched, "tensorflow": _in_graph, "jax": _in_jaxpr}[BACKEND]
    return count(penalties, shapes) / len(shapes)


def _dispatched(penalties: Sequence[Callable[[Any], Any]], shapes: Sequence[Any]) -> int:
    import torch

    kernels = [keras.Variable(kernel_of(s)) for s in shapes]

    def once() -> None:
        loss = reduce(operator.add, (p(k) for p, k in zip(penalties, kernels, strict=True)))
        if loss.requires_grad:  # not where all are left out
            torch.autograd.grad(loss, [k.value for k in kernels], allow_unused=True)

    return dispatched(once)


def dispatched(call: Callable[[], Any]) -> int:
    """The operations of a call on PyTorch."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.seen: Counter[str] = Counter()

        def __torch_dispatch__(self, function: Any, _: Any, args: Any, kwargs: Any = None) -> Any:
            self.seen[str(function)] += 1
            return function(*args, **(kwargs or {}))

    with Counting() as counting:
        call()
    return counting.seen.total()


def _in_graph(penalties: Sequence[Callable[[Any], Any]], shapes: Sequence[Any]) -> int:
    import tensorflow as tf

    kernels = [tf.Variable(kernel_of(s)) for s in shapes]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def run() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.add_n([p(k) for p, k in zip(penalties, kernels, strict=True)])
        return loss, tape.gradient(loss, kernels)

    graph = run.get_concrete_function().graph
    # What the results or an assignment need; the rest, TensorFlow cuts before it runs.
    wanted = [output.op for output in graph.outputs]
    wanted += [o for o in graph.get_operations() if o.type.startswith("Assign")]
    needed: dict[str, Any] = {}
    while wanted:
        one = wanted.pop()
        if one.name not in needed:
            needed[one.name] = one
            wanted += [*(i.op for i in one.inputs), *one.control_inputs]
    return len(needed)


def _in_jaxpr(penalties: Sequence[Callable[[Any], Any]], shapes: Sequence[Any]) -> int:
    import jax

    # As a training step does, which hands in what counts and takes it back.
    states = [p.state for p in penalties if isinstance(p, keras.random.SeedGenerator)]

    def loss(kernels: Any, counts: Any) -> Any:
        with keras.StatelessScope(list(zip(states, counts, strict=True))) as scope:
            total = sum(p(k) for p, k in zip(penalties, kernels, strict=True))
        return total, [scope.get_current_value(state) for state in states]

    def count(jaxpr: Any) -> int:
        total = 0
        for equation in jaxpr.eqns:
            inner = [v for v in equation.params.values() if hasattr(v, "jaxpr")]
            total += sum(count(v.jaxpr) for v in inner) if inner else 1
        return total

    traced = jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))
    return count(traced([kernel_of(s) for s in shapes], [s.value for s in states]).jaxpr)


def kernel_of(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "so": ("so", {}),
    "so, preserve": ("so", {"scale": "preserve", "alpha": 0.7}),
    "so, bfloat16": ("so", {"precision": "bfloat16"}),
    "so, sketch": ("so", {"estimate": "sketch"}),
    "so, every=4": ("so", {"every": 4}),
    **{name: (name, {}) for name in ("dso", "offdiag", "frobenius", "mc", "srip")},
}


def main() -> None:
    from orthwrap.penalties import tensors
    from orthwrap.regularizers import classes

    model = keras.applications.ResNet50(weights=None)
    shapes = [tuple(layer.kernel.shape) for layer in model.layers if hasattr(layer, "kernel")]
    each: dict[str, dict[str, float]] = {}
    for kind in ("cpu", "accelerator"):  # on which halves of symmetric products do not pay
        for module in (tensors, classes):
            module.on_processor = lambda kind=kind: kind == "cpu"  # type: ignore
        each[kind] = dict(_of_each(shapes))
    told = {"backend": BACKEND, "kernels": len(shapes), "keras": keras.__version__, "each": each}
    json.dump(told, sys.stdout, indent=1)
    print()


def _of_each(shapes: Sequence[Any]) -> Iterator[tuple[str, float]]:
    import orthwrap

    yield "one-liner", operations([one_liner] * len(shapes), shapes)
    for label, (name, words) in WAYS.items():
        made = [orthwrap.regularizer(name, 0.1, **words) for _ in shapes]
        yield label, operations(made, shapes)


if __name__ == "__main__":
    main()
