"""How a kernel becomes a batch of matrices, *fan-in × fan-out*.

A layout declares which axes of the kernel are rows (fan-in), columns (fan-out) and batch; the
last axis may be split into `parts` (groups of a convolution, gates of a recurrent layer), which
then count as batch. Rank alone cannot tell layers apart, so a regularizer's config carries its
layout.

Nothing here imports Keras: `to_matrices` takes NumPy arrays, or tensors with `keras.ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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

    @property
    def rank(self) -> int:
        return len(self.rows) + len(self.columns) + len(self.batch)

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
        layout = self.for_shape(shape)
        sizes = list(shape)
        sizes[-1] //= layout.parts
        count, rows, columns = (
            math.prod(sizes[a] for a in axes)
            for axes in (layout.batch, layout.rows, layout.columns)
        )
        return count * layout.parts, rows, columns

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


@dataclass(frozen=True)
class KernelSpec:
    """One weight of a layer class that can be regularized.

    Attributes:
        slot: kernel, depthwise, pointwise, recurrent or embeddings.
        weight: the weight's name within its (sub)layer, such as `depthwise_kernel`.
        attributes: from the layer object to the variable's owner: `("cell",)`, `("_query_dense",)`.
        index: the place of the weight among the owner's variables.
        label: how the report names the kernel; `query/kernel` where a layer has several in a slot.
        layout: (layer config, kernel shape) → Layout, or a str: why it has none.
    """

    slot: str
    weight: str
    layout: Callable[[Mapping[str, Any], tuple[int, ...]], Layout | str]
    attributes: tuple[str, ...] = ()
    index: int = 0
    label: str = field(default="")

    @property
    def name(self) -> str:
        return self.label or self.weight


SLOT_KEYS = {
    "kernel": "kernel_regularizer",
    "depthwise": "depthwise_regularizer",
    "pointwise": "pointwise_regularizer",
    "recurrent": "recurrent_regularizer",
    "embeddings": "embeddings_regularizer",
    "activity": "activity_regularizer",
}


def _per_axis(value: Any, spatial: int) -> tuple[int, ...]:
    if _is_count(value):
        return (value,) * spatial
    if isinstance(value, (list, tuple)) and len(value) == spatial and all(map(_is_count, value)):
        return tuple(value)
    return (1,) * spatial


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


def _groups(config: Mapping[str, Any], shape: tuple[int, ...]) -> int | str:
    """A convolution's groups, or why they cannot be its groups."""
    groups = config.get("groups", 1) or 1
    if not _is_count(groups) or shape[-1] % groups:
        return f"its {groups!r:.40} groups do not divide its last axis, {shape[-1]}"
    return int(groups)


def _dense(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    return Layout("dense", (0,), (1,))


def _embeddings(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    return Layout("embeddings", (0,), (1,))


def conv_layout(
    rank: int, *, groups: int = 1, strides: tuple[int, ...] = (), name: str = "conv"
) -> Layout:
    """(*k, in/groups, out) → groups × (prod(k)·in/groups, out/groups).

    The same axes serve a transposed convolution, whose kernel is (*k, out, in): its matrix is that
    of the convolution whose adjoint it is.
    """
    return Layout(name, tuple(range(rank - 1)), (rank - 1,), parts=groups, strides=strides)


def _conv(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    rank = len(shape)
    if rank < 3:
        return f"a convolution's kernel has at least 3 axes, this one {rank}"
    groups = _groups(config, shape)
    if isinstance(groups, str):
        return groups
    strides = _per_axis(config.get("strides", 1), rank - 2)
    return conv_layout(rank, groups=groups, strides=strides)


def _conv_transpose(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    rank = len(shape)
    if (config.get("groups", 1) or 1) != 1:
        return "grouped transposed convolutions have no layout"
    strides = _per_axis(config.get("strides", 1), rank - 2)
    return conv_layout(rank, strides=strides, name="conv_transpose")


def _depthwise(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    rank = len(shape)
    rows = tuple(range(rank - 2))
    return Layout("depthwise", rows, (rank - 1,), batch=(rank - 2,))


def across_channels(layout: Layout) -> Layout:
    """A depthwise layout with all channels in one matrix: (prod(k), C·mult)."""
    return Layout("depthwise_across", layout.rows, (*layout.batch, *layout.columns))


def _pointwise(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    return conv_layout(len(shape), strides=(1,) * (len(shape) - 2), name="pointwise")


def _einsum(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    equation = str(config.get("equation", "")).replace(" ", "")
    try:
        operands, output = equation.split("->")
        data, kernel = operands.split(",")
    except ValueError:
        return f"equation {equation!r} is not of the form 'ab,bc->ac'"
    data, output = data.replace(".", ""), output.replace(".", "")
    axes: dict[str, list[int]] = {"rows": [], "columns": [], "batch": []}
    for axis, label in enumerate(kernel):
        if label in data and label in output:
            axes["batch"].append(axis)
        elif label in data:
            axes["rows"].append(axis)
        elif label in output:
            axes["columns"].append(axis)
        else:
            return f"axis {label!r} of equation {equation!r} is in neither input nor output"
    if not axes["rows"] or not axes["columns"]:
        return f"equation {equation!r} has no fan-in axis or no fan-out axis"
    if len(kernel) != len(shape):
        return f"equation {equation!r} names {len(kernel)} axes; the kernel has {len(shape)}"
    rows, columns, batch = (tuple(axes[name]) for name in ("rows", "columns", "batch"))
    return Layout("einsum", rows, columns, batch)


def _recurrent(gates: int) -> Callable[[Mapping[str, Any], tuple[int, ...]], Layout | str]:
    def layout(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
        if len(shape) == 2:
            return Layout("recurrent", (0,), (1,), parts=gates)
        return conv_layout(len(shape), groups=gates, name="conv_recurrent")

    return layout


# Attention: q, k and v are (d, h, k) and the output kernel is (h, v, d), all in one slot. The
# regularizer gets a bare array, so it tells them apart by shape alone.
_PROJECTION = Layout("attention", (0,), (2,), batch=(1,))
_OUTPUT = Layout("attention_output", (1,), (2,), batch=(0,))


def attention_layout(
    projections: Sequence[tuple[int, ...]], output: tuple[int, ...]
) -> Layout | str:
    """The one layout for the four kernels of an attention layer, or why there is none.

    Args:
        projections: shapes of the query, key and value kernels, (d, heads, k).
        output: shape of the output kernel, (heads, v, d).
    """
    if any(len(s) != 3 for s in (*projections, output)):
        return "an attention kernel of other than three axes has no layout"
    if output in projections:
        return (
            f"its output kernel has the shape {output} of a query, key or value kernel, "
            "and the shape is all that tells them apart"
        )
    return Layout("attention", (0,), (2,), batch=(1,), otherwise=(output, _OUTPUT))


def _attention_projection(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    return _PROJECTION if len(shape) == 3 else "an attention kernel of other than three axes"


def _attention_output(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    return _OUTPUT if len(shape) == 3 else "an attention kernel of other than three axes"


def by_config(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    """A class that is not known: by its config's words, else by the kernel's rank."""
    rank = len(shape)
    if rank == 2:
        return Layout("dense", (0,), (1,))
    if 3 <= rank <= 5:
        return _conv(config, shape)
    return f"a kernel of {rank} axes in a class that is not known has no layout"


_CELL = ("cell",)


def _recurrent_specs(gates: int, attributes: tuple[str, ...] = ()) -> tuple[KernelSpec, ...]:
    return (
        KernelSpec("kernel", "kernel", _recurrent(gates), attributes, 0),
        KernelSpec("recurrent", "recurrent_kernel", _recurrent(gates), attributes, 1),
    )


def _attention_specs() -> tuple[KernelSpec, ...]:
    return (
        *(
            KernelSpec(
                "kernel", "kernel", _attention_projection, (f"_{part}_dense",), 0, f"{part}/kernel"
            )
            for part in ("query", "key", "value")
        ),
        KernelSpec(
            "kernel",
            "kernel",
            _attention_output,
            ("_output_dense",),
            0,
            "attention_output/kernel",
        ),
    )


_CONV = (KernelSpec("kernel", "kernel", _conv),)
_TRANSPOSE = (KernelSpec("kernel", "kernel", _conv_transpose),)
_DEPTHWISE = (KernelSpec("depthwise", "depthwise_kernel", _depthwise),)
_SEPARABLE = (
    KernelSpec("depthwise", "depthwise_kernel", _depthwise, (), 0),
    KernelSpec("pointwise", "pointwise_kernel", _pointwise, (), 1),
)

KERNELS: dict[str, tuple[KernelSpec, ...]] = {
    "Dense": (KernelSpec("kernel", "kernel", _dense),),
    "EinsumDense": (KernelSpec("kernel", "kernel", _einsum),),
    **{f"Conv{d}D": _CONV for d in (1, 2, 3)},
    **{f"Conv{d}DTranspose": _TRANSPOSE for d in (1, 2, 3)},
    **{f"DepthwiseConv{d}D": _DEPTHWISE for d in (1, 2)},
    **{f"SeparableConv{d}D": _SEPARABLE for d in (1, 2)},
    "MultiHeadAttention": _attention_specs(),
    "GroupQueryAttention": _attention_specs(),
    **{
        name: _recurrent_specs(gates, _CELL)
        for name, gates in (
            ("SimpleRNN", 1),
            ("GRU", 3),
            ("LSTM", 4),
            ("ConvLSTM1D", 4),
            ("ConvLSTM2D", 4),
            ("ConvLSTM3D", 4),
        )
    },
    **{
        name: _recurrent_specs(gates)
        for name, gates in (("SimpleRNNCell", 1), ("GRUCell", 3), ("LSTMCell", 4))
    },
    "Embedding": (KernelSpec("embeddings", "embeddings", _embeddings),),
}

# Names under which Keras once wrote the same class.
OLD_NAMES = {
    **{f"Convolution{d}D": f"Conv{d}D" for d in (1, 2, 3)},
    **{f"Convolution{d}DTranspose": f"Conv{d}DTranspose" for d in (1, 2, 3)},
    "Deconvolution2D": "Conv2DTranspose",
    "DepthwiseConvolution2D": "DepthwiseConv2D",
    "SeparableConvolution1D": "SeparableConv1D",
    "SeparableConvolution2D": "SeparableConv2D",
    "TimeDistributedDense": "Dense",
    "CuDNNGRU": "GRU",
    "CuDNNLSTM": "LSTM",
}
# A class that is not known, but whose config has kernel_regularizer.
UNKNOWN = (KernelSpec("kernel", "kernel", by_config),)

_CONV_CLASSES = frozenset(f"Conv{d}D{t}" for d in (1, 2, 3) for t in ("", "Transpose"))
_DEPTHWISE_CLASSES = frozenset(f"DepthwiseConv{d}D" for d in (1, 2))
_SEPARABLE_CLASSES = frozenset(f"SeparableConv{d}D" for d in (1, 2))
_RECURRENT_CLASSES = frozenset(
    (
        *("SimpleRNN", "LSTM", "GRU", "SimpleRNNCell", "LSTMCell", "GRUCell"),
        *("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
    )
)
_ATTENTION_CLASSES = frozenset(("MultiHeadAttention", "GroupQueryAttention"))
_DENSE_CLASSES = frozenset(("Dense", "EinsumDense"))


def family(kind: str | None, slot: str, layout: Layout | None) -> str | None:
    """The shorthand a kernel belongs to: conv, dense, depthwise, attention, recurrent, or None.

    Args:
        kind: the known class the layer is, or is a subclass of; None for a class not known.
        slot: the kernel's slot.
        layout: the layout by rank, which stands in where the class is not known.
    """
    if kind is None:
        return layout.name if layout is not None and layout.name in ("conv", "dense") else None
    if kind in _CONV_CLASSES or (kind in _SEPARABLE_CLASSES and slot != "depthwise"):
        return "conv"
    if kind in _DENSE_CLASSES:
        return "dense"
    if kind in _DEPTHWISE_CLASSES or kind in _SEPARABLE_CLASSES:
        return "depthwise"
    if kind in _ATTENTION_CLASSES:
        return "attention"
    if kind in _RECURRENT_CLASSES:
        return "recurrent"
    return None
