"""Kernels as batches of matrices: the axes by hand, and back again for every shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthwrap.errors import ValueFault
from orthwrap.model_config.layers import LAYER_TYPES, attention_layout, layout_by_rank
from orthwrap.model_config.layout import Layout, across_channels, conv_layout


def layout_of(cls: str, shape: tuple[int, ...], slot: int = 0, **config: object) -> Layout:
    made = LAYER_TYPES[cls].kernels[slot].layout(config, shape)
    assert isinstance(made, Layout), made
    return made


SHAPES = [
    # class, spec, config, kernel shape, (count, m, n)
    ("Dense", 0, {}, (7, 5), (1, 7, 5)),
    ("Conv1D", 0, {}, (3, 4, 8), (1, 12, 8)),
    ("Conv2D", 0, {}, (3, 3, 4, 8), (1, 36, 8)),
    ("Conv2D", 0, {"groups": 2}, (3, 3, 2, 8), (2, 18, 4)),
    ("Conv2D", 0, {"groups": 8}, (3, 3, 1, 8), (8, 9, 1)),
    ("Conv3D", 0, {}, (2, 3, 1, 4, 8), (1, 24, 8)),
    ("Conv1DTranspose", 0, {}, (3, 8, 4), (1, 24, 4)),
    ("Conv2DTranspose", 0, {}, (2, 2, 8, 4), (1, 32, 4)),
    ("Conv3DTranspose", 0, {}, (2, 2, 2, 8, 4), (1, 64, 4)),
    ("DepthwiseConv1D", 0, {}, (3, 6, 2), (6, 3, 2)),
    ("DepthwiseConv2D", 0, {}, (3, 3, 6, 2), (6, 9, 2)),
    ("SeparableConv1D", 0, {}, (3, 6, 1), (6, 3, 1)),
    ("SeparableConv2D", 0, {}, (3, 3, 6, 2), (6, 9, 2)),
    ("SeparableConv2D", 1, {}, (1, 1, 12, 5), (1, 12, 5)),
    ("EinsumDense", 0, {"equation": "abc,cd->abd"}, (6, 5), (1, 6, 5)),
    ("EinsumDense", 0, {"equation": "...x,xy->...y"}, (6, 5), (1, 6, 5)),
    ("EinsumDense", 0, {"equation": "abc,cde->abde"}, (6, 5, 4), (1, 6, 20)),
    ("EinsumDense", 0, {"equation": "abcd,cde->abe"}, (6, 5, 4), (1, 30, 4)),
    ("EinsumDense", 0, {"equation": "bhi,hio->bho"}, (3, 6, 5), (3, 6, 5)),
    ("SimpleRNN", 0, {}, (6, 5), (1, 6, 5)),
    ("LSTM", 0, {}, (6, 20), (4, 6, 5)),
    ("LSTM", 1, {}, (5, 20), (4, 5, 5)),
    ("GRUCell", 0, {}, (6, 15), (3, 6, 5)),
    ("ConvLSTM2D", 0, {}, (3, 3, 2, 20), (4, 18, 5)),
    ("ConvLSTM2D", 1, {}, (3, 3, 5, 20), (4, 45, 5)),
    ("MultiHeadAttention", 0, {}, (12, 3, 4), (3, 12, 4)),
    ("MultiHeadAttention", 3, {}, (12, 3, 4), (3, 12, 4)),  # its gate
    ("MultiHeadAttention", 4, {}, (3, 4, 12), (3, 4, 12)),
    ("Embedding", 0, {}, (100, 8), (1, 100, 8)),
]


@pytest.mark.parametrize(("cls", "spec", "config", "shape", "matrices"), SHAPES)
def test_every_layer_has_the_matrices_of_the_table(cls, spec, config, shape, matrices) -> None:
    layout = layout_of(cls, shape, spec, **config)
    kernel = np.random.default_rng(0).normal(size=shape)
    assert layout.matrices(shape) == matrices
    assert layout.to_matrices(kernel, np).shape == matrices


@pytest.mark.parametrize(("cls", "spec", "config", "shape", "matrices"), SHAPES)
def test_there_and_back_is_the_kernel(cls, spec, config, shape, matrices) -> None:
    layout = layout_of(cls, shape, spec, **config)
    kernel = np.random.default_rng(0).normal(size=shape)
    back = layout.from_matrices(layout.to_matrices(kernel, np), shape, np)
    np.testing.assert_array_equal(back, kernel)


@pytest.mark.parametrize(("cls", "spec", "config", "shape", "matrices"), SHAPES)
def test_a_layout_survives_its_config(cls, spec, config, shape, matrices) -> None:
    layout = layout_of(cls, shape, spec, **config)
    assert Layout.from_config(layout.to_config()) == layout


@given(
    k=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    channels=st.integers(1, 4),
    filters=st.integers(1, 4),
    groups=st.integers(1, 4),
)
def test_groups_split_the_output_axis(k, channels, filters, groups) -> None:
    """Matrix g holds what a convolution of group g alone would."""
    shape = (*k, channels, filters * groups)
    kernel = np.arange(np.prod(shape), dtype=float).reshape(shape)
    layout = conv_layout(len(shape), groups=groups)
    matrices = layout.to_matrices(kernel, np)
    for g in range(groups):
        own = kernel[..., g * filters : (g + 1) * filters].reshape(-1, filters)
        np.testing.assert_array_equal(matrices[g], own)
    np.testing.assert_array_equal(layout.from_matrices(matrices, shape, np), kernel)


def test_a_depthwise_kernel_is_one_matrix_per_channel() -> None:
    kernel = np.arange(3 * 3 * 4 * 2, dtype=float).reshape(3, 3, 4, 2)
    matrices = layout_of("DepthwiseConv2D", kernel.shape).to_matrices(kernel, np)
    for c in range(4):
        np.testing.assert_array_equal(matrices[c], kernel[:, :, c, :].reshape(9, 2))


def test_across_channels_a_depthwise_kernel_is_one_matrix() -> None:
    kernel = np.arange(3 * 3 * 4 * 2, dtype=float).reshape(3, 3, 4, 2)
    layout = across_channels(layout_of("DepthwiseConv2D", kernel.shape))
    np.testing.assert_array_equal(layout.to_matrices(kernel, np)[0], kernel.reshape(9, 8))


def test_the_four_kernels_of_attention_are_told_apart_by_shape() -> None:
    layout = attention_layout([(12, 3, 4)] * 3, (3, 4, 12))
    assert isinstance(layout, Layout)
    assert layout.matrices((12, 3, 4)) == (3, 12, 4)
    assert layout.matrices((3, 4, 12)) == (3, 4, 12)
    assert Layout.from_config(layout.to_config()) == layout


def test_attention_whose_shapes_coincide_has_no_layout() -> None:
    reason = attention_layout([(4, 4, 4)] * 3, (4, 4, 4))
    assert isinstance(reason, str)
    assert "shape" in reason


@pytest.mark.parametrize(
    ("shape", "config", "matrices"),
    [
        ((6, 5), {}, (1, 6, 5)),
        ((3, 4, 8), {}, (1, 12, 8)),
        ((3, 3, 2, 8), {"groups": 4}, (4, 18, 2)),
        ((2, 2, 2, 3, 4), {}, (1, 24, 4)),
    ],
)
def test_an_unknown_class_goes_by_rank(shape, config, matrices) -> None:
    layout = layout_by_rank(config, shape)
    assert isinstance(layout, Layout)
    assert layout.matrices(shape) == matrices


@pytest.mark.parametrize("shape", [(), (5,), (1, 1, 1, 1, 1, 1)])
def test_a_rank_without_a_layout_says_so(shape) -> None:
    assert isinstance(layout_by_rank({}, shape), str)


@pytest.mark.parametrize("shape", [(3, 3, 2, 7), (3, 3, 8), (3, 3, 2, 2, 8), (0, 3, 2, 8)])
def test_a_shape_the_layout_does_not_describe_is_named(shape) -> None:
    layout = conv_layout(4, groups=4)
    with pytest.raises(ValueFault, match="conv") as caught:
        layout.to_matrices(np.zeros(shape), np)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"name": "conv", "rows": [0], "columns": [0]},
        {"name": "conv", "rows": [0], "columns": [2]},
        {"name": "conv", "rows": ["a"], "columns": [1]},
        {"name": "conv", "rows": [0], "columns": [1], "parts": 0},
        {"name": "conv", "rows": None, "columns": [1]},
    ],
)
def test_a_broken_layout_config_is_refused(config) -> None:
    with pytest.raises(ValueFault, match="layout"):
        Layout.from_config(config)
