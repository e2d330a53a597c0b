"""Models of an older Keras, made with tf_keras: a script, because it must not meet Keras 3.

`python tests/support/vintages.py FOLDER GROUPS [NAME…]` writes, for each model, NAME.h5, NAME.keras
where it can be saved so, and NAME.npz with inputs x0… and the outputs y0… that tf_keras gives.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

Makers = dict[str, Callable[[], Any]]

# Groups whose models lie in a folder of their own inside FOLDER.
APART = {"folders", "compiled", "applications"}
# Folders that hold the traces of their layers too, as Keras 2 writes them unless told otherwise.
TRACED = {"folder_hard", "folder_graph", "folder_compiled"}


def words(text: str) -> list[str]:
    """Names written as prose."""
    return text.split()


def sequential_layers(k: Any) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """One layer each, and the shape of its input."""
    L = k.layers
    hard = "hard_sigmoid"
    image, series, flat = (8, 8, 3), (7, 4), (5,)
    return {
        "dense": (L.Dense(3, "relu"), flat),
        "dense_3d": (L.Dense(3, hard), series),
        "dense_no_bias": (L.Dense(3, hard, use_bias=False), flat),
        "dense_leaky": (L.Dense(3, activation=L.LeakyReLU(0.2)), flat),
        "dense_regularized": (
            L.Dense(3, kernel_regularizer=k.regularizers.L1L2(0.1, 0.2), bias_constraint="non_neg"),
            flat,
        ),
        "conv1d": (L.Conv1D(3, 2, dilation_rate=2, padding="causal"), series),
        "conv2d": (L.Conv2D(4, (3, 2), strides=2, padding="same", activation=hard), image),
        "conv2d_groups": (L.Conv2D(6, 3, groups=3), image),
        "conv3d": (L.Conv3D(2, 2), (4, 4, 4, 2)),
        "conv1d_transpose": (L.Conv1DTranspose(3, 3, strides=2, activation=hard), series),
        "conv2d_transpose": (L.Conv2DTranspose(3, 3, strides=2, padding="same"), image),
        "conv2d_transpose_out": (
            L.Conv2DTranspose(3, 3, strides=2, padding="same", output_padding=1),
            image,
        ),
        "conv3d_transpose": (L.Conv3DTranspose(3, 2, strides=2), (3, 3, 3, 2)),
        "depthwise1d": (L.DepthwiseConv1D(3, depth_multiplier=2), series),
        "depthwise2d": (L.DepthwiseConv2D(3, depth_multiplier=2, activation=hard), image),
        "separable1d": (L.SeparableConv1D(4, 3, activation=hard), series),
        "separable2d": (L.SeparableConv2D(4, 3, depth_multiplier=2, activation=hard), image),
        "einsum_dense": (
            L.EinsumDense("abc,cd->abd", output_shape=(None, 6), bias_axes="d"),
            series,
        ),
        "batch_norm": (L.BatchNormalization(), image),
        "batch_norm_axis": (L.BatchNormalization(axis=1, scale=False), series),
        "layer_norm": (L.LayerNormalization(), series),
        "layer_norm_axes": (L.LayerNormalization(axis=[1, 2]), series),
        "group_norm": (L.GroupNormalization(groups=2), (4, 4, 6)),
        "unit_norm": (L.UnitNormalization(axis=[1, 2]), series),
        "prelu": (L.PReLU(shared_axes=[1, 2]), image),
        "leaky_relu": (L.LeakyReLU(0.2), flat),
        "elu": (L.ELU(0.7), flat),
        "relu": (L.ReLU(max_value=0.6, negative_slope=0.1, threshold=0.1), flat),
        "thresholded_relu": (L.ThresholdedReLU(0.2), flat),
        "softmax_axes": (L.Softmax(axis=[1, 2]), series),
        "activation_hard": (L.Activation(hard), series),
        "activation_swish": (L.Activation("swish"), flat),
        "activation_gelu": (L.Activation("gelu"), flat),
        "activation_mish": (L.Activation("mish"), flat),
        "activation_exp": (L.Activation("exponential"), flat),
        "max_pool1d": (L.MaxPooling1D(2), series),
        "max_pool2d": (L.MaxPooling2D(2, padding="same", strides=1), image),
        "avg_pool2d": (L.AveragePooling2D(3, padding="same"), image),
        "avg_pool3d": (L.AveragePooling3D(2), (4, 4, 4, 2)),
        "global_avg1d": (L.GlobalAveragePooling1D(), series),
        "global_avg2d": (L.GlobalAveragePooling2D(keepdims=True), image),
        "global_max2d": (L.GlobalMaxPooling2D(), image),
        "zero_pad1d": (L.ZeroPadding1D((1, 2)), series),
        "zero_pad2d": (L.ZeroPadding2D(((1, 0), (0, 2))), image),
        "crop1d": (L.Cropping1D((1, 2)), series),
        "crop2d": (L.Cropping2D(((1, 0), (0, 2))), image),
        "upsample1d": (L.UpSampling1D(2), series),
        "upsample2d": (L.UpSampling2D((2, 3), interpolation="bilinear"), image),
        "upsample3d": (L.UpSampling3D(2), (2, 2, 2, 2)),
        "flatten": (L.Flatten(), image),
        "reshape": (L.Reshape((-1, 6)), image),
        "permute": (L.Permute((2, 1)), series),
        "repeat": (L.RepeatVector(3), flat),
        "masking": (L.Masking(0.0), series),
        "dropout": (L.Dropout(0.3, noise_shape=(None, 1)), flat),
        "alpha_dropout": (L.AlphaDropout(0.3), flat),
        "spatial_dropout1d": (L.SpatialDropout1D(0.3), series),
        "spatial_dropout2d": (L.SpatialDropout2D(0.3), image),
        "gaussian_noise": (L.GaussianNoise(0.3), flat),
        "gaussian_dropout": (L.GaussianDropout(0.3), flat),
        "activity": (L.ActivityRegularization(0.1, 0.2), flat),
        "rescaling": (L.Rescaling(0.5, offset=1.0), image),
        "resizing": (L.Resizing(5, 6), image),
        "center_crop": (L.CenterCrop(5, 6), image),
        "normalization": (L.Normalization(axis=-1), flat),
        "normalization_given": (L.Normalization(mean=0.2, variance=2.0), flat),
        "random_flip": (L.RandomFlip("horizontal"), image),
        "random_rotation": (L.RandomRotation(0.2), image),
        "random_zoom": (L.RandomZoom(0.2), image),
        "random_translation": (L.RandomTranslation(0.2, 0.1), image),
        "random_contrast": (L.RandomContrast(0.2), image),
        "random_crop": (L.RandomCrop(8, 8), image),
        "random_width": (L.RandomWidth(0.2), image),
        "random_brightness": (L.RandomBrightness(0.2), image),
        "lstm": (L.LSTM(4), series),
        "lstm_hard": (L.LSTM(4, recurrent_activation=hard, return_sequences=True), series),
        "lstm_hard_both": (L.LSTM(4, activation=hard, recurrent_activation=hard), series),
        "lstm_options": (L.LSTM(4, use_bias=False, go_backwards=True, unroll=True), series),
        "gru": (L.GRU(4), series),
        "gru_before": (L.GRU(4, reset_after=False), series),
        "gru_hard": (L.GRU(4, recurrent_activation=hard), series),
        "gru_hard_both": (L.GRU(4, activation=hard, recurrent_activation=hard), series),
        "gru_hard_before": (
            L.GRU(4, activation=hard, recurrent_activation=hard, reset_after=False),
            series,
        ),
        "simple_rnn": (L.SimpleRNN(4), series),
        "simple_rnn_hard": (L.SimpleRNN(4, activation=hard), series),
        "stateful": (L.GRU(4), series),
        "rnn_cell": (L.RNN(L.LSTMCell(4, recurrent_activation=hard)), series),
        "rnn_gru_cell": (L.RNN(L.GRUCell(4, recurrent_activation=hard)), series),
        "rnn_stacked": (
            L.RNN([L.GRUCell(4, recurrent_activation=hard), L.LSTMCell(3), L.SimpleRNNCell(2)]),
            series,
        ),
        "bidirectional": (L.Bidirectional(L.GRU(4, recurrent_activation=hard)), series),
        "bidirectional_two": (
            L.Bidirectional(
                L.LSTM(4, return_sequences=True),
                backward_layer=L.LSTM(
                    4, return_sequences=True, go_backwards=True, recurrent_activation=hard
                ),
                merge_mode="sum",
            ),
            series,
        ),
        "time_distributed": (L.TimeDistributed(L.Conv2D(2, 3, activation=hard)), (3, 8, 8, 2)),
        "time_distributed_model": (
            L.TimeDistributed(
                k.Sequential([k.Input((8, 8, 2)), L.Conv2D(2, 3, activation=hard), L.Flatten()])
            ),
            (3, 8, 8, 2),
        ),
        "time_distributed_functional": (
            L.TimeDistributed(_small_functional(k, (8, 8, 2))),
            (3, 8, 8, 2),
        ),
        "bidirectional_time": (
            L.TimeDistributed(L.Bidirectional(L.LSTM(3, recurrent_activation=hard))),
            (3, 5, 2),
        ),
        "conv_lstm1d": (L.ConvLSTM1D(3, 3), (4, 8, 2)),
        "conv_lstm2d": (L.ConvLSTM2D(3, 3, return_sequences=True), (4, 8, 8, 2)),
        "conv_lstm2d_sig": (L.ConvLSTM2D(3, 3, recurrent_activation="sigmoid"), (4, 8, 8, 2)),
        "identity": (L.Identity(), flat),
        "conv2d_transpose_valid": (L.Conv2DTranspose(3, 2, strides=3), image),
        "conv2d_transpose_dilated": (L.Conv2DTranspose(3, 3, dilation_rate=2), image),
        "conv1d_transpose_same": (L.Conv1DTranspose(3, 4, strides=3, padding="same"), series),
        "depthwise2d_dilated": (L.DepthwiseConv2D(3, dilation_rate=2, padding="same"), image),
        "depthwise2d_strides": (L.DepthwiseConv2D((3, 2), strides=2, padding="same"), image),
        "separable2d_dilated": (L.SeparableConv2D(4, 3, dilation_rate=2), image),
        "flatten_first": (L.Flatten(data_format="channels_first"), image),
        "pad_first": (L.ZeroPadding2D(1, data_format="channels_first"), image),
        "upsample_first": (L.UpSampling2D(2, data_format="channels_first"), image),
        "global_first": (L.GlobalAveragePooling2D(data_format="channels_first"), image),
        "conv1d_transpose_valid": (L.Conv1DTranspose(3, 2, strides=3), series),
        "max_pool3d": (L.MaxPooling3D(2, padding="same"), (5, 4, 4, 2)),
        "gru_masked": (
            k.Sequential([L.Masking(0.0), L.GRU(3, reset_after=False, return_sequences=True)]),
            series,
        ),
        "lstm_sequences_back": (L.LSTM(3, go_backwards=True, return_sequences=True), series),
        "layer_norm_plain": (L.LayerNormalization(center=False, epsilon=1e-6), image),
        "batch_norm_plain": (L.BatchNormalization(center=False, momentum=0.5), series),
        "hard_wide": (
            L.Dense(
                3,
                hard,
                kernel_initializer=k.initializers.VarianceScaling(
                    2.0, "fan_in", "untruncated_normal"
                ),
            ),
            flat,
        ),
        "variance_normal": (
            L.Dense(
                3,
                kernel_initializer={
                    "class_name": "VarianceScaling",
                    "config": {
                        "scale": 1.0,
                        "mode": "fan_avg",
                        "distribution": "normal",
                        "seed": None,
                    },
                },
            ),
            flat,
        ),
    }


def _small_functional(k: Any, shape: tuple[int, ...]) -> Any:
    x = k.Input(shape)
    y = k.layers.Conv2D(3, 3, name="inner_conv")(x)
    y = k.layers.BatchNormalization()(y)
    return k.Model(x, k.layers.GlobalAveragePooling2D()(y))


def functional_models(k: Any) -> Makers:
    """Graphs: merges, sharing, nesting, names, states, masks."""
    L = k.layers

    def masked_both() -> Any:
        x = k.Input((6,), dtype="int32")
        y = L.Embedding(10, 4, mask_zero=True)(x)
        y = L.Bidirectional(L.LSTM(3, return_sequences=True))(y)
        y = L.Bidirectional(L.GRU(3, go_backwards=True), merge_mode="ave")(y)
        return k.Model(x, y)

    def dots() -> Any:
        a, b = k.Input((3, 4)), k.Input((5, 4))
        return k.Model([a, b], [L.Dot((2, 2))([a, b]), L.Dot(-1, normalize=True)([a, b])])

    def lists() -> Any:
        x = k.Input((4,))
        y = L.Dense(2)(x)
        return k.Model([x], [y])

    def deep() -> Any:
        def block(size: int) -> Any:
            i = k.Input((size,))
            return k.Model(i, L.Dense(size, "hard_sigmoid")(L.BatchNormalization()(i)))

        x = k.Input((4,))
        inner = k.Sequential([k.Input((4,)), block(4), L.Dense(3), block(3)])
        y = inner(block(4)(x))
        return k.Model(x, [y, L.Dense(2)(y)])

    def two_outputs() -> Any:
        i = k.Input((4,))
        inner = k.Model(i, [L.Dense(2)(i), L.Dense(3)(i)], name="pair")
        x = k.Input((4,))
        one, two = inner(x)
        return k.Model(x, [two, L.Dense(1)(one)])

    def merges() -> Any:
        a, b = k.Input((4,)), k.Input((4,))
        outs = [
            layer([a, b])
            for layer in (
                L.Add(),
                L.Subtract(),
                L.Multiply(),
                L.Average(),
                L.Maximum(),
                L.Minimum(),
                L.Concatenate(),
                L.Dot(1),
                L.Dot(1, normalize=True),
            )
        ]
        return k.Model([a, b], L.Concatenate()(outs))

    def shared() -> Any:
        a, b = k.Input((4,)), k.Input((4,))
        d = L.Dense(3, name="shared")
        return k.Model([a, b], [d(a), L.Add()([d(b), d(a)])])

    def nested(kind: str) -> Callable[[], Any]:
        def make() -> Any:
            x = k.Input((8, 8, 3), name="image")
            if kind == "sequential":
                inner = k.Sequential(
                    [k.Input((8, 8, 3)), L.Conv2D(2, 3), L.BatchNormalization(), L.Flatten()]
                )
            else:
                inner = _small_functional(k, (8, 8, 3))
            y = inner(x)
            z = inner(L.Activation("relu")(x)) if kind == "twice" else y
            return k.Model(x, L.Dense(2)(L.Concatenate()([y, z])))

        return make

    def nested_output() -> Any:
        x = k.Input((8, 8, 3))
        return k.Model(x, _small_functional(k, (8, 8, 3))(x))

    def nested_sequential_output() -> Any:
        x = k.Input((4,))
        return k.Model(x, k.Sequential([k.Input((4,)), L.Dense(2)])(x))

    def nested_frozen() -> Any:
        inner = _small_functional(k, (8, 8, 3))
        inner.get_layer("inner_conv").trainable = False
        whole = k.Sequential([k.Input((8, 8, 3)), inner, L.Dense(3, "hard_sigmoid")])
        other = k.Sequential([k.Input((3,)), L.Dense(3), L.Dense(2, "hard_sigmoid")])
        other.trainable = False
        whole.add(other)
        return whole

    def nested_recurrent() -> Any:
        inner = k.Sequential(
            [
                k.Input((7, 4)),
                L.BatchNormalization(),
                L.Bidirectional(L.GRU(3, recurrent_activation="hard_sigmoid")),
                L.Dense(4, "hard_sigmoid"),
                L.BatchNormalization(),
            ]
        )
        x = k.Input((7, 4))
        return k.Model(x, L.Dense(2)(inner(x)))

    def two_inputs_nested() -> Any:
        a, b = k.Input((4,)), k.Input((4,))
        inner = k.Model([a, b], [L.Add()([a, b]), L.Dense(2)(a)])
        c, d = k.Input((4,)), k.Input((4,))
        y, z = inner([c, d])
        return k.Model([c, d], [z, L.Dense(3)(y)])

    def dict_inputs() -> Any:
        a, b = k.Input((4,), name="a"), k.Input((4,), name="b")
        return k.Model({"a": a, "b": b}, L.Dense(2)(L.Concatenate()([a, b])))

    def slashes() -> Any:
        x = k.Input((8, 8, 3))
        y = L.Conv2D(2, 3, name="block/conv")(x)
        y = L.BatchNormalization(name="block/conv/bn")(y)
        z = L.Conv2D(2, 3, name="block_conv")(x)
        y = L.Add(name="a/b")([y, z])
        return k.Model(x, L.Dense(2, name="head/logits")(L.Flatten()(y)), name="net/one")

    def nested_slashes() -> Any:
        x = k.Input((4,))
        inner = k.Model(x, L.Dense(2, name="in/dense")(x), name="sub/model")
        y = k.Input((4,))
        return k.Model(y, L.Dense(2, name="out/dense")(inner(y)))

    def encoder_decoder() -> Any:
        source, target = k.Input((6, 3)), k.Input((5, 3))
        _, h, c = L.LSTM(4, return_state=True)(source)
        y = L.LSTM(4, return_sequences=True)(target, initial_state=[h, c])
        _, g = L.GRU(4, return_state=True)(source)
        z = L.GRU(4, return_sequences=True)(target, initial_state=g)
        return k.Model([source, target], L.Dense(2)(L.Concatenate()([y, z])))

    def bidirectional_state() -> Any:
        source, target = k.Input((6, 3)), k.Input((5, 3))
        _, *states = L.Bidirectional(L.LSTM(4, return_state=True))(source)
        y = L.Bidirectional(L.LSTM(4, return_sequences=True))(target, initial_state=states)
        return k.Model([source, target], L.Dense(2)(y))

    def attention() -> Any:
        q, v = k.Input((6, 8)), k.Input((5, 8))
        a = L.MultiHeadAttention(2, 4)(q, v)
        b = L.MultiHeadAttention(2, 4, value_dim=3, use_bias=False)(q, value=v, key=v)
        c = L.Attention(use_scale=True)([q, v])
        d = L.AdditiveAttention()([q, v])
        return k.Model([q, v], L.Concatenate()([a, b, c, d]))

    def self_attention() -> Any:
        x = k.Input((6, 8))
        y = L.MultiHeadAttention(2, 4, attention_axes=(1,))(x, x, use_causal_mask=True)
        return k.Model(x, L.LayerNormalization()(L.Add()([x, y])))

    def embedding_mask() -> Any:
        x = k.Input((6,), dtype="int32")
        y = L.Embedding(10, 4, mask_zero=True, input_length=6)(x)
        y = L.LSTM(3, return_sequences=True, recurrent_activation="hard_sigmoid")(y)
        return k.Model(x, L.TimeDistributed(L.Dense(2))(y))

    def explicit_mask() -> Any:
        x = k.Input((6, 3))
        m = k.Input((6,), dtype="bool")
        return k.Model([x, m], L.GRU(3)(x, mask=m))

    def training_flag() -> Any:
        x = k.Input((4,))
        return k.Model(x, L.BatchNormalization()(L.Dropout(0.5)(x, training=False), training=False))

    def mixed() -> Any:
        x = k.Input((4,))
        policy = k.mixed_precision.Policy("mixed_bfloat16")
        return k.Model(x, L.Dense(2, dtype="float32")(L.Dense(3, dtype=policy)(x)))

    def hard_branches() -> Any:
        x = k.Input((4,))
        a = L.Dense(4, name="one")(x)
        b = L.Dense(4, name="two")(L.Activation("hard_sigmoid")(a))
        c = L.Multiply()([a, L.Activation("hard_sigmoid")(L.Dense(4, name="three")(x))])
        return k.Model(x, L.Add()([b, c]))

    def deferred() -> Any:
        model = k.Sequential([L.Dense(3), L.Dense(2, "hard_sigmoid")])
        model.build((None, 4))
        return model

    def nested_first() -> Any:
        return k.Sequential(
            [k.Sequential([L.Dense(3, input_shape=(4,))]), k.Sequential([L.Dense(2)])]
        )

    def preprocessing() -> Any:
        x = k.Input((3,))
        y = L.Discretization([0.2, 0.5, 0.8])(x)
        return k.Model(x, L.CategoryEncoding(4, output_mode="multi_hot")(y))

    return {
        "masked_both": masked_both,
        "dots": dots,
        "lists": lists,
        "deep": deep,
        "two_outputs": two_outputs,
        "merges": merges,
        "shared": shared,
        "nested_functional": nested("functional"),
        "nested_sequential": nested("sequential"),
        "nested_twice": nested("twice"),
        "nested_output": nested_output,
        "nested_sequential_output": nested_sequential_output,
        "nested_frozen": nested_frozen,
        "nested_recurrent": nested_recurrent,
        "two_inputs_nested": two_inputs_nested,
        "dict_inputs": dict_inputs,
        "slashes": slashes,
        "nested_slashes": nested_slashes,
        "encoder_decoder": encoder_decoder,
        "bidirectional_state": bidirectional_state,
        "attention": attention,
        "self_attention": self_attention,
        "embedding_mask": embedding_mask,
        "explicit_mask": explicit_mask,
        "training_flag": training_flag,
        "mixed": mixed,
        "hard_branches": hard_branches,
        "deferred": deferred,
        "nested_first": nested_first,
        "preprocessing": preprocessing,
    }


def operation_models(k: Any) -> Makers:
    """TensorFlow operations on Keras tensors."""
    import tensorflow as tf

    def on(shape: tuple[int, ...], function: Callable[[Any], Any]) -> Callable[[], Any]:
        def make() -> Any:
            x = k.Input(shape)
            return k.Model(x, function(k.layers.Dense(shape[-1], activation="sigmoid")(x)))

        return make

    def pair(function: Callable[[Any, Any], Any]) -> Callable[[], Any]:
        def make() -> Any:
            a, b = k.Input((3, 4)), k.Input((3, 4))
            return k.Model([a, b], function(a, b))

        return make

    s = (3, 4)
    image = (6, 6, 2)
    return {
        "op_arithmetic": on(s, lambda x: (2.0 - x) / 3.0 + x * 0.5 - 1.0 / (x + 1.0)),
        "op_power": on(s, lambda x: x**2 + tf.sqrt(x) + tf.square(x) - tf.math.rsqrt(x + 1.0)),
        "op_negative": on(s, lambda x: tf.abs(-x) + tf.exp(x) + tf.math.log(x + 1.0)),
        "op_pair": pair(lambda a, b: a + b * a - a / (b + 2.0)),
        "op_maximum": pair(lambda a, b: tf.maximum(a, b) - tf.minimum(a, 0.3)),
        "op_reduce": on(
            s,
            lambda x: (
                tf.reduce_mean(x, axis=1, keepdims=True)
                + tf.reduce_sum(x, 1, True)
                - tf.reduce_max(x, axis=[1], keepdims=True)
            ),
        ),
        "op_reduce_all": on(s, lambda x: tf.reduce_mean(x, axis=[1, 2])),
        "op_slice": on(s, lambda x: x[:, 0] + x[:, -1] + x[:, 1, :]),
        "op_slice_ellipsis": on(s, lambda x: x[..., 1:3]),
        "op_newaxis": on(s, lambda x: x[:, tf.newaxis]),
        "op_slice_step": on(s, lambda x: x[:, ::2]),
        "op_reshape": on(s, lambda x: tf.reshape(x, [-1, 12])),
        "op_transpose": on(s, lambda x: tf.transpose(x, perm=[0, 2, 1])),
        "op_expand": on(s, lambda x: tf.squeeze(tf.expand_dims(x, 1), axis=[1])),
        "op_concat": pair(lambda a, b: tf.concat([a, b], axis=-1)),
        "op_concat_one": pair(lambda a, b: tf.concat([a], axis=-1) + b),
        "op_stack": pair(lambda a, b: tf.stack([a, b], axis=1)),
        "op_split": on(s, lambda x: tf.split(x, 2, axis=-1)),
        "op_split_sizes": on(s, lambda x: tf.split(x, [1, 3], axis=-1)),
        "op_tile": on(s, lambda x: tf.tile(x, [1, 2, 1])),
        "op_repeat": on(s, lambda x: tf.repeat(x, 2, axis=1)),
        "op_cast": on(s, lambda x: tf.cast(tf.cast(x * 3.0, "int32"), tf.float32)),
        "op_clip": on(s, lambda x: tf.clip_by_value(x, 0.3, 0.6)),
        "op_pad": on(s, lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 0]], constant_values=0.5)),
        "op_pad_reflect": on(s, lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 0]], mode="REFLECT")),
        "op_matmul": pair(lambda a, b: tf.matmul(a, tf.transpose(b, [0, 2, 1]))),
        "op_activations": on(
            s,
            lambda x: (
                tf.nn.relu(x - 0.5)
                + tf.nn.relu6(x * 9.0)
                + tf.nn.sigmoid(x)
                + tf.nn.tanh(x)
                + tf.nn.softmax(x, axis=1)
                + tf.nn.leaky_relu(x - 0.5)
                + tf.nn.elu(x - 0.5)
                + tf.nn.selu(x)
                + tf.nn.gelu(x)
                + tf.nn.silu(x)
                + tf.nn.softplus(x)
                + tf.nn.softsign(x)
                + tf.nn.log_softmax(x)
            ),
        ),
        "op_keras_activations": on(
            s,
            lambda x: (
                k.activations.relu(x - 0.5, alpha=0.1, max_value=0.4)
                + k.activations.sigmoid(x)
                + k.activations.tanh(x)
            ),
        ),
        "op_backend": on(
            s,
            lambda x: (
                k.backend.mean(x, axis=1, keepdims=True)
                + k.backend.sum(x, axis=-1, keepdims=True)
                + k.backend.abs(x)
                + k.backend.expand_dims(x, 1)[:, 0]
                + k.backend.l2_normalize(x, axis=-1)
                + k.backend.square(x)
            ),
        ),
        "op_l2": on(s, lambda x: tf.math.l2_normalize(x, axis=-1)),
        "op_where": on(s, lambda x: tf.where(x > 0.5, x, -x)),
        "op_compare": on(s, lambda x: tf.cast(tf.logical_and(x > 0.4, x <= 0.6), "float32")),
        "op_resize": on(image, lambda x: tf.image.resize(x, [9, 7])),
        "op_resize_nearest": on(image, lambda x: tf.image.resize(x, [9, 7], method="nearest")),
        "op_depth": on((4, 4, 4), lambda x: tf.nn.depth_to_space(x, 2)),
        "op_space": on((4, 4, 4), lambda x: tf.nn.space_to_depth(x, 2)),
        "op_gather": on(s, lambda x: tf.gather(x, [2, 0], axis=1)),
        "op_one_hot": on(s, lambda x: tf.one_hot(tf.argmax(x, axis=-1), 4)),
        "op_cumsum": on(s, lambda x: tf.cumsum(x, axis=1)),
        "op_reverse": on(s, lambda x: tf.reverse(x, axis=[1])),
        "op_std": on(s, lambda x: tf.math.reduce_std(x, axis=1) + tf.math.reduce_variance(x, 1)),
        "op_identity": on(s, lambda x: tf.stop_gradient(tf.identity(x)) + tf.zeros_like(x)),
        "op_add_n": pair(lambda a, b: tf.add_n([a, b, a])),
        "op_round": on(s, lambda x: tf.round(x * 5.0) + tf.floor(x * 5.0) + tf.sign(x - 0.5)),
        "op_mod": on(s, lambda x: (x * 7.0) % 2.0 + (x * 7.0) // 2.0),
    }


def application_models(k: Any) -> Makers:
    """A small member of each family of `tf_keras.applications`, without its top.

    Where a family says how deep and how wide, each of its blocks is there but not many times.
    """
    from tf_keras.src import applications as src

    a, r = k.applications, src.resnet
    small: dict[str, Any] = {"include_top": False, "weights": None}

    def of(make: Any, *given: Any, size: int = 64, **more: Any) -> Callable[[], Any]:
        return lambda: make(*given, input_shape=(size, size, 3), **{**small, **more})

    def inception_resnet() -> Any:
        """An eighth of its filters, and the first and the last of its blocks of each kind."""
        whole = src.inception_resnet_v2
        convolution, block = whole.conv2d_bn, whole.inception_resnet_block

        def thin(x: Any, filters: int, *given: Any, use_bias: bool = False, **more: Any) -> Any:
            filters = filters if use_bias else filters // 8  # with a bias it leads back to x
            return convolution(x, filters, *given, use_bias=use_bias, **more)

        def few(x: Any, *, block_idx: int, **more: Any) -> Any:
            return block(x, block_idx=block_idx, **more) if block_idx in (1, 10) else x

        whole.conv2d_bn, whole.inception_resnet_block = thin, few
        return a.InceptionResNetV2(input_shape=(96, 96, 3), **small)

    def stacks(stack: Any) -> Callable[[Any], Any]:
        return lambda x: stack(stack(x, 8, 2, stride1=1, name="conv2"), 16, 2, name="conv3")

    filters = [8, 16, 24, 32]
    groups = [{"input_filters": 8, "num_repeats": 2}, {"input_filters": 16, "num_repeats": 1}]
    thin = {"width_coefficient": 0.35, "depth_coefficient": 0.3, "default_size": 64}
    cells = {"num_blocks": 1, "penultimate_filters": 96, "stem_block_filters": 8}
    return {
        "app_convnext": of(src.convnext.ConvNeXt, [1, 2, 1, 1], filters),
        "app_densenet": of(src.densenet.DenseNet, [2, 1, 1, 1]),
        "app_efficientnet": of(src.efficientnet.EfficientNet, **thin),
        "app_efficientnet_v2": of(
            src.efficientnet_v2.EfficientNetV2, **thin, model_name="efficientnetv2-b0"
        ),
        "app_inception_resnet": inception_resnet,
        "app_inception": of(a.InceptionV3, size=96),
        "app_mobilenet": of(a.MobileNet, alpha=0.25),
        "app_mobilenet_v2": of(a.MobileNetV2, alpha=0.35),
        "app_mobilenet_v3_small": of(a.MobileNetV3Small),
        "app_mobilenet_v3_large": of(a.MobileNetV3Large),
        "app_nasnet": of(src.nasnet.NASNet, **cells, skip_reduction=False),
        "app_regnet_x": of(src.regnet.RegNet, [1, 1, 2, 1], filters, 8, "X", 64),
        "app_regnet_y": of(src.regnet.RegNet, [1, 1, 2, 1], filters, 8, "Y", 64),
        "app_resnet": of(r.ResNet, stacks(r.stack1), False, True),
        "app_resnet_v2": of(r.ResNet, stacks(r.stack2), True, True),
        "app_resnet_rs": of(src.resnet_rs.ResNetRS, 50, block_args=groups),
        "app_vgg16": of(a.VGG16),
        "app_xception": of(a.Xception, size=96),
    }


def cudnn_models(k: Any) -> Makers:
    """Models whose files are turned into what CuDNN layers wrote; see `as_cudnn`."""
    L = k.layers

    def of(*layers: Any) -> Callable[[], Any]:
        return lambda: k.Sequential([k.Input((7, 4)), *layers])

    def nested() -> Any:
        inner = k.Sequential([k.Input((7, 4)), L.BatchNormalization(), L.LSTM(3)])
        x = k.Input((7, 4))
        return k.Model(x, L.Dense(2)(inner(x)))

    return {
        "cudnn_gru": of(L.GRU(5, return_sequences=True), L.GRU(3)),
        "cudnn_lstm": of(L.LSTM(5, go_backwards=True)),
        "cudnn_both": of(L.Bidirectional(L.GRU(5, return_sequences=True)), L.Dense(2)),
        "cudnn_both_lstm": of(L.Bidirectional(L.LSTM(5), merge_mode="mul")),
        "cudnn_nested": nested,
    }


def folder_models(k: Any) -> Makers:
    """Models that are saved as SavedModel folders."""
    L = k.layers

    def hard() -> Any:
        return k.Sequential(
            [
                k.Input((7, 4)),
                L.Bidirectional(L.GRU(3, recurrent_activation="hard_sigmoid")),
                L.Dense(2, "hard_sigmoid"),
            ]
        )

    def graph() -> Any:
        x = k.Input((8, 8, 3))
        y = _small_functional(k, (8, 8, 3))(x / 2.0)
        return k.Model(x, L.Dense(2, name="head/logits")(y))

    def layers() -> Any:
        """One of each kind of layer that keeps arrays."""
        x = k.Input((6, 6, 4))
        shared = L.Conv2D(4, 3, padding="same", name="shared")
        y = L.BatchNormalization()(L.Add()([shared(x), shared(shared(x))]))
        y = L.SeparableConv2D(4, 3, depth_multiplier=2, padding="same")(y)
        y = L.DepthwiseConv2D(3, padding="same")(y)
        y = L.Conv2DTranspose(4, 3, padding="same", activation="relu")(y)
        y = L.PReLU(shared_axes=[1, 2])(L.GroupNormalization(2)(y))
        y = L.ConvLSTM1D(4, 3, padding="same", return_sequences=True)(y)
        y = L.Reshape((36, 4))(L.LayerNormalization()(y))
        y = L.MultiHeadAttention(2, 3, value_dim=2)(y, y)
        y = L.Attention(use_scale=True)([y, y])
        y = L.EinsumDense("abc,cd->abd", output_shape=(None, 4), bias_axes="d")(y)
        y = L.Bidirectional(L.LSTM(3, return_sequences=True))(y)
        y = L.TimeDistributed(L.Dense(3))(y)
        y = L.RNN([L.GRUCell(3), L.LSTMCell(2), L.SimpleRNNCell(2)], return_sequences=True)(y)
        y = L.GRU(3, reset_after=False)(y)
        return k.Model(x, L.Dense(2, kernel_regularizer="l2")(y))

    def sequential() -> Any:
        return k.Sequential(
            [
                k.Input((4,)),
                L.Normalization(),
                L.Dense(3, "relu"),
                L.BatchNormalization(scale=False),
                L.Dropout(0.5),
                L.Dense(2),
            ]
        )

    def deferred() -> Any:
        model = k.Sequential([L.Dense(3), L.Dense(2)])
        model.build((None, 4))
        return model

    def embedded() -> Any:
        x = k.Input((6,), dtype="int32")
        return k.Model(x, L.LSTM(3)(L.Embedding(10, 4, mask_zero=True)(x)))

    def compiled() -> Any:
        model = sequential()
        model.compile("adam", "mse", ["mae"])
        return model

    graphs = functional_models(k)
    nested = ("shared", "deep", "nested_twice", "nested_frozen", "two_inputs_nested", "slashes")
    return {
        "folder_hard": hard,
        "folder_graph": graph,
        "folder_layers": layers,
        "folder_sequential": sequential,
        "folder_deferred": deferred,
        "folder_embedded": embedded,
        "folder_compiled": compiled,
        **{f"folder_{name}": graphs[name] for name in nested},
    }


def compiled_models(k: Any) -> Makers:
    """Models with optimizers, losses and metrics of all sorts."""

    def of(optimizer: Any, loss: Any, metrics: Any = None, outputs: int = 1) -> Callable[[], Any]:
        def make() -> Any:
            x = k.Input((4,))
            ys = [k.layers.Dense(3, "softmax", name=f"out/{i}")(x) for i in range(outputs)]
            model = k.Model(x, ys if outputs > 1 else ys[0])
            model.compile(optimizer(), loss, metrics)
            return model

        return make

    o, old, los, met = k.optimizers, k.optimizers.legacy, k.losses, k.metrics
    accuracy = ["accuracy", met.AUC(name="auc"), met.Precision(), "mae", "cosine_similarity"]
    made = {
        f"compiled_{cls.lower()}": of(getattr(o, cls), "mse", ["mae"])
        for cls in words("SGD RMSprop Adagrad Adadelta Adam AdamW Adamax Nadam Ftrl Adafactor Lion")
    }
    made |= {
        f"compiled_old_{cls.lower()}": of(
            lambda cls=cls: getattr(old, cls)(0.1, decay=0.01), "mean_absolute_error"
        )
        for cls in words("SGD RMSprop Adagrad Adadelta Adam Adamax Nadam Ftrl")
    }
    losses = {
        "crossentropy": los.CategoricalCrossentropy(label_smoothing=0.1),
        "binary": los.BinaryCrossentropy(from_logits=True),
        "huber": los.Huber(delta=0.5),
        "cosine": los.CosineSimilarity(),
        "sum": los.MeanSquaredError(reduction="sum"),
        "focal": los.BinaryFocalCrossentropy(gamma=3.0),
        **{
            name: name
            for name in [
                "kld",
                "mae",
                "mape",
                "msle",
                "poisson",
                "hinge",
                "squared_hinge",
                "categorical_hinge",
                "logcosh",
                "log_cosh",
                "cosine_similarity",
                "kullback_leibler_divergence",
                "binary_crossentropy",
                "categorical_crossentropy",
                "huber",
            ]
        },
    }
    made |= {f"compiled_{name}": of(o.Adam, loss, accuracy) for name, loss in losses.items()}
    schedule = o.schedules.CosineDecay(0.1, 100)
    made["compiled_schedule"] = of(lambda: o.Adam(schedule, clipnorm=1.0), "mse", accuracy)
    made["compiled_two"] = of(
        o.SGD, {"out/0": "mse", "out/1": "kld"}, {"out/0": "mae", "out/1": ["accuracy"]}, 2
    )
    made["compiled_two_list"] = of(o.SGD, ["mse", los.KLDivergence()], [["mae"], ["mse"]], 2)
    made["compiled_more"] = of(
        o.SGD,
        "mse",
        [
            met.TopKCategoricalAccuracy(2),
            met.MeanIoU(2),
            met.RootMeanSquaredError(),
            met.Recall(thresholds=[0.2, 0.5]),
            met.PrecisionAtRecall(0.5),
            met.LogCoshError(),
            met.F1Score(),
            los.mean_squared_error,
        ],
    )
    return made


def as_cudnn(path: Path) -> None:
    """Turn GRU and LSTM of a file into CuDNN layers, weights by tf_keras's own converter."""
    import json

    import h5py
    from tf_keras.src.saving.legacy.hdf5_format import _convert_rnn_weights

    kept = {"name", "trainable", "dtype", "batch_input_shape", "units", "return_sequences"}
    kept |= {"return_state", "go_backwards", "stateful", "kernel_initializer"}
    found: list[str] = []

    def change(node: Any) -> Any:
        if isinstance(node, list):
            return [change(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {key: change(value) for key, value in node.items()}
        if node.get("class_name") in {"GRU", "LSTM"}:
            node["class_name"] = f"CuDNN{node['class_name']}"
            node["config"] = {k: v for k, v in node["config"].items() if k in kept}
            node.pop("module", None)
            found.append(node["class_name"])
        return node

    with h5py.File(path, "r+") as file:
        config = json.dumps(change(json.loads(file.attrs["model_config"])))
        del file.attrs["model_config"]
        file.attrs["model_config"] = config
        group = file["model_weights"]
        for layer in group.attrs["layer_names"]:
            inner = group[layer]
            names = list(inner.attrs["weight_names"])
            places = [i for i, name in enumerate(names) if name.endswith("recurrent_kernel:0")]
            for place in places:
                trio = names[place - 1 : place + 2]
                arrays = [inner[name][()] for name in trio]
                gates = arrays[0].shape[1] // arrays[1].shape[0]
                target = type("CuDNNGRU" if gates == 3 else "CuDNNLSTM", (), {})()
                for name, array in zip(trio, _convert_rnn_weights(target, arrays), strict=True):
                    del inner[name]
                    inner[name] = array
    assert found


def makers(k: Any, group: str) -> Makers:
    """The models of one group."""
    if group == "layers":
        out: Makers = {}
        for name, (layer, shape) in sequential_layers(k).items():
            out[name] = lambda layer=layer, shape=shape: k.Sequential([k.Input(shape), layer])
        return out
    if group == "functional":
        return functional_models(k)
    if group == "operations":
        return operation_models(k)
    if group == "cudnn":
        return cudnn_models(k)
    if group == "folders":
        return folder_models(k)
    if group == "compiled":
        return compiled_models(k)
    return application_models(k)


def main(folder: Path, groups: list[str], only: list[str]) -> None:
    """Write every model of the groups."""
    import numpy as np
    import tf_keras as k

    rng = np.random.default_rng(0)
    for group in groups:
        place = folder / (group if group in APART else "")
        place.mkdir(parents=True, exist_ok=True)
        for name, make in makers(k, group).items():
            if only and name not in only:
                continue
            k.backend.clear_session()
            k.utils.set_random_seed(1)
            model = make()
            model.set_weights([_values(rng, w) for w in model.weights])
            inputs = model.inputs if isinstance(model.inputs, list) else [model.inputs]
            arrays = [_inputs(rng, x) for x in inputs]
            if name == "folder_compiled":  # so that optimizer and metrics have a state
                model.fit(arrays[0], np.zeros((2, 2)), verbose=0)
            names = getattr(model, "input_names", [])
            fed = dict(zip(names, arrays, strict=True)) if name == "dict_inputs" else arrays
            outputs = model(fed if len(arrays) > 1 else arrays[0], training=False)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            data = {f"x{i}": array for i, array in enumerate(arrays)}
            data |= {f"y{i}": np.asarray(array, "float32") for i, array in enumerate(outputs)}
            if group == "folders":
                data |= {f"w{i}": np.asarray(w) for i, w in enumerate(model.weights)}
            if group == "compiled":
                model.run_eagerly = True  # tracing would take most of the time
                targets = [np.eye(3, dtype="float32")[[0, 2]] for _ in outputs]
                model.train_on_batch(arrays[0], targets if len(targets) > 1 else targets[0])
                outputs = model(arrays[0])
                outputs = outputs if isinstance(outputs, list) else [outputs]
                data |= {f"y{i}": np.asarray(array) for i, array in enumerate(outputs)}
                found = model.evaluate(arrays[0], targets, verbose=0, return_dict=True)
                data["loss"] = np.asarray(found["loss"])
            np.savez(place / f"{name}.npz", **data)
            if group == "folders":
                # Traces take ten times longer than all else, and nobody reads them here.
                model.save(place / name, save_format="tf", save_traces=name in TRACED)
                continue
            model.save(place / f"{name}.h5")
            if group == "cudnn":
                as_cudnn(place / f"{name}.h5")
            elif group != "applications":
                try:
                    model.save(place / f"{name}.keras")
                except Exception as err:  # tf_keras could not always
                    print(f"{name}: no .keras ({err})")


def _values(rng: Any, weight: Any) -> Any:
    """Random values of the weight's type; variances and scales positive."""
    shape = tuple(weight.shape)
    if "int" in str(weight.dtype):
        return rng.integers(1, 5, shape)
    if "variance" in weight.name or "gamma" in weight.name:
        return rng.uniform(0.5, 1.5, shape)
    fan = max(1.0, float(_product(shape[:-1]))) if len(shape) > 1 else 1.0
    return rng.standard_normal(shape, "float32") / fan**0.5


def _product(shape: tuple[int, ...]) -> int:
    out = 1
    for size in shape:
        out *= size
    return out


def _inputs(rng: Any, tensor: Any) -> Any:
    shape = (2, *tensor.shape[1:])
    if "int" in str(tensor.dtype):
        return rng.integers(0, 5, shape).astype("int32")
    if "bool" in str(tensor.dtype):
        mask = rng.integers(0, 2, shape).astype(bool)
        mask[:, 0] = True
        return mask
    return rng.normal(size=shape).astype("float32")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:])
