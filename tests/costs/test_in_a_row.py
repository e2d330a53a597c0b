"""On JAX with an accelerator, a call that is timed does its work several times over."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import orthwrap
from orthwrap.costs import passes

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX")


@pytest.fixture(autouse=True)
def on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "on_processor", lambda: False)
    monkeypatch.setattr(passes, "waiting", lambda call: call)


def kernels() -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        keras.Variable(rng.normal(size=s).astype("float32") / 3) for s in ((3, 3, 4, 6), (5, 7))
    ]


def test_the_work_is_done_as_often_as_is_said_and_no_weight_moves() -> None:
    import jax

    seen: list[int] = []
    found = kernels()

    def noting(w: Any) -> Any:
        jax.debug.callback(seen.append, 1)
        return orthwrap.SO(0.5)(w)

    call: Any = passes.loss_and_gradients([(noting, found[0]), (orthwrap.SO(2.0), found[1])], True)
    linked = call()
    jax.effects_barrier()
    assert len(seen) == passes.times() > 1
    for kernel, value in zip(found, linked, strict=True):
        np.testing.assert_array_equal(np.asarray(value), np.asarray(kernel.value))


@pytest.mark.parametrize("make", [passes.pulls, passes.holds])
def test_nothing_is_done_once_for_all(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What repeats stands within the loop: a compiler may take out what is the same each time."""
    import jax

    monkeypatch.setattr(passes, "program", lambda function, *_: jax.jit(function))
    found = kernels()
    what: Any = orthwrap.SO(0.5)
    if make is passes.holds:
        what = orthwrap.OrthogonalityConstraint("orthogonal")
    call: Any = make([(what, k) for k in found], True)
    text = jax.jit(call).lower().compile().as_text()
    assert "dot" in text.split("ENTRY")[0], "products are outside of the loop"
    assert len(call()) == len(found)
