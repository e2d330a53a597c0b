"""The arrays that layers of Keras 2 keep: their attributes, in order, and what the config settles
of each shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from orthwrap.upgrades.arrays.weights import GATES
from orthwrap.upgrades.layers.old_classes import RENAMED_CLASSES
from orthwrap.upgrades.ledger import Config

# None stands for a size that the config leaves open, and for a shape of which it says nothing.
Shape = tuple[int | None, ...]
Arrays = dict[str, Shape | None]


def arrays_of(class_name: str, config: Config) -> Arrays:
    """Attribute → shape, in the order in which the layer made its arrays.

    Attributes of a layer inside are written `cell/kernel`. Empty for a class that keeps none, and
    for one that is not Keras's own.

    Raises:
        TypeError: a size in the config is no size.
    """
    name = RENAMED_CLASSES.get(class_name, class_name)
    if found := _CONVOLUTION.fullmatch(name):
        kind, rank, transposed = found[1] or "", int(found[2]), bool(found[3])
        return _convolution(kind, rank, transposed, config)
    maker = _MAKERS.get(name)
    return maker(config) if maker is not None else {}


_CONVOLUTION = re.compile(r"(Depthwise|Separable)?Conv([123])D(Transpose)?")


def _size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"expected a size, found {value!r:.60}")
    return value


def _sizes(value: Any, rank: int) -> Shape:
    sizes = value if isinstance(value, list) else [value] * rank
    if len(sizes) != rank:
        raise TypeError(f"expected {rank} sizes, found {value!r:.60}")
    return tuple(_size(size) for size in sizes)


def _biased(config: Config, arrays: Arrays, bias: Shape | None) -> Arrays:
    return {**arrays, "bias": bias} if config.get("use_bias", True) else arrays


def _convolution(kind: str, rank: int, transposed: bool, config: Config) -> Arrays:
    window = _sizes(config["kernel_size"], rank)
    multiplier = _size(config.get("depth_multiplier", 1))
    if kind == "Depthwise":
        return _biased(config, {"depthwise_kernel": (*window, None, multiplier)}, (None,))
    filters = _size(config["filters"])
    if kind == "Separable":
        arrays: Arrays = {
            "depthwise_kernel": (*window, None, multiplier),
            "pointwise_kernel": (*(1,) * rank, None, filters),
        }
        return _biased(config, arrays, (filters,))
    ends = (filters, None) if transposed else (None, filters)
    return _biased(config, {"kernel": (*window, *ends)}, (filters,))


def _dense(config: Config) -> Arrays:
    units = _size(config["units"])
    return _biased(config, {"kernel": (None, units)}, (units,))


def _einsum_dense(config: Config) -> Arrays:
    biased = config.get("bias_axes") is not None
    return {"kernel": None, "bias": None} if biased else {"kernel": None}


def _locally_connected(config: Config) -> Arrays:
    return _biased(config, {"kernel": None}, None)


def _cell(gates: int) -> Callable[[Config], Arrays]:
    def arrays(config: Config) -> Arrays:
        units = _size(config["units"])
        width = gates * units
        # Older files leave `reset_after` out, where it was False.
        twice = gates == 3 and bool(config.get("reset_after", False))
        kernels: Arrays = {"kernel": (None, width), "recurrent_kernel": (units, width)}
        return _biased(config, kernels, (2, width) if twice else (width,))

    return arrays


def _in_cell(cell: Callable[[Config], Arrays]) -> Callable[[Config], Arrays]:
    return lambda config: {f"cell/{name}": shape for name, shape in cell(config).items()}


def _convolutional_cell(rank: int) -> Callable[[Config], Arrays]:
    def arrays(config: Config) -> Arrays:
        window = _sizes(config["kernel_size"], rank)
        filters = _size(config["filters"])
        width = 4 * filters
        kernels: Arrays = {
            "kernel": (*window, None, width),
            "recurrent_kernel": (*window, filters, width),
        }
        return _biased(config, kernels, (width,))

    return arrays


def _cudnn(gates: int) -> Callable[[Config], Arrays]:
    def arrays(config: Config) -> Arrays:
        units = _size(config["units"])
        width = gates * units
        return {
            "kernel": (None, width),
            "recurrent_kernel": (units, width),
            "bias": (2 * width,),
        }

    return arrays


def _embedding(config: Config) -> Arrays:
    return {"embeddings": (_size(config["input_dim"]), _size(config["output_dim"]))}


def _normalization(*more: str) -> Callable[[Config], Arrays]:
    """Gamma and beta, whose shape hangs on the axes."""

    def arrays(config: Config) -> Arrays:
        axis = config.get("axis", -1)
        one = isinstance(axis, int) or (isinstance(axis, list) and len(axis) == 1)
        shape: Shape | None = (None,) if one else None
        switches = {"gamma": "scale", "beta": "center"}
        names = [name for name, switch in switches.items() if config.get(switch, True)]
        return dict.fromkeys((*names, *more), shape)

    return arrays


def _data_normalization(config: Config) -> Arrays:
    if config.get("mean") is not None:
        return {}
    return {"mean": None, "variance": None, "count": ()}


def _attention(default: bool) -> Callable[[Config], Arrays]:
    def arrays(config: Config) -> Arrays:
        found: Arrays = {"scale": None} if config.get("use_scale", default) else {}
        if config.get("score_mode") == "concat":
            found["concat_score_weight"] = ()
        return found

    return arrays


def _multi_head_attention(config: Config) -> Arrays:
    heads, keys = _size(config["num_heads"]), _size(config["key_dim"])
    width = config.get("value_dim")
    width = keys if width is None else _size(width)
    arrays: Arrays = {}
    for part, size in (("query", keys), ("key", keys), ("value", width)):
        biased = _biased(config, {"kernel": (None, heads, size)}, (heads, size))
        arrays |= {f"_{part}_dense/{name}": shape for name, shape in biased.items()}
    shape = config.get("output_shape")
    out: Shape = (None,)
    if shape is not None:
        out = _sizes(shape, len(shape) if isinstance(shape, list) else 1)
    biased = _biased(config, {"kernel": (heads, width, *out)}, out)
    return arrays | {f"_output_dense/{name}": shape for name, shape in biased.items()}


def _makers() -> dict[str, Callable[[Config], Arrays]]:
    makers: dict[str, Callable[[Config], Arrays]] = {
        "Dense": _dense,
        "EinsumDense": _einsum_dense,
        "Embedding": _embedding,
        "BatchNormalization": _normalization("moving_mean", "moving_variance"),
        "SyncBatchNormalization": _normalization("moving_mean", "moving_variance"),
        "LayerNormalization": _normalization(),
        "GroupNormalization": _normalization(),
        "Normalization": _data_normalization,
        "PReLU": lambda config: {"alpha": None},
        "MultiHeadAttention": _multi_head_attention,
        "Attention": _attention(False),
        "AdditiveAttention": _attention(True),
        "SpectralNormalization": lambda config: {"vector_u": (1, None)},
        "LocallyConnected1D": _locally_connected,
        "LocallyConnected2D": _locally_connected,
        "CuDNNGRU": _cudnn(3),
        "CuDNNLSTM": _cudnn(4),
    }
    for name in ("SimpleRNN", "GRU", "LSTM"):
        makers[f"{name}Cell"] = _cell(GATES[name])
        makers[name] = _in_cell(makers[f"{name}Cell"])
    for rank in (1, 2, 3):
        makers[f"ConvLSTM{rank}D"] = _in_cell(_convolutional_cell(rank))
    return makers


_MAKERS = _makers()


def fits(found: tuple[int, ...], expected: Shape | None) -> bool:
    """Whether an array has the shape that the config settles."""
    if expected is None:
        return True
    return len(found) == len(expected) and all(
        size is None or size == own for own, size in zip(found, expected, strict=True)
    )


def shown(shape: Shape | None) -> str:
    """`(3, 3, ?, 16)`."""
    sizes = ["?" if size is None else str(size) for size in shape or ()]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
