"""`precision=bfloat16`: products are coarser and nothing else is, by choice alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import orthwrap
from orthwrap.errors import OrthwrapError
from orthwrap.penalties.table import PENALTIES
from orthwrap.penalties.tensors import differentiable
from tests.report.test_report_schema import check
from tests.support import models

BACKEND = keras.backend.backend()
BY_PRODUCTS = [name for name, penalty in PENALTIES.items() if penalty.by_products]
SHAPES = [(96, 40), (40, 96), (3, 3, 12, 30), (300, 280)]


def both(name: str, **words: Any) -> tuple[Any, Any]:
    """The penalty as it is, and with coarse products."""
    plain = orthwrap.regularizer(name, 0.5, **words)
    return plain, orthwrap.regularizer(name, 0.5, precision="bfloat16", **words)


def value_and_gradient(penalty: Any, w: Any) -> tuple[float, np.ndarray[Any, Any]]:
    variable = keras.Variable(w)
    if BACKEND == "torch":
        value = penalty(variable)
        value.backward()
        return float(value), variable.value.grad.numpy()
    if BACKEND == "jax":
        import jax

        value, gradient = jax.jit(jax.value_and_grad(penalty))(variable.value)
        return float(value), np.asarray(gradient)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = penalty(variable)
    return float(value), tape.gradient(value, variable.value).numpy()


def kernel(shape: tuple[int, ...], seed: int = 0) -> Any:
    w = np.random.default_rng(seed).normal(size=shape).astype("float32")
    return (w / np.sqrt(np.prod(shape[:-1]))).astype("float32")


def orthonormal(m: int, n: int) -> Any:
    w = np.linalg.svd(kernel((m, n)), full_matrices=False)
    return (w[0] @ w[2]).astype("float32")


def test_those_that_are_products_take_it() -> None:
    assert BY_PRODUCTS == ["so", "dso", "mc", "lorth", "offdiag", "frobenius"]
    for name in set(PENALTIES) - set(BY_PRODUCTS):
        with pytest.raises(OrthwrapError, match=f"'{name}' takes no option 'precision'"):
            orthwrap.regularizer(name, precision="bfloat16")
    for wrong in ("float16", "bf16", 16):
        with pytest.raises(OrthwrapError, match="must be bfloat16"):
            orthwrap.SO(precision=wrong)


@pytest.mark.parametrize("name", BY_PRODUCTS)
def test_value_and_gradient_are_near(name: str) -> None:
    words = {} if name == "lorth" else {"scale": "preserve", "alpha": 0.8}
    for shape in SHAPES:
        plain, coarse = both(name, **words)
        w = kernel(shape)
        value, gradient = value_and_gradient(plain, w)
        near, slope = value_and_gradient(coarse, w)
        assert slope.dtype == np.float32
        assert near == pytest.approx(value, rel=0.02)
        if name != "mc":  # whose largest entry may be another one
            away = np.linalg.norm(slope - gradient) / np.linalg.norm(gradient)
            assert 0 < away < 0.02


@pytest.mark.parametrize("name", BY_PRODUCTS)
def test_at_an_orthonormal_kernel_the_error_is_small_and_the_gradient_finite(name: str) -> None:
    _, coarse = both(name)
    w = orthonormal(256, 64)
    value, gradient = value_and_gradient(coarse, w)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 1
    if name == "so":
        residual = np.sqrt(value / 0.5 / 64)
        assert residual < 4e-3  # 2⁻⁸, an eighth bit of 1


def test_the_products_are_in_bfloat16_and_no_others_are() -> None:
    w = kernel((96, 40))
    seen = products(orthwrap.SO(0.5, precision="bfloat16"), w)
    assert seen == ["bfloat16", "bfloat16"]
    assert products(orthwrap.SO(0.5), w) == ["float32", "float32"]


def products_in(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        inner = [v.jaxpr for v in equation.params.values() if hasattr(v, "jaxpr")]
        yield from (e for j in inner for e in products_in(getattr(j, "jaxpr", j)))
        if equation.primitive.name == "dot_general":
            yield equation


def products(penalty: Any, w: Any) -> list[str]:
    """The dtype of each product's factors, of loss and gradient."""
    if BACKEND == "torch":
        from torch.utils._python_dispatch import TorchDispatchMode

        class Seeing(TorchDispatchMode):  # type: ignore[misc]
            def __torch_dispatch__(self, function: Any, _: Any, args: Any, kwargs: Any = None):
                if "mm" in str(function):
                    found.append(str(args[0].dtype).rpartition(".")[2])
                return function(*args, **(kwargs or {}))

        found: list[str] = []
        with Seeing():
            value_and_gradient(penalty, w)
        return found
    if BACKEND == "jax":
        import jax

        made = list(products_in(jax.make_jaxpr(jax.grad(penalty))(w).jaxpr))
        assert {e.outvars[0].aval.dtype.name for e in made} == {"float32"}  # in which it sums
        return [e.invars[0].aval.dtype.name for e in made]
    import tensorflow as tf

    @tf.function(autograph=False)
    def run(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = penalty(x)
        return tape.gradient(value, x)

    graph = run.get_concrete_function(tf.constant(w)).graph
    return [op.inputs[0].dtype.name for op in graph.get_operations() if op.type == "MatMul"]


def test_a_backend_that_asks_later_gets_the_same() -> None:
    """PyTorch's backward, TensorFlow's tape and JAX's transforms run when the call has ended."""
    from orthwrap.penalties import tensors as t

    seen = []

    def compute(x: Any) -> Any:
        seen.append(t._precision.get())

        def pullback(upstream: Any) -> Any:
            seen.append(t._precision.get())
            return upstream * x

        return ops.sum(x), pullback

    def penalty(x: Any) -> Any:
        with t.products_in("bfloat16"):
            return differentiable(compute, 1.0 * ops.convert_to_tensor(x))

    value_and_gradient(penalty, kernel((3, 2)))
    assert set(seen) == {"bfloat16"}
    assert t._precision.get() is None


def test_a_pull_takes_it_too() -> None:
    plain, coarse = both("so")
    w = ops.convert_to_tensor(kernel((96, 40)))
    rate = ops.convert_to_tensor(0.1, "float32")
    first, second = (ops.convert_to_numpy(r.pulled(w, rate)) for r in (plain, coarse))
    moved = np.linalg.norm(first - ops.convert_to_numpy(w))
    assert 0 < np.linalg.norm(first - second) < 0.02 * moved


def test_it_is_kept_and_told() -> None:
    result = orthwrap.apply(models.dense(), options={"precision": "bfloat16"})
    made = [v.regularizer for v in result.model.trainable_variables if v.regularizer]
    assert [r.get_config()["precision"] for r in made] == ["bfloat16"] * 2
    told = result.report.to_json()
    assert {layer["regularizer"]["precision"] for layer in told["layers"]} == {"bfloat16"}
    check(told)
    assert "precision" not in orthwrap.SO().get_config()
    with pytest.raises(OrthwrapError, match="precision"):
        orthwrap.apply(models.dense(), on="activity", options={"precision": "bfloat16"})
    with pytest.raises(OrthwrapError, match="precision is of products of kernels"):
        orthwrap.SO(on="activity", precision="bfloat16")
