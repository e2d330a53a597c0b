"""What holds for every penalty of matrices, against independent formulas and plain autodiff."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from orthwrap.model_config.layout import Layout
from orthwrap.penalties import tensors
from orthwrap.penalties.penalty import probe_shape
from orthwrap.report.measure import measure
from tests.penalties.oracles import (
    ALL,
    FIGURES,
    FUNCTIONS,
    ORACLES,
    SHAPES,
    TEXTBOOK,
    assert_gradient,
    fixed,
    orthonormal,
    random,
    signs,
)
from tests.support.backend import EAGER_IS_CHEAP, compiled, value, value_and_grad

# Keras itself triggers this on tensors of some NumPy and backend versions.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

# --- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=25 if EAGER_IS_CHEAP else 6, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([1e-2, 1.0, 30.0]),
)
def test_value_is_the_formula(
    name: str, shape: tuple[int, int, int], seed: int, scale: float
) -> None:
    w = scale * random(shape, seed)
    expected = sum(ORACLES[name](matrix) for matrix in w)
    assert value(FUNCTIONS[name], w) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 9, 7), (2, 7, 9), (1, 11, 11), (1, 5, 3)])
@pytest.mark.parametrize("name", ORACLES)
def test_splitting_the_gram_matrix_changes_nothing(
    name: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    w = random(shape, 3)
    whole = value_and_grad(FUNCTIONS[name], w)
    monkeypatch.setattr(tensors, "SPLIT_ABOVE", 2)
    split = value_and_grad(FUNCTIONS[name], w)
    assert split[0] == pytest.approx(whole[0], rel=1e-12)
    np.testing.assert_allclose(split[1], whole[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (5, 1), (300, 290)], ids=str)
@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_the_reports_figure_is_the_formula(name: str, shape: tuple[int, int], alpha: float) -> None:
    w = random(shape, 20)
    found = measure(w, Layout("dense", (0,), (1,)), {"name": name, "alpha": alpha})
    expected = FIGURES[name](w / alpha)
    assert found.penalty == pytest.approx(expected, rel=1e-9, abs=1e-12)


# --- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [name for name in ALL if name != "srip"])
def test_gradient_agrees_with_central_differences(name: str, shape: tuple[int, int, int]) -> None:
    assert_gradient(fixed(name, shape), random(shape, 6))


@pytest.mark.parametrize("shape", [(1, 40, 24), (2, 24, 40), (1, 300, 290)], ids=str)
@pytest.mark.parametrize("name", TEXTBOOK)
def test_gradient_agrees_with_autodiff_of_the_textbook_formula(
    name: str, shape: tuple[int, int, int]
) -> None:
    w = random(shape, 7, "float32") / np.float32(np.sqrt(shape[1]))
    result, gradient = value_and_grad(FUNCTIONS[name], w)
    expected, expected_gradient = value_and_grad(TEXTBOOK[name], w)
    assert gradient.dtype == np.float32
    assert result == pytest.approx(expected, rel=1e-5)
    error = np.abs(gradient - expected_gradient).max() / np.abs(expected_gradient).max()
    assert error < 1e-5


@pytest.mark.parametrize("name", ALL)
def test_upstream_gradient_is_a_factor(name: str) -> None:
    shape = (2, 6, 4)
    w, function = random(shape, 10), fixed(name, shape)
    _, once = value_and_grad(function, w)
    _, scaled = value_and_grad(lambda w: 1e-3 * function(w) + ops.sum(w), w)
    np.testing.assert_allclose(scaled, 1e-3 * once + 1, rtol=1e-9)


# --- at the minimum and at the edges --------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 300, 290)], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_minimum_and_finite_gradient_at_orthonormal(
    name: str, shape: tuple[int, int, int], dtype: str
) -> None:
    count, m, n = shape
    minimum = count * abs(m - n) if name == "dso" else 0
    rounding = 1e-6 if name == "spectral" else 0.0  # of the vectors whose length is made 1
    units = np.broadcast_to(np.eye(m, n), shape).astype(dtype)
    for w, tolerance in ((units, rounding), (orthonormal(shape).astype(dtype), 1e-4)):
        result, gradient = value_and_grad(fixed(name, shape, dtype), w)
        assert result == pytest.approx(minimum, abs=tolerance)
        assert gradient.dtype == dtype
        assert np.isfinite(gradient).all()
    result, gradient = value_and_grad(fixed(name, shape, dtype), units)
    np.testing.assert_allclose(gradient, 0, atol=rounding)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_zero_weights_are_finite(name: str, shape: tuple[int, int, int]) -> None:
    result, gradient = value_and_grad(fixed(name, shape), np.zeros(shape))
    assert np.isfinite(result)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("shape", [(3, 6, 2), (3, 2, 6)], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_batch_is_the_sum_of_its_matrices(name: str, shape: tuple[int, int, int]) -> None:
    w = random(shape, 11)
    result, gradient = value_and_grad(fixed(name, shape), w)
    function = FUNCTIONS[name.partition("-")[0]]
    extra = {"srip": random(probe_shape(shape, 1), 2)}.get(name)
    if name.endswith("-sketch"):
        extra = signs(probe_shape(shape, 3), 1)
    each = [
        value_and_grad(function, w[i : i + 1], *([] if extra is None else [extra[i : i + 1]]))
        for i in range(3)
    ]
    assert result == pytest.approx(sum(v for v, _ in each), rel=1e-12)
    np.testing.assert_allclose(gradient, np.concatenate([g for _, g in each]), rtol=1e-9)


# --- inside a training step -----------------------------------------------------------------


@pytest.mark.dear
@pytest.mark.parametrize("name", ALL)
def test_traced_equals_eager(name: str) -> None:
    shape = (2, 7, 5)
    w = random(shape, 18, "float32")
    function = fixed(name, shape, "float32")
    result, gradient = value_and_grad(function, w)
    traced, traced_gradient = value_and_grad(compiled(function), w)
    assert traced == pytest.approx(result, rel=1e-5)
    np.testing.assert_allclose(traced_gradient, gradient, rtol=1e-4, atol=1e-5)


class Penalized(keras.regularizers.Regularizer):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, x: Any) -> Any:
        return 0.01 * self.function(ops.reshape(x, (1, *x.shape)))


@pytest.mark.parametrize("name", ALL)
def test_fit_descends_by_exactly_the_gradient(name: str) -> None:
    shape = (1, 6, 4)
    function = fixed(name, shape, "float32")
    layer = keras.layers.Dense(4, use_bias=False, kernel_regularizer=Penalized(function))
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(keras.optimizers.SGD(1.0), lambda y, p: 0.0 * p)
    before = ops.convert_to_numpy(ops.convert_to_tensor(layer.kernel))
    model.fit(np.zeros((8, 6)), np.zeros((8, 4)), batch_size=8, epochs=1, verbose=0)
    step = before - ops.convert_to_numpy(ops.convert_to_tensor(layer.kernel))
    _, gradient = value_and_grad(function, before[None])
    np.testing.assert_allclose(step, 0.01 * gradient[0], rtol=1e-3, atol=1e-6)
