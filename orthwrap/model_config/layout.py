"""How a kernel becomes a batch of matrices, *fan-in × fan-out*.

A layout declares which axes of the kernel are rows (fan-in), columns (fan-out) and batch; the
last axis may be split into `parts` (groups of a convolution, gates of a recurrent layer), which
then count as batch. Rank alone cannot tell layers apart, so a regularizer's config carries its
layout.

Nothing here imports Keras: `to_matrices` takes NumPy arrays, or tensors with `keras.ops`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from orthwrap.errors import ValueFault


@dataclass(frozen=True)
class Layout:
    """Axes of a kernel → batch of `count` matrices, m × n.

    Attributes:
        name: the kind of kernel: dense, conv, conv_transpose, depthwise, pointwise, einsum,
            attention, recurrent, conv_recurrent, embeddings.
        rows, columns, batch: axes of the kernel; together every axis once.
        parts: the last axis is split into so many equal parts, part-major; 1 leaves it whole.
        filter_groups: how many of the parts each matrix was split into by the user.
        strides: per spatial axis, for penalties of the convolution itself; () elsewhere.
        otherwise: for attention, `(shape, layout)` of the output kernel, which shares the slot.
    """

    name: str
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    batch: tuple[int, ...] = ()
    parts: int = 1
    strides: tuple[int, ...] = ()
    otherwise: tuple[tuple[int, ...], Layout] | None = None
    filter_groups: int = 1

    @property
    def rank(self) -> int:
        return len(self.rows) + len(self.columns) + len(self.batch)

    @property
    def is_in_order(self) -> bool:
        """Whether a kernel has its entries in the order in which its matrices have them."""
        order = (*self.batch, *self.rows, *self.columns)
        return self.parts == 1 and order == tuple(range(self.rank))

    def fits(self, shape: Sequence[int]) -> bool:
        """True where a kernel of this shape can be read by this layout."""
        return len(shape) == self.rank and all(d > 0 for d in shape) and shape[-1] % self.parts == 0

    def for_shape(self, shape: Sequence[int]) -> Layout:
        """The layout of a kernel of this shape; ValueFault names both where none fits."""
        if self.otherwise is not None and tuple(shape) == self.otherwise[0]:
            return self.otherwise[1]
        if not self.fits(shape):
            split = f", last axis a multiple of {self.parts}" if self.parts > 1 else ""
            raise ValueFault(
                f"layout {self.name!r} describes kernels of {self.rank} axes{split}; "
                f"got shape {tuple(shape)}: attach the regularizer to the layer it was made for"
            )
        return self

    def matrices(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """(count, m, n) for a kernel of this shape."""
        return _matrices(self, tuple(shape))

    def to_matrices(self, kernel: Any, xp: Any) -> Any:
        """The kernel as an array of shape (count, m, n).

        Args:
            kernel: array of a shape the layout describes.
            xp: `numpy` or `keras.ops`.
        """
        layout = self.for_shape(kernel.shape)
        count, rows, columns = layout.matrices(kernel.shape)
        split, order = layout._split_shape(kernel.shape)
        array = xp.reshape(kernel, split) if layout.parts > 1 else kernel
        if order != tuple(range(len(order))):
            array = xp.transpose(array, order)
        return xp.reshape(array, (count, rows, columns))

    def from_matrices(self, matrices: Any, shape: Sequence[int], xp: Any) -> Any:
        """The inverse of `to_matrices`, for a kernel of `shape`."""
        layout = self.for_shape(shape)
        split, order = layout._split_shape(shape)
        array = xp.reshape(matrices, tuple(split[a] for a in order))
        inverse = tuple(order.index(a) for a in range(len(order)))
        return xp.reshape(xp.transpose(array, inverse), tuple(shape))

    def _split_shape(self, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shape with its last axis split, and the order batch, rows, columns over it."""
        if self.parts == 1:
            return tuple(shape), (*self.batch, *self.rows, *self.columns)
        last = len(shape) - 1

        def shifted(axes: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(a + 1 if a == last else a for a in axes)

        split = (*shape[:-1], self.parts, shape[-1] // self.parts)
        order = (last, *shifted(self.batch), *shifted(self.rows), *shifted(self.columns))
        return split, order

    def to_config(self) -> dict[str, Any]:
        """JSON-ready; only what differs from the defaults."""
        config: dict[str, Any] = {
            "name": self.name,
            "rows": list(self.rows),
            "columns": list(self.columns),
        }
        if self.batch:
            config["batch"] = list(self.batch)
        if self.parts != 1:
            config["parts"] = self.parts
        if self.filter_groups != 1:
            config["filter_groups"] = self.filter_groups
        if self.strides:
            config["strides"] = list(self.strides)
        if self.otherwise is not None:
            shape, layout = self.otherwise
            config["otherwise"] = {"shape": list(shape), "layout": layout.to_config()}
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Layout:
        """The inverse of `to_config`; ValueFault where the axes are not each there once."""
        try:
            other = config.get("otherwise")
            layout = cls(
                name=str(config["name"]),
                rows=tuple(int(a) for a in config["rows"]),
                columns=tuple(int(a) for a in config["columns"]),
                batch=tuple(int(a) for a in config.get("batch", ())),
                parts=int(config.get("parts", 1)),
                filter_groups=int(config.get("filter_groups", 1)),
                strides=tuple(int(s) for s in config.get("strides", ())),
                otherwise=None
                if other is None
                else (tuple(int(d) for d in other["shape"]), cls.from_config(other["layout"])),
            )
            axes = sorted((*layout.rows, *layout.columns, *layout.batch))
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise ValueFault(f"a layout needs name, rows and columns; got {config!r}") from e
        if axes != list(range(layout.rank)) or layout.parts < 1:
            raise ValueFault(f"a layout names every axis of the kernel once; got {config!r}")
        return layout


def conv_layout(
    rank: int, *, groups: int = 1, strides: tuple[int, ...] = (), name: str = "conv"
) -> Layout:
    """(*k, in/groups, out) → groups × (prod(k)·in/groups, out/groups).

    The same axes serve a transposed convolution, whose kernel is (*k, out, in): its matrix is that
    of the convolution whose adjoint it is.
    """
    return Layout(name, tuple(range(rank - 1)), (rank - 1,), parts=groups, strides=strides)


def in_filter_groups(layout: Layout, groups: int) -> Layout:
    """The layout with the columns of each matrix in so many groups, each a matrix of its own."""
    if layout.otherwise is not None:
        shape, other = layout.otherwise
        layout = replace(layout, otherwise=(shape, in_filter_groups(other, groups)))
    return replace(layout, parts=layout.parts * groups, filter_groups=groups)


def why_no_filter_groups(layout: Layout, shape: Sequence[int], groups: int) -> str:
    """Why the filters of a kernel cannot be in so many groups; "" where they can."""
    layout = layout.for_shape(shape)
    if layout.name == "conv_transpose" or layout.columns != (layout.rank - 1,):
        return f"filter_groups splits the last axis, which in a {layout.name} kernel is not filters"
    filters = shape[-1] // layout.parts
    if filters % groups:
        return f"{filters} filters cannot be in {groups} equal groups (option filter_groups)"
    return ""


def across_channels(layout: Layout) -> Layout:
    """A depthwise layout with all channels in one matrix: (prod(k), C·mult)."""
    return Layout("depthwise_across", layout.rows, (*layout.batch, *layout.columns))


@cache  # asked at each call of a regularizer
def _matrices(layout: Layout, shape: tuple[int, ...]) -> tuple[int, int, int]:
    layout = layout.for_shape(shape)
    sizes = list(shape)
    sizes[-1] //= layout.parts
    count, rows, columns = (
        math.prod(sizes[a] for a in axes) for axes in (layout.batch, layout.rows, layout.columns)
    )
    return count * layout.parts, rows, columns
