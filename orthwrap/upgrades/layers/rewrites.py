"""Rewrites of single layers, in the order in which they are tried, each with its vintage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orthwrap.upgrades.arrays import theano
from orthwrap.upgrades.layers import arguments, hard_sigmoid, old_classes, recurrent, states, values
from orthwrap.upgrades.layers.old_classes import application_layer
from orthwrap.upgrades.rewriting import OldLayer


@dataclass(frozen=True)
class Rewrite:
    """`apply` changes a layer's node and says how, or leaves it and gives None."""

    name: str
    vintage: str
    apply: Callable[[OldLayer], str | None]


LAYER_REWRITES = (
    Rewrite("class renamed", "Keras 1.0-1.2, tf.keras 1.13-2.0", old_classes.rename_class),
    Rewrite(
        "synchronized normalization", "tf.keras 2.2-2.12", old_classes.sync_batch_normalization
    ),
    Rewrite("thresholded ReLU", "Keras 1.0-2.15", old_classes.thresholded_relu),
    Rewrite("random size", "tf.keras 2.3-2.15", old_classes.random_size),
    Rewrite("class gone", "Keras 1.0-2.15", old_classes.refuse_gone),
    Rewrite("application's layer", "tf.keras 2.6-2.15", application_layer),
    Rewrite("build config", "Keras 2.12-2.15", old_classes.build_config),
    Rewrite("NumPy values", "Keras 2.1-2.3", values.plain_arrays),
    Rewrite("initializer dtype", "tf.keras 1.x-2.0", values.initializer_dtype),
    Rewrite("dtype policy", "tf.keras 2.1-2.15", values.dtype_policy),
    Rewrite("activation name", "tf.keras 1.13-2.0", values.old_activations),
    Rewrite("activation layer", "tf.keras 2.0-2.15", values.activation_layers),
    Rewrite("argument renamed", "Keras 1.0-2.15", arguments.rename_arguments),
    Rewrite("causal attention", "tf.keras 2.0-2.9", old_classes.attention_causal),
    Rewrite("attention score", "tf.keras 2.8-2.15", old_classes.attention_score),
    Rewrite("batch renormalization", "tf.keras 1.x-2.15", old_classes.batch_renormalization),
    Rewrite("axis as list", "tf.keras 1.x-2.15", values.axis_list),
    Rewrite("reset_after unsaid", "Keras 1.0-2.1.2", recurrent.gru_reset_before),
    Rewrite("backwards first", "Keras 1.0-2.15", recurrent.backwards_first),
    Rewrite("CuDNN layer", "Keras 2.1-2.3, tf.keras 1.x", recurrent.cudnn_layer),
    Rewrite("Theano kernels", "Keras 2.0-2.3 on Theano", theano.flip_kernels),
    Rewrite("hard_sigmoid", "Keras 1.0-2.15", hard_sigmoid.keep_old_values),
    Rewrite("random state", "tf.keras 2.5-2.8", states.random_state),
    Rewrite("argument retired", "Keras 1.0-2.15", arguments.drop_retired),
)


def rewrite_layer(layer: OldLayer) -> None:
    """Try every rewrite on a layer and note those that changed it."""
    for rewrite in LAYER_REWRITES:
        detail = rewrite.apply(layer)
        if detail is not None:
            layer.note(rewrite.name, rewrite.vintage, detail)
