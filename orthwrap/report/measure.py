"""Kernel → Deviation: how far its matrices are from orthonormal. NumPy alone, in float64.

A float32 Gram matrix loses singular values below about 1e-3·σ_max; a float64 one keeps them down
to 1e-8·σ_max, and below that an SVD takes over.

A kernel may be larger than memory: it is read in blocks, whose products add up to the Gram matrix.
Of a Gram matrix, the columns of a panel are computed from its first row on, so that about half of
the symmetric matrix is enough; no copy of it is made but the one that the eigenvalues need.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from orthwrap.model_config.blocks import _BLOCK, Index, all_of, blocks, scale_of
from orthwrap.model_config.layout import Layout
from orthwrap.penalties.figures import PANEL, Array, Matrices
from orthwrap.penalties.penalty import Penalty
from orthwrap.penalties.table import PENALTIES
from orthwrap.report.record import Deviation
from orthwrap.report.versions import cores

EXACT_LIMIT = 2048  # the largest Gram matrix whose eigenvalues are computed
_PROBES = 32
_PASSES = 6  # over an estimated kernel, after the first
_SHOWN = 64  # singular values of a spectrum
_THREADS = 2
_LARGE = 1024  # rows of a Gram matrix; larger ones are in memory alone
_ROUGH = 1e-2  # of figures above it, rounding to float32 changes no digit that is shown
_TINY = 1e-25  # squares of lengths below it, float32 has with fewer digits or not at all
_UNDEFINED = Deviation(math.nan, math.nan, math.nan, None, None, None, None, None)

T = TypeVar("T")


def is_estimated(shape: tuple[int, ...], layout: Layout) -> bool:
    """True where a kernel of this shape is too large for exact figures."""
    _, m, n = layout.matrices(shape)
    return min(m, n) > EXACT_LIMIT


def measure(
    kernel: Any,
    layout: Layout,
    regularizer: Mapping[str, Any] | None = None,
    *,
    with_sigmas: bool = True,
) -> Deviation:
    """The figures of one kernel.

    Args:
        kernel: of any shape `layout` describes and any float dtype; an array, or something with a
            shape that is read where it is indexed.
        layout: how it becomes matrices.
        regularizer: `{"name", "alpha", "options"}` of a penalty, whose value goes into `penalty`,
            with alpha None for the kernel's own as it is; None leaves it null.
        with_sigmas: False leaves the singular values and the condition null, unless the penalty
            takes them.

    Where the smaller Gram matrix has more than `EXACT_LIMIT` rows, the residual and σ_max are
    estimated by random probes with a fixed seed, and the other extremes are null.
    """
    layout = layout.for_shape(kernel.shape)
    wanted = None if regularizer is None else _Wanted.of(**regularizer)
    with np.errstate(all="ignore"):
        if not is_estimated(kernel.shape, layout):
            if not with_sigmas and wanted is None:
                found = _exact(kernel, layout, None, False, np.float32)
                if _is_rough(found):
                    return found
            return _exact(kernel, layout, wanted, with_sigmas)
        alpha = scale_of(kernel, layout)
        if not math.isfinite(alpha):
            return _UNDEFINED
        return _estimated(kernel, layout, alpha, wanted)


@dataclass(frozen=True)
class _Wanted:
    """A penalty of W/α, with its own options."""

    penalty: Penalty
    alpha: float | None
    words: Mapping[str, Any]

    @classmethod
    def of(
        cls, name: str, alpha: float | None = 1.0, options: Mapping[str, Any] | None = None
    ) -> _Wanted:
        penalty = PENALTIES[name]
        return cls(penalty, alpha, penalty.words(options or {}))

    def alpha_of(self, own: float, kernel: Any, layout: Layout) -> float:
        """α, where `own` is the RMS of all singular values that the kernel's matrices have."""
        if self.alpha is not None:
            return self.alpha
        count, m, n = layout.matrices(kernel.shape)
        entries = self.penalty.number_of_sigmas(layout, tuple(kernel.shape))
        return own * math.sqrt(count * min(m, n) / entries)


def together(jobs: Sequence[Callable[[], T]], sizes: Sequence[int]) -> list[T]:
    """The results of several jobs, on threads of our own where BLAS has one only.

    Where BLAS has several, they would wait for one another.

    Args:
        jobs: each measures a kernel.
        sizes: rows of their Gram matrices. Large ones run alone, for the sake of memory; of the
            others, those that take longest begin first.
    """
    if min(cores(), len(jobs)) < 2 or os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        return [job() for job in jobs]
    order = sorted(range(len(jobs)), key=lambda i: -sizes[i])
    results: dict[int, T] = {i: jobs[i]() for i in order if sizes[i] > _LARGE}
    rest = [i for i in order if sizes[i] <= _LARGE]
    pool = ThreadPoolExecutor(_THREADS)
    try:
        results |= zip(rest, pool.map(lambda i: jobs[i](), rest), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return [results[i] for i in range(len(jobs))]


def _is_rough(figures: Deviation) -> bool:
    """Whether what rounding to float32 does to the products is not to be seen in the figures."""
    found = (figures.residual, figures.scaled_residual, figures.coherence or 0.0)
    return all(value > _ROUGH for value in found)


def _exact(
    kernel: Any,
    layout: Layout,
    wanted: _Wanted | None,
    with_sigmas: bool,
    products: type[np.floating[Any]] = np.float64,
) -> Deviation:
    count, m, n = layout.matrices(kernel.shape)
    batches = list(batches_of(kernel, layout))
    gram: Array | None = None
    if len(batches) == 1:  # its trace is ‖K‖², so that one reading is enough
        gram = half_gram(batches[0], products)
        alpha = math.sqrt(float(np.einsum("bii->", gram)) / (count * min(m, n))) or 1.0
    else:
        alpha = scale_of(kernel, layout)
    if not math.isfinite(alpha):
        return _UNDEFINED
    sums = _Sums(alpha, max(m, n), wanted, with_sigmas)
    for batch in batches:
        if gram is None:
            gram = half_gram(batch, products)
        sums.add(batch, gram)
        gram = None
    return sums.deviation(kernel, layout)


def relative_change(before: Any, after: Any) -> tuple[bool, float]:
    """(whether two kernels of one shape are equal, ‖after − before‖_F / ‖before‖_F).

    Where the first is zero, the change is not divided.
    """
    same, size, gap = True, 0.0, 0.0
    axes = range(len(before.shape))
    with np.errstate(all="ignore"):
        pairs = (blocks(kernel, all_of(before), axes) for kernel in (before, after))
        for a, b in zip(*pairs, strict=True):
            same = same and bool(np.array_equal(a, b))
            difference = b - a
            size += float(np.vdot(a, a))
            gap += float(np.vdot(difference, difference))
        return same, math.sqrt(gap / size) if size else math.sqrt(gap)


# Reading


@dataclass(frozen=True)
class MatrixBatch:
    """Some of a kernel's matrices, to be read block by block."""

    kernel: Any
    layout: Layout
    index: Index

    @property
    def matrices(self) -> tuple[int, int, int]:
        """(count, m, n)"""
        return self.layout.matrices([s.stop - s.start for s in self.index])

    @property
    def count(self) -> int:
        return self.matrices[0]

    def tall_blocks(self, dtype: type[np.floating[Any]] = np.float64) -> Iterator[Array]:
        """Shape (count, k, r): all blocks below one another are the matrices, upright."""
        _, m, n = self.matrices
        axes = self.layout.columns if m < n else self.layout.rows
        for block in blocks(self.kernel, self.index, axes, dtype):
            w = self.layout.to_matrices(block, np)
            yield np.swapaxes(w, 1, 2) if m < n else w


def batches_of(kernel: Any, layout: Layout) -> Iterator[MatrixBatch]:
    """The matrices of a kernel, in batches that fit into a block where that can be."""
    whole = all_of(kernel)
    if math.prod(kernel.shape) <= _BLOCK:
        yield MatrixBatch(kernel, layout, whole)
        return
    last = kernel.shape[-1]
    width = last // layout.parts
    single = replace(layout, parts=1, otherwise=None)
    for start in range(0, last, width):
        index = (*whole[:-1], slice(start, start + width))
        yield from _batches_within(kernel, single, index)


def _batches_within(kernel: Any, layout: Layout, index: Index) -> Iterator[MatrixBatch]:
    sizes = [s.stop - s.start for s in index]
    size = math.prod(sizes)
    axis = next((a for a in layout.batch if sizes[a] > 1), None)
    if size <= _BLOCK or axis is None:
        yield MatrixBatch(kernel, layout, index)
        return
    step = max(1, _BLOCK * sizes[axis] // size)
    for start in range(index[axis].start, index[axis].stop, step):
        part = slice(start, min(start + step, index[axis].stop))
        yield from _batches_within(kernel, layout, (*index[:axis], part, *index[axis + 1 :]))


# Gram matrices


def half_gram(batch: MatrixBatch, products: type[np.floating[Any]] = np.float64) -> Array:
    """The smaller Gram matrices, (count, r, r). Above the panels on the diagonal they are zero.

    Args:
        products: the dtype of what is read and multiplied; float32 takes half the time, and
            float64 its place where the length of a column would be lost.
    """
    gram: Array | None = None
    for tall in batch.tall_blocks(products):
        r = tall.shape[2]
        if gram is None:
            gram = np.zeros((len(tall), r, r))
        if not tall.any():  # never written, or zeros that a few bytes unpack to
            continue
        flat = np.swapaxes(tall, 1, 2)
        for start in range(0, r, PANEL):
            stop = min(start + PANEL, r)
            panel = tall[:, :, start:stop]
            # Of a matrix with its own transpose, BLAS computes a half only.
            gram[:, start:stop, start:stop] += flat[:, start:stop] @ panel
            gram[:, stop:, start:stop] += flat[:, stop:] @ panel
    assert gram is not None  # a kernel without a single number fits no layout
    if products is np.float32 and np.einsum("bii->bi", gram).min() < _TINY:
        return half_gram(batch)
    return gram


def _coherence(matrices: Matrices) -> float | None:
    """The largest |cos| of two different columns; None for one column or a zero column."""
    if matrices.smaller == 1 or np.any(matrices.lengths() == 0.0):
        return None
    return min(max(float(c.max()) for c, _ in matrices.cosines()), 1.0)


def _singular_values(batch: MatrixBatch, gram: Array) -> Array:
    """Ascending, shape (count, r)."""
    if not gram.any():
        return np.zeros(gram.shape[:2])
    squares = np.linalg.eigvalsh(gram, UPLO="L")
    r = squares.shape[1]
    # Where an SVD is dear, four digits of the smallest are enough.
    digits = 1e4 if r <= EXACT_LIMIT // 2 else 1e2
    resolution = r * np.finfo(np.float64).eps * squares[:, -1:] * digits
    sigma = np.sqrt(np.maximum(squares, 0.0))
    lost = (squares[:, 0] < resolution[:, 0]).nonzero()[0]
    if lost.size:
        sigma[lost] = np.linalg.svd(_reduced(batch, lost), compute_uv=False)[:, ::-1]
    return sigma


def _reduced(batch: MatrixBatch, chosen: Array) -> Array:
    """Matrices with the singular values of the chosen ones, at most about square."""
    reduced: Array | None = None
    for block in batch.tall_blocks():
        tall = block[chosen]
        reduced = tall if reduced is None else np.concatenate((reduced, tall), axis=1)
        if reduced.shape[1] > 1.5 * reduced.shape[2]:
            reduced = np.asarray(np.linalg.qr(reduced, mode="r"))
    assert reduced is not None  # there is at least one block
    return reduced


# Figures


@dataclass
class _Sums:
    """What the matrices of a kernel add up to, batch by batch.

    Attributes:
        alpha: the kernel's own scale.
        size: the larger side of each matrix.
        wanted: the penalty that is summed as `value`.
        with_sigmas: whether singular values are among the figures.
    """

    alpha: float
    size: int
    wanted: _Wanted | None
    with_sigmas: bool
    square: float = 0.0
    scaled_square: float = 0.0
    value: float | None = 0.0
    coherence: float | None = 0.0
    sigma_min: float = math.inf
    sigma_max: float = 0.0
    condition: float | None = 1.0
    spectra: list[Array] = field(default_factory=list)

    def add(self, batch: MatrixBatch, gram: Array) -> None:
        sigmas = functools.cache(lambda: _singular_values(batch, gram))
        matrices = Matrices(gram, sigmas, self.size)
        self.square += float(matrices.square_deviation().sum())
        self.scaled_square += float(replace(matrices, alpha=self.alpha).square_deviation().sum())
        coherence = _coherence(matrices)
        if coherence is None or self.coherence is None:
            self.coherence = None
        else:
            self.coherence = max(self.coherence, coherence)
        self._add_value(matrices)
        if not self.with_sigmas:
            return
        sigma = sigmas()
        self.spectra.append(sigma.ravel())
        low, high = sigma[:, 0], sigma[:, -1]
        self.sigma_min = min(self.sigma_min, float(low.min()))
        self.sigma_max = max(self.sigma_max, float(high.max()))
        if np.any(low <= high * self.size * np.finfo(np.float64).eps):
            self.condition = None
        elif self.condition is not None:
            self.condition = max(self.condition, float(np.max(high / low)))

    def _add_value(self, matrices: Matrices) -> None:
        if self.wanted is not None and not self.wanted.penalty.of_kernel:
            own = self.alpha if self.wanted.alpha is None else self.wanted.alpha
            at_alpha = replace(matrices, alpha=own)
            figure = self.wanted.penalty.figure(at_alpha, **self.wanted.words)
            if figure is None or self.value is None:
                self.value = None
            else:
                self.value += figure

    def deviation(self, kernel: Any, layout: Layout) -> Deviation:
        count, m, n = layout.matrices(kernel.shape)
        entries = count * min(m, n)
        wanted = self.wanted
        value = None if wanted is None else self.value
        if wanted is not None and wanted.penalty.of_kernel:
            whole = np.asarray(kernel[all_of(kernel)], np.float64)
            whole /= wanted.alpha_of(self.alpha, kernel, layout)
            value = wanted.penalty.figure(whole, layout, **wanted.words)
        return Deviation(
            residual=math.sqrt(self.square / entries),
            scaled_residual=math.sqrt(self.scaled_square / entries),
            scale=self.alpha,
            sigma_min=self.sigma_min if self.with_sigmas else None,
            sigma_max=self.sigma_max if self.with_sigmas else None,
            condition=self.condition if self.with_sigmas else None,
            coherence=self.coherence,
            penalty=value,
            spectrum=_spectrum(np.concatenate(self.spectra)) if self.spectra else None,
        )


def _spectrum(sigma: Array) -> tuple[float, ...]:
    """Singular values in ascending order, to six digits; `_SHOWN` of them where there are more."""
    ranks = np.linspace(0, len(sigma) - 1, min(len(sigma), _SHOWN)).round().astype(int)
    return tuple(float(f"{value:.6g}") for value in np.sort(sigma)[ranks])


def _estimated(kernel: Any, layout: Layout, alpha: float, wanted: _Wanted | None) -> Deviation:
    """Residuals by E‖(G−I)v‖² = ‖G−I‖_F², σ_max by a block Lanczos process: never forms G.

    Each pass reads the kernel once, so a few passes with many vectors take the place of many with
    one.
    """
    rng = np.random.default_rng(0)
    squares = np.zeros(3)  # of W, of W/α, and of what the penalty is of
    sigma_max = 0.0
    count, m, n = layout.matrices(kernel.shape)
    r = min(m, n)
    at_alpha = 1.0 if wanted is None else wanted.alpha_of(alpha, kernel, layout)
    for batch in batches_of(kernel, layout):
        v = rng.choice((-1.0, 1.0), size=(batch.count, r, min(_PROBES, r)))
        basis, weights = np.linalg.qr(v)
        images = _gram_times(batch, basis)
        gv = images @ weights
        for i, a in enumerate((1.0, alpha, at_alpha)):
            squares[i] += np.sum((gv / a**2 - v) ** 2) / v.shape[2]
        for _ in range(min(_PASSES, r // v.shape[2] - 1)):
            fresh = images[:, :, -v.shape[2] :]
            for _ in range(2):  # once more for what rounding leaves of it
                fresh = fresh - basis @ (np.swapaxes(basis, 1, 2) @ fresh)
            fresh = np.linalg.qr(fresh)[0]
            basis = np.concatenate((basis, fresh), axis=2)
            images = np.concatenate((images, _gram_times(batch, fresh)), axis=2)
        ritz = np.linalg.eigvalsh(np.swapaxes(basis, 1, 2) @ images)
        sigma_max = max(sigma_max, math.sqrt(max(float(ritz.max()), 0.0)))
    residual, scaled, _ = (float(x) for x in np.sqrt(squares / (count * r)))
    value = None
    if wanted is not None and wanted.penalty.figure_from_so is not None:
        so = float(squares[2])
        value = wanted.penalty.figure_from_so(so, count, m, n, **wanted.words)
    return Deviation(residual, scaled, alpha, None, sigma_max, None, None, value)


def _gram_times(batch: MatrixBatch, v: Array) -> Array:
    """G·v for each matrix of a batch."""
    total = np.zeros_like(v)
    for tall in batch.tall_blocks():
        if not tall.any():
            continue
        total += np.swapaxes(tall, 1, 2) @ (tall @ v)
    return total
