"""How many operations a penalty takes, loss and gradient: on an accelerator they are its cost."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import orthwrap

BACKEND = keras.backend.backend()
# As ResNet-50's are mixed: 23 of 54 kernels have a smaller side of at most 128.
SHAPES = [
    *[(3, 3, 4, 32), (1, 1, 64, 16), (1, 1, 16, 64)],
    *[(1, 1, 140, 150), (150, 130), (3, 3, 20, 160)],
]
# Of the one-liner's.
LIMITS: dict[str, tuple[dict[str, Any], float]] = {
    "so": ({}, 0.8),
    "so, preserve": ({"scale": "preserve", "alpha": 0.7}, 0.8),
    "so, auto": ({"estimate": "auto", "probes": 40}, 1.0),
    "so, sketch": ({"estimate": "sketch"}, 1.3),
    "offdiag": ({}, 1.0),
    "frobenius": ({}, 1.0),
    "srip": ({}, 1.5),
}


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


def operations(penalties: Sequence[Callable[[Any], Any]]) -> float:
    """For each kernel, of the sum of the penalties and its gradients."""
    count = {"torch": _dispatched, "tensorflow": _in_graph, "jax": _in_jaxpr}[BACKEND]
    return count(penalties) / len(SHAPES)


def _dispatched(penalties: Sequence[Callable[[Any], Any]]) -> int:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.seen: Counter[str] = Counter()

        def __torch_dispatch__(self, function: Any, _: Any, args: Any, kwargs: Any = None) -> Any:
            self.seen[str(function)] += 1
            return function(*args, **(kwargs or {}))

    kernels = [keras.Variable(_kernel(s)) for s in SHAPES]
    with Counting() as counting:
        loss = reduce(operator.add, (p(k) for p, k in zip(penalties, kernels, strict=True)))
        torch.autograd.grad(loss, [k.value for k in kernels])
    return counting.seen.total()


def _in_graph(penalties: Sequence[Callable[[Any], Any]]) -> int:
    import tensorflow as tf

    kernels = [tf.Variable(_kernel(s)) for s in SHAPES]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def run() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.add_n([p(k) for p, k in zip(penalties, kernels, strict=True)])
        return loss, tape.gradient(loss, kernels)

    return len(run.get_concrete_function().graph.get_operations())


def _in_jaxpr(penalties: Sequence[Callable[[Any], Any]]) -> int:
    import jax

    def loss(kernels: Any) -> Any:
        return sum(p(k) for p, k in zip(penalties, kernels, strict=True))

    def count(jaxpr: Any) -> int:
        total = 0
        for equation in jaxpr.eqns:
            inner = [v for v in equation.params.values() if hasattr(v, "jaxpr")]
            total += sum(count(v.jaxpr) for v in inner) if inner else 1
        return total

    return count(jax.make_jaxpr(jax.value_and_grad(loss))([_kernel(s) for s in SHAPES]).jaxpr)


def _kernel(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.skipif(BACKEND != "torch", reason="dispatches each operation")
@pytest.mark.parametrize("name", LIMITS)
def test_pytorch_dispatches_few(name: str) -> None:
    words, limit = LIMITS[name]
    made = [orthwrap.regularizer(name.partition(",")[0], 0.1, **words) for _ in SHAPES]
    assert operations(made) <= limit * operations([one_liner] * len(SHAPES))


@pytest.mark.skipif(BACKEND != "torch", reason="dispatches each operation")
def test_a_step_left_out_dispatches_next_to_nothing() -> None:
    made = [orthwrap.SO(0.1, every=10**6) for _ in SHAPES]
    assert operations(made) <= 3


@pytest.mark.skipif(BACKEND == "torch", reason="makes no graph")
@pytest.mark.parametrize("words", [{}, {"scale": "preserve", "alpha": 0.7}], ids=str)
def test_a_graph_has_few(words: dict[str, Any]) -> None:
    made = [orthwrap.SO(0.1, **words) for _ in SHAPES]
    assert operations(made) <= operations([one_liner] * len(SHAPES))


def test_no_kernel_is_divided_by_its_scale() -> None:
    """What α costs is no pass over the weights, and is right also where α⁴ leaves float32."""
    w = _kernel((30, 8)) / 6
    for name in ("so", "dso", "offdiag", "frobenius", "srip"):
        for alpha in (0.3, 7.0, 1e-9, 1e9):
            made = orthwrap.regularizer(name, 0.5, scale="preserve", alpha=alpha)
            plain = orthwrap.regularizer(name, 0.5)
            scaled = ops.convert_to_tensor((w * alpha).astype("float32"))
            assert float(made(scaled)) == pytest.approx(float(plain(w)), rel=1e-4)
