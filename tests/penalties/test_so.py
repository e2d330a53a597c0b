"""The sketch of `so`."""

from __future__ import annotations

import pytest

from tests.penalties.oracles import assert_sketch_gradient, assert_sketch_is_unbiased

# Keras itself triggers this on tensors of some NumPy and backend versions.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.mark.parametrize("shape", [(1, 9, 5), (2, 5, 9)], ids=str)
def test_sketch_gradient_agrees_with_autodiff(shape: tuple[int, int, int]) -> None:
    assert_sketch_gradient("so", shape)


@pytest.mark.parametrize("shape", [(1, 24, 12), (2, 10, 20)], ids=str)
def test_sketch_is_unbiased(shape: tuple[int, int, int]) -> None:
    assert_sketch_is_unbiased("so", shape)
