"""Small networks, as anybody would write them; each ends in a layer called `head`."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def deep_tanh(shape: tuple[int, ...], classes: int, *, initializer: str = "glorot_uniform") -> Any:
    """A hundred plain tanh layers of 16: neither skips nor normalisation."""
    deep = [
        layers.Dense(16, "tanh", kernel_initializer=initializer, name=f"deep{number:03}")
        for number in range(100)
    ]
    stem = [layers.Flatten(), layers.Dense(16, "tanh", name="stem")]
    return keras.Sequential([layers.Input(shape), *stem, *deep, head(classes)])


def mlp(shape: tuple[int, ...], classes: int) -> Any:
    """Three hidden ReLU layers of 64."""
    hidden = [layers.Dense(64, "relu", name=f"hidden{number}") for number in range(3)]
    return keras.Sequential([layers.Input(shape), layers.Flatten(), *hidden, head(classes)])


def vgg(shape: tuple[int, ...], classes: int) -> Any:
    """Three convolutions, the later two with stride 2, and a Dense layer."""
    body: list[Any] = [layers.Input(shape)]
    for number, (filters, strides) in enumerate(((16, 1), (32, 2), (32, 2))):
        body.append(
            layers.Conv2D(filters, 3, strides, "same", activation="relu", name=f"conv{number}")
        )
    body += [layers.Flatten(), layers.Dense(64, "relu", name="dense")]
    return keras.Sequential([*body, head(classes)])


def resnet(shape: tuple[int, ...], classes: int) -> Any:
    """A stem and three residual blocks with batch normalisation."""
    given = layers.Input(shape)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(given)
    for number, (filters, strides) in enumerate(((16, 1), (32, 2), (32, 2))):
        y = _normalised(x)
        skip = x
        if strides > 1 or filters != x.shape[-1]:
            skip = layers.Conv2D(filters, 1, strides, use_bias=False, name=f"skip{number}")(y)
        y = layers.Conv2D(filters, 3, strides, "same", use_bias=False, name=f"conv{number}a")(y)
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{number}b")(
            _normalised(y)
        )
        x = layers.Add()([skip, y])
    x = layers.GlobalAveragePooling2D()(_normalised(x))
    return keras.Model(given, head(classes)(x))


def mobilenet(shape: tuple[int, ...], classes: int) -> Any:
    """A stem and three depthwise-separable blocks with batch normalisation."""
    given = layers.Input(shape)
    x = _normalised(layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(given))
    for number, (filters, strides) in enumerate(((32, 1), (32, 2), (64, 2))):
        depthwise = layers.DepthwiseConv2D(
            3, strides, "same", use_bias=False, name=f"depthwise{number}"
        )
        x = _normalised(depthwise(x))
        x = _normalised(layers.Conv2D(filters, 1, use_bias=False, name=f"pointwise{number}")(x))
    return keras.Model(given, head(classes)(layers.GlobalAveragePooling2D()(x)))


def lstm(shape: tuple[int, ...], classes: int) -> Any:
    """One LSTM of 32; pictures are read row by row."""
    steps = [layers.Input(shape), layers.Reshape((shape[0], -1)), layers.LSTM(32, name="lstm")]
    return keras.Sequential([*steps, head(classes)])


def transformer(shape: tuple[int, ...], classes: int) -> Any:
    """Two blocks of attention over rows, width 32, four heads."""
    given = layers.Input(shape)
    x = layers.Dense(32, name="embed")(layers.Reshape((shape[0], -1))(given))
    places = layers.Embedding(shape[0], 32, name="places")(keras.ops.arange(shape[0]))
    x = x + places
    for number in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 8, name=f"attention{number}")(y, y)
        y = layers.Dense(64, "gelu", name=f"wide{number}")(layers.LayerNormalization()(x))
        x = x + layers.Dense(32, name=f"narrow{number}")(y)
    return keras.Model(given, head(classes)(layers.GlobalAveragePooling1D()(x)))


def head(classes: int) -> Any:
    """The last layer."""
    return layers.Dense(classes, "softmax", name="head")


def _normalised(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
