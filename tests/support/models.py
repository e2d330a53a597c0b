"""Small models that several tests share, one builder each; no weights are alike by accident."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

Builder = Callable[[], Any]


def randomized(model: Any, seed: int = 0) -> Any:
    """The model with every float weight drawn anew: zeros and ones hide a weight not copied."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "float" in keras.backend.standardize_dtype(variable.dtype):
            values = rng.uniform(0.1, 0.4, variable.shape) * rng.choice((-1, 1), variable.shape)
            is_variance = variable.path.endswith("variance")
            variable.assign(np.abs(values) if is_variance else values)
    return model


def dense() -> Any:
    """Two Dense layers, one of them wide."""
    return randomized(
        keras.Sequential(
            [
                layers.Input((6,)),
                layers.Dense(9, activation="relu", name="wide"),
                layers.Dense(3, activation="softmax", name="head"),
            ],
            name="small",
        )
    )


def convolutional() -> Any:
    """One of each kind of convolution, with the geometry that tells layouts apart."""
    x = inputs = layers.Input((8, 8, 4), name="image")
    x = layers.Conv2D(6, 3, padding="same", name="plain")(x)
    x = layers.Conv2D(6, 3, groups=3, padding="same", name="grouped")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="deep")(x)
    x = layers.SeparableConv2D(5, 3, padding="same", name="separable")(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, name="up")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(3, activation="softmax", name="head")(x)
    return randomized(keras.Model(inputs, outputs, name="convolutions"))


def nested() -> Any:
    """Functional in Sequential in Functional."""
    inner_in = layers.Input((8,), name="inner_in")
    inner_out = layers.Dense(5, name="deep", activation="tanh")(inner_in)
    inner = keras.Model(inner_in, inner_out, name="inner")
    middle = keras.Sequential(
        [layers.Input((6,)), layers.Dense(8, name="first"), inner, layers.Dense(4, name="last")],
        name="middle",
    )
    inputs = layers.Input((6,), name="x")
    outputs = layers.Dense(2, name="first")(middle(inputs))
    return randomized(keras.Model(inputs, outputs, name="outer"))


def shared() -> Any:
    """A layer used twice, in the model and within a submodel of it."""
    layer = layers.Dense(6, name="shared", activation="tanh")
    inner_in = layers.Input((6,), name="inner_in")
    inner = keras.Model(inner_in, layers.Dense(6, name="own")(layer(inner_in)), name="inner")
    inputs = layers.Input((6,), name="x")
    x = layers.Add(name="sum")([layer(inputs), inner(inputs), inner(layer(inputs))])
    return randomized(keras.Model(inputs, layers.Dense(2, name="head")(x), name="sharing"))


def shared_between_submodels() -> Any:
    """One layer in two submodels; it is no layer of the model itself."""
    layer = layers.Dense(6, name="shared", activation="tanh")
    inputs = layers.Input((6,), name="x")
    halves = []
    for name in ("left", "right"):
        half_in = layers.Input((6,), name=f"{name}_in")
        half = keras.Model(half_in, layers.Dense(4, name=f"{name}_own")(layer(half_in)), name=name)
        halves.append(half(inputs))
    return randomized(keras.Model(inputs, layers.Concatenate()(halves), name="siblings"))


def wrapped() -> Any:
    """TimeDistributed, Bidirectional with one config and with two, RNN of stacked cells."""
    x = inputs = layers.Input((5, 6), name="series")
    x = layers.TimeDistributed(layers.Dense(7, name="inner"), name="each")(x)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both")(x)
    x = layers.Bidirectional(
        layers.GRU(4, return_sequences=True, name="there"),
        backward_layer=layers.GRU(
            4, return_sequences=True, go_backwards=True, name="back", use_bias=False
        ),
        name="two",
    )(x)
    x = layers.RNN(
        layers.StackedRNNCells([layers.LSTMCell(5, name="low"), layers.GRUCell(3, name="high")]),
        return_sequences=True,
        name="stack",
    )(x)
    x = layers.SimpleRNN(4, name="simple")(x)
    return randomized(keras.Model(inputs, layers.Dense(2, name="head")(x), name="wrappers"))


def attention() -> Any:
    """Attention with embeddings before it and an EinsumDense after it."""
    tokens = layers.Input((7,), dtype="int32", name="tokens")
    x = layers.Embedding(11, 8, name="words")(tokens)
    x = layers.MultiHeadAttention(2, 3, value_dim=5, name="look")(x, x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 4), bias_axes="d", name="mix")(x)
    return randomized(keras.Model(tokens, x, name="attending"))


def many_ports() -> Any:
    """Inputs and outputs by name, in dicts."""
    inputs = {
        "left": layers.Input((4,), name="left"),
        "right": layers.Input((3, 5), name="right"),
    }
    a = layers.Dense(6, name="a")(inputs["left"])
    b = layers.Dense(6, name="b")(layers.Flatten(name="flat")(inputs["right"]))
    x = layers.Multiply(name="product")([a, b])
    outputs = {
        "kind": layers.Dense(3, activation="softmax", name="kind")(x),
        "size": layers.Dense(1, name="size")(x),
    }
    return randomized(keras.Model(inputs, outputs, name="ports"))


def float16() -> Any:
    """mixed_float16 throughout, one layer apart in float32 and one in bfloat16."""
    x = inputs = layers.Input((6,), name="x")
    x = layers.Dense(8, dtype="mixed_float16", name="mixed")(x)
    x = layers.Dense(5, dtype="float16", name="half")(x)
    x = layers.Dense(4, dtype="bfloat16", name="brain")(x)
    outputs = layers.Dense(2, dtype="float32", name="full")(x)
    return randomized(keras.Model(inputs, outputs, name="precision"))


def frozen_layers() -> Any:
    """A frozen layer, a frozen submodel, and layers that train."""
    model = nested()
    model.get_layer("middle").get_layer("inner").trainable = False
    model.get_layer("middle").get_layer("last").trainable = False
    return model


def frozen_model() -> Any:
    """A model frozen as a whole."""
    model = nested()
    model.trainable = False
    return model


def dropout() -> Any:
    """Layers that keep the state of their random numbers."""
    return randomized(
        keras.Sequential(
            [
                layers.Input((6,)),
                layers.GaussianNoise(0.3, name="noise"),
                layers.Dense(9, activation="relu", name="wide"),
                layers.Dropout(0.4, name="drop"),
                layers.BatchNormalization(name="norm"),
                layers.Dense(3, activation="softmax", name="head"),
            ],
            name="random",
        )
    )


def volumes() -> Any:
    """ConvLSTM and three-dimensional convolutions."""
    x = inputs = layers.Input((3, 6, 6, 2), name="film")
    x = layers.Conv3D(4, 2, padding="same", name="conv3")(x)
    x = layers.ConvLSTM2D(3, 2, padding="same", name="memory")(x)
    x = layers.Reshape((36, 3), name="row")(x)
    x = layers.Conv1D(4, 3, name="conv1")(x)
    return randomized(keras.Model(inputs, x, name="volumes"))


ALL: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        dense,
        convolutional,
        nested,
        shared,
        shared_between_submodels,
        wrapped,
        attention,
        many_ports,
        float16,
        frozen_layers,
        frozen_model,
        dropout,
        volumes,
    )
}


def inputs_for(model: Any, samples: int = 3, seed: int = 0) -> Any:
    """Random inputs in the model's own structure; small whole numbers where it takes those."""
    rng = np.random.default_rng(seed)
    graph = getattr(model, "_functional", None) or model

    def make(tensor: Any) -> Any:
        shape = (samples, *(2 if d is None else d for d in tensor.shape[1:]))
        if "int" in keras.backend.standardize_dtype(tensor.dtype):
            return rng.integers(0, 3, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(make, graph._inputs_struct)
