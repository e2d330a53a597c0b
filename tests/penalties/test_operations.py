"""How many operations a penalty takes, loss and gradient: on an accelerator they are its cost."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import keras
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
LIMITS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "so": ({}, {"torch": 0.56, "tensorflow": 0.75, "jax": 0.75}),
    "so, preserve": (
        {"scale": "preserve", "alpha": 0.7},
        {"torch": 0.56, "tensorflow": 0.75, "jax": 0.75},
    ),
    "so, auto": (
        {"estimate": "auto", "probes": 40},
        {"torch": 0.56, "tensorflow": 0.75, "jax": 0.75},
    ),
    "so, sketch": ({"estimate": "sketch"}, {"torch": 1.05, "tensorflow": 1.2, "jax": 1.1}),
    "offdiag": ({}, {"torch": 0.56, "tensorflow": 0.7, "jax": 0.8}),
    "frobenius": ({}, {"torch": 0.66, "tensorflow": 0.8, "jax": 0.9}),
    "srip": ({}, {"torch": 1.4, "tensorflow": 1.5, "jax": 2.3}),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_penalty_takes_few(name: str) -> None:
    words, limits = LIMITS[name]
    made = [orthwrap.regularizer(name.partition(",")[0], 0.1, **words) for _ in SHAPES]
    assert operations(made, SHAPES) <= limits[BACKEND] * operations(
        [one_liner] * len(SHAPES), SHAPES
    )


@pytest.mark.skipif(BACKEND != "torch", reason="dispatches each operation")
def test_a_step_left_out_dispatches_next_to_nothing() -> None:
    made = [orthwrap.SO(0.1, every=10**6) for _ in SHAPES]
    assert operations(made, SHAPES) <= 2


# Of Python's functions, loss and gradient or pull, where Keras would have 300 and 800 of them.
CALLS: dict[str, tuple[dict[str, Any], int]] = {
    "so": ({}, 76),
    "so, preserve": ({"scale": "preserve", "alpha": 0.7}, 76),
    "so, sketch": ({"estimate": "sketch"}, 110),
    "so, left out": ({"every": 10**6}, 38),
    "offdiag": ({}, 77),
    "frobenius": ({}, 90),
    "srip": ({}, 96),
    "pull": ({}, 118),
}


@pytest.mark.skipif(BACKEND != "torch", reason="computes while Python decides")
@pytest.mark.parametrize("name", CALLS)
def test_python_decides_in_few_calls(name: str) -> None:
    """What Keras's functions look at before they compute took longer than what is computed."""
    import torch

    kernel = keras.Variable(kernel_of((3, 3, 4, 32)))
    words, limit = CALLS[name]
    first = name.partition(",")[0]
    made: Any = orthwrap.regularizer("so" if name == "pull" else first, 0.1, **words)
    rate = ops.convert_to_tensor(0.01)

    def once() -> None:
        if name == "pull":
            made.pulled(kernel.value, rate)
        else:
            loss = made(kernel)
            if loss.requires_grad:  # not where it is left out
                torch.autograd.grad(loss, [kernel.value])

    once()
    seen = 0

    def noting(_: Any, event: str, __: Any) -> None:
        nonlocal seen
        seen += event == "call"

    sys.setprofile(noting)
    try:
        once()
    finally:
        sys.setprofile(None)
    assert seen <= limit


@pytest.mark.skipif(BACKEND != "torch", reason="traces Python itself")
@pytest.mark.parametrize("name", ["so", "offdiag", "frobenius", "srip"])
def test_a_compiled_penalty_warns_of_nothing_and_is_the_same(name: str) -> None:
    """PyTorch's compiler warns of functions that remember what they gave."""
    import torch

    kernel = keras.Variable(kernel_of((3, 3, 4, 32)) / 6)
    made = orthwrap.regularizer(name, 0.1)
    expected = float(made(kernel).detach())  # as Keras calls it before it compiles
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's about itself
        warnings.filterwarnings("error", "Dynamo detected")
        value = torch.compile(made, backend="eager")(kernel.value)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)


def test_no_kernel_is_divided_by_its_scale() -> None:
    """What α costs is no pass over the weights, and is right also where α⁴ leaves float32."""
    w = kernel_of((30, 8)) / 6
    for name in ("so", "dso", "offdiag", "frobenius", "srip"):
        for alpha in (0.3, 7.0, 1e-9, 1e9):
            made = orthwrap.regularizer(name, 0.5, scale="preserve", alpha=alpha)
            plain = orthwrap.regularizer(name, 0.5)
            scaled = ops.convert_to_tensor((w * alpha).astype("float32"))
            assert float(made(scaled)) == pytest.approx(float(plain(w)), rel=1e-4)
