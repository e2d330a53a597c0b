"""Matrices as a report's figures see them: half of each Gram matrix, in NumPy and float64.

The Gram matrix of a large kernel is the largest thing in memory, so no copy of it is made: what is
summed over its entries is summed panel by panel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PANEL = 256  # columns of a Gram matrix that are computed at once


@dataclass(frozen=True)
class Matrices:
    """Some of a kernel's matrices W/α; everything below is of these.

    Attributes:
        half_gram: the smaller Gram matrix of each W, (count, r, r), symmetric. What is above the
            square panels on its diagonal, `PANEL` columns wide, is zero and not to be read.
        sigmas: gives the singular values of each W, ascending, (count, r); they take as long as all
            else, so only who needs them asks.
        larger: the larger side of each matrix.
        alpha: α; the two above are of W and not yet divided by it.
    """

    half_gram: Array
    sigmas: Callable[[], Array]
    larger: int
    alpha: float = 1.0

    @property
    def count(self) -> int:
        return len(self.half_gram)

    @property
    def smaller(self) -> int:
        """r, the smaller side of each matrix."""
        return int(self.half_gram.shape[1])

    @property
    def singular_values(self) -> Array:
        """Ascending, (count, r)."""
        return self.sigmas() / self.alpha

    def gram(self) -> Array:
        """The smaller Gram matrix of each, (count, r, r): a copy, all of it."""
        lower = np.tril(self.half_gram)
        diagonal = np.eye(self.smaller) * lower
        return np.asarray((lower + np.swapaxes(lower, 1, 2) - diagonal) / self.alpha**2)

    def panels(self) -> Iterator[tuple[Array, Array, slice]]:
        """(square on the diagonal, what is below it, columns), of W, panel by panel."""
        for start in range(0, self.smaller, PANEL):
            stop = min(start + PANEL, self.smaller)
            columns = slice(start, stop)
            yield self.half_gram[:, columns, columns], self.half_gram[:, stop:, columns], columns

    def sum_of_squares(self, change: Callable[[Array, Array], Array]) -> Array:
        """Σ of the squares over all entries of each Gram matrix, (count,).

        Args:
            change: (block on the diagonal, identity) → what is squared in its place.
        """
        total = np.zeros(self.count)
        for square, below, _ in self.panels():
            total += _squared(change(square / self.alpha**2, np.eye(square.shape[1])))
            if below.shape[1]:
                total += 2 * _squared(below / self.alpha**2)
        return total

    def square_deviation(self) -> Array:
        """‖G−I‖_F² of each matrix."""
        return self.sum_of_squares(np.subtract)

    def cosines(self) -> Iterator[tuple[Array, int]]:
        """(|cos| of pairs of different columns, how often each pair is counted), by panel.

        Of rows where the matrices are wider than tall. A zero vector has cosine 0.
        """
        lengths = self.lengths()
        lengths[lengths == 0.0] = 1.0
        for square, below, columns in self.panels():
            on = np.abs(square)
            on /= lengths[:, columns, None]
            on /= lengths[:, None, columns]
            on *= 1 - np.eye(square.shape[1])
            yield on, 1
            if below.shape[1]:
                off = np.abs(below)
                off /= lengths[:, columns.stop :, None]
                off /= lengths[:, None, columns]
                yield off, 2

    def lengths(self) -> Array:
        """The lengths of the columns (rows) of each W, (count, r)."""
        return np.asarray(np.sqrt(np.einsum("bii->bi", self.half_gram)))


def _squared(batch: Array) -> Array:
    """Σ of the squares of each matrix."""
    return np.asarray(np.einsum("bij,bij->b", batch, batch))
