"""The layer types whose kernels can be regularized: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orthwrap import keras_inside
from orthwrap.model_config.layout import Layout, conv_layout


@dataclass(frozen=True)
class KernelSpec:
    """One weight of a layer class that can be regularized.

    Attributes:
        slot: kernel, depthwise, pointwise, recurrent or embeddings.
        weight: the weight's name within its (sub)layer, such as `depthwise_kernel`.
        attributes: from the layer object to the variable's owner: `("cell",)`.
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


def layout_by_rank(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
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
    layouts = {"attention_output": _attention_output}
    return tuple(
        KernelSpec(
            "kernel",
            "kernel",
            layouts.get(part, _attention_projection),
            (attribute,),
            0,
            f"{part}/kernel",
        )
        for part, attribute in keras_inside.ATTENTION_PARTS.items()
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
UNKNOWN = (KernelSpec("kernel", "kernel", layout_by_rank),)


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
