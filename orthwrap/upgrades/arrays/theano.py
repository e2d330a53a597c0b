"""Kernels of models that were trained with Theano.

Theano's convolution turned its kernel by 180°, TensorFlow's does not. Keras 2 wrote the backend
into the file, and its loader reversed the kernels of convolutions on every spatial axis
(`preprocess_weights_for_loading` in keras-team/keras 2.0 to 2.3; it forgot Conv3DTranspose, which
turned its kernel like the others). Depthwise and separable convolutions did not run on Theano.
"""

from __future__ import annotations

from orthwrap.stores.edits import Weight
from orthwrap.upgrades.rewriting import OldLayer

_SPATIAL_AXES = {
    "Conv1D": 1,
    "Conv2D": 2,
    "Conv3D": 3,
    "Conv2DTranspose": 2,
    "Conv3DTranspose": 3,
    "ConvLSTM2D": 2,
}


def flip_kernels(layer: OldLayer) -> str | None:
    """Reverse a convolution's kernels on every spatial axis."""
    axes = _SPATIAL_AXES.get(layer.class_name)
    if axes is None or layer.run.backend != "theano" or layer.run.version < (2, 0):
        return None
    how_many = 2 if layer.class_name.startswith("ConvLSTM") else 1
    backwards = (slice(None, None, -1),) * axes

    def transform(weights: list[Weight]) -> list[Weight]:
        return [
            weight._replace(array=weight.array[backwards]) if index < how_many else weight
            for index, weight in enumerate(weights)
        ]

    layer.transforms.append(transform)
    return "kernels reversed"
