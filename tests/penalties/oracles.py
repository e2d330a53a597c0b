"""Independent formulas of the penalties, in NumPy and with plain autodiff; and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keras import ops

from orthwrap.penalties.band import band
from orthwrap.penalties.cosine import cosine
from orthwrap.penalties.dso import dso
from orthwrap.penalties.frobenius import frobenius
from orthwrap.penalties.mc import mc
from orthwrap.penalties.offdiag import offdiag
from orthwrap.penalties.penalty import probe_shape
from orthwrap.penalties.so import so
from orthwrap.penalties.spectral import spectral
from orthwrap.penalties.srip import estimated
from tests.support.backend import compiled, value, value_and_grad

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "so": so,
    "dso": dso,
    "mc": mc,
    "srip": estimated,
    "offdiag": offdiag,
    "cosine": cosine,
    "frobenius": frobenius,
    "spectral": lambda w: spectral(
        w, lambda shape, _: ops.convert_to_tensor(random(shape, 2), w.dtype)
    ),
    "band": band,
}

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


def numpy_spectral(w: Any) -> Any:
    return (np.linalg.norm(w, 2) - 1) ** 2


def numpy_band(w: Any) -> Any:
    outside = [abs(s**2 - 1) - 0.1 for s in np.linalg.svd(w, compute_uv=False)]
    return sum(o**2 for o in outside if o > 0)


ORACLES: dict[str, Callable[[Any], Any]] = {
    "so": numpy_so,
    "dso": numpy_dso,
    "mc": numpy_mc,
    "offdiag": numpy_offdiag,
    "cosine": numpy_cosine,
    "frobenius": numpy_frobenius,
    "band": numpy_band,
}
# With those whose tensor form is right to some digits, or an estimate.
FIGURES = {**ORACLES, "srip": numpy_srip, "spectral": numpy_spectral}


def fixed(name: str, shape: tuple[int, ...], dtype: str = "float64") -> Callable[[Any], Any]:
    """The named penalty as a function of w alone, its randomness fixed; `-sketch`: by probes."""
    plain, _, sketch = name.partition("-")
    function = FUNCTIONS[plain]
    if sketch:
        probes = signs(probe_shape(shape, 3), 1, dtype)
        return lambda w: function(w, ops.convert_to_tensor(probes, dtype=dtype))
    if plain == "srip":
        start = random(probe_shape(shape, 1), 2, dtype)
        return lambda w: function(w, ops.convert_to_tensor(start, dtype=dtype), 2)
    return lambda w: function(w)


ALL = [*FIGURES, "so-sketch", "offdiag-sketch"]


def assert_gradient(function: Callable[[Any], Any], x: Any, directions: int = 3) -> None:
    """Along random directions, each of which tests every entry, by central differences."""
    _, gradient = value_and_grad(function, x)
    assert gradient.shape == x.shape
    for seed in range(directions):
        step = 1e-6 * random(x.shape, 1000 + seed)
        slope = (value(function, x + step) - value(function, x - step)) / 2
        size = np.linalg.norm(gradient) * np.linalg.norm(step)
        assert np.sum(gradient * step) == pytest.approx(slope, abs=1e-7 * size + 1e-13)


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


# --- sketches -------------------------------------------------------------------------------


def assert_sketch_gradient(name: str, shape: tuple[int, int, int]) -> None:
    """That of autodiff of ‖(G−I)V‖_F² / p, or of the Gram matrix without its diagonal."""
    probes = signs(probe_shape(shape, 4), 8)
    columns = np.swapaxes(probes, -1, -2) if shape[2] <= shape[1] else probes

    def textbook(w: Any) -> Any:
        g = plain_gram(w)
        eye = ops.eye(g.shape[-1], dtype=w.dtype)
        image = (g - eye if name == "so" else g * (1 - eye)) @ ops.convert_to_tensor(
            columns, dtype=w.dtype
        )
        return ops.sum(ops.square(image)) / 4

    w = random(shape, 9)
    result, gradient = value_and_grad(FUNCTIONS[name], w, probes)
    expected, expected_gradient = value_and_grad(textbook, w)
    assert result == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-8, atol=1e-10)


def assert_sketch_is_unbiased(name: str, shape: tuple[int, int, int]) -> None:
    w = random(shape, 16, "float32") / np.float32(np.sqrt(max(shape)))
    function = FUNCTIONS[name]
    exact = value(function, w)
    draw = compiled(function)
    rng = np.random.default_rng(17)
    probes = rng.choice([-1.0, 1.0], (200, *probe_shape(shape, 4))).astype("float32")
    draws = [value(draw, w, p) for p in probes]
    assert abs(np.mean(draws) - exact) < 4 * np.std(draws, ddof=1) / np.sqrt(len(draws))
