"""Penalties against independent NumPy formulas, published code, and plain autodiff."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from backend import EAGER_IS_CHEAP, compiled, value, value_and_grad
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from orthwrap import penalties
from orthwrap.catalog import PENALTIES

# Keras itself triggers this on tensors of some NumPy and backend versions.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SHAPES = [(1, 7, 4), (1, 4, 7), (1, 5, 5), (3, 6, 2), (2, 2, 6), (2, 1, 4), (2, 4, 1), (1, 1, 1)]


def random(shape: tuple[int, ...], seed: int = 0, dtype: str = "float64") -> Any:
    return (0.6 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def signs(shape: tuple[int, ...], seed: int = 0, dtype: str = "float64") -> Any:
    return np.random.default_rng(seed).choice([-1.0, 1.0], shape).astype(dtype)


def orthonormal(shape: tuple[int, ...], seed: int = 0) -> Any:
    count, m, n = shape
    tall = np.linalg.qr(random((count, max(m, n), min(m, n)), seed))[0]
    return tall if n <= m else tall.swapaxes(-1, -2)


# --- independent formulas, one matrix at a time ---------------------------------------------


def gram(w: Any) -> Any:
    return w.T @ w if w.shape[1] <= w.shape[0] else w @ w.T


def numpy_so(w: Any) -> Any:
    return np.linalg.norm(gram(w) - np.eye(min(w.shape)), "fro") ** 2


def numpy_dso(w: Any) -> Any:
    m, n = w.shape
    columns = np.linalg.norm(w.T @ w - np.eye(n), "fro") ** 2
    return columns + np.linalg.norm(w @ w.T - np.eye(m), "fro") ** 2


def numpy_mc(w: Any) -> Any:
    return np.abs(gram(w) - np.eye(min(w.shape))).max()


def numpy_srip(w: Any) -> Any:
    return np.abs(np.linalg.eigvalsh(gram(w) - np.eye(min(w.shape)))).max()


def numpy_offdiag(w: Any) -> Any:
    g = gram(w)
    return sum(g[i, j] ** 2 for i in range(len(g)) for j in range(len(g)) if i != j)


def numpy_cosine(w: Any) -> Any:
    vectors = w.T if w.shape[1] <= w.shape[0] else w
    cosines = [
        abs(x @ y) / (np.linalg.norm(x) * np.linalg.norm(y))
        for i, x in enumerate(vectors)
        for y in vectors[i + 1 :]
    ]
    return np.mean(cosines) if cosines else 0.0


def numpy_frobenius(w: Any) -> Any:
    return np.sqrt(numpy_so(w))


ORACLES: dict[str, Callable[[Any], Any]] = {
    "so": numpy_so,
    "dso": numpy_dso,
    "mc": numpy_mc,
    "offdiag": numpy_offdiag,
    "cosine": numpy_cosine,
    "frobenius": numpy_frobenius,
}


def fixed(name: str, shape: tuple[int, ...], dtype: str = "float64") -> Callable[[Any], Any]:
    """The named penalty as a function of w alone, its randomness fixed; `-sketch`: by probes."""
    plain, _, sketch = name.partition("-")
    function = getattr(penalties, plain)
    if sketch:
        probes = signs(penalties.probe_shape(shape, 3), 1, dtype)
        return lambda w: function(w, ops.convert_to_tensor(probes, dtype=dtype))
    if plain == "srip":
        start = random(penalties.probe_shape(shape, 1), 2, dtype)
        return lambda w: function(w, ops.convert_to_tensor(start, dtype=dtype), 2)
    return lambda w: function(w)


ALL = [*ORACLES, "srip", "so-sketch", "offdiag-sketch"]


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
    assert value(getattr(penalties, name), w) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 9, 7), (2, 7, 9), (1, 11, 11), (1, 5, 3)])
@pytest.mark.parametrize("name", ORACLES)
def test_splitting_the_gram_matrix_changes_nothing(
    name: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    w = random(shape, 3)
    whole = value_and_grad(getattr(penalties, name), w)
    monkeypatch.setattr(penalties, "SPLIT_ABOVE", 2)
    split = value_and_grad(getattr(penalties, name), w)
    assert split[0] == pytest.approx(whole[0], rel=1e-12)
    np.testing.assert_allclose(split[1], whole[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 12, 5), (1, 6, 6), (1, 5, 12)])
def test_cosine_is_the_one_of_keras(shape: tuple[int, int, int]) -> None:
    w = random(shape, 4, "float32")
    mode = "columns" if shape[2] <= shape[1] else "rows"
    reference = keras.regularizers.OrthogonalRegularizer(1.0, mode=mode)
    expected = value(lambda w: reference(ops.reshape(w, shape[1:])), w)
    assert value(penalties.cosine, w) == pytest.approx(expected, rel=1e-5)


def test_cosine_survives_zero_and_tiny_vectors() -> None:
    w = random((1, 6, 4), 5)
    w[..., 1] = 0
    w[..., 2] *= 1e-12
    result, gradient = value_and_grad(penalties.cosine, w)
    assert np.isfinite(result)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[..., 1], 0)


# --- gradients ------------------------------------------------------------------------------


def assert_gradient(function: Callable[[Any], Any], x: Any, directions: int = 3) -> None:
    """Along random directions, each of which tests every entry, by central differences."""
    _, gradient = value_and_grad(function, x)
    assert gradient.shape == x.shape
    for seed in range(directions):
        step = 1e-6 * random(x.shape, 1000 + seed)
        slope = (value(function, x + step) - value(function, x - step)) / 2
        size = np.linalg.norm(gradient) * np.linalg.norm(step)
        assert np.sum(gradient * step) == pytest.approx(slope, abs=1e-7 * size + 1e-13)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [name for name in ALL if name != "srip"])
def test_gradient_agrees_with_central_differences(name: str, shape: tuple[int, int, int]) -> None:
    assert_gradient(fixed(name, shape), random(shape, 6))


def plain_gram(w: Any) -> Any:
    t = ops.swapaxes(w, -1, -2)
    return t @ w if w.shape[-1] <= w.shape[-2] else w @ t


def plain_cosine(w: Any) -> Any:
    axis = -2 if w.shape[-1] <= w.shape[-2] else -1
    unit = w / ops.sqrt(ops.sum(w * w, axis, keepdims=True))
    g = plain_gram(unit)
    r = g.shape[-1]
    return ops.sum(ops.abs(g * (1 - ops.eye(r, dtype=w.dtype)))) / max(r * (r - 1), 1)


def plain_deviation(w: Any) -> Any:
    return plain_gram(w) - ops.eye(min(w.shape[-2:]), dtype=w.dtype)


TEXTBOOK: dict[str, Callable[[Any], Any]] = {
    "so": lambda w: ops.sum(ops.square(plain_deviation(w))),
    "dso": lambda w: (
        ops.sum(ops.square(ops.swapaxes(w, -1, -2) @ w - ops.eye(w.shape[-1], dtype=w.dtype)))
        + ops.sum(ops.square(w @ ops.swapaxes(w, -1, -2) - ops.eye(w.shape[-2], dtype=w.dtype)))
    ),
    "mc": lambda w: ops.sum(ops.max(ops.abs(plain_deviation(w)), (-2, -1))),
    "offdiag": lambda w: ops.sum(
        ops.square(plain_gram(w) * (1 - ops.eye(min(w.shape[-2:]), dtype=w.dtype)))
    ),
    "cosine": plain_cosine,
    "frobenius": lambda w: ops.sum(ops.sqrt(ops.sum(ops.square(plain_deviation(w)), (-2, -1)))),
}


@pytest.mark.parametrize("shape", [(1, 40, 24), (2, 24, 40), (1, 300, 290)], ids=str)
@pytest.mark.parametrize("name", TEXTBOOK)
def test_gradient_agrees_with_autodiff_of_the_textbook_formula(
    name: str, shape: tuple[int, int, int]
) -> None:
    w = random(shape, 7, "float32") / np.float32(np.sqrt(shape[1]))
    result, gradient = value_and_grad(getattr(penalties, name), w)
    expected, expected_gradient = value_and_grad(TEXTBOOK[name], w)
    assert gradient.dtype == np.float32
    assert result == pytest.approx(expected, rel=1e-5)
    error = np.abs(gradient - expected_gradient).max() / np.abs(expected_gradient).max()
    assert error < 1e-5


@pytest.mark.parametrize("shape", [(1, 9, 5), (2, 5, 9)], ids=str)
@pytest.mark.parametrize("name", ["so", "offdiag"])
def test_sketch_gradient_agrees_with_autodiff(name: str, shape: tuple[int, int, int]) -> None:
    probes = signs(penalties.probe_shape(shape, 4), 8)
    columns = np.swapaxes(probes, -1, -2) if shape[2] <= shape[1] else probes

    def textbook(w: Any) -> Any:
        g = plain_gram(w)
        eye = ops.eye(g.shape[-1], dtype=w.dtype)
        image = (g - eye if name == "so" else g * (1 - eye)) @ ops.convert_to_tensor(
            columns, dtype=w.dtype
        )
        return ops.sum(ops.square(image)) / 4

    w = random(shape, 9)
    result, gradient = value_and_grad(getattr(penalties, name), w, probes)
    expected, expected_gradient = value_and_grad(textbook, w)
    assert result == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-8, atol=1e-10)


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
    units = np.broadcast_to(np.eye(m, n), shape).astype(dtype)
    for w, tolerance in ((units, 0.0), (orthonormal(shape).astype(dtype), 1e-4)):
        result, gradient = value_and_grad(fixed(name, shape, dtype), w)
        assert result == pytest.approx(minimum, abs=tolerance)
        assert gradient.dtype == dtype
        assert np.isfinite(gradient).all()
    result, gradient = value_and_grad(fixed(name, shape, dtype), units)
    np.testing.assert_array_equal(gradient, 0)


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
    function = getattr(penalties, name.partition("-")[0])
    extra = {"srip": random(penalties.probe_shape(shape, 1), 2)}.get(name)
    if name.endswith("-sketch"):
        extra = signs(penalties.probe_shape(shape, 3), 1)
    each = [
        value_and_grad(function, w[i : i + 1], *([] if extra is None else [extra[i : i + 1]]))
        for i in range(3)
    ]
    assert result == pytest.approx(sum(v for v, _ in each), rel=1e-12)
    np.testing.assert_allclose(gradient, np.concatenate([g for _, g in each]), rtol=1e-9)


# --- srip -----------------------------------------------------------------------------------


def published_srip(w: Any, start: Any) -> Any:
    """Wide-Resnet/train_n.py of the 2018 paper, for one weight of shape (out, in)."""
    rows, cols = w.shape
    m, size = (w.T @ w, cols) if rows > cols else (w @ w.T, rows)
    w_tmp = m - np.eye(size)
    b_k = start.reshape(size, 1)
    v1 = w_tmp @ b_k
    norm1 = np.linalg.norm(v1)
    v2 = v1 / norm1
    v3 = w_tmp @ v2
    return np.linalg.norm(v3) ** 2


@pytest.mark.parametrize("shape", [(1, 12, 5), (1, 5, 12), (1, 6, 6)], ids=str)
def test_srip_squared_is_the_published_code(shape: tuple[int, int, int]) -> None:
    w = random(shape, 12)
    start = np.random.default_rng(13).random(penalties.probe_shape(shape, 1))
    result = value(lambda w, s: penalties.srip(w, s, steps=2), w, start)
    assert result**2 == pytest.approx(published_srip(w[0].T, start), rel=1e-10)


@pytest.mark.parametrize("shape", [(1, 64, 32), (1, 32, 64), (1, 48, 48), (1, 300, 64)], ids=str)
def test_srip_bounds(shape: tuple[int, int, int]) -> None:
    by_steps = {k: partial(penalties.srip, steps=k) for k in (1, 2, 5, 20)}
    ratios = []
    for seed in range(15):
        w = random(shape, seed) / np.sqrt(shape[1])
        true = numpy_srip(w[0])
        start = random(penalties.probe_shape(shape, 1), 100 + seed)
        for function in by_steps.values():
            estimate = value(function, w, start)
            assert estimate <= true * (1 + 1e-12)
        ratios.append(estimate / true)
    assert np.median(ratios) >= 0.93


def test_srip_converges_where_the_gap_is_two() -> None:
    u, v = orthonormal((1, 40, 16), 1)[0], orthonormal((1, 16, 16), 2)[0]
    eigenvalues = np.concatenate([[2.0], np.linspace(-0.9, 1.0, 15)])
    w = (u * np.sqrt(1 + eigenvalues)) @ v
    twenty = partial(penalties.srip, steps=20)
    for seed in range(10):
        start = random((1, 1, 16), seed)
        estimate = value(twenty, w[None], start)
        assert estimate == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 9, 5), (2, 5, 9)], ids=str)
@pytest.mark.parametrize("steps", [1, 3])
def test_srip_gradient_holds_the_last_vector_fixed(shape: tuple[int, int, int], steps: int) -> None:
    w, start = random(shape, 14), random(penalties.probe_shape(shape, 1), 15)
    expected = np.zeros_like(w)
    for i, matrix in enumerate(w):
        tall = matrix.shape[1] <= matrix.shape[0]
        a = gram(matrix) - np.eye(min(matrix.shape))
        v = start[i].reshape(-1)
        for _ in range(steps - 1):
            v = a @ (v / np.linalg.norm(v))
        v /= np.linalg.norm(v)
        u = a @ v / np.linalg.norm(a @ v)
        both = np.outer(u, v) + np.outer(v, u)
        expected[i] = matrix @ both if tall else both @ matrix
    _, gradient = value_and_grad(lambda w, s: penalties.srip(w, s, steps), w, start)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_srip_needs_a_step() -> None:
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        penalties.srip(random((1, 4, 3)), random((1, 1, 3)), steps=0)


# --- sketches -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 24, 12), (2, 10, 20)], ids=str)
@pytest.mark.parametrize("name", ["so", "offdiag"])
def test_sketch_is_unbiased(name: str, shape: tuple[int, int, int]) -> None:
    w = random(shape, 16, "float32") / np.float32(np.sqrt(max(shape)))
    function = getattr(penalties, name)
    exact = value(function, w)
    draw = compiled(function)
    rng = np.random.default_rng(17)
    probes = rng.choice([-1.0, 1.0], (200, *penalties.probe_shape(shape, 4))).astype("float32")
    draws = [value(draw, w, p) for p in probes]
    assert abs(np.mean(draws) - exact) < 4 * np.std(draws, ddof=1) / np.sqrt(len(draws))


def test_rademacher_follows_its_seed() -> None:
    shape = (2, 5, 400)
    first = ops.convert_to_numpy(penalties.rademacher(shape, 7))
    assert first.dtype == np.float32
    assert set(np.unique(first)) == {-1.0, 1.0}
    assert abs(first.mean()) < 0.1
    np.testing.assert_array_equal(first, ops.convert_to_numpy(penalties.rademacher(shape, 7)))
    generator = keras.random.SeedGenerator(7)
    one, two = (ops.convert_to_numpy(penalties.rademacher(shape, generator)) for _ in range(2))
    assert (one != two).any()


# --- inside a training step -----------------------------------------------------------------


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


# --- the table ------------------------------------------------------------------------------


def test_catalog_and_functions_name_the_same_penalties() -> None:
    assert list(PENALTIES) == ["so", "dso", "mc", "srip", "lorth", "offdiag", "cosine", "frobenius"]
    assert set(PENALTIES) == set(penalties.FUNCTIONS)
    assert {name for name, p in PENALTIES.items() if p.sketchable} == {"so", "lorth", "offdiag"}
    for name, penalty in PENALTIES.items():
        assert penalty.name == name
        assert penalty.source
        assert penalty.default_factor > 0
