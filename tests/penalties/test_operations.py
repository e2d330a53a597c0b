"""How many operations a penalty takes, loss and gradient: on an accelerator they are its cost."""

from __future__ import annotations

from typing import Any

import pytest
from keras import ops

import orthwrap
from tests.support.operations import BACKEND, kernel_of, one_liner, operations

# As ResNet-50's are mixed: 23 of 54 kernels have a smaller side of at most 128.
SHAPES = [
    *[(3, 3, 4, 32), (1, 1, 64, 16), (1, 1, 16, 64)],
    *[(1, 1, 140, 150), (150, 130), (3, 3, 20, 160)],
]
# Of the one-liner's.
LIMITS: dict[str, tuple[dict[str, Any], float]] = {
    "so": ({}, 0.8),
    "so, preserve": ({"scale": "preserve", "alpha": 0.7}, 0.8),
    "so, auto": ({"estimate": "auto", "probes": 40}, 1.0),
    "so, sketch": ({"estimate": "sketch"}, 1.3),
    "offdiag": ({}, 1.0),
    "frobenius": ({}, 1.0),
    "srip": ({}, 1.5),
}


@pytest.mark.skipif(BACKEND != "torch", reason="dispatches each operation")
@pytest.mark.parametrize("name", LIMITS)
def test_pytorch_dispatches_few(name: str) -> None:
    words, limit = LIMITS[name]
    made = [orthwrap.regularizer(name.partition(",")[0], 0.1, **words) for _ in SHAPES]
    assert operations(made, SHAPES) <= limit * operations([one_liner] * len(SHAPES), SHAPES)


@pytest.mark.skipif(BACKEND != "torch", reason="dispatches each operation")
def test_a_step_left_out_dispatches_next_to_nothing() -> None:
    made = [orthwrap.SO(0.1, every=10**6) for _ in SHAPES]
    assert operations(made, SHAPES) <= 3


@pytest.mark.skipif(BACKEND == "torch", reason="makes no graph")
@pytest.mark.parametrize("words", [{}, {"scale": "preserve", "alpha": 0.7}], ids=str)
def test_a_graph_has_few(words: dict[str, Any]) -> None:
    made = [orthwrap.SO(0.1, **words) for _ in SHAPES]
    assert operations(made, SHAPES) <= operations([one_liner] * len(SHAPES), SHAPES)


def test_no_kernel_is_divided_by_its_scale() -> None:
    """What α costs is no pass over the weights, and is right also where α⁴ leaves float32."""
    w = kernel_of((30, 8)) / 6
    for name in ("so", "dso", "offdiag", "frobenius", "srip"):
        for alpha in (0.3, 7.0, 1e-9, 1e9):
            made = orthwrap.regularizer(name, 0.5, scale="preserve", alpha=alpha)
            plain = orthwrap.regularizer(name, 0.5)
            scaled = ops.convert_to_tensor((w * alpha).astype("float32"))
            assert float(made(scaled)) == pytest.approx(float(plain(w)), rel=1e-4)
