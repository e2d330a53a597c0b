"""Kernel → Deviation: how far its matrices are from orthonormal. NumPy alone, in float64.

A float32 Gram matrix loses singular values below about 1e-3·σ_max; a float64 one keeps them down
to 1e-8·σ_max, and below that an SVD takes over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orthwrap.conv_gram import lorth_value
from orthwrap.layouts import Layout
from orthwrap.records import Deviation

Array = NDArray[Any]

EXACT_LIMIT = 2048  # the largest Gram matrix whose eigenvalues are computed
_PROBES = 32


def scale_of(kernel: Array, layout: Layout) -> float:
    """α = ‖K‖_F / √(count·r): the RMS singular value; 0 counts as 1.

    Args:
        kernel: of any shape `layout` describes.
    """
    count, m, n = layout.matrices(kernel.shape)
    norm = float(np.linalg.norm(np.asarray(kernel, np.float64)))
    return norm / math.sqrt(count * min(m, n)) or 1.0


def is_estimated(shape: tuple[int, ...], layout: Layout) -> bool:
    """True where a kernel of this shape is too large for exact figures."""
    _, m, n = layout.matrices(shape)
    return min(m, n) > EXACT_LIMIT


def measure(
    kernel: Array, layout: Layout, regularizer: Mapping[str, Any] | None = None
) -> Deviation:
    """The figures of one kernel.

    Args:
        kernel: of any shape `layout` describes and any float dtype.
        layout: how it becomes matrices.
        regularizer: `{"name", "alpha", …}` of an orthogonality penalty, whose value goes into
            `penalty`; None leaves it null.

    Where the smaller Gram matrix has more than `EXACT_LIMIT` rows, the residual and σ_max are
    estimated by random probes with a fixed seed, and the other extremes are null.
    """
    kernel = np.asarray(kernel, np.float64)
    layout = layout.for_shape(kernel.shape)
    alpha = scale_of(kernel, layout)
    w = layout.to_matrices(kernel, np)
    if not np.isfinite(kernel).all():
        return Deviation(math.nan, math.nan, math.nan, None, None, None, None, None)
    if is_estimated(kernel.shape, layout):
        return _estimated(w, alpha, regularizer)

    tall = w if w.shape[1] >= w.shape[2] else np.swapaxes(w, 1, 2)
    gram = np.swapaxes(tall, 1, 2) @ tall
    sigma = _singular_values(tall, gram)
    sigma_min, sigma_max = float(sigma[:, 0].min()), float(sigma[:, -1].max())
    return Deviation(
        residual=_residual(gram, 1.0),
        scaled_residual=_residual(gram, alpha),
        scale=alpha,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        condition=_condition(sigma, max(w.shape[1:])),
        coherence=_coherence(gram),
        penalty=None
        if regularizer is None
        else _penalty(kernel, w, gram, sigma, layout, regularizer),
    )


def _residual(gram: Array, alpha: float) -> float:
    count, r, _ = gram.shape
    deviation = gram / alpha**2 - np.eye(r)
    return float(np.linalg.norm(deviation)) / math.sqrt(count * r)


def _singular_values(tall: Array, gram: Array) -> Array:
    """Ascending, shape (count, r)."""
    squares = np.linalg.eigvalsh(gram)
    resolution = squares.shape[1] * np.finfo(np.float64).eps * squares[:, -1:] * 1e4
    sigma = np.sqrt(np.maximum(squares, 0.0))
    lost = (squares[:, 0] < resolution[:, 0]).nonzero()[0]
    if lost.size:
        sigma[lost] = np.linalg.svd(tall[lost], compute_uv=False)[:, ::-1]
    return sigma


def _condition(sigma: Array, size: int) -> float | None:
    low, high = sigma[:, 0], sigma[:, -1]
    if np.any(low <= high * size * np.finfo(np.float64).eps):
        return None
    return float(np.max(high / low))


def _coherence(gram: Array) -> float | None:
    cosines = _cosines(gram)
    return None if cosines is None else min(float(cosines.max()), 1.0)


def _cosines(gram: Array) -> Array | None:
    """|cos| of every pair of different columns, zero on the diagonal; None where undefined."""
    r = gram.shape[1]
    lengths = np.sqrt(np.einsum("bii->bi", gram))
    if r == 1 or np.any(lengths == 0.0):
        return None
    cosines: Array = np.abs(gram) / (lengths[:, :, None] * lengths[:, None, :])
    cosines[:, np.arange(r), np.arange(r)] = 0.0
    return cosines


def _penalty(
    kernel: Array,
    w: Array,
    gram: Array,
    sigma: Array,
    layout: Layout,
    regularizer: Mapping[str, Any],
) -> float | None:
    """The exact value of a named penalty at K/α (`srip`: the spectral norm itself)."""
    alpha = regularizer.get("alpha") or 1.0
    r = gram.shape[1]
    g = gram / alpha**2
    deviation = g - np.eye(r)
    name = regularizer["name"]
    if name in ("so", "dso"):
        so = float(np.sum(deviation**2))
        _, m, n = w.shape
        return so if name == "so" else 2 * so + len(w) * abs(m - n)
    if name == "frobenius":
        return float(np.sum(np.sqrt(np.sum(deviation**2, axis=(1, 2)))))
    if name == "offdiag":
        return float(np.sum((g * (1 - np.eye(r))) ** 2))
    if name == "mc":
        return float(np.sum(np.abs(deviation).max(axis=(1, 2))))
    if name == "srip":
        eigenvalues = (sigma / alpha) ** 2 - 1
        return float(np.sum(np.abs(eigenvalues).max(axis=1)))
    if name == "cosine":
        cosines = _cosines(gram)
        if r == 1:
            return 0.0
        if cosines is None:
            lengths = np.sqrt(np.einsum("bii->bi", gram))
            lengths[lengths == 0.0] = 1.0
            cosines = np.abs(gram) / (lengths[:, :, None] * lengths[:, None, :])
            cosines[:, np.arange(r), np.arange(r)] = 0.0
        return float(np.sum(cosines) / (r * (r - 1)))
    if name == "lorth":
        return lorth_value(kernel / alpha, layout.strides or None, layout.parts)
    return None


def _estimated(w: Array, alpha: float, regularizer: Mapping[str, Any] | None) -> Deviation:
    """Residuals by E‖(G−I)v‖² = ‖G−I‖_F², σ_max by power iteration: never forms G."""
    rng = np.random.default_rng(0)
    squares = np.zeros(2)
    sigma_max = 0.0
    for matrix in w:
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        r = tall.shape[1]
        v = rng.choice((-1.0, 1.0), size=(r, _PROBES))
        gv = tall.T @ (tall @ v)
        for i, a in enumerate((1.0, alpha)):
            squares[i] += np.sum((gv / a**2 - v) ** 2) / _PROBES
        x = gv[:, :1]
        for _ in range(30):
            x = tall.T @ (tall @ (x / (np.linalg.norm(x) or 1.0)))
        sigma_max = max(sigma_max, math.sqrt(float(np.linalg.norm(x))))
    count, r = len(w), min(w.shape[1:])
    residual, scaled = (float(x) for x in np.sqrt(squares / (count * r)))
    penalty = None
    if regularizer is not None and regularizer["name"] in ("so", "dso"):
        at_unit = (regularizer.get("alpha") or 1.0) == 1.0
        so = float(squares[0] if at_unit else squares[1])
        penalty = (
            so if regularizer["name"] == "so" else 2 * so + count * abs(w.shape[1] - w.shape[2])
        )
    return Deviation(residual, scaled, alpha, None, sigma_max, None, None, penalty)
