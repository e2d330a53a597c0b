"""Which convolution a kernel is the kernel of: what its layer does with it beside its layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orthwrap.model_config.layers import per_axis
from orthwrap.model_config.layout import Layout

_CONVOLUTIONS = ("conv", "conv_transpose", "pointwise", "depthwise", "conv_recurrent")


@dataclass(frozen=True)
class Convolution:
    """A convolution of `groups` groups; of a matrix, the one that has no spatial axes.

    Attributes:
        layout: how the kernel becomes matrices.
        strides: per spatial axis.
        spread: per spatial axis, the distance between taps where that and the stride are both
            above 1; with one of them 1, dilation does not change what this is for.
        groups: gates, heads and the channels of a depthwise kernel are groups here.
    """

    layout: Layout
    strides: tuple[int, ...]
    spread: tuple[int, ...]
    groups: int

    @classmethod
    def of(
        cls, layout: Layout, config: Mapping[str, Any], slot: str, shape: tuple[int, ...]
    ) -> Convolution:
        """That of a kernel.

        Args:
            layout: the kernel's own.
            config: of its layer.
            slot: which of the layer's; a pointwise or a recurrent kernel is used without stride.
            shape: of the kernel.
        """
        count = layout.matrices(shape)[0]
        if layout.name not in _CONVOLUTIONS:
            return cls(layout, (), (), count)
        strides = spread = (1,) * (len(shape) - 2)
        if slot not in ("pointwise", "recurrent"):
            strides, dilation = (
                per_axis(config.get(word, 1), len(strides)) or strides
                for word in ("strides", "dilation_rate")
            )
            spread = tuple(d if s > 1 else 1 for s, d in zip(strides, dilation, strict=True))
        return cls(layout, strides, spread, count)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of `kernel`, for a kernel of this shape."""
        if not self.strides:
            count, m, n = self.layout.matrices(shape)
            return m, count * n
        *sizes, channels, filters = shape
        taps = [d * (k - 1) + 1 for k, d in zip(sizes, self.spread, strict=True)]
        if self.layout.name == "depthwise":
            channels, filters = 1, channels * filters
        return (*taps, channels, filters)

    def kernel(self, kernel: NDArray[Any]) -> NDArray[Any]:
        """The kernel as (*k, in/groups, out), the last axis group-major; (m, out) for matrices."""
        shape = self.shape(kernel.shape)
        if not self.strides:
            matrices = self.layout.to_matrices(kernel, np)
            return np.asarray(np.moveaxis(matrices, 0, 1)).reshape(shape)
        spread = np.zeros(shape)
        steps = tuple(slice(None, None, d) for d in self.spread)
        spread[steps] = kernel.reshape((*kernel.shape[:-2], *shape[-2:]))
        return spread
