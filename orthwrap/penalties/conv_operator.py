"""What a convolution does to inputs of any size: its norm, smallest singular value and residual.

The singular values of a convolution on unbounded inputs are those of its symbols K̂(ω), one matrix
for each frequency ω (Sedghi, Gupta, Long 2018, arXiv:1805.10408, for circular ones); with stride,
those of its phases side by side (see `conv_gram`). Zero padding and a bounded input leave out
parts of that operator, which never makes its norm larger; dilation permutes its singular values.

*From a grid to all frequencies.* For a unit vector v, p(ω) = ‖K̂(ω)v‖² ≥ 0 is along each axis a
trigonometric polynomial of degree n = q−1, q being the taps of a phase. With t = 2p/max p − 1, a
theorem of M. Riesz says t(ω*+δ) ≥ cos nδ near a maximum ω*, that is p(ω*+δ) ≥ max p · cos²(nδ/2).
No frequency is farther than π/N from one of N grid points, so that the largest σ on the grid, over
∏ cos(π(q−1)/2N), bounds the norm from above. The same comparison around any point, whose general
form is van der Corput's and Schaake's, says how far σ can rise between two grids: what cannot reach
the maximum is left out of the finer one.

*On the grid.* Small symbols: all eigenvalues of K̂ᴴK̂. Large ones: those on a coarse grid, then on
the fine one a Cholesky test of τ²I − K̂ᴴK̂, which succeeds only where σ ≤ τ, at a quarter of the cost
of eigenvalues and a sixth of that of the Gram iteration (Delattre et al. 2023, arXiv:2305.16173,
which bounds each symbol from above too). The bounds allow for rounding. NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from orthwrap.penalties.conv_gram import ConvGeometry, half_spectrum, taps_of

Array = npt.NDArray[Any]

_SLICE = 1 << 25  # bytes of symbols, or of their Gram matrices, at once
_LARGEST = 1 << 25  # entries of the correlations of one group
_MOST_TAPS = 1 << 24  # frequencies × taps
_FINENESS = (32, 24, 16, 13, 11, 9, 8, 7, 6, 5, 4, 3, 2)  # grid points per degree
_TIGHT = 1.016  # what the grid may add to the norm
_STEP = 1.004  # what the Cholesky test may add
# What may be spent, in r³ each: eigenvalues that are cheap, eigenvalues, Cholesky tests.
_CHEAP, _EIGENVALUES, _TESTS = 1 << 28, 1 << 32, 1 << 38
_ROUGH = 4  # grid points per degree where eigenvalues only begin
_ROUNDS = 8  # of climbing to the maximum and descending to the minimum
_FLOAT32 = 1e-6  # by which the bounds are apart at least: a float32 layer rounds as well
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class OperatorFigures:
    """A kernel's operator on unbounded inputs; of several groups, heads or gates the worst.

    Attributes:
        norm_upper: never below the operator's norm, its largest singular value.
        norm_lower: never above it. An input that is small and padded may stay below.
        sigma_min: the smallest of its r singular values that was found; None where none was looked
            for.
        residual: √(lorth / r) of each group, r = min(out, in·S^d); 0 is an orthogonal convolution.
        stable_rank: ‖K‖_F² / norm², at most r: how many directions of each position are
            stretched by about as much as the norm; None for a zero kernel.
        product_upper: of a separable convolution, the product of both factors' `norm_upper`: never
            below the norm of the two together. None elsewhere.
    """

    norm_upper: float
    norm_lower: float
    sigma_min: float | None
    residual: float | None
    stable_rank: float | None
    product_upper: float | None = None


UNDEFINED = OperatorFigures(math.nan, math.nan, None, None, None)


def is_feasible(shape: Sequence[int], strides: Sequence[int], groups: int) -> bool:
    """Whether `operator_figures` takes a kernel of this shape; else its symbols are too many."""
    geometry = ConvGeometry.of(shape, strides or (1,) * (len(shape) - 2), groups)
    entries = prod(geometry.points) * min(geometry.rows, geometry.filters) ** 2
    return max(entries, prod(shape)) <= _LARGEST and geometry.table <= _MOST_TAPS


def certain(upper: float, lower: float, rounding: float) -> tuple[float, float]:
    """Bounds of a norm, from bounds of its square that are computed with that rounding."""
    high = math.sqrt(upper + rounding) * (1 + _FLOAT32)
    return high, min(math.sqrt(max(lower - rounding, 0.0)) * (1 - _FLOAT32), high)


def operator_figures(
    kernel: npt.ArrayLike, strides: Sequence[int] | None = None, groups: int = 1
) -> OperatorFigures:
    """The figures of one kernel, in float64.

    Args:
        kernel: (*k, C/groups, M), the last axis group-major. Matrices (m, n) have no spatial axes,
            and several of them side by side, (m, count·n), count as groups.
        strides: one per spatial axis; None is 1.

    Where the kernel holds anything but finite numbers, the norms are NaN and the others None.
    """
    whole = np.asarray(kernel, np.float64)
    geometry = ConvGeometry.of(whole.shape, strides or (1,) * (whole.ndim - 2), groups)
    largest = float(np.max(np.abs(whole)))
    if not math.isfinite(largest):
        return UNDEFINED
    scale = math.ldexp(1.0, math.frexp(largest)[1])  # so that no square over- or underflows
    taps = taps_of(whole / scale, geometry)
    if geometry.filters > geometry.rows:
        taps = taps.swapaxes(-1, -2)
    size = prod(geometry.points) * taps.shape[-1] ** 2
    at_once = max(1, _SLICE // (8 * size))
    with np.errstate(all="ignore"):
        sums = _Worst(geometry, scale)
        for start in range(0, groups, at_once):
            sums.add(_Band(taps[:, start : start + at_once], geometry.taps))
        return sums.figures()


# Some groups at all frequencies


@dataclass(frozen=True)
class _Band:
    """Some of a kernel's groups: taps (T, g, long, r), and q per axis."""

    taps: Array
    sizes: tuple[int, ...]

    @property
    def degrees(self) -> tuple[int, ...]:
        return tuple(q - 1 for q in self.sizes)

    @property
    def r(self) -> int:
        return int(self.taps.shape[-1])

    @property
    def groups(self) -> int:
        return int(self.taps.shape[1])

    @cached_property
    def correlations(self) -> Array:
        """R_d = Σ_s K_sᵀ K_{s+d} for the offsets d = −n … n of each axis: (2n+1, …, g, r, r).

        They are the Fourier coefficients of the Gram matrices K̂ᴴK̂, got from these at 2n+1
        frequencies per axis.
        """
        cos, sin = half_spectrum(self.sizes)
        points = [2 * q - 1 for q in self.sizes]
        square = (self.groups, self.r, self.r)
        zero = self.taps.sum(0)
        total = np.zeros((prod(points), self.groups * self.r**2))
        total += (zero.swapaxes(-1, -2) @ zero).reshape(1, -1)
        flat = self.taps.reshape(len(self.taps), -1)
        at_once = max(1, _SLICE // (16 * max(flat.shape[1], prod(square))))
        # The offsets' table: those of the frequencies are the same, centred.
        to_cos, to_sin = _offset_tables(self.sizes)
        for start in range(0, len(cos), at_once):
            part = slice(start, start + at_once)
            a, b = ((t[part] @ flat).reshape(-1, *self.taps.shape[1:]) for t in (cos, sin))
            upright = a.swapaxes(-1, -2), b.swapaxes(-1, -2)
            cross = upright[0] @ b
            real = (upright[0] @ a + upright[1] @ b).reshape(len(a), -1)
            imaginary = (cross - cross.swapaxes(-1, -2)).reshape(len(a), -1)
            total += 2 * (to_cos[part].T @ real - to_sin[part].T @ imaginary)
        return (total / prod(points)).reshape(*points, *square)

    @cached_property
    def squares(self) -> Array:
        """‖K‖_F² of each group: the mean over all frequencies of ‖K̂‖_F²."""
        return np.asarray(np.einsum("tgmr,tgmr->g", self.taps, self.taps))

    @cached_property
    def rounding(self) -> float:
        """What rounding may have added to, or taken from, an eigenvalue of a Gram matrix."""
        lengths = np.sqrt(np.einsum("tgmr,tgmr->tg", self.taps, self.taps)).sum(0)
        terms = prod(2 * q - 1 for q in self.sizes) * (len(self.taps) + self.taps.shape[2])
        return float(8 * EPS * (terms + self.r**2) * lengths.max() ** 2)

    def so(self, scale: float) -> Array:
        """The mean over all frequencies of ‖scale²·K̂ᴴK̂ − I‖_F², of each group."""
        offsets = self.correlations.reshape(-1, *self.correlations.shape[-3:]) * (scale * scale)
        centre = len(offsets) // 2
        aside = np.einsum("dgij,dgij->g", offsets, offsets)
        middle = offsets[centre]
        aside -= np.einsum("gij,gij->g", middle, middle)
        middle = middle - np.eye(self.r)
        return np.asarray(aside + np.einsum("gij,gij->g", middle, middle))

    def grams(self, points: Sequence[int]) -> Iterator[tuple[Array, Array]]:
        """(frequencies (F, d), K̂ᴴK̂ at them (F, g, r, r)), slice by slice.

        On a grid of N points per axis, of which the first is gone through by half: the others are
        mirror images, with the same eigenvalues.
        """
        yield from self._along(self.correlations, tuple(points), ())

    def _along(
        self, part: Array, points: tuple[int, ...], before: tuple[float, ...]
    ) -> Iterator[tuple[Array, Array]]:
        if not points:  # matrices
            yield np.zeros((1, 0)), part[None]
            return
        first = not before
        count = points[0] // 2 + 1 if first else points[0]
        angles = 2 * np.pi * np.arange(count) / points[0]
        last = len(points) == 1
        n = part.shape[0] // 2
        at_once = max(1, _SLICE // (16 * prod(part.shape[1:]))) if last else 1
        for start in range(0, count, at_once):
            chosen = angles[start : start + at_once]
            phases = np.exp(-1j * np.outer(chosen, np.arange(-n, n + 1)))
            block = _mixed(phases, part)
            if last:
                heads = np.tile(np.array(before), (len(chosen), 1))
                yield np.column_stack((heads, chosen)), block
            else:
                yield from self._along(block[0], points[1:], (*before, float(chosen[0])))

    def at(self, group: int, frequency: Array) -> Array:
        """K̂ᴴK̂ of one group at one frequency, (r, r)."""
        part = self.correlations[..., group, :, :]
        for angle, q in zip(frequency, self.sizes, strict=True):
            part = _mixed(np.exp(-1j * angle * np.arange(1 - q, q))[None], part)[0]
        return part

    def symbol(self, group: int, frequency: Array) -> tuple[Array, Array]:
        """K̂ of one group at one frequency, and its derivative along each axis, (d, long, r)."""
        axes = [np.arange(q) for q in self.sizes]
        positions = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
        phases = np.exp(-1j * (positions @ frequency))
        taps = self.taps[:, group]
        return np.tensordot(phases, taps, 1), np.tensordot((-1j * positions.T) * phases, taps, 1)


def _offset_tables(sizes: Sequence[int]) -> tuple[Array, Array]:
    """cos and sin of ω·d, each (half the frequencies, all offsets)."""
    if prod(sizes) == 1:
        return np.zeros((0, 1)), np.zeros((0, 1))
    points = [2 * q - 1 for q in sizes]
    axes = [np.arange(1 - q, q) for q in sizes]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    half = offsets[len(offsets) // 2 + 1 :]
    angles = 2 * np.pi * (half / points) @ offsets.T
    return np.cos(angles), np.sin(angles)


def _mixed(phases: Array, part: Array) -> Array:
    """Σ over the first axis of `part`, with each row of phases: as many as there are rows."""
    flat = part.reshape(part.shape[0], -1)
    if np.iscomplexobj(part):
        mixed = phases @ flat
    else:
        mixed = np.empty((len(phases), flat.shape[1]), np.complex128)
        mixed.real, mixed.imag = phases.real @ flat, phases.imag @ flat
    return np.asarray(mixed.reshape(len(phases), *part.shape[1:]))


# Grids


def _points(degrees: Sequence[int], fineness: int) -> tuple[int, ...]:
    """Grid points per axis: even, so that a frequency and its mirror image are both on the grid."""
    return tuple(2 * -(-fineness * n // 2) if n else 1 for n in degrees)


def _rise(degrees: Sequence[int], points: Sequence[int]) -> float:
    """By what the norm may exceed the largest σ on a grid: at most 1/∏ cos(π·n/2N) times it."""
    pairs = zip(degrees, points, strict=True)
    return 1 / prod(math.cos(math.pi * n / (2 * count)) for n, count in pairs)


def _cost(band: _Band, fineness: int) -> int:
    """Of eigenvalues on a grid, in r³ each, with what a small matrix costs besides."""
    points = _points(band.degrees, fineness)
    count = (points[0] // 2 + 1) * prod(points[1:]) if points else 1
    return count * band.groups * (band.r**3 + (1 << 13 if band.r > 1 else 32))


def _coarse_grid(band: _Band) -> tuple[int, ...]:
    """The finest whose eigenvalues cost little; where that adds too much to the norm, a rough one,
    for then the tests of a finer one decide."""
    cheap = next((f for f in _FINENESS if _cost(band, f) <= _CHEAP), 2)
    good = next((f for f in _FINENESS[2:] if _cost(band, f) <= _EIGENVALUES), 2)
    points = _points(band.degrees, max(cheap, good))
    if _rise(band.degrees, points) > _TIGHT:
        return _points(band.degrees, min(max(cheap, good), _ROUGH))
    return points


def _fine_grid(band: _Band) -> tuple[int, ...]:
    """The coarsest that adds little enough to the norm, or the finest that is affordable."""
    affordable = [f for f in _FINENESS if _cost(band, f) <= _TESTS] or [2]
    grids = [_points(band.degrees, f) for f in reversed(affordable)]
    return next((p for p in grids if _rise(band.degrees, p) <= _TIGHT), grids[-1])


# Figures


class _Worst:
    """What the groups of a kernel add up to."""

    def __init__(self, geometry: ConvGeometry, scale: float) -> None:
        self._scale = scale
        self._missing = geometry.constant / geometry.groups
        reach = geometry.channels * prod(geometry.strides)
        self._r = min(geometry.filters, reach)
        self._hidden = self._r > geometry.rows  # singular values 0, of inputs that no tap sees
        self._lower = self._upper = self._rounding = self._residual = 0.0
        self._lowest = math.inf
        self._rank = math.inf

    def add(self, band: _Band) -> None:
        so = float(np.max(band.so(self._scale))) + self._missing
        far = math.sqrt(so / self._r) if math.isfinite(so) else math.inf  # beyond float64
        self._residual = max(self._residual, far)
        points = _coarse_grid(band)
        frequencies, low, high = _eigenvalues(band, points)
        best, worst = (np.unravel_index(i, high.shape) for i in (high.argmax(), low.argmin()))
        climbed = _highest(band, int(best[1]), frequencies[best[0]], float(high[best]))
        peaks = high.max(0)  # of each group
        peaks[best[1]] = climbed
        positive = peaks > 0
        if positive.any():
            self._rank = min(self._rank, float((band.squares[positive] / peaks[positive]).min()))
        lowest = math.sqrt(max(float(low[worst]), 0.0))
        if any(band.degrees):
            lowest = _lowest(band, int(worst[1]), frequencies[worst[0]], points)
        self._lowest = min(self._lowest, lowest)
        self._lower = max(self._lower, climbed)
        self._rounding = max(self._rounding, band.rounding)
        self._bound(band, points, high)

    def _bound(self, band: _Band, points: tuple[int, ...], high: Array) -> None:
        rise = _rise(band.degrees, points) ** 2
        top = float(high.max()) * rise
        if rise > _TIGHT**2:
            fine = _fine_grid(band)
            if _rise(band.degrees, fine) ** 2 < rise:
                limit = _tested(band, fine, points, high, self._lower)
                self._lower = max(self._lower, limit / _STEP**2)
                top = min(top, limit * _rise(band.degrees, fine) ** 2)
        self._upper = max(self._upper, top)

    def figures(self) -> OperatorFigures:
        upper, lower = certain(self._upper, self._lower, self._rounding)
        return OperatorFigures(
            norm_upper=upper * self._scale,
            norm_lower=lower * self._scale,
            sigma_min=0.0 if self._hidden else self._lowest * self._scale,
            residual=self._residual,
            stable_rank=self._rank if math.isfinite(self._rank) else None,
        )


def _eigenvalues(band: _Band, points: Sequence[int]) -> tuple[Array, Array, Array]:
    """(frequencies (F, d), smallest and largest eigenvalue of K̂ᴴK̂ there (F, g))."""
    found = []
    for frequencies, grams in band.grams(points):
        values = grams.real[..., 0] if band.r == 1 else np.linalg.eigvalsh(grams)
        found.append((frequencies, values[..., 0], values[..., -1]))
    frequencies, low, high = (np.concatenate(part) for part in zip(*found, strict=True))
    return frequencies, low, high


def _highest(band: _Band, group: int, frequency: Array, value: float) -> float:
    """An eigenvalue at least as large as `value`: where ‖K̂(ω)v‖² is largest, v being the vector
    that belongs to it, again and again."""
    if not any(band.degrees):
        return value
    part = band.correlations[..., group, :, :]
    sizes = [16 * q for q in band.sizes]
    for _ in range(_ROUNDS):
        gram = band.at(group, frequency)
        v = np.ones(1) if band.r == 1 else np.linalg.eigh(gram)[1][:, -1]
        shape = part.shape[:-2]
        terms = ((part.reshape(-1, band.r) @ v).reshape(-1, band.r) @ v.conj()).reshape(shape)
        grid = np.zeros(sizes, np.complex128)
        grid[tuple(slice(2 * q - 1) for q in band.sizes)] = terms
        # The offsets begin at −n, which turns the phases alone.
        peak = np.unravel_index(np.abs(np.fft.fftn(grid)).argmax(), grid.shape)
        frequency = 2 * np.pi * np.array(peak) / sizes
        found = float(np.linalg.eigvalsh(band.at(group, frequency))[-1])
        if found <= value * 1.0001:
            return max(found, value)
        value = found
    return value


def _lowest(band: _Band, group: int, frequency: Array, points: Sequence[int]) -> float:
    """The smallest σ near a grid point, by Newton steps to where the symbol's smallest vanishes."""
    limits = np.pi / np.array(points, float)
    start, best = frequency, math.inf
    for _ in range(_ROUNDS):
        symbol, slopes = band.symbol(group, frequency)
        u, sigma, vh = np.linalg.svd(symbol, full_matrices=False)
        if not sigma[-1] < 0.99 * best:
            return min(best, float(sigma[-1]))
        best = float(sigma[-1])
        if best < EPS * sigma[0]:
            return best
        slope = np.einsum("m,dmr,r->d", u[:, -1].conj(), slopes, vh[-1].conj())
        rows = np.stack((slope.real, slope.imag))
        step = np.linalg.lstsq(rows, np.array((-best, 0.0)), rcond=1e-6)[0]
        frequency = start + np.clip(frequency + step - start, -limits, limits)
    return best


def _tested(
    band: _Band, fine: Sequence[int], coarse: tuple[int, ...], high: Array, lower: float
) -> float:
    """A bound of all eigenvalues on the fine grid: `_STEP²` times `lower`, or times one there.

    Args:
        high: the largest eigenvalues on the coarse grid, (F, g).
    """
    table = high.reshape(*_half(coarse), band.groups)
    ceiling = table.max(tuple(range(len(coarse)))) * _rise(band.degrees, coarse) ** 2
    limit = lower * _STEP**2
    eye = np.eye(band.r)
    for frequencies, grams in band.grams(fine):
        for frequency, several in zip(frequencies, grams, strict=True):
            reach = _reach(band, frequency, coarse, table, ceiling)
            for gram in several[reach > limit]:
                try:
                    np.linalg.cholesky(limit * eye - gram)
                except np.linalg.LinAlgError:
                    limit = max(limit, float(np.linalg.eigvalsh(gram)[-1]) * _STEP**2)
    return limit


def _half(points: Sequence[int]) -> tuple[int, ...]:
    return (points[0] // 2 + 1, *points[1:])


def _reach(
    band: _Band, frequency: Array, coarse: Sequence[int], table: Array, ceiling: Array
) -> Array:
    """What the eigenvalues of each group can be at a frequency, by the nearest coarse one.

    √p = √max p · cos ψ, where ψ changes by at most n/2 for each unit of an axis.
    """
    steps = 2 * np.pi / np.array(coarse)
    nearest = np.rint(frequency / steps)
    turn = float(np.abs(frequency - nearest * steps) @ np.array(band.degrees)) / 2
    at = tuple(int(i) % count for i, count in zip(nearest, coarse, strict=True))
    share = np.sqrt(np.clip(table[at] / ceiling, 0.0, 1.0))
    return np.asarray(ceiling * np.cos(np.maximum(np.arccos(share) - turn, 0.0)) ** 2)
