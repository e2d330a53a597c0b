"""Reading a kernel in blocks, so that memory does not grow with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orthwrap.model_config.layout import Layout

Array = NDArray[Any]

_BLOCK = 1 << 19  # numbers in float64 that are read at once


def scale_of(kernel: Any, layout: Layout) -> float:
    """α = ‖K‖_F / √(count·r): the RMS singular value; 0 counts as 1.

    Args:
        kernel: of any shape `layout` describes; an array, or what is read where it is indexed.
    """
    count, m, n = layout.matrices(kernel.shape)
    square = 0.0
    for block in blocks(kernel, all_of(kernel), range(len(kernel.shape))):
        square += float(np.vdot(block, block))
    return math.sqrt(square / (count * min(m, n))) or 1.0


Index = tuple[slice, ...]


def all_of(kernel: Any) -> Index:
    return tuple(slice(0, d) for d in kernel.shape)


def blocks(
    kernel: Any, index: Index, axes: Sequence[int], dtype: type[np.floating[Any]] = np.float64
) -> Iterator[Array]:
    """What lies at `index`, as numbers of `dtype`, cut along `axes` into blocks of bounded size."""
    sizes = [s.stop - s.start for s in index]
    size = math.prod(sizes) * np.dtype(dtype).itemsize // 8  # _BLOCK is of numbers in float64
    axis = next((a for a in axes if sizes[a] > 1), None)
    if size <= _BLOCK or axis is None:
        yield np.asarray(kernel[index], dtype)
        return
    step = max(1, _BLOCK * sizes[axis] // size)
    for start in range(index[axis].start, index[axis].stop, step):
        part = slice(start, min(start + step, index[axis].stop))
        yield from blocks(kernel, (*index[:axis], part, *index[axis + 1 :]), axes, dtype)
