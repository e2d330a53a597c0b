"""Recurrent layers of Keras 2: CuDNN classes, and what GRU left unsaid."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

from orthwrap.errors import FileFault
from orthwrap.stores.edits import Transform, Weight
from orthwrap.upgrades.arrays.weights import GATES
from orthwrap.upgrades.rewriting import OldLayer, config_of, is_layer_node

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

GATES |= {f"{name}Cell": GATES[name] for name in ("SimpleRNN", "GRU", "LSTM")}


def gru_reset_before(layer: OldLayer) -> str | None:
    """A GRU config without `reset_after` predates it and means False; Keras 3's default is True."""
    if layer.class_name not in {"GRU", "GRUCell"} or "reset_after" in layer.config:
        return None
    layer.config["reset_after"] = False
    return "reset_after is False"


def backwards_first(layer: OldLayer) -> str | None:
    """Bidirectional around a layer that goes backwards: Keras 3 makes its twin go backwards too.

    Keras 2 turned the direction round, so the twin went forwards; saying so keeps it.
    """
    inner = layer.config.get("layer")
    if layer.class_name != "Bidirectional" or inner is None or not is_layer_node(inner):
        return None
    config = config_of(inner, layer.path)
    if not config.get("go_backwards") or layer.config.get("backward_layer"):
        return None
    twin = copy.deepcopy(inner)
    name = config.get("name")
    twin["config"].update(go_backwards=False, name=f"backward_{name or 'layer'}")
    layer.config["backward_layer"] = twin
    return "forward twin"


def cudnn_layer(layer: OldLayer) -> str | None:
    """CuDNNGRU and CuDNNLSTM (Keras 2.1 to 2.3, tf.keras 1.x) as GRU and LSTM.

    NVIDIA's kernels are transposed per gate and carry two biases: an LSTM adds them up, a GRU
    keeps both, which is what `reset_after` means (the conversion is in `hdf5_format.py` of
    keras-team/tf-keras: `_convert_rnn_weights`).
    """
    gates = {"CuDNNGRU": 3, "CuDNNLSTM": 4}.get(layer.class_name)
    if gates is None:
        return None
    old = layer.class_name
    layer.class_name = old.removeprefix("CuDNN")
    layer.config.update(activation="tanh", recurrent_activation="sigmoid", use_bias=True)
    if gates == 3:
        layer.config["reset_after"] = True
    layer.transforms.append(from_cudnn(gates, layer.path))
    return f"{old} is {layer.class_name}, weights rearranged"


def from_cudnn(gates: int, path: str) -> Transform:
    """Kernel, recurrent kernel and bias of a CuDNN layer in the order of LSTM or GRU."""

    def transform(weights: list[Weight]) -> list[Weight]:
        import numpy as np

        def per_gate(array: Array, change: Callable[[Array], Array]) -> Array:
            return np.hstack([change(part) for part in np.hsplit(array, gates)])

        shapes = [weight.array.shape for weight in weights]
        if len(weights) != 3 or len(shapes[0]) != 2 or len(shapes[1]) != 2:
            raise weights_fault(path, "kernel, recurrent kernel and bias", shapes)
        units = shapes[1][0]
        if shapes[1][1] != gates * units or shapes[0][1] != gates * units:
            raise weights_fault(path, f"{gates} gates of {units} units", shapes)
        if shapes[2] != (2 * gates * units,):
            raise weights_fault(path, f"{2 * gates * units} biases", shapes)
        kernel, recurrent, bias = weights
        biases = bias.array.reshape(2, -1)
        return [
            kernel._replace(
                array=per_gate(kernel.array, lambda k: k.T.reshape(k.shape, order="F"))
            ),
            recurrent._replace(array=per_gate(recurrent.array, lambda k: k.T)),
            bias._replace(array=biases if gates == 3 else biases.sum(axis=0, dtype=biases.dtype)),
        ]

    return transform


def weights_fault(path: str, expected: str, found: object) -> FileFault:
    """The error of a layer whose arrays do not have the shapes that its config calls for."""
    return FileFault(
        f"layer {path!r}: expected weights for {expected}, found shapes {found}; "
        "the file's config and weights disagree"
    )


RECURRENT = {
    "RNN",
    "SimpleRNN",
    "GRU",
    "LSTM",
    "CuDNNGRU",
    "CuDNNLSTM",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
    "Bidirectional",
}
