"""What penalties cost: each is what would be attached, beside the model's own step, in its time."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import keras
import numpy as np
import pytest

import orthwrap
from orthwrap.costs import passes, timing
from orthwrap.costs.variants import variants
from orthwrap.errors import OrthwrapError
from orthwrap.penalties.table import PENALTIES
from orthwrap.report.cost_record import BenchReport, Quartiles
from tests.report.test_report_schema import check
from tests.support import models

pytestmark = pytest.mark.usefixtures("eagerly")


def test_rounds_take_turns_and_end_in_time() -> None:
    seen: list[str] = []

    def noting(name: str) -> timing.Timed:
        return timing.Timed(lambda: seen.append(name), 2 if name == "b" else 1)

    found = timing.in_turn({n: noting(n) for n in "abc"}, least=3, most=9, until=time.monotonic())
    assert seen == ["a", "b", "b", "c"] * 3  # the time was over before the first
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 3, "b": 3, "c": 3}
    seen.clear()
    timing.in_turn({"a": noting("a")}, least=3, most=5)
    assert len(seen) == 5
    assert timing.quartiles(np.array([4.0, 1.0, 2.0, 3.0, 5.0])) == Quartiles(3.0, 2.0, 4.0)


def test_every_penalty_is_measured_as_it_is_and_each_way_once() -> None:
    found = variants()
    assert [v.regularizer for v in found if v.how == "exact"] == list(PENALTIES)
    assert len({v.name for v in found}) == len(found)
    hows = {"exact", "auto", "sketch", "bfloat16", "every=4", "pulled"}
    assert {v.how for v in found} == {*hows, "held"}
    assert {v.regularizer for v in variants(["srip", "mc"])} == {"srip", "mc"}
    held = ["orthogonal", "spectral:1", "band:0.9,1.1"]
    assert [v.regularizer for v in found if v.constrain is not None] == held
    assert [v.name for v in variants(None, ["spectral:2"])] == ["spectral:2, held"]
    assert {v.regularizer for v in variants(["mc"], ["orthogonal"])} == {"mc", "orthogonal"}


def kernels() -> list[Any]:
    rng = np.random.default_rng(0)
    return [keras.Variable(rng.normal(size=s).astype("float32") / 3) for s in ((9, 4), (3, 7))]


def so_of(w: Any) -> float:
    w = np.asarray(keras.ops.convert_to_numpy(w), np.float64)
    g = w.T @ w if w.shape[1] <= w.shape[0] else w @ w.T
    return float(np.square(g - np.eye(len(g))).sum())


def test_what_is_timed_is_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "waiting", lambda call: call)
    found = kernels()
    penalty = orthwrap.SO(0.5)
    call: Any = passes.loss_and_gradients([(penalty, k) for k in found], False)
    loss, *rest = call()
    loss = keras.ops.convert_to_numpy(loss)
    assert float(loss) == pytest.approx(0.5 * sum(map(so_of, found)), rel=1e-5)
    gradients = rest[-1]
    w = np.asarray(keras.ops.convert_to_numpy(found[0]), np.float64)
    expected = 0.5 * 4 * w @ (w.T @ w - np.eye(4))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(gradients[0]), expected, rtol=1e-4)

    seldom = orthwrap.SO(0.5, every=3, seed=1)
    call = passes.loss_and_gradients([(seldom, found[0])], False)
    losses = [float(keras.ops.convert_to_numpy(call()[0])) for _ in range(6)]
    assert [sum(x > 0 for x in losses[i : i + 3]) for i in (0, 3)] == [1, 1]

    call = passes.pulls([(penalty, k) for k in found], False)
    pulled = call()
    moved = w - passes.PULL_RATE * w @ (w.T @ w - np.eye(4))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(pulled[0]), moved, rtol=1e-4, atol=1e-6)


def test_what_is_timed_of_a_constraint_is_holding_a_kernel_that_a_step_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passes, "waiting", lambda call: call)
    found = kernels()
    constraint = orthwrap.OrthogonalityConstraint("orthogonal")
    made: Any = passes.holds([(constraint, k) for k in found], False)
    before = [keras.ops.convert_to_numpy(k) for k in found]
    held = [keras.ops.convert_to_numpy(w) for w in made()]
    for w, was, there in zip(held, before, found, strict=True):
        u, _, v = np.linalg.svd(was.astype(np.float64), full_matrices=False)
        assert 0 < np.abs(w - u @ v).max() < 4e-3  # of what a step has moved
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(there), was)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_constraints_have_rows_of_their_own(whole: bool) -> None:
    model = models.dense()
    held = ("orthogonal", "band:0.5,2")
    report = orthwrap.bench(
        orthwrap.apply(model, constrain="spectral:9").model,
        regularizer="mc",
        constrain=held,
        batch=4,
        whole=whole,
        seconds=1e4,
    )
    assert {r.regularizer for r in report.rows} == {"mc"}
    assert [(r.constrain, r.kernels) for r in report.constraints] == [(c, 2) for c in held]
    assert all(r.seconds >= 0 and r.share_low <= r.share_high for r in report.constraints)
    told = json.loads(json.dumps(report.to_json()))
    check(told)
    assert BenchReport.from_json(told) == report
    del told["constraints"]  # as 0.1.0 wrote it
    assert BenchReport.from_json(told).constraints == ()
    lines = shown(report).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [" ".join(line.split()[:3]) for line in lines if " held " in line] == [
        f"{c} held 2" for c in held
    ]


def test_a_constraint_of_the_users_own_is_left_and_not_measured() -> None:
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4, kernel_constraint="non_neg", name="own")]
    )
    with pytest.raises(OrthwrapError, match="trained"):
        orthwrap.bench(model, constrain="orthogonal", seconds=0.1)
    model.add(keras.layers.Dense(3, name="free"))
    report = orthwrap.bench(model, constrain="orthogonal", seconds=0.1)
    assert [r.kernels for r in report.constraints] == [1]


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_a_model_and_its_report(whole: bool) -> None:
    model = models.dense()
    model.compile("sgd", "sparse_categorical_crossentropy")
    attached = orthwrap.apply(model, regularizer="mc").model
    report = orthwrap.bench(attached, batch=4, regularizer=("so", "srip"), whole=whole, seconds=1e4)
    assert [(r.regularizer, r.how) for r in report.rows] == [
        *(("so", how) for how in ("exact", "sketch", "bfloat16", "every=4", "pulled")),
        *(("srip", how) for how in ("exact", "every=4")),
    ]
    assert (report.kernels, report.parameters) == (2, 6 * 9 + 9 * 3)
    assert report.loss == "the model's own loss"
    assert report.left_out == report.warnings == ()
    assert all(r.seconds >= 0 and r.share_low <= r.share <= r.share_high for r in report.rows)
    check(report.to_json())
    assert BenchReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert all(len(line) <= 80 for line in shown(report).splitlines())


def shown(report: BenchReport, width: int = 80) -> str:
    from orthwrap.report.terminal import as_text, renderable

    return as_text(lambda width: renderable(report, width), width)


def test_what_there_is_no_time_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=50.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    report = orthwrap.bench(models.dense(), target="wide", regularizer=("so", "dso"), seconds=60)
    assert [r.how for r in report.rows] == ["exact"]
    assert report.rounds == 3
    assert report.left_out[0] == "so, sketch"
    assert "dso, exact" in report.left_out
    text = " ".join(shown(report).split())
    assert "no time for so (sketch, bfloat16, every=4, pulled), dso" in text
    assert "the mean of the outputs" in text


def odd_loss(y_true: Any, y_pred: Any) -> Any:
    raise TypeError("wants tokens")


def test_a_loss_that_takes_no_labels_made_up_gives_way_to_the_mean() -> None:
    model = models.dense()
    model.compile("sgd", odd_loss)
    report = orthwrap.bench(model, regularizer="so", seconds=1)
    assert report.loss == "the mean of the outputs"
    assert "wants tokens" in report.warnings[0]
    check(report.to_json())


def test_a_penalty_that_no_kernel_can_have_is_left_out_with_the_reason() -> None:
    inputs = keras.Input((6, 8))
    outputs = keras.layers.MultiHeadAttention(2, 4, name="mha")(inputs, inputs)
    model = keras.Model(inputs, outputs)
    report = orthwrap.bench(
        model, target="all-attention", regularizer=("so", "lorth"), batch=2, seconds=0.1
    )
    assert {r.regularizer for r in report.rows} == {"so"}
    assert report.warnings[0].startswith("lorth: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"seconds": 0}, "seconds must be above 0"),
        ({"regularizer": "sso"}, "'sso' is none of so, dso"),
        ({"regularizer": ()}, "leave it out for all"),
        ({"constrain": ()}, "constrain names none"),
        ({"constrain": "orthogona"}, "did you mean orthogonal"),
        ({"constrain": ["orthogonal", "band:2,1"]}, "out of range"),
        ({"target": "nothing"}, "nothing"),
    ],
)
def test_a_value_that_is_none_is_said_in_a_line(words: dict[str, Any], said: str) -> None:
    with pytest.raises(OrthwrapError, match=said):
        orthwrap.bench(models.dense(), **words)


def test_a_frozen_kernel_costs_nothing() -> None:
    model = models.dense()
    model.get_layer("wide").trainable = False
    report = orthwrap.bench(model, regularizer="dso", seconds=0.1)
    assert report.kernels == 1
    model.trainable = False
    with pytest.raises(OrthwrapError, match="trained"):
        orthwrap.bench(model, regularizer="dso")
