"""The layer types whose kernels can be regularized: one row each in `LAYER_TYPES`.

Whether a layer is found, live and in files, which kernels it has, how each becomes matrices, which
shorthand chooses it and what else the class is called: all follow from its row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from numbers import Integral
from typing import Any

from orthwrap import keras_inside
from orthwrap.errors import ValueFault
from orthwrap.model_config.layout import Layout, conv_layout

LayoutOf = Callable[[Mapping[str, Any], tuple[int, ...]], Layout | str]

# The families that have a shorthand: `all-conv` and so on.
FAMILIES = ("conv", "dense", "depthwise", "attention", "recurrent")


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
        family: the shorthand that chooses it, one of `FAMILIES`; None: chosen by name alone.
        also: what `.h5` files of other versions call the weight.
        when: the key of the config that says whether the layer has it; "" where all have.
    """

    slot: str
    weight: str
    layout: LayoutOf
    family: str | None
    attributes: tuple[str, ...] = ()
    index: int = 0
    label: str = ""
    also: tuple[str, ...] = ()
    when: str = ""

    @property
    def name(self) -> str:
        return self.label or self.weight


@dataclass(frozen=True)
class LayerType:
    """A class of layers whose kernels can be regularized.

    Attributes:
        name: the class, as files and Keras's public names have it.
        kernels: its kernels.
        aliases: other names of the same class: those that Keras once wrote, or its Python name.
        package: the package that defines it; a class of the same name elsewhere is another one.
    """

    name: str
    kernels: tuple[KernelSpec, ...]
    aliases: tuple[str, ...] = ()
    package: str = "keras"

    def is_class(self, cls: type) -> bool:
        """Whether a Python class is this one."""
        named = cls.__name__ in (self.name, *self.aliases)
        return named and cls.__module__.partition(".")[0] == self.package


SLOT_KEYS = {
    "kernel": "kernel_regularizer",
    "depthwise": "depthwise_regularizer",
    "pointwise": "pointwise_regularizer",
    "recurrent": "recurrent_regularizer",
    "embeddings": "embeddings_regularizer",
    "activity": "activity_regularizer",
}


_SPATIAL = ("strides", "dilation_rate")


def per_axis(value: Any, spatial: int) -> tuple[int, ...] | None:
    """A config's strides or dilation, one per spatial axis; None where they are no such counts."""
    if _is_count(value):
        return (int(value),) * spatial
    if isinstance(value, (list, tuple)) and len(value) == spatial and all(map(_is_count, value)):
        return tuple(map(int, value))
    return None


def _is_count(value: Any) -> bool:
    # A live layer may have been given NumPy's.
    return isinstance(value, Integral) and value is not True and 0 < int(value) < 1 << 31


def _strides(config: Mapping[str, Any], spatial: int) -> tuple[int, ...] | str:
    """A convolution's strides, or why it can be no convolution of these strides and dilation."""
    found = {word: config.get(word, 1) for word in _SPATIAL}
    for word, value in found.items():
        if per_axis(value, spatial) is None:
            return f"its {word} {value!r:.40} are not {spatial} positive integers"
    return per_axis(found["strides"], spatial) or ()


def _groups(config: Mapping[str, Any], shape: tuple[int, ...]) -> int | str:
    """A convolution's groups, or why they cannot be its groups."""
    groups = 1 if config.get("groups") is None else config["groups"]
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
    groups, strides = _groups(config, shape), _strides(config, rank - 2)
    if isinstance(groups, str):
        return groups
    if isinstance(strides, str):
        return strides
    return conv_layout(rank, groups=groups, strides=strides)


def _conv_transpose(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    rank = len(shape)
    if config.get("groups") not in (None, 1):
        return "grouped transposed convolutions have no layout"
    strides = _strides(config, rank - 2)
    if isinstance(strides, str):
        return strides
    return conv_layout(rank, strides=strides, name="conv_transpose")


def _depthwise(config: Mapping[str, Any], shape: tuple[int, ...]) -> Layout | str:
    rank = len(shape)
    strides = _strides(config, rank - 2)
    if isinstance(strides, str):
        return strides
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


def _recurrent(gates: int) -> LayoutOf:
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
        words = (w for w in _SPATIAL if per_axis(config.get(w, 1), rank - 2) is not None)
        groups = {"groups": config.get("groups")}
        return _conv({w: config.get(w, 1) for w in words} | groups, shape)
    return f"a kernel of {rank} axes in a class that is not known has no layout"


@cache  # asked at each call of a regularizer
def layout_for(layout: Layout | None, shape: tuple[int, ...]) -> Layout:
    """By which a kernel of this shape is read; by its rank where there is no layout.

    Raises:
        ValueFault: it does not describe such a kernel, or there is none for this rank.
    """
    if layout is not None:
        return layout.for_shape(shape)
    by_rank = layout_by_rank({}, shape)
    if isinstance(by_rank, str):
        raise ValueFault(f"{by_rank}; got shape {shape}: give it a layout")
    return by_rank


def _recurrent_kernels(gates: int, attributes: tuple[str, ...] = ()) -> tuple[KernelSpec, ...]:
    layout = _recurrent(gates)
    return (
        KernelSpec("kernel", "kernel", layout, "recurrent", attributes, 0),
        KernelSpec("recurrent", "recurrent_kernel", layout, "recurrent", attributes, 1),
    )


def _attention_kernel(part: str, attribute: str) -> KernelSpec:
    layout = _attention_output if part == "attention_output" else _attention_projection
    return KernelSpec(
        slot="kernel",
        weight="kernel",
        layout=layout,
        family="attention",
        attributes=(attribute,),
        label=f"{part}/kernel",
        when="use_gate" if part == "gate" else "",
    )


_CELL = ("cell",)
_DENSE = (KernelSpec("kernel", "kernel", _dense, "dense"),)
_EINSUM = (KernelSpec("kernel", "kernel", _einsum, "dense"),)
_CONV = (KernelSpec("kernel", "kernel", _conv, "conv"),)
_TRANSPOSE = (KernelSpec("kernel", "kernel", _conv_transpose, "conv"),)
_SEPARABLE = (
    KernelSpec("depthwise", "depthwise_kernel", _depthwise, "depthwise"),
    KernelSpec("pointwise", "pointwise_kernel", _pointwise, "conv", (), 1),
)
_DEPTHWISE = (replace(_SEPARABLE[0], also=("kernel",)),)  # as Keras 3 calls it
_ATTENTION = tuple(_attention_kernel(*p) for p in keras_inside.ATTENTION_PARTS.items())
_EMBEDDINGS = (KernelSpec("embeddings", "embeddings", _embeddings, None),)

_ROWS = (
    LayerType("Dense", _DENSE, ("TimeDistributedDense",)),
    LayerType("EinsumDense", _EINSUM),
    LayerType("Conv1D", _CONV, ("Convolution1D",)),
    LayerType("Conv2D", _CONV, ("Convolution2D",)),
    LayerType("Conv3D", _CONV, ("Convolution3D",)),
    LayerType("Conv1DTranspose", _TRANSPOSE, ("Convolution1DTranspose",)),
    LayerType("Conv2DTranspose", _TRANSPOSE, ("Convolution2DTranspose", "Deconvolution2D")),
    LayerType("Conv3DTranspose", _TRANSPOSE, ("Convolution3DTranspose",)),
    LayerType("DepthwiseConv1D", _DEPTHWISE),
    LayerType("DepthwiseConv2D", _DEPTHWISE, ("DepthwiseConvolution2D",)),
    LayerType("SeparableConv1D", _SEPARABLE, ("SeparableConvolution1D",)),
    LayerType("SeparableConv2D", _SEPARABLE, ("SeparableConvolution2D",)),
    LayerType("MultiHeadAttention", _ATTENTION),
    LayerType("GroupQueryAttention", _ATTENTION, ("GroupedQueryAttention",)),
    LayerType("SimpleRNN", _recurrent_kernels(1, _CELL)),
    LayerType("GRU", _recurrent_kernels(3, _CELL), ("CuDNNGRU",)),
    LayerType("LSTM", _recurrent_kernels(4, _CELL), ("CuDNNLSTM",)),
    LayerType("ConvLSTM1D", _recurrent_kernels(4, _CELL)),
    LayerType("ConvLSTM2D", _recurrent_kernels(4, _CELL)),
    LayerType("ConvLSTM3D", _recurrent_kernels(4, _CELL)),
    LayerType("SimpleRNNCell", _recurrent_kernels(1)),
    LayerType("GRUCell", _recurrent_kernels(3)),
    LayerType("LSTMCell", _recurrent_kernels(4)),
    LayerType("Embedding", _EMBEDDINGS),
    LayerType("ReversibleEmbedding", _EMBEDDINGS),
)

PUBLIC_NAMES = {"GroupedQueryAttention": "GroupQueryAttention"}
"""Of classes that Keras offers under another name than their Python one, which `.h5` files have."""

LAYER_TYPES = {name: row for row in _ROWS for name in (row.name, *row.aliases)}
"""Each layer type, by its name and by its aliases."""

WITHOUT_KERNELS = frozenset(
    (
        *("Functional", "Model", "Sequential", "Wrapper", "TimeDistributed", "Bidirectional"),
        *("RNN", "StackedRNNCells", "SpectralNormalization", "BatchNormalization"),
        *("BatchNormalizationV1", "BatchNormalizationV2", "LayerNormalization", "RMSNormalization"),
        *("GroupNormalization", "UnitNormalization", "Normalization", "PReLU", "Attention"),
        *("AdditiveAttention", "SyncBatchNormalization"),
    )
)
"""Keras's own classes that have weights, or layers, and no kernel; `.h5` files name no module."""

# A class that is not known, but whose config has kernel_regularizer.
UNKNOWN = (KernelSpec("kernel", "kernel", layout_by_rank, None),)


def layer_type_of(class_name: str) -> LayerType | None:
    """The layer type that a config calls by this name, or None."""
    return LAYER_TYPES.get(class_name)


def layer_type_of_object(layer: object) -> LayerType | None:
    """The first layer type that a live layer is an instance of, or None."""
    classes = ((cls, LAYER_TYPES.get(cls.__name__)) for cls in type(layer).__mro__)
    return next((row for cls, row in classes if row is not None and row.is_class(cls)), None)


def family_of(spec: KernelSpec, layout: Layout | None) -> str | None:
    """The shorthand that chooses a kernel, or None; that of its rank where the class is unknown."""
    if spec in UNKNOWN and layout is not None and layout.name in FAMILIES:
        return layout.name
    return spec.family
