"""hard_sigmoid of Keras 1 and 2: 0.2x + 0.5, clipped. Keras 3's is x/6 + 0.5, clipped.

Keras 3 changed it to agree with PyTorch and JAX. The old function at x is the new one at 1.2x, so
where a linear map feeds it, the map's weights take the factor. Where none does, an Activation
layer gets a Rescaling before it, and what is left needs a function that orthwrap registers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orthwrap.stores.edits import Transform, Weight
from orthwrap.upgrades.arrays.weights import GATES
from orthwrap.upgrades.layers.arguments import ACCEPTED
from orthwrap.upgrades.layers.recurrent import weights_fault
from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.rewriting import OldLayer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "hard_sigmoid"
REGISTERED = "orthwrap>hard_sigmoid_keras2"
FACTOR = 1.2

# Which blocks of columns feed the gates (`recurrent_activation`) and the candidate
# (`activation`). The LSTM's candidate shares `activation` with its output, where no weight acts.
_GATE_BLOCKS = {3: (0, 1), 4: (0, 1, 3)}
_CANDIDATE_BLOCKS = {1: (0,), 3: (2,)}
_LINEAR = {
    "Dense": ("kernel",),
    "EinsumDense": ("kernel",),
    **dict.fromkeys((f"Conv{n}D" for n in (1, 2, 3)), ("kernel",)),
    **dict.fromkeys((f"Conv{n}DTranspose" for n in (1, 2, 3)), ("kernel",)),
    **dict.fromkeys((f"DepthwiseConv{n}D" for n in (1, 2)), ("depthwise",)),
    # The depthwise step stays as it is: the factor must act once.
    **dict.fromkeys((f"SeparableConv{n}D" for n in (1, 2)), ("", "pointwise")),
}


def keep_old_values(layer: OldLayer) -> str | None:
    """Make a layer with hard_sigmoid give its old values."""
    done: list[str] = []
    name, config = layer.class_name, layer.config
    if name not in ACCEPTED:
        # What a class of the user's does with the word is for its code to say.
        return None
    if config.get("recurrent_activation") == NAME:
        blocks = _GATE_BLOCKS.get(GATES.get(name, 0))
        if blocks is not None:
            layer.transforms.append(scale_gates(GATES[name], blocks, layer.path))
            done.append("gates scaled by 1.2")
        else:
            _register(layer, "recurrent_activation")
            done.append(REGISTERED)
    if config.get("activation") == NAME:
        if name == "Activation":
            _rescale_before(layer)
            done.append("input scaled by 1.2")
        elif name in _LINEAR:
            layer.transforms.append(scale_all(first=len(_LINEAR[name]) - 1))
            done.append("kernel and bias scaled by 1.2")
        elif (blocks := _CANDIDATE_BLOCKS.get(GATES.get(name, 0))) is not None:
            layer.transforms.append(scale_gates(GATES[name], blocks, layer.path))
            done.append("candidate scaled by 1.2")
        else:
            _register(layer, "activation")
            done.append(REGISTERED)
    return ", ".join(done) or None


def _register(layer: OldLayer, key: str) -> None:
    layer.config[key] = {
        "module": "orthwrap.upgrades.functions",
        "class_name": "function",
        "config": REGISTERED,
        "registered_name": REGISTERED,
    }
    layer.run.needs[REGISTERED] = None


def _rescale_before(layer: OldLayer) -> None:
    """One node stays one node, so that depths, and with them the order of weights, stay."""
    name = layer.config.get("name")
    inner = dict(layer.config)
    inner["name"] = "hard_sigmoid"
    inner.pop("batch_input_shape", None)
    rescaling = {"name": "keras2_scale", "scale": FACTOR, "offset": 0.0}
    if "dtype" in inner:
        rescaling["dtype"] = inner["dtype"]
    children: list[Config] = [
        {"class_name": "Rescaling", "config": rescaling},
        {"class_name": "Activation", "config": inner},
    ]
    config: Config = {"name": name, "layers": children}
    if "batch_input_shape" in layer.config:
        config["batch_input_shape"] = layer.config["batch_input_shape"]
    layer.class_name = "Sequential"
    layer.node["config"] = config
    if "module" in layer.node:
        layer.node["module"] = "keras"
        for child in children:
            child |= {"module": "keras.layers", "registered_name": None}
        layer.node.pop("build_config", None)


def scale_all(first: int) -> Transform:
    """Multiply every array of a linear layer from number `first` on."""

    def transform(weights: list[Weight]) -> list[Weight]:
        return [
            weight if index < first else weight._replace(array=_scaled(weight.array))
            for index, weight in enumerate(weights)
        ]

    return transform


def scale_gates(gates: int, blocks: tuple[int, ...], path: str) -> Transform:
    """Multiply the columns of some gates in kernel, recurrent kernel and bias."""

    def transform(weights: list[Weight]) -> list[Weight]:
        out = []
        for weight in weights:
            columns = weight.array.shape[-1] if weight.array.ndim else 0
            if not columns or columns % gates:
                raise weights_fault(path, f"{gates} gates", [w.array.shape for w in weights])
            units = columns // gates
            array = weight.array.copy()
            for block in blocks:
                part = array[..., block * units : (block + 1) * units]
                part[...] = _scaled(part)
            out.append(weight._replace(array=array))
        return out

    return transform


def _scaled(array: NDArray[np.generic]) -> NDArray[np.generic]:
    import numpy as np

    scaled: NDArray[np.generic] = np.multiply(array, FACTOR, dtype=np.float64).astype(array.dtype)
    return scaled
