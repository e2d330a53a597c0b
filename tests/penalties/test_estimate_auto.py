"""`estimate="auto"`: exact where that is cheaper, kernel by kernel, and the report says which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from orthwrap.penalties import tensors
from orthwrap.penalties.cheapest import choosing_pays, exact_is_cheaper


def textbook(w: Any) -> float:
    return float(np.sum((w.T @ w - np.eye(w.shape[1])) ** 2))


@pytest.mark.parametrize("probes", [1, 4, 8])
def test_one_inequality_decides(probes: int) -> None:
    for side, on_processor in ((8 * probes, True), (128 * probes, False)):
        assert exact_is_cheaper(10**4, side, probes, on_processor)
        assert exact_is_cheaper(side, 10**4, probes, on_processor)
        assert not exact_is_cheaper(side + 1, 10**4, probes, on_processor)


def test_what_choosing_costs_more_than_is_not_chosen() -> None:
    for m, n in ((7500, 1000), (1000, 7500)):  # 4·m·n·min(m, n) = 3·10¹⁰
        assert choosing_pays(m, n)
        assert not choosing_pays(m - 1, n)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="no step is compiled")
def test_every_is_the_same_on_average_where_choosing_costs_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One call in three pays, threefold, and the others have value and gradient 0; or each once."""
    w = (np.random.default_rng(0).normal(size=(9, 4)) / 3).astype("float32")

    def values() -> list[tuple[float, float]]:
        made = orthwrap.SO(0.5, every=3, seed=1)
        variable = keras.Variable(w)
        found = []
        for _ in range(6):
            if keras.backend.backend() == "jax":
                import jax

                value, slope = jax.value_and_grad(made)(variable.value)
            else:
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    value = made(variable)
                slope = tape.gradient(value, variable.value)
            found.append((float(value), float(ops.sum(ops.abs(slope)))))
        return found

    chosen = values()
    assert [value for value, slope in chosen if slope] == pytest.approx([1.5 * textbook(w)] * 2)
    assert [value for value, slope in chosen if not slope] == [0.0] * 4
    monkeypatch.setattr("orthwrap.regularizers.classes.on_processor", lambda: False)
    each = values()
    assert [value for value, _ in each] == pytest.approx([0.5 * textbook(w)] * 6)
    np.testing.assert_allclose(np.mean(each, 0), np.mean(chosen, 0), rtol=1e-5)


@pytest.mark.parametrize("on_processor", [True, False])
def test_auto_is_exact_or_the_sketch(on_processor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orthwrap.regularizers.classes.on_processor", lambda: on_processor)
    rng = np.random.default_rng(0)
    for columns in (4, 20, 150):
        w = (rng.normal(size=(200, columns)) / 14).astype("float32")
        made = orthwrap.SO(1.0, estimate="auto", probes=1, seed=1)
        sketch = orthwrap.SO(1.0, estimate="sketch", probes=1, seed=1)
        is_exact = columns <= (8 if on_processor else 128)
        expected = textbook(w) if is_exact else float(sketch(w))
        assert float(made(w)) == pytest.approx(expected, rel=1e-4)
        assert made.moment["count"] == (0 if is_exact else 1)


def test_the_default_stays_exact_and_outputs_are_exact() -> None:
    assert "estimate" not in orthwrap.SO().get_config()
    assert orthwrap.SO(estimate="auto").get_config()["estimate"] == "auto"
    outputs = np.random.default_rng(0).normal(size=(40, 90)).astype("float32")
    found = [orthwrap.SO(1.0, on="activity", estimate=e)(outputs) for e in ("auto", "exact")]
    assert float(found[0]) == float(found[1])


def test_the_report_says_which_was_taken(tmp_path: Path) -> None:
    inputs = layers.Input((200,))
    x = layers.Dense(80, name="large")(inputs)
    model = keras.Model(inputs, layers.Dense(4, name="small")(x))
    result = orthwrap.apply(model, options={"estimate": "auto"}, scale="unit")
    taken = {r.path: r.regularizer.estimate for r in result.report.layers if r.regularizer}
    large = "sketch" if tensors.on_processor() else "exact"
    assert taken == {"large": large, "small": "exact"}
    made = result.model.get_layer("large").kernel_regularizer
    assert made.get_config()["estimate"] == "auto"
    losses = [float(ops.convert_to_numpy(loss)) for loss in result.model.losses]
    small = ops.convert_to_numpy(result.model.get_layer("small").kernel)
    assert losses[1] == pytest.approx(1e-3 * textbook(small), rel=1e-4)
