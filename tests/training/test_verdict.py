"""The verdict on a run, as a function of plain data: words, warnings, next step, JSON."""

from __future__ import annotations

import dataclasses
import json
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthwrap.report.goal_progress import GoalEpoch, GoalProgress, KernelGoal, TaskStanding
from orthwrap.report.verdict import Verdict, verdict_on

METRICS = {"task_loss": 0.1, "penalty": 2.0, "loss": 2.1, "accuracy": 0.9}


def progress(
    kernels: list[tuple[str, float, float]],
    *,
    goal: str | None = "10x",
    worse_by: float = 0.0,
    pulled: bool = True,
    margin: float = 0.005,
    spent_before: bool = False,
    lower: bool = False,
    **words: Any,
) -> GoalProgress:
    """Kernels as (place, start, end), after two epochs, the second of which is kept."""
    original = 0.9975
    value = original + worse_by if lower else original - worse_by
    standing = TaskStanding(value, original, worse_by, 0.001, margin)
    first = TaskStanding(value, original, 1.0, 0.0, margin) if spent_before else standing
    ends = tuple(end for _, _, end in kernels)
    rates = tuple(0.01 if pulled else None for _ in kernels)
    return GoalProgress(
        goal,
        tuple(
            KernelGoal(
                place,
                "scaled_residual",
                start,
                None if goal is None else max(start / 10, 0.01),
                pulled,
            )
            for place, start, _ in kernels
        ),
        (
            GoalEpoch(1, tuple(s for _, s, _ in kernels), rates, first),
            GoalEpoch(2, ends, rates, standing),
        ),
        task="loss" if lower else "accuracy",
        lower_is_better=lower,
        original=original,
        **words,
    )


def on(p: GoalProgress | None, **metrics: float) -> Verdict:
    return verdict_on(p, 2, METRICS, METRICS | metrics)


THREE = [("conv1", 1.1, 0.1), ("conv2", 3.4, 0.1), ("conv3", 5.0, 0.1)]


def test_a_goal_that_was_reached_is_one_line() -> None:
    verdict = on(progress(THREE, worse_by=0.0012))
    assert verdict.line == (
        "all 3 kernels 10x more orthogonal (median ÷34, worst ÷11: conv1); accuracy 0.9975 → "
        "0.9963 ± 0.001 (margin 0.005)"
    )
    assert (verdict.warnings, verdict.next_step, verdict.fails) == ((), "", False)
    assert verdict.reached == 3


TABLE: list[tuple[GoalProgress, str, str, tuple[str, ...], bool]] = [
    (  # the margin stopped one
        progress([*THREE[1:], ("conv1", 0.63, 0.15)], worse_by=0.004, spent_before=True),
        "2 of 3 kernels 10x more orthogonal (median ÷34, worst ÷4.2: conv1)",
        "conv1 came to ÷4.2, where the task's margin stopped it: allow a larger one, or exclude it",
        (),
        True,
    ),
    (  # the epochs did
        progress([("d", 0.63, 0.15)]),
        "0 of 1 kernel 10x more orthogonal (÷4.2: d)",
        "d came to ÷4.2 when the epochs ended: give more of them",
        (),
        True,
    ),
    (  # a penalty without a pull
        progress([("d", 0.63, 0.15)], pulled=False),
        "0 of 1 kernel 10x more orthogonal (÷4.2: d)",
        "d came to ÷4.2: it has no pull, so attach so to it, or exclude it",
        (),
        True,
    ),
    (  # one was orthonormal before, and has no division
        progress([("a", 0.0, 0.0), ("b", 0.5, 0.05)]),
        "all 2 kernels 10x more orthogonal (median ÷10, worst ÷10: b)",
        "",
        (),
        False,
    ),
    (  # all were
        progress([("a", 0.005, 0.006)]),
        "the one kernel 10x more orthogonal: orthonormal from the start",
        "",
        (),
        False,
    ),
    (  # a factor that did its work
        progress(THREE, goal=None, pulled=False),
        "3 kernels (median ÷34, worst ÷11: conv1)",
        "",
        (),
        False,
    ),
    (  # a factor that did nothing
        progress([("a", 1.0, 0.99), ("b", 2.0, 2.01)], goal=None, pulled=False),
        "2 kernels (median ÷1, worst ÷1: b)",
        "b came to ÷1: give a goal, as 10x, instead of the factor",
        ("nothing moved: every residual is within 5 % of what it was",),
        True,
    ),
    (  # a residual that rose
        progress([("a", 1.0, 0.1), ("b", 1.27, 1.44)], goal=None, pulled=False),
        "2 kernels (median ÷5.4, worst ×1.1: b)",
        "b came to ×1.1: give a goal, as 10x, instead of the factor",
        ("a residual rose: b 1.27 → 1.44",),
        True,
    ),
    (  # more lost than was allowed, by more than chance
        progress(THREE, worse_by=0.02),
        "all 3 kernels 10x more orthogonal (median ÷34, worst ÷11: conv1)",
        "",
        ("accuracy fell from 0.9975 to 0.9775, by more than the margin of 0.005",),
        True,
    ),
    (  # by no more than the chance of the samples: 0.005 + 0.001
        progress(THREE, worse_by=0.0055),
        "all 3 kernels 10x more orthogonal (median ÷34, worst ÷11: conv1)",
        "",
        (),
        False,
    ),
    (  # a loss, as in regression and with several outputs
        progress(THREE, worse_by=0.2, lower=True, margin=0.05),
        "all 3 kernels 10x more orthogonal (median ÷34, worst ÷11: conv1)",
        "",
        ("loss rose from 0.9975 to 1.1975, by more than the margin of 0.05",),
        True,
    ),
]


@pytest.mark.parametrize(("found", "line", "next_step", "warnings", "fails"), TABLE)
def test_what_is_said(
    found: GoalProgress, line: str, next_step: str, warnings: tuple[str, ...], fails: bool
) -> None:
    verdict = on(found)
    assert verdict.line.startswith(f"{line}; {found.task} 0.9975 → ")
    assert verdict.next_step == next_step
    assert verdict.warnings == warnings
    assert verdict.fails is fails


def test_what_was_forgotten_of_held_out_samples_is_told_apart() -> None:
    found = progress(THREE, worse_by=0.1)
    *_, last = found.epochs
    assert last.task is not None
    trained = TaskStanding(0.98, 0.982, 0.002, 0.002, 0.005)
    epoch = dataclasses.replace(last, task=dataclasses.replace(last.task, trained=trained))
    verdict = on(dataclasses.replace(found, epochs=(epoch,) * 2))
    assert "(0.9820 → 0.9800 of what is trained on, margin 0.005)" in verdict.line
    (warning,) = verdict.warnings
    assert "fell from 0.9975 to 0.8975 on the held-out samples" in warning
    assert "validation samples that it never saw would tell" in warning
    assert verdict.task is not None
    assert not verdict.task.lost
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_a_run_that_drove_nothing_still_says_what_the_task_did() -> None:
    verdict = on(None, accuracy=0.8)
    assert verdict.line == (
        "no trained kernel carries a penalty of orthogonality; accuracy 0.9000 → 0.8000"
    )
    assert verdict.task is not None
    assert (verdict.task.margin, verdict.fails) == (None, False)
    assert verdict_on(None, 1, {"task_loss": 1.0}, {"task_loss": 0.5}).line.endswith(
        "task loss 1.0000 → 0.5000"
    )


positive = st.floats(1e-3, 1e3)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=6), st.booleans())
def test_figures_are_those_of_plain_arithmetic(
    pairs: list[tuple[float, float]], has_goal: bool
) -> None:
    kernels = [(f"k{i}", start, end) for i, (start, end) in enumerate(pairs)]
    verdict = on(progress(kernels, goal="10x" if has_goal else None))
    told = json.loads(json.dumps(verdict.to_json()))
    divisions = {f"k{i}": s / e for i, (s, e) in enumerate(pairs) if s > 0.01}
    if divisions:
        assert told["division"]["median"] == pytest.approx(statistics.median(divisions.values()))
        assert told["division"]["worst"] == pytest.approx(min(divisions.values()))
        assert divisions[told["division"]["path"]] == pytest.approx(told["division"]["worst"])
    else:
        assert told["division"] is None
    reached = sum(e <= max(s / 10, 0.01) for s, e in pairs)
    assert told["reached"] == (reached if has_goal else None)
    assert bool(told["next_step"]) == (
        reached < len(pairs) if has_goal else bool(divisions) and min(divisions.values()) < 2
    )
    rose = any(e > max(1.05 * s, 0.01) for s, e in pairs)
    assert any("rose" in w for w in told["warnings"]) == rose
    assert Verdict.from_json(told) == verdict
