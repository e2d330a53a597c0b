"""From edits of single layers to edits of the arrays that a file keeps together.

A legacy file holds one list of arrays per top-level layer. A nested model's list is all its
trainable arrays, layer by layer, then all the others (`Layer.weights` of Keras 1 and 2), so an
edit of an inner layer must know how many arrays its neighbours have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orthwrap.errors import FileFault
from orthwrap.stores.edits import Transform, Weight
from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.rewriting import OldLayer, name_set


@dataclass(frozen=True)
class Arrays:
    """How many arrays a layer has in the file, trainable and not, and what to do to them.

    Counts are None for a class whose arrays are unknown.
    """

    path: str
    trainable: int | None
    fixed: int | None
    transform: Transform | None = None

    @property
    def total(self) -> int | None:
        """All arrays, None where unknown."""
        if self.trainable is None or self.fixed is None:
            return None
        return self.trainable + self.fixed

    def frozen(self) -> Arrays:
        """The same where `trainable` is false: none counts as trainable."""
        return Arrays(self.path, 0 if self.total is not None else None, self.total, self.transform)


def own_arrays(layer: OldLayer, count: tuple[int, int] | None) -> Arrays:
    """Arrays of a layer without inner layers."""
    transform = chain(layer.transforms) if layer.transforms else None
    trainable, fixed = count if count is not None else (None, None)
    return Arrays(layer.path, trainable, fixed, transform)


def chain(transforms: Sequence[Transform]) -> Transform:
    """One after the other."""
    steps = tuple(transforms)

    def transform(weights: list[Weight]) -> list[Weight]:
        for step in steps:
            weights = step(weights)
        return weights

    return transform


def in_a_row(path: str, parts: Sequence[Arrays]) -> Arrays:
    """Layers whose arrays follow one another: cells of an RNN, directions of Bidirectional."""
    totals = [part.total for part in parts]
    trainable = _sum([part.trainable for part in parts])
    fixed = _sum([part.fixed for part in parts])
    if all(part.transform is None for part in parts):
        return Arrays(path, trainable, fixed)
    if len(parts) == 1:
        return Arrays(path, trainable, fixed, parts[0].transform)

    def transform(weights: list[Weight]) -> list[Weight]:
        counts = _known(path, totals, parts, len(weights))
        out: list[Weight] = []
        start = 0
        for part, count in zip(parts, counts, strict=True):
            chunk = weights[start : start + count]
            out += part.transform(chunk) if part.transform and chunk else chunk
            start += count
        return out

    return Arrays(path, trainable, fixed, transform)


def nested_model(path: str, parts: Sequence[Arrays]) -> Arrays:
    """A model used as a layer: trainable arrays of all its layers, then the others."""
    trainable = _sum([part.trainable for part in parts])
    fixed = _sum([part.fixed for part in parts])
    if all(part.transform is None for part in parts):
        return Arrays(path, trainable, fixed)

    def transform(weights: list[Weight]) -> list[Weight]:
        if trainable is None or fixed is None or trainable + fixed != len(weights):
            raise _uncounted(path, parts, len(weights))
        first: list[Weight] = []
        last: list[Weight] = []
        start, later = 0, trainable
        for part in parts:
            ahead, behind = part.trainable or 0, part.fixed or 0
            chunk = weights[start : start + ahead] + weights[later : later + behind]
            start, later = start + ahead, later + behind
            if part.transform and chunk:
                chunk = part.transform(chunk)
                # An edit that changes the number of arrays keeps them on one side.
                ahead = len(chunk) - behind if ahead else 0
            first += chunk[:ahead]
            last += chunk[ahead:]
        return first + last

    return Arrays(path, trainable, fixed, transform)


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(count for count in counts if count is not None)


def _known(
    path: str, totals: Sequence[int | None], parts: Sequence[Arrays], found: int
) -> list[int]:
    """Counts of all parts; equal shares where none is known, as the two ways of Bidirectional."""
    if None in totals and found % len(totals) == 0:
        return [found // len(totals)] * len(totals)
    counts = [total for total in totals if total is not None]
    if len(counts) != len(totals) or sum(counts) != found:
        raise _uncounted(path, parts, found)
    return counts


def _uncounted(path: str, parts: Sequence[Arrays], found: int) -> FileFault:
    unknown = [part.path for part in parts if part.total is None]
    if unknown:
        return FileFault(
            f"model {path!r}: cannot tell which of its {found} weights belong to which layer, "
            f"because {unknown[0]!r} is of a class that orthwrap does not know; "
            "load it with its own Keras and save it again"
        )
    expected = sum(part.total or 0 for part in parts)
    return FileFault(
        f"model {path!r}: its layers have {expected} weights, the file holds {found}; "
        "the file's config and weights disagree"
    )


_WITHOUT_WEIGHTS = name_set(
    """InputLayer Activation ActivityRegularization Add Average Concatenate Dot Maximum Minimum
    Multiply Subtract Merge Identity Dropout AlphaDropout GaussianDropout GaussianNoise
    SpatialDropout1D SpatialDropout2D SpatialDropout3D AveragePooling1D AveragePooling2D
    AveragePooling3D MaxPooling1D MaxPooling2D MaxPooling3D GlobalAveragePooling1D
    GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D
    GlobalMaxPooling3D Cropping1D Cropping2D Cropping3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
    UpSampling1D UpSampling2D UpSampling3D Flatten Reshape Permute RepeatVector Masking ReLU
    LeakyReLU ELU Softmax ThresholdedReLU Lambda Rescaling Resizing CenterCrop Hashing
    UnitNormalization CategoryEncoding Discretization TFOpLambda SlicingOpLambda
    TensorFlowOpLayer"""
)
_KERNEL_AND_BIAS = name_set(
    """Dense Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose DepthwiseConv1D
    DepthwiseConv2D Convolution1D Convolution2D Convolution3D AtrousConvolution1D
    AtrousConvolution2D Deconvolution2D TimeDistributedDense LocallyConnected1D
    LocallyConnected2D"""
)
_TWO_AND_BIAS = name_set(
    """SeparableConv1D SeparableConv2D SeparableConvolution2D SimpleRNN GRU LSTM SimpleRNNCell
    GRUCell LSTMCell ConvLSTM1D ConvLSTM2D ConvLSTM3D CuDNNGRU CuDNNLSTM"""
)
_KERAS_1_GATES = {"LSTM": 4, "GRU": 3, "ConvLSTM2D": 4}


def count(class_name: str, config: Config, keras_1: bool) -> tuple[int, int] | None:
    """Trainable and other arrays that a built-in class keeps, from its old config."""
    bias = int(bool(config.get("use_bias", config.get("bias", True))))
    if class_name in _WITHOUT_WEIGHTS:
        return 0, 0
    if class_name in _KERNEL_AND_BIAS:
        return 1 + bias, 0
    if class_name in _TWO_AND_BIAS:
        if keras_1 and class_name in _KERAS_1_GATES and config.get("consume_less") != "gpu":
            return 3 * _KERAS_1_GATES[class_name], 0
        return 2 + bias, 0
    if class_name in {"Embedding", "PReLU"}:
        return 1, 0
    if class_name in {"LayerNormalization", "GroupNormalization", "BatchNormalization"}:
        trainable = int(bool(config.get("scale", True))) + int(bool(config.get("center", True)))
        return trainable, 2 if class_name == "BatchNormalization" else 0
    if class_name == "EinsumDense":
        return 1 + (config.get("bias_axes") is not None), 0
    if class_name == "MultiHeadAttention":
        return 4 * (1 + bias), 0
    if class_name in {"Attention", "AdditiveAttention"}:
        default = class_name == "AdditiveAttention"
        return int(bool(config.get("use_scale", default))), 0
    if class_name == "Normalization":
        return (0, 3) if config.get("mean") is None else (0, 0)
    return None


GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4, "ConvLSTM1D": 4, "ConvLSTM2D": 4, "ConvLSTM3D": 4}
