"""The convolution of a kernel with itself, as matrices: what `lorth` is made of.

K⋆K with stride S holds one M×M matrix per spatial offset. Two steps turn its squared norm into
that of ordinary Gram matrices:

1. *Phases.* Only taps whose distance is a multiple of S meet. Splitting each axis into its S
   phases and counting the phases as channels makes the convolution stride 1, with q = ⌈k/S⌉ taps
   per axis and C·min(k, S)^d channels (a phase beyond the kernel has no taps and is left out).
2. *Frequencies.* A discrete Fourier transform over N = 2q−1 points per axis has room for every
   offset −q+1 … q−1, so by Parseval the squared norm is the mean over the N^d frequencies of
   ‖K̂ᴴK̂ − I‖_F², each K̂ an ordinary (channels × M) complex matrix.

‖K̂ᴴK̂−I‖² and ‖K̂K̂ᴴ−I‖² differ by a constant, so the smaller of the two does, as for a matrix.
No Keras here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ConvGeometry:
    """Kernel (*k, C/groups, M), out axis group-major, and its strides, in phases and taps."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    channels: int
    filters: int
    groups: int

    @classmethod
    def of(cls, shape: Sequence[int], strides: Sequence[int], groups: int = 1) -> ConvGeometry:
        """The geometry of a kernel of this shape; channels and filters are those of one group."""
        *kernel_size, channels, filters = shape
        return cls(tuple(kernel_size), tuple(strides), channels, filters // groups, groups)

    @property
    def taps(self) -> tuple[int, ...]:
        """q per axis: how many taps of one phase the kernel holds."""
        return tuple(-(-k // s) for k, s in zip(self.kernel_size, self.strides, strict=True))

    @property
    def phases(self) -> tuple[int, ...]:
        """Phases per axis that hold at least one tap."""
        return tuple(min(k, s) for k, s in zip(self.kernel_size, self.strides, strict=True))

    @property
    def rows(self) -> int:
        """Rows of each group's matrices K̂."""
        return self.channels * prod(self.phases)

    @property
    def points(self) -> tuple[int, ...]:
        """Frequencies per axis; odd, so that only frequency 0 is its own mirror image."""
        return tuple(2 * q - 1 for q in self.taps)

    @property
    def table(self) -> int:
        """Entries of each table of `half_spectrum`."""
        return prod(self.points) // 2 * prod(self.taps)

    @property
    def constant(self) -> int:
        """What to add to the mean of the smaller Gram's ‖·−I‖² to get `lorth`.

        0 wherever an orthogonal convolution exists.
        """
        full = self.channels * prod(self.strides)
        missing = max(self.filters - self.rows, 0) - max(self.filters - full, 0)
        return self.groups * missing

    @property
    def padding(self) -> tuple[int, ...]:
        """Zeros to append per axis so that every phase has q taps."""
        return tuple(
            q * p - k for q, p, k in zip(self.taps, self.phases, self.kernel_size, strict=True)
        )

    @property
    def split_shape(self) -> tuple[int, ...]:
        """The padded kernel with its axes told apart: (q₁, p₁, …, C, groups, M)."""
        axes = [size for pair in zip(self.taps, self.phases, strict=True) for size in pair]
        return (*axes, self.channels, self.groups, self.filters)

    @property
    def split_order(self) -> tuple[int, ...]:
        """Transpose of `split_shape` to (q₁, q₂, …, groups, p₁, p₂, …, C, M)."""
        d = len(self.strides)
        return (
            *range(0, 2 * d, 2), 2 * d + 1, *range(1, 2 * d, 2), 2 * d, 2 * d + 2
        )  # fmt: skip


def half_spectrum(taps: Sequence[int]) -> tuple[Array, Array]:
    """cos and −sin tables, each (h, prod(taps)): one of every pair of mirrored frequencies ≠ 0.

    With the (prod(taps), …) kernel they give Re K̂ and Im K̂; frequency 0, the plain sum over
    the taps, is left out. h = (N^d − 1) / 2.
    """
    if prod(taps) == 1:
        return np.zeros((0, 1)), np.zeros((0, 1))
    points = [2 * q - 1 for q in taps]
    frequencies = np.stack(np.meshgrid(*map(np.arange, points), indexing="ij"), -1)
    frequencies = frequencies.reshape(-1, len(taps))
    positions = np.stack(np.meshgrid(*map(np.arange, taps), indexing="ij"), -1)
    positions = positions.reshape(-1, len(taps))
    # In row-major order the mirror image of the i-th frequency after 0 is the i-th from the end
    # on a grid centred at 0, so centre it and keep what follows the middle.
    half = len(frequencies) // 2
    centred = (frequencies - (np.array(points) - 1) // 2)[half + 1 :]
    angles = 2 * np.pi * (centred / points) @ positions.T
    return np.cos(angles), -np.sin(angles)


def taps_of(kernel: Array, geometry: ConvGeometry) -> Array:
    """The kernel with its phases apart, (taps, groups, rows, filters)."""
    widths = [(0, extra) for extra in geometry.padding] + [(0, 0), (0, 0)]
    split = np.pad(kernel, widths).reshape(geometry.split_shape).transpose(geometry.split_order)
    return split.reshape(prod(geometry.taps), geometry.groups, geometry.rows, geometry.filters)
