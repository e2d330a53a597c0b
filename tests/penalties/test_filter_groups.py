"""`filter_groups=N`: the filters of a layer in N groups, each a matrix of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

import orthwrap
from orthwrap.model_config.layout import Layout, conv_layout, in_filter_groups
from orthwrap.report.record import Report
from tests.penalties.oracles import numpy_so, random
from tests.support.backend import EAGER_IS_CHEAP, value


def grouped(kernel: Any, groups: int) -> float:
    """Σ of `so` over consecutive groups of the last axis, in NumPy alone."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    return float(sum(numpy_so(part) for part in np.split(flat, groups, axis=1)))


@settings(max_examples=15 if EAGER_IS_CHEAP else 3, deadline=None)
@given(
    rows=st.integers(1, 8),
    width=st.integers(1, 4),
    groups=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_it_is_the_sum_over_the_groups(rows: int, width: int, groups: int, seed: int) -> None:
    dense = random((rows, groups * width), seed)
    conv = random((2, 1, rows, groups * width), seed)
    for kernel in (dense, conv):
        made = orthwrap.SO(1.0, filter_groups=groups)
        assert value(made, kernel) == pytest.approx(grouped(kernel, groups), rel=1e-9)


def test_as_many_groups_as_filters_leave_the_lengths_alone() -> None:
    kernel = random((5, 4), 1)
    lengths = np.linalg.norm(kernel, axis=0)
    expected = np.sum((lengths**2 - 1) ** 2)
    assert value(orthwrap.SO(1.0, filter_groups=4), kernel) == pytest.approx(expected, rel=1e-9)


def test_groups_of_a_convolution_and_gates_are_split_further() -> None:
    """A grouped convolution's filters (groups × filters) and a cell's units (gates × units)."""
    for kernel, layout, parts in (
        (random((3, 3, 2, 12), 2), conv_layout(4, groups=2), 2),
        (random((4, 24), 3), Layout("recurrent", (0,), (1,), parts=4), 4),
    ):
        split = in_filter_groups(layout, 3)
        assert (split.parts, split.filter_groups) == (3 * parts, 3)
        assert Layout.from_config(split.to_config()) == split
        made = orthwrap.SO(1.0, layout=layout, filter_groups=3)
        assert value(made, kernel) == pytest.approx(grouped(kernel, 3 * parts), rel=1e-9)
        matrices = split.to_matrices(kernel, np)
        np.testing.assert_array_equal(split.from_matrices(matrices, kernel.shape, np), kernel)


def net() -> Any:
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(12, 3, name="conv")(inputs)
    x = layers.Conv2DTranspose(4, 2, name="up")(x)
    x = layers.SeparableConv2D(8, 2, name="sep")(x)
    x = layers.Reshape((16, 8), name="seq")(x)
    x = layers.LSTM(4, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(9, name="dense")(x))


RULE: dict[str, Any] = {"regularizer": "so", "factor": 0.1, "options": {"filter_groups": 4}}


def test_on_files_and_models_in_reports_and_stripped(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "m.keras"
    model.save(path)
    chosen = ["conv", "lstm", "sep@pointwise"]
    filed = orthwrap.apply(path, tmp_path / "out.keras", target=chosen, scale="unit", **RULE)
    live = orthwrap.apply(model, target=chosen, scale="unit", **RULE)
    kernels = {
        "conv": (model.get_layer("conv").kernel, 4),
        "lstm": (model.get_layer("lstm").cell.kernel, 16),
        "lstm@recurrent": (model.get_layer("lstm").cell.recurrent_kernel, 16),
        "sep@pointwise": (model.get_layer("sep").pointwise_kernel, 4),
    }
    arrays = {k: (ops.convert_to_numpy(v).astype("float64"), n) for k, (v, n) in kernels.items()}
    total = 0.1 * sum(grouped(kernel, n) for kernel, n in arrays.values())
    for report in (filed.report, live.report, Report.from_json(live.report.to_json())):
        carried = {r.place: r for r in report.layers if r.carries}
        assert {k: r.matrices[0] for k, r in carried.items() if r.matrices} == {
            k: n for k, (_, n) in arrays.items()
        }
        said = [r.to_json()["regularizer"]["options"] for r in carried.values()]
        assert said == [{"filter_groups": 4}] * 4
        assert report.summary["penalty_before"] == pytest.approx(total, rel=1e-6)
        assert "filter_groups=4" in str(report)
    loaded = orthwrap.load_model(tmp_path / "out.keras")
    for made in (loaded, live.model):
        assert float(sum(made.losses)) == pytest.approx(total, rel=1e-5)
    assert orthwrap.strip(live.model).model.get_config() == model.get_config()
    moved = orthwrap.apply(live.model, target=chosen, scale="unit", factor=0.1).report
    reason = next(r.reason for r in moved.layers if r.path == "conv")
    assert "so 0.1 filter_groups=4 → so 0.1" in reason


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("dense", "9 filters cannot be in 4 equal groups"),
        ("up", "which in a conv_transpose kernel is not filters"),
        ("sep@depthwise", "1 filters cannot be in 4 equal groups"),
    ],
)
def test_what_cannot_be_split_is_unsupported_and_says_why(target: str, why: str) -> None:
    model = net()
    with pytest.raises(orthwrap.NoMatchError, match=why):
        orthwrap.apply(model, target=target, **RULE)
    report = orthwrap.apply(model, target=["conv", target], **RULE).report
    record = next(r for r in report.layers if r.decision == "unsupported")
    assert why in record.reason


def test_attention_kernels_are_split_head_by_head() -> None:
    inputs = keras.Input((5, 6))
    outputs = layers.MultiHeadAttention(2, 4, name="mha")(inputs, inputs)
    model = keras.Model(inputs, outputs)
    made = orthwrap.apply(
        model, target="mha", scale="unit", **RULE | {"options": {"filter_groups": 2}}
    )
    expected = 0.0
    for weight in model.get_layer("mha").weights:
        w = ops.convert_to_numpy(weight).astype("float64")
        if w.ndim == 3:
            heads = w.transpose(1, 0, 2) if w.shape[0] == 6 else w  # (d, h, k); out (h, k, d)
            expected += sum(grouped(head, 2) for head in heads)
    assert float(sum(made.model.losses)) == pytest.approx(0.1 * expected, rel=1e-5)


def test_a_penalty_of_the_convolution_itself_knows_no_groups() -> None:
    with pytest.raises(orthwrap.ValueFault, match="'lorth' takes no option 'filter_groups'"):
        orthwrap.LOrth(filter_groups=2)
    with pytest.raises(orthwrap.ValueFault, match="5 filters cannot be in 2 equal groups"):
        orthwrap.SO(filter_groups=2)(np.ones((3, 5), "float32"))
