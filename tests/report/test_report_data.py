"""A plan as a report, before and after training, and two models compared: data alone."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orthwrap.errors import ValueFault
from orthwrap.penalties.attachment import Attachment
from orthwrap.penalties.constrained import Constrained
from orthwrap.plan.decide import plan
from orthwrap.report import as_csv, as_markdown, notebook
from orthwrap.report import make as make_module
from orthwrap.report import measure as measure_module
from orthwrap.report.comparing import compare_kernel, kernels_of
from orthwrap.report.make import make_report, with_trained
from orthwrap.report.record import CompareReport, Comparison, Report, Training
from orthwrap.rules.constrain import Constrain
from orthwrap.rules.rule import Rule
from orthwrap.survey import survey
from tests.report.test_report_schema import check
from tests.support.dict_store import DictStore, node, store

L2 = {"class_name": "L2", "config": {"l2": 0.01}}
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4))


def reported(source: DictStore, *, with_figures: bool = True, **rule: Any) -> Report:
    surveyed = survey(source)  # type: ignore[arg-type]
    opened: Any = SimpleNamespace(store=source, upgrades=(), check_unchanged=lambda: None)
    planned = plan(surveyed, [Rule(**{"scale": "unit", **rule})])
    return make_report("apply", opened, surveyed, planned, with_figures=with_figures)


def so(w: np.ndarray) -> float:
    return float(np.linalg.norm(w.T @ w - np.eye(w.shape[1])) ** 2)


def two() -> DictStore:
    return store(node("Dense", "a"), node("Dense", "b"), a=A, b=B)


def test_sums_are_of_what_carries_a_penalty() -> None:
    report = reported(two(), target="a", factor=0.5)
    a, b = report.layers
    assert (a.carries, b.carries) == (True, False)
    assert (a.place, a.matrices) == ("a", (1, 6, 4))
    assert a.before is not None
    assert a.before.penalty == pytest.approx(so(A))
    assert report.summary == {
        "layers": 2,
        "kernels": 2,
        "regularized": 1,
        "regularized_parameters": 24,
        "penalty_before": pytest.approx(0.5 * so(A)),
        "penalty_after": None,
        "weighted_penalty_before": pytest.approx(0.5 * so(A)),
        "weighted_penalty_after": None,
    }


def test_without_figures_there_is_no_sum() -> None:
    report = reported(two(), with_figures=False)
    assert {r.before for r in report.layers} == {None}
    assert report.summary["penalty_before"] is None


def test_a_penalty_that_is_no_number_is_no_sum() -> None:
    broken = store(node("Dense", "a"), a=np.full((6, 4), np.nan))
    report = reported(broken, target="a")
    assert report.summary["penalty_before"] is None
    text = json.dumps(report.to_json(), allow_nan=False)
    assert Report.from_json(json.loads(text)).layers[0].before is not None


def test_a_frozen_kernel_is_not_in_the_sum() -> None:
    source = two()
    source.root["config"]["layers"][1]["config"]["trainable"] = False
    assert reported(source).summary["penalty_before"] == pytest.approx(1e-3 * so(A))


def test_outputs_have_no_figures() -> None:
    report = reported(two(), target="a", on="activity")
    (record,) = [r for r in report.layers if r.slot == "activity"]
    assert (record.kernel, record.shape, record.before) == (None, None, None)
    assert record.place == "a@activity"


def test_regularizers_of_others_are_named() -> None:
    source = store(node("Dense", "a", kernel_regularizer=L2), a=A)
    (kept,) = reported(source, target="a", existing="keep").layers
    assert (kept.decision, kept.foreign, kept.regularizer) == ("kept", "L2(l2=0.01)", None)
    (both,) = reported(source, target="a").layers
    assert both.regularizer is not None
    assert both.regularizer.combined_with == "L2(l2=0.01)"
    (own,) = reported(source, target="a", regularizer="l1", factor=0.25).layers
    assert own.regularizer is not None
    assert (own.regularizer.name, own.regularizer.factor) == ("l1", 0.25)
    assert own.regularizer.scale is None


def test_estimated_figures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (make_module, measure_module):
        monkeypatch.setattr(module, "EXACT_LIMIT", 3)
    (warning,) = reported(two(), target="a").warnings
    assert warning.startswith("a: more than 3 singular values")


def trained(frozen: bool = False) -> DictStore:
    """The model that `reported` planned, with half the weights."""
    source = two()
    planned = plan(survey(source), [Rule(target="a", factor=0.5, scale="unit")])  # type: ignore[arg-type]
    layers = source.root["config"]["layers"]
    layers[0]["config"]["kernel_regularizer"] = planned.changes[0].value
    layers[0]["config"]["trainable"] = not frozen
    return store(*layers, a=A / 2, b=B)


def test_figures_after_training_are_of_the_trained_kernels() -> None:
    report = with_trained(reported(two(), target="a", factor=0.5), trained(), with_figures=True)
    a, b = report.layers
    assert a.after is not None
    assert a.after.penalty == pytest.approx(so(A / 2))
    assert report.summary["penalty_after"] == pytest.approx(0.5 * so(A / 2))
    assert b.after is None  # it was not measured before
    assert report.warnings == ()
    skipped = with_trained(reported(two(), target="a"), trained(), with_figures=False)
    assert {r.after for r in skipped.layers} == {None}


def test_what_training_froze_is_told() -> None:
    before = reported(two(), target="a", factor=0.5)
    report = with_trained(before, trained(frozen=True), with_figures=True)
    assert report.layers[0].reason.endswith("frozen: Keras applies no penalty while it is")
    assert report.warnings == ("frozen, so that their penalty is inactive: a",)
    assert report.summary["penalty_after"] is None
    thawed = with_trained(report, trained(), with_figures=True)
    assert thawed.layers[0].reason == before.layers[0].reason
    assert thawed.layers[0].trainable


def test_a_layer_that_training_does_not_know_stays_as_it_was() -> None:
    report = reported(two(), target="a")
    assert with_trained(report, store(), with_figures=True).layers == report.layers


TRAINING = Training(
    epochs=2,
    factors={"a": 0.5, "b": math.nan},
    history={"loss": (1.0, math.inf)},
    metrics_before={"loss": 1.0},
    metrics_after={"loss": 0.5},
    choices=("adam: the model's own",),
    kept_epoch=1,
    seed=3,
    class_names=("cat", "dog"),
)


def test_a_report_comes_back_from_json() -> None:
    report = dataclasses.replace(
        reported(two(), target="a", options={"every": 2}), training=TRAINING, warnings=("one",)
    )
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    back = Report.from_json(told)
    assert back.to_json() == told
    assert told["training"]["factors"] == {"a": 0.5, "b": None}
    assert told["training"]["history"] == {"loss": [1.0, None]}
    assert told["layers"][0]["regularizer"]["every"] == 2
    assert back.layers[0].matrices == report.layers[0].matrices
    assert back.training is not None
    assert back.training.class_names == ("cat", "dog")
    assert str(back) == str(report)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "other/1"}, r"expected JSON of schema orthwrap\.report/1; got 'other/1'"),
        ({"layers": [{"path": "a"}]}, "is not whole"),
        ({"training": 3}, "is not whole"),
        ({"summary": None}, "is not whole"),
    ],
)
def test_other_json_is_no_report(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueFault, match=words):
        Report.from_json(reported(two()).to_json() | change)
    with pytest.raises(ValueFault, match="got None"):
        Report.from_json([1])  # type: ignore[arg-type]


def compared(before: DictStore, after: DictStore, with_figures: bool = True) -> list[Comparison]:
    sides = kernels_of(before), kernels_of(after)  # type: ignore[arg-type]
    keys = dict.fromkeys((*sides[0], *sides[1]))
    return [compare_kernel(key, sides[0].get(key), sides[1].get(key), with_figures) for key in keys]


def test_kernels_of_two_models() -> None:
    names = ("same", "changed", "reshaped", "gone", "lost")
    before = store(*(node("Dense", name) for name in names), **{n: A for n in names if n != "lost"})
    later = ("same", "changed", "reshaped", "added", "lost")
    after = store(
        node("Dense", "same", kernel_regularizer=L2),
        *(node("Dense", name) for name in later[1:]),
        same=A,
        changed=3 * A,
        reshaped=A[:3],
        added=B,
    )
    found = {c.path: c for c in compared(before, after)}
    assert {path: c.status for path, c in found.items() if path != "lost"} == {
        name: name for name in ("same", "changed", "reshaped", "gone", "added")
    }
    assert found["changed"].weight_change == pytest.approx(2.0)
    assert found["same"].weight_change == 0.0
    assert found["same"].regularizer_before is None
    assert found["same"].regularizer_after == "L2(l2=0.01)"
    assert (found["gone"].shape_after, found["gone"].after) == (None, None)
    assert (found["reshaped"].shape_before, found["reshaped"].shape_after) == ((6, 4), (3, 4))
    lost = found["lost"]  # a kernel without weights in either file
    assert (lost.shape_before, lost.before, lost.weight_change) == (None, None, None)
    assert found["added"].after is not None
    assert {c.before for c in compared(before, after, with_figures=False)} == {None}

    record = before.record
    report = CompareReport(record, record, tuple(found.values()), "1")
    assert report.summary["regularizers_changed"] == 1
    assert (report.summary["same"], report.summary["gone"]) == (1, 1 + (lost.status == "gone"))
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert CompareReport.from_json(told).to_json() == told
    assert str(CompareReport.from_json(told)) == str(report)


def held(constrain: str, **words: Any) -> dict[str, Any]:
    return Constrained(Constrain.parse(constrain), **words).to_node()


def max_norm(value: int) -> dict[str, Any]:
    return {"class_name": "MaxNorm", "config": {"max_value": value, "axis": 0}}


def penalized(alpha: float, replaced: Any = None) -> dict[str, Any]:
    return Attachment("so", 0.001, "preserve", alpha, replaced=replaced).to_node()


ALPHAS = ("(alpha=0.5)", "(alpha=0.7)")


@pytest.mark.parametrize(
    ("key", "before", "after", "words"),
    [
        ("constraint", None, held("orthogonal"), ("–", "held orthogonal")),
        ("constraint", held("spectral:1"), held("spectral:2"), ("spectral:1", "spectral:2")),
        ("constraint", held("orthogonal", every=2), held("orthogonal"), ("every=2", "orthogonal")),
        # Words that are the same say what is not.
        ("constraint", max_norm(2), max_norm(3), ("max_value=2", "max_value=3")),
        (
            "constraint",
            *(held("orthogonal", scale="preserve", alpha=a) for a in (0.5, 0.7)),
            ALPHAS,
        ),
        ("regularizer", penalized(0.5), penalized(0.7), ALPHAS),
        # What is not different is the same.
        ("constraint", max_norm(2), max_norm(2), ""),
        ("constraint", held("orthogonal"), held("orthogonal", replaced=max_norm(2)), ""),
        ("regularizer", penalized(0.5), penalized(0.5, L2), ""),
        ("regularizer", L2, {**L2, "module": "keras.regularizers", "registered_name": None}, ""),
    ],
)
def test_what_differs_in_regularizer_and_constraint(
    key: str, before: Any, after: Any, words: Any
) -> None:
    sides = [store(node("Dense", "d", **{f"kernel_{key}": n}), d=A) for n in (before, after)]
    rows = compared(*sides)
    record = sides[0].record
    report = CompareReport(record, record, tuple(rows), "1")
    other = "constraint" if key == "regularizer" else "regularizer"
    assert report.summary[f"{other}s_changed"] == 0
    assert report.summary[f"{key}s_changed"] == int(words != "")
    assert report.differs == (words != "")
    was, now = rows[0].words
    assert (was == now) == (words == "")
    if words:
        assert words[0] in was
        assert words[1] in now
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    check(told)
    assert CompareReport.from_json(told) == report
    assert (rows[0].held_after is None) == ("Orthogonality" not in str(after))
    text = str(report)
    assert f"1 {key} differs" in text if words else f"the same {key}s" in text
    for shown in (
        text,
        as_csv.text_of(report),
        as_markdown.text_of(report),
        notebook.html_of(report),
    ):
        assert words == "" or now.removeprefix("held ").split(":")[0].split()[0] in shown
