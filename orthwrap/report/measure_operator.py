"""Kernel → what its operator does: the convolution itself, where it is one. NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from orthwrap.model_config.blocks import _BLOCK, all_of
from orthwrap.model_config.convolution import Convolution
from orthwrap.model_config.layout import Layout
from orthwrap.penalties.conv_gram import ConvGeometry
from orthwrap.penalties.conv_operator import (
    EPS,
    UNDEFINED,
    OperatorFigures,
    certain,
    is_feasible,
    operator_figures,
)
from orthwrap.report.measure import EXACT_LIMIT, MatrixBatch, batches_of, half_gram
from orthwrap.report.record import Deviation

_GRAM_LIMIT = 5120  # rows of the largest Gram matrix that a bound is worth
_STEP = 1.005  # by which a guess that does not hold is raised


def measure_operator(
    kernel: Any, convolution: Convolution, deviation: Deviation
) -> OperatorFigures:
    """The operator's figures of one kernel.

    Args:
        kernel: as for `measure`.
        convolution: which operator it is.
        deviation: its figures as matrices of the convolution's layout.

    Of what is too large, the figures that are not bounds are None, and the bounds may lie far
    apart.
    """
    if not math.isfinite(deviation.residual):
        return UNDEFINED
    layout, strides = convolution.layout, convolution.strides
    with np.errstate(all="ignore"):
        if not strides and convolution.groups == 1 and math.prod(kernel.shape) > _BLOCK:
            # From its figures as a matrix, so that it is not read as a whole.
            upper, lower = _bounds(kernel, layout, deviation)
            rank = deviation.scale**2 * min(layout.matrices(kernel.shape)[1:])
            sigma = deviation.sigma_max
            found = OperatorFigures(
                upper, lower, None, deviation.residual, rank / sigma**2 if sigma else None
            )
        elif _is_countable(kernel.shape, convolution):
            array = np.asarray(kernel[all_of(kernel)], np.float64)
            found = operator_figures(convolution.kernel(array), strides, convolution.groups)
        else:
            # The matrix is what the convolution makes of one position; a symbol is that matrix
            # times one phase for each tap.
            taps = ConvGeometry.of(convolution.shape(kernel.shape), strides).taps
            upper, lower = _bounds(kernel, layout, deviation)
            found = OperatorFigures(upper * math.sqrt(math.prod(taps)), lower, None, None, None)
    # Of matrices it is known more exactly.
    return found if strides else replace(found, sigma_min=deviation.sigma_min)


def _is_countable(shape: tuple[int, ...], convolution: Convolution) -> bool:
    as_one, strides, groups = convolution.shape(shape), convolution.strides, convolution.groups
    if not is_feasible(as_one, strides, groups):
        return False
    geometry = ConvGeometry.of(as_one, strides, groups)
    return min(geometry.rows, geometry.filters) <= EXACT_LIMIT


def _bounds(kernel: Any, layout: Layout, deviation: Deviation) -> tuple[float, float]:
    """Bounds of the largest singular value of a kernel's matrices."""
    count, m, n = layout.matrices(kernel.shape)
    square = deviation.scale**2 * count * min(m, n)
    rounding = 8 * EPS * (max(m, n) + min(m, n) ** 2) * square
    sigma = deviation.sigma_max or 0.0
    upper, lower = certain(sigma**2, sigma**2, rounding)
    if deviation.sigma_min is None:  # estimated, from below
        batches = batches_of(kernel, layout)
        upper = max(_upper_bound(batch, upper, rounding) for batch in batches)
    return upper, lower


def _upper_bound(batch: MatrixBatch, guess: float, rounding: float) -> float:
    """A little more than the guess where that can be shown to bound σ; else a bound by sizes."""
    if not guess or min(batch.matrices[1:]) > _GRAM_LIMIT:
        return _by_sizes(batch.tall_blocks())
    gram = half_gram(batch)
    diagonal = np.arange(gram.shape[-1])
    gram *= -1
    level = 0.0
    while True:
        guess *= _STEP
        gram[:, diagonal, diagonal] += guess**2 - rounding - level
        level = guess**2 - rounding
        try:
            np.linalg.cholesky(gram)  # of what lies below the diagonal
        except np.linalg.LinAlgError:
            continue
        return guess


def _by_sizes(blocks: Iterable[Any]) -> float:
    """The smaller of √(largest column sum · largest row sum) and ‖W‖_F, block by block."""
    columns, rows, square = 0.0, 0.0, 0.0
    for block in blocks:
        sizes = np.abs(block)
        columns = columns + sizes.sum(1)
        rows = max(rows, float(sizes.sum(2).max()))
        square += float(np.vdot(sizes, sizes))
    return certain(min(float(np.max(columns)) * rows, square), 0.0, 0.0)[0]
