"""On JAX, what is measured is traced one after another and compiled beside each other."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from orthwrap.costs import programs

jax_alone = pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX")


@jax_alone
def test_a_program_is_compiled_while_others_are_traced_and_gives_what_the_function_does() -> None:
    x = np.arange(6, dtype="float32")
    made = [programs.program(lambda x, n=n: x**n, x) for n in range(4)]
    for n, call in enumerate(made):
        np.testing.assert_allclose(call(x), x**n)


@jax_alone
def test_what_nobody_has_begun_to_compile_is_dropped() -> None:
    held = threading.Event()
    pool: Any = programs._compiling()
    for _ in range(pool._max_workers):
        pool.submit(held.wait)  # every place is taken
    waiting = programs.program(lambda x: x + 1, np.ones(3, "float32"))
    assert programs.drop_waiting()
    held.set()
    with pytest.raises(CancelledError):
        waiting(np.ones(3, "float32"))


@jax_alone
def test_what_was_dropped_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is up after tracing; of what is compiled, what had begun is measured all the same."""
    monkeypatch.setattr("orthwrap.costs.benching._FOR_COMPILING", 1e-9)
    model = keras.Sequential([layers.Input((6,)), layers.Dense(5), layers.Dense(4)])
    report = orthwrap.bench(model, batch=2, regularizer=["so", "dso"], seconds=5)
    assert [row.how for row in report.rows] == ["exact"]
    assert report.left_out[0] == "so, sketch"
    assert "dso, exact" in report.left_out


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="compiles when it is first called")
def test_nothing_is_compiled_beforehand_elsewhere() -> None:
    assert not programs.drop_waiting()
