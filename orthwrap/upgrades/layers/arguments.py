"""Arguments that Keras 3 no longer takes, or takes under another name.

`ACCEPTED` is what the constructors of Keras 3's layers take (3.15; the same names since 3.0),
without the five that every layer takes. An argument outside it is dropped where its value says
nothing, and is an error where it would change what the layer computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orthwrap.upgrades.rewriting import OldLayer

EVERY_LAYER = frozenset({"name", "dtype", "trainable", "autocast", "activity_regularizer"})
# These constructors of Keras 3 take less than every other layer's does.
_ONLY_NAME_AND_TYPE = frozenset(
    {"Discretization", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"}
)

_TABLE = """
Activation: activation
ActivityRegularization: l1 l2
Add Average Identity Maximum Minimum Multiply Subtract:
AdditiveAttention Attention: dropout score_mode seed use_scale
AlphaDropout Dropout: noise_shape rate seed
AveragePooling1D AveragePooling2D AveragePooling3D MaxPooling1D MaxPooling2D MaxPooling3D:
    data_format padding pool_size strides
BatchNormalization: axis beta_constraint beta_initializer beta_regularizer center epsilon
    gamma_constraint gamma_initializer gamma_regularizer momentum moving_mean_initializer
    moving_variance_initializer scale synchronized
Bidirectional: backward_layer layer merge_mode
CategoryEncoding: num_tokens output_mode sparse
CenterCrop: data_format factor height width
Concatenate Softmax UnitNormalization: axis
Conv1D Conv2D Conv3D: activation bias_constraint bias_initializer bias_regularizer data_format
    dilation_rate filters groups kernel_constraint kernel_initializer kernel_regularizer
    kernel_size padding strides use_bias
Conv1DTranspose Conv2DTranspose Conv3DTranspose: activation bias_constraint bias_initializer
    bias_regularizer data_format dilation_rate filters kernel_constraint kernel_initializer
    kernel_regularizer kernel_size output_padding padding strides use_bias
ConvLSTM1D ConvLSTM2D ConvLSTM3D: activation bias_constraint bias_initializer bias_regularizer
    data_format dilation_rate dropout filters go_backwards kernel_constraint kernel_initializer
    kernel_regularizer kernel_size padding recurrent_activation recurrent_constraint
    recurrent_dropout recurrent_initializer recurrent_regularizer return_sequences return_state
    seed stateful strides unit_forget_bias unroll use_bias
Cropping1D: cropping
Cropping2D Cropping3D: cropping data_format
Dense: activation bias_constraint bias_initializer bias_regularizer kernel_constraint
    kernel_initializer kernel_regularizer units use_bias
DepthwiseConv1D DepthwiseConv2D: activation bias_constraint bias_initializer bias_regularizer
    data_format depth_multiplier depthwise_constraint depthwise_initializer
    depthwise_regularizer dilation_rate kernel_size padding strides use_bias
Discretization: bin_boundaries epsilon num_bins output_mode sparse
Dot: axes normalize
ELU: alpha
EinsumDense: activation bias_axes bias_constraint bias_initializer bias_regularizer equation
    kernel_constraint kernel_initializer kernel_regularizer output_shape
Embedding: embeddings_constraint embeddings_initializer embeddings_regularizer input_dim
    mask_zero output_dim
Flatten: data_format
GRU: activation bias_constraint bias_initializer bias_regularizer dropout go_backwards
    kernel_constraint kernel_initializer kernel_regularizer recurrent_activation
    recurrent_constraint recurrent_dropout recurrent_initializer recurrent_regularizer
    reset_after return_sequences return_state seed stateful units unroll use_bias
GRUCell: activation bias_constraint bias_initializer bias_regularizer dropout kernel_constraint
    kernel_initializer kernel_regularizer recurrent_activation recurrent_constraint
    recurrent_dropout recurrent_initializer recurrent_regularizer reset_after seed units
    use_bias
GaussianDropout SpatialDropout1D: rate seed
GaussianNoise: seed stddev
GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D
    GlobalMaxPooling2D GlobalMaxPooling3D: data_format keepdims
GroupNormalization: axis beta_constraint beta_initializer beta_regularizer center epsilon
    gamma_constraint gamma_initializer gamma_regularizer groups scale
HashedCrossing: num_bins output_mode sparse
Hashing: mask_value num_bins output_mode salt sparse
InputLayer: batch_shape optional ragged sparse
IntegerLookup: idf_weights invert mask_token max_tokens num_oov_indices oov_token output_mode
    pad_to_max_tokens salt sparse vocabulary vocabulary_dtype
LSTM: activation bias_constraint bias_initializer bias_regularizer dropout go_backwards
    kernel_constraint kernel_initializer kernel_regularizer recurrent_activation
    recurrent_constraint recurrent_dropout recurrent_initializer recurrent_regularizer
    return_sequences return_state seed stateful unit_forget_bias units unroll use_bias
LSTMCell: activation bias_constraint bias_initializer bias_regularizer dropout kernel_constraint
    kernel_initializer kernel_regularizer recurrent_activation recurrent_constraint
    recurrent_dropout recurrent_initializer recurrent_regularizer seed unit_forget_bias units
    use_bias
LayerNormalization: axis beta_constraint beta_initializer beta_regularizer center epsilon
    gamma_constraint gamma_initializer gamma_regularizer scale
LeakyReLU: negative_slope
Masking: mask_value
MultiHeadAttention: attention_axes bias_constraint bias_initializer bias_regularizer dropout
    kernel_constraint kernel_initializer kernel_regularizer key_dim num_heads output_shape seed
    use_bias value_dim
Normalization: axis invert mean variance
PReLU: alpha_constraint alpha_initializer alpha_regularizer shared_axes
Permute: dims
RNN: cell go_backwards return_sequences return_state stateful unroll
RandomBrightness RandomContrast: data_format factor seed value_range
RandomCrop: data_format factor height seed width
RandomFlip: data_format factor mode seed
RandomRotation: data_format factor fill_mode fill_value interpolation seed
RandomTranslation RandomZoom: data_format factor fill_mode fill_value height_factor
    interpolation seed width_factor
ReLU: max_value negative_slope threshold
RepeatVector: n
Rescaling: offset scale
Reshape: target_shape
Resizing: antialias crop_to_aspect_ratio data_format factor fill_mode fill_value height
    interpolation pad_to_aspect_ratio width
SeparableConv1D SeparableConv2D: activation bias_constraint bias_initializer bias_regularizer
    data_format depth_multiplier depthwise_constraint depthwise_initializer
    depthwise_regularizer dilation_rate filters kernel_size padding pointwise_constraint
    pointwise_initializer pointwise_regularizer strides use_bias
SimpleRNN: activation bias_constraint bias_initializer bias_regularizer dropout go_backwards
    kernel_constraint kernel_initializer kernel_regularizer recurrent_constraint
    recurrent_dropout recurrent_initializer recurrent_regularizer return_sequences return_state
    seed stateful units unroll use_bias
SimpleRNNCell: activation bias_constraint bias_initializer bias_regularizer dropout
    kernel_constraint kernel_initializer kernel_regularizer recurrent_constraint
    recurrent_dropout recurrent_initializer recurrent_regularizer seed units use_bias
SpatialDropout2D SpatialDropout3D: data_format rate seed
SpectralNormalization: layer power_iterations
StackedRNNCells: cells
StringLookup: encoding idf_weights invert mask_token max_tokens num_oov_indices oov_token
    output_mode pad_to_max_tokens salt sparse vocabulary vocabulary_dtype
TextVectorization: encoding idf_weights max_tokens ngrams output_mode output_sequence_length
    pad_to_max_tokens ragged sparse split standardize vocabulary
TimeDistributed: layer
UpSampling1D: size
UpSampling2D: data_format interpolation size
UpSampling3D: data_format size
ZeroPadding1D ZeroPadding2D ZeroPadding3D: data_format padding
"""


def _read_table(text: str) -> dict[str, frozenset[str]]:
    table: dict[str, frozenset[str]] = {}
    for line in text.replace("\n    ", " ").strip().splitlines():
        names, _, arguments = line.partition(":")
        for name in names.split():
            table[name] = frozenset(arguments.split())
    return table


ACCEPTED = _read_table(_TABLE)


def _anything(_: Any) -> bool:
    return True


# Arguments whose value never reaches the result: hints to an older runtime, or a repetition of
# what the graph already says. `kernel_*` of depthwise and separable layers were inherited from
# Conv and never used; keras-team/keras v2.3 to v2.15 wrote them.
_WITHOUT_EFFECT: dict[str, Callable[[Any], bool]] = {
    "batch_input_shape": _anything,
    "input_shape": _anything,
    "batch_size": _anything,
    "input_dtype": _anything,
    "input_length": _anything,
    "implementation": _anything,
    "dynamic": _anything,
    "fused": _anything,
    "virtual_batch_size": lambda value: value is None,
    "adjustment": lambda value: value is None,
    "renorm_clipping": _anything,
    "renorm_momentum": _anything,
    "rng_type": _anything,
    "force_generator": _anything,
    "num_constants": lambda value: not value,
    "experimental_autocast": _anything,
    "_jit_compile": _anything,
    "trainable": _anything,
    "autocast": _anything,
}
_PER_CLASS: dict[str, dict[str, Callable[[Any], bool]]] = {
    name: dict.fromkeys(
        ("kernel_initializer", "kernel_regularizer", "kernel_constraint", "filters"), _anything
    )
    for name in ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D")
}
_ONE = (1, [1], None)
for _name in (*_PER_CLASS, "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"):
    _PER_CLASS.setdefault(_name, {})["groups"] = lambda value: value in _ONE
for _name in ("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"):
    # Inherited from Dropout; the layer computes its own.
    _PER_CLASS[_name] = {"noise_shape": _anything}
for _name in ("GRU", "LSTM", "SimpleRNN", "RNN", "Bidirectional"):
    # Keras 1 wrote the input's width beside its length.
    _PER_CLASS.setdefault(_name, {})["input_dim"] = _anything
_PER_CLASS["Dense"] = {"input_dim": _anything}
_PER_CLASS["MultiHeadAttention"] = dict.fromkeys(
    ("query_shape", "key_shape", "value_shape"), _anything
)
_PER_CLASS["TextVectorization"] = {"vocabulary_size": _anything}
_PER_CLASS["StringLookup"] = {"vocabulary_size": _anything}
_PER_CLASS["IntegerLookup"] = {"vocabulary_size": _anything}

# What these layers take beside the table, and means the same in Keras 3.
_ALSO_TAKEN: dict[str, frozenset[str]] = {
    name: frozenset({"vocabulary_size", "has_input_vocabulary", "vocabulary_dtype"})
    for name in ("TextVectorization", "StringLookup", "IntegerLookup")
}
# Keras 3's InputLayer reads its old name.
_ALSO_TAKEN["InputLayer"] = frozenset({"batch_input_shape"})


def drop_retired(layer: OldLayer) -> str | None:
    """Remove what Keras 3's constructor would refuse; an error where that would change values."""
    accepted = ACCEPTED.get(layer.class_name)
    if accepted is None:
        return None
    config = layer.config
    also = _ALSO_TAKEN.get(layer.class_name, frozenset())
    common = EVERY_LAYER
    if layer.class_name in _ONLY_NAME_AND_TYPE:
        common = frozenset({"name", "dtype"})
    retired = [key for key in config if key not in accepted | common | also]
    harmless = {**_WITHOUT_EFFECT, **_PER_CLASS.get(layer.class_name, {})}
    for key in retired:
        value = config[key]
        if value is None or value is False or harmless.get(key, _says_nothing)(value):
            del config[key]
            continue
        raise layer.fault(
            f"argument {key}={_short(value)} has no counterpart in Keras 3",
            "load the model with its own Keras and save it without that argument",
        )
    return ", ".join(retired) if retired else None


def _says_nothing(value: Any) -> bool:
    return bool(value == [] or value == {} or value == "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# class → old name → new name. LeakyReLU's `alpha` is taken by some Keras 3 versions, with a
# warning; ThresholdedReLU is gone and is ReLU with a threshold.
_RENAMED: dict[str, dict[str, str]] = {
    "LeakyReLU": {"alpha": "negative_slope"},
    "CategoryEncoding": {"max_tokens": "num_tokens"},
    "Discretization": {"bins": "bin_boundaries"},
}


def rename_arguments(layer: OldLayer) -> str | None:
    """Old names of arguments that mean the same."""
    done = []
    config = layer.config
    for old, new in _RENAMED.get(layer.class_name, {}).items():
        if old in config:
            value = config.pop(old)
            config.setdefault(new, value)
            done.append(f"{old} is now {new}")
    return ", ".join(done) or None
