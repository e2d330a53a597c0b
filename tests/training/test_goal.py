"""A goal for the residuals: its words, its controller, what `apply` makes of it, and going on."""

from __future__ import annotations

import functools
import itertools
import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

import orthwrap
from orthwrap import Goal
from orthwrap.data.order import classes_in, split
from orthwrap.errors import UsageError, ValueFault
from orthwrap.report.goal_progress import GoalEpoch, GoalProgress, KernelGoal, TaskStanding
from orthwrap.rules.aims import FLOOR, Aim
from orthwrap.training.goal.controller import HIGHEST, Course, ending, first_rates, next_rates
from orthwrap.training.goal.task import LOSS_MARGIN, MARGIN, Measured, Task

Array = np.ndarray[Any, np.dtype[Any]]
BACKEND = keras.backend.backend()
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


# The words


@pytest.mark.parametrize(
    ("text", "start", "target"),
    [
        ("10x", 12.0, 1.2),
        ("÷10", 12.0, 1.2),
        ("10 x", 0.5, 0.05),
        ("2.5x", 1.0, 0.4),
        ("10x", 0.05, FLOOR),
        ("10x", 0.001, FLOOR),
        ("residual=0.1", 12.0, 0.1),
        (" residual = 1e-3 ", 12.0, 0.001),
    ],
)
def test_a_goal_says_what_a_residual_is_to_come_to(text: str, start: float, target: float) -> None:
    aim = Aim.parse(text)
    assert aim.target(start) == pytest.approx(target)
    assert Aim.parse(str(aim)) == aim


NO_GOALS: list[Any] = [
    *("", "10", "x", "1x", "0x", "-3x", "nanx", "infx", "10x5", "÷", "÷1", "÷10x", "10xx"),
    *("residual=", "residual=0", "residual=-1", "residual=nan", "residual=inf", "residual=1_0"),
    *("scaled_residual=0.1", 10, 0.1, None, True),
]


@pytest.mark.parametrize("text", NO_GOALS)
def test_what_is_no_goal_is_refused_in_one_line_with_an_example(text: Any) -> None:
    with pytest.raises(ValueFault, match="write for example '10x'") as found:
        Aim.parse(text)
    assert "\n" not in str(found.value)


@pytest.mark.slow
def test_words_that_contradict_each_other_are_refused() -> None:
    model, data = small(), (X, Y)
    for words, said in (
        ({"goal": "10x", "pull": 0.1}, "give goal or pull"),
        ({"goal": "10x", "factor": "auto"}, "factor auto and goal exclude each other"),
        ({"pull": 0.1, "factor": "auto"}, "factor auto and pull exclude each other"),
        ({"goal": "10x", "schedule": "linear"}, "which goal takes the place of"),
        ({"goal": "10x", "regularizer": "srip"}, "srip has no pull"),
        ({"pull": 0.1, "regularizer": "srip"}, "which have a pull"),
        ({"goal": "10x", "rules": orthwrap.Rule(pull=0.1)}, "a rule has a pull of its own"),
    ):
        with pytest.raises(UsageError, match=said):
            orthwrap.apply(model, data=data, epochs=1, **words)
    with pytest.raises(UsageError, match="needs data"):
        orthwrap.apply(model, goal="10x")
    with pytest.raises(UsageError, match="needs data"):
        orthwrap.apply(model, rules=orthwrap.Rule(pull=0.1))
    with pytest.raises(ValueFault, match=r"task margin 1\.5"):
        orthwrap.apply(model, data=data, task_margin=1.5)


# Progress


def kernel(start: float, target: float | None = None, place: str = "a") -> KernelGoal:
    return KernelGoal(place, "residual", start, target, target is not None)


def epoch(number: int, *residuals: float, rate: float = 0.01, worse: Any = None) -> GoalEpoch:
    """`worse`: by how much, with a standard error of 0.001 and a margin of 0.005."""
    task = None if worse is None else TaskStanding(0.9, 0.9, worse, 0.001, 0.005)
    return GoalEpoch(number, residuals, (rate,) * len(residuals), task)


def progress(*epochs: GoalEpoch, start: float = 1.0, target: float = 0.1) -> GoalProgress:
    width = len(epochs[0].residuals) if epochs else 1
    kernels = tuple(kernel(start, target, f"k{i}") for i in range(width))
    return GoalProgress("10x", kernels, epochs, "accuracy", False, 0.9)


def test_the_epoch_to_keep_is_the_nearest_one_within_the_margin() -> None:
    near_but_dear = epoch(3, 0.1, worse=0.02)
    found = progress(epoch(1, 0.9, worse=0), epoch(2, 0.3, worse=0.004), near_but_dear)
    assert found.best is not None
    assert found.best.epoch == 2
    reached = progress(epoch(1, 0.09, worse=0.002), epoch(2, 0.05, worse=0.004), epoch(3, 0.08))
    assert reached.best is not None
    assert reached.best.epoch == 3  # all are there: the one whose task stands better
    spent = progress(epoch(1, 0.3, worse=0.03), epoch(2, 0.1, worse=0.05))
    assert spent.best is not None
    assert spent.best.epoch == 1


def test_of_epochs_that_are_equally_near_the_one_with_the_least_loss_is_kept() -> None:
    """Few samples give them the same accuracy."""

    def at(number: int, residual: float, loss: float | None) -> GoalEpoch:
        task = TaskStanding(0.9, 0.9, 0.004, 0.01, 0.005, loss=loss)
        return GoalEpoch(number, (residual,), (0.01,), task)

    found = progress(at(1, 0.3, 0.1), at(2, 0.08, 0.6), at(3, 0.09, 0.5), at(4, 0.07, 0.7))
    assert found.best is not None
    assert found.best.epoch == 3
    unknown = progress(at(1, 0.08, None), at(2, 0.07, None))
    assert unknown.best is not None
    assert unknown.best.epoch == 2  # then the smaller residual
    assert GoalProgress.from_json(found.to_json()) == found


def test_a_spent_margin_is_waited_for_while_the_loss_comes_back() -> None:
    def lost(number: int, recovers: bool) -> GoalEpoch:
        task = TaskStanding(0.8, 0.9, 0.05, 0.001, 0.005, recovers=recovers)
        return GoalEpoch(number, (0.5,), (0.01,), task)

    waited = [lost(number, True) for number in range(1, 16)]
    assert ending(progress(*waited)) == ""
    assert ending(progress(*waited, lost(16, False))) == "margin"


def test_a_kernel_is_not_driven_far_past_its_goal() -> None:
    """What lies beyond was not asked for, and the task would pay for it."""
    found = driven(Aim(division=10), 1.0, 1e-5, Course(100, 20))
    assert 10 <= 1 / found.epochs[-1].residuals[0] <= 11


@pytest.mark.parametrize(
    ("worse", "error", "margin", "spent"),
    [(0.006, 0.002, 0.005, False), (0.008, 0.002, 0.005, True), (-0.1, 0, 0, False)],
)
def test_a_margin_is_spent_beyond_the_standard_error(
    worse: float, error: float, margin: float, spent: bool
) -> None:
    assert TaskStanding(0.9, 0.9, worse, error, margin).spent is spent


def test_a_kernel_at_the_floor_counts_as_reached_and_has_no_division() -> None:
    at_floor = kernel(0.0, 0.01)
    assert at_floor.reached(0.0)
    assert at_floor.reached(FLOOR)
    assert at_floor.division(0.0) is None
    assert kernel(1.0, 0.1).division(0.05) == pytest.approx(20)


def test_progress_goes_to_json_and_back() -> None:
    found = progress(epoch(1, 0.9, 0.8, worse=0.001), epoch(2, 0.3, 0.4))
    assert GoalProgress.from_json(json.loads(json.dumps(found.to_json()))) == found


# The controller, against kernels that it cannot see


def driven(
    aim: Aim,
    start: float,
    opposing: float,
    course: Course,
    worse: Any = lambda epochs: None,
) -> GoalProgress:
    """A run whose small residual obeys r' = −2β·r + opposing at each step."""
    goal = kernel(start, aim.target(start))
    found = GoalProgress(str(aim), (goal,))
    rates = first_rates(found, course)
    residual = start
    for number in range(1, course.epochs + 1):
        for _ in range(course.steps or 1):
            residual = residual * (1 - 2 * (rates[0] or 0.0)) + opposing
        lost = worse(found.epochs)
        task = None if lost is None else TaskStanding(0.9, 0.9, lost, 0.001, 0.005)
        found = found.with_epoch(GoalEpoch(number, (residual,), rates, task))
        if ending(found):
            break
        rates = next_rates(found, course)
    return found


@pytest.mark.parametrize("steps", [5, 40, 1000, 10_000])
@pytest.mark.parametrize("start", [12.0, 0.5])
@pytest.mark.parametrize("push", [0.0, 0.5, 3.0])
def test_the_goal_is_reached_whatever_the_steps_and_the_opposition(
    steps: int, start: float, push: float
) -> None:
    """`push`: how much of the goal the task would undo in an epoch."""
    course = Course(steps, 20)
    found = driven(Aim(division=10), start, push * start / 10 / steps, course)
    assert ending(found) == "reached"
    first = found.first_reached
    assert first is not None
    assert 3 <= first.epoch <= 12  # spread, and in time
    rates = [e.rates[0] for e in found.epochs]
    assert all(rate is not None and 0 < rate <= HIGHEST for rate in rates)


@pytest.mark.slow
@given(
    st.floats(0.02, 50),
    st.sampled_from([5, 30, 300, 10_000]),
    st.floats(0, 5),
    st.integers(1, 40),
    st.lists(st.floats(0, 0.03), min_size=40, max_size=40),
)
def test_rates_stay_within_bounds_whatever_the_task_does(
    start: float, steps: int, push: float, epochs: int, losses: list[float]
) -> None:
    course = Course(steps, epochs)
    found = driven(
        Aim(division=10), start, push * start / 10 / steps, course, lambda e: losses[len(e)]
    )
    assert all(0 <= (e.rates[0] or 0.0) <= HIGHEST for e in found.epochs)


def test_a_margin_that_stays_spent_ends_the_run() -> None:
    found = driven(Aim(division=10), 1.0, 0.0, Course(100, 40), lambda e: 0.02)
    assert ending(found) == "margin"
    assert len(found.epochs) <= 6
    rates = [e.rates[0] for e in found.epochs][3:]  # it is held, and when that does not help let go
    assert all(b == pytest.approx((a or 0) / 3) for a, b in itertools.pairwise(rates))


def test_a_margin_that_is_regained_is_not_spent_again_at_once() -> None:
    """The task suffers from rates above 0.002."""

    def worse(epochs: Any) -> float:
        rate = epochs[-1].rates[0] if epochs else 0.0
        return 0.02 if rate > 0.002 else 0.0

    found = driven(Aim(division=10), 1.0, 0.001, Course(100, 40), worse)
    spent = [e.task is not None and e.task.spent for e in found.epochs]
    times = sum(now and not before for before, now in itertools.pairwise([False, *spent]))
    assert 1 <= times <= 3
    assert sum(spent) <= len(spent) / 2
    assert found.best is not None
    assert not (found.best.task is not None and found.best.task.spent)


def test_at_the_first_rate_the_last_epoch_would_be_there() -> None:
    course = Course(115, 12)
    (rate,) = first_rates(progress(start=1.0, target=0.1), course)
    assert rate is not None
    assert (1 - 2 * rate) ** (115 * 12) == pytest.approx(0.095, rel=0.02)


# The task


def test_a_margin_is_of_accuracy_or_a_share_of_a_loss() -> None:
    def measure() -> Measured:
        return Measured(0.0)

    assert Task("accuracy", False, measure).allowed(0.9) == MARGIN
    assert Task("accuracy", False, measure, 0.02).allowed(0.9) == 0.02
    assert Task("task_loss", True, measure).allowed(2.0) == pytest.approx(2 * LOSS_MARGIN)
    assert Task("mae", True, measure, 0.1).allowed(2.0) == pytest.approx(0.2)


def test_differences_are_of_the_same_samples() -> None:
    task = Task("accuracy", False, lambda: Measured(0.0))
    before, after = np.ones(100, "float32"), np.ones(100, "float32")
    after[:4] = 0
    worse, error = task.worse_by(Measured(1.0, before), Measured(0.96, after))
    assert worse == pytest.approx(0.04)
    assert error == pytest.approx(np.sqrt((4 + 2) / 100 - 0.04**2) / 10)  # one more each way
    lower = Task("mae", True, lambda: Measured(0.0))
    assert lower.worse_by(Measured(1.0, before), Measured(0.96, after))[0] == pytest.approx(-0.04)


@given(
    st.lists(st.integers(0, 3), min_size=60, max_size=200), st.integers(0, 9), st.floats(0.1, 0.5)
)
def test_held_out_samples_are_of_each_class_its_share(
    labels: list[int], seed: int, fraction: float
) -> None:
    classes = np.array(labels)
    train, held = split(len(classes), fraction, seed, classes)
    assert sorted([*train, *held]) == list(range(len(classes)))
    assert len(held) == min(max(round(len(classes) * fraction), 1), len(classes) - 1)
    for value in set(labels):
        there = int((classes == value).sum())
        assert abs((classes[held] == value).sum() - fraction * there) <= 1.5


def test_classes_are_told_from_other_labels() -> None:
    one_hot = np.eye(3)[np.arange(60) % 3]
    found = classes_in((one_hot,))
    assert found is not None
    assert found.tolist() == [0, 1, 2] * 20
    assert classes_in((np.linspace(0, 1, 60),)) is None
    assert classes_in((one_hot, one_hot)) is None
    assert classes_in((np.random.default_rng(0).random((60, 3)),)) is None


# Runs

rng = np.random.default_rng(0)
CENTRES = rng.standard_normal((4, 12))
Y = np.arange(400) % 4
X = (CENTRES[Y] + 0.6 * rng.standard_normal((400, 12))).astype("float32")
X_VAL, Y_VAL, X, Y = X[:100], Y[:100], X[100:], Y[100:]


def untrained() -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            layers.Input((12,)),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(8, activation="relu", name="deep"),
            layers.Dense(4, activation="softmax", name="head"),
        ]
    )


@functools.cache
def plateau() -> list[Array]:
    """The weights of `untrained` once it has been trained."""
    model = untrained()
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=6, batch_size=25, verbose=0)
    weights: list[Array] = model.get_weights()
    return weights


def small() -> Any:
    """Trained to a plateau."""
    model = untrained()
    model.set_weights(plateau())
    model.compile(
        keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def residuals(report: Any, when: str = "after") -> dict[str, float]:
    return {
        r.path: getattr(
            getattr(r, when),
            "scaled_residual" if r.regularizer.scale == "preserve" else "residual",
        )
        for r in report.layers
    }


def test_apply_with_data_and_nothing_else_divides_every_residual_by_ten() -> None:
    model = small()
    y = np.arange(1000) % 4  # enough that a lost sample is not at once the whole margin
    x = CENTRES[y] + 0.6 * np.random.default_rng(5).standard_normal((1000, 12))
    result = orthwrap.apply(model, data=(x.astype("float32"), y), epochs=20, seed=3)
    report = result.report
    before, after = residuals(report, "before"), residuals(report)
    assert {name: before[name] / after[name] >= 10 for name in before} == dict.fromkeys(before, 1)
    told = report.training.goal
    assert told.ended == "reached"
    assert report.training.epochs == len(told.epochs) < 20  # stopped early
    assert [k.place for k in told.kernels] == ["hidden", "deep", "head"]
    for k in told.kernels:  # as the report measures them
        assert k.start == pytest.approx(before[k.place], rel=1e-4)
    kept = told.at(report.training.kept_epoch)
    np.testing.assert_allclose(kept.residuals, list(after.values()), rtol=1e-4)
    assert all(r.regularizer.pull for r in report.layers)
    # It knows what is held out as well as the rest, which is held to the margin then.
    assert all(e.task.trained is not None for e in told.epochs)
    assert kept.task.trained.worse_by <= MARGIN
    assert any("may have been trained on them" in line for line in report.training.choices)
    assert report.training.held_out
    assert any("100 more to validate" in line for line in report.training.choices)
    few = "0.005 of it may be lost, of which 100 samples tell no less than 0.014"  # √2/100
    assert any(line.endswith(few) for line in report.training.choices)
    error = report.training.verdict.task.standard_error
    assert error >= 0.014
    assert f" ± {error:.2g} (" in report.training.verdict.line
    accuracy = result.model.evaluate(X_VAL, Y_VAL, verbose=0)[1]
    assert accuracy >= model.evaluate(X_VAL, Y_VAL, verbose=0)[1] - 0.05
    again = orthwrap.Report.from_json(json.loads(json.dumps(report.to_json())))
    assert again.training.goal == told
    first = next(e for e in told.epochs if all(map(KernelGoal.reached, told.kernels, e.residuals)))
    said = f"Trained for {len(told.epochs)} epochs, at the goal after {first.epoch} ("
    assert said in " ".join(str(report).split())


SAID: list[dict[str, Any]] = [
    {"factor": 1e-3},
    {"factor": "auto"},
    {"schedule": "linear"},
    {"factor_for": {"head": 1}},
]


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("words", SAID)
def test_whoever_says_how_strong_gets_no_goal(words: dict[str, Any]) -> None:
    report = orthwrap.apply(small(), data=(X, Y), epochs=1, seed=3, **words).report
    told = report.training.goal
    assert told.goal is None
    assert [e.rates for e in told.epochs] == [(None, None, None)]  # watched, and not pulled
    assert not report.training.held_out
    assert report.training.history["penalty"][0] > 0


@pytest.mark.dear
@pytest.mark.slow
def test_a_factor_that_will_move_little_is_told_before_the_first_step() -> None:
    def told(**words: Any) -> list[str]:
        choices = orthwrap.apply(small(), data=(X, Y), epochs=1, **words).report.training.choices
        return [line for line in choices if "moves a weight by" in line]

    (line,) = told(factor=1e-3)
    assert "Adam's rate 0.0001 over 10 steps moves a weight by 0.001 at most" in line
    assert not told(factor=1e-3, learning_rate=1.0)
    assert not told(factor=1e-3, optimizer="sgd")
    assert not told(pull=0.01)


@pytest.mark.slow
def test_the_default_gives_way_where_nothing_can_be_pulled() -> None:
    model = small()
    report = orthwrap.apply(model, data=(X, Y), epochs=1, seed=3, regularizer="srip").report
    assert report.training.goal.goal is None
    model.compile(keras.optimizers.Adam(1e-4, use_ema=True), "sparse_categorical_crossentropy")
    assert orthwrap.apply(model, data=(X, Y), epochs=1).report.training.goal.goal is None
    with pytest.raises(UsageError, match="use_ema"):
        orthwrap.apply(model, data=(X, Y), epochs=1, goal="10x")


@pytest.mark.slow
def test_what_is_only_attached_says_how_to_get_there() -> None:
    model = small()
    told = str(orthwrap.apply(model).report)
    assert 'goal = orthwrap.Goal("10x", validation=(x_val, y_val))' in told
    assert "callbacks=[goal]" in told
    assert "orthwrap.Goal" not in str(orthwrap.apply(model, regularizer="srip").report)
    assert "orthwrap.Goal" not in str(orthwrap.inspect(model))
    pulled = str(orthwrap.apply(model, data=(X, Y), epochs=1, pull=0.05).report)
    assert "callbacks=[orthwrap.Pull(0.05)]" in pulled


@pytest.mark.slow
def test_a_margin_of_nothing_keeps_the_task() -> None:
    """Hardly pulled: the loss on what it was trained on is as good as it gets."""
    model = small()
    margin = {"goal": "residual=0.0001", "task_margin": 0.0, "validation": (X, Y)}
    model.compile(keras.optimizers.SGD(1e-6), "sparse_categorical_crossentropy")
    report = orthwrap.apply(model, data=(X, Y), epochs=12, seed=3, **margin).report
    told = report.training.goal
    assert told.task == "task_loss"
    assert told.ended == "margin"
    kept = told.at(report.training.kept_epoch)
    best = min(e.task.worse_by for e in told.epochs)
    assert kept.task.worse_by == best  # all are spent: the one that lost least


@pytest.mark.slow
def test_a_fixed_pull_and_that_of_a_rule() -> None:
    model = small()
    report = orthwrap.apply(model, data=(X, Y), epochs=2, seed=3, pull=0.05).report
    assert report.training.goal.epochs[-1].rates == (0.05, 0.05, 0.05)
    rules = [orthwrap.Rule(target="head", pull=0.02), orthwrap.Rule(factor=1e-3)]
    report = orthwrap.apply(model, data=(X, Y), epochs=2, seed=3, rules=rules).report
    assert report.training.goal.epochs[-1].rates == (None, None, 0.02)


def assert_same(one: Any, other: Any) -> None:
    for a, b in zip(one.variables, other.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


@pytest.mark.dear
@pytest.mark.slow
def test_a_run_that_goes_on_ends_at_the_same_bits(tmp_path: Path) -> None:
    model = small()
    words: dict[str, Any] = {"data": (X, Y), "goal": "30x", "seed": 3, "epochs": 5}
    whole = orthwrap.apply(model, checkpoint_dir=tmp_path / "whole", **words)

    class Stop(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise KeyboardInterrupt

    parts: dict[str, Any] = {**words, "checkpoint_dir": tmp_path / "parts"}
    with pytest.raises((KeyboardInterrupt, orthwrap.Interrupted)):
        orthwrap.apply(model, callbacks=[Stop()], **parts)
    rest = orthwrap.apply(model, resume=True, **parts)
    assert_same(rest.model, whole.model)
    one, other = whole.report.training.goal, rest.report.training.goal
    for a, b in zip(one.epochs, other.epochs, strict=True):
        assert (a.residuals, a.rates, a.task) == (b.residuals, b.rates, b.task)
    done = orthwrap.apply(model, resume=True, **parts)  # nothing is left to do
    assert_same(done.model, whole.model)
    with pytest.raises(ValueFault, match="with goal"):
        orthwrap.apply(model, resume=True, **{**parts, "goal": "20x"})


@pytest.mark.slow
def test_the_callback_does_the_same_in_a_fit_of_ones_own() -> None:
    model = orthwrap.apply(small()).model
    model.compile(
        keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    before = orthwrap.inspect(model)
    goal = Goal("10x", validation=(X_VAL, Y_VAL))
    history = model.fit(X, Y, batch_size=25, epochs=20, verbose=0, callbacks=[goal])
    assert goal.progress.ended == "reached"
    assert len(history.epoch) == len(goal.progress.epochs) < 20
    assert goal.progress.task == "accuracy"
    start, end = residuals(before, "before"), residuals(orthwrap.inspect(model), "before")
    assert all(start[name] / end[name] >= 10 for name in start)
    kept = goal.progress.best
    np.testing.assert_allclose(kept.residuals, list(end.values()), rtol=1e-4)
    assert kept.task.value == pytest.approx(model.evaluate(X_VAL, Y_VAL, verbose=0)[1], abs=1e-6)
    assert not any(v.constraint for v in model.trainable_variables)


def test_several_outputs_are_held_by_their_weighted_loss() -> None:
    inputs = layers.Input((12,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    outputs = [layers.Dense(1, name="one")(x), layers.Dense(2, name="two")(x)]
    model = orthwrap.apply(keras.Model(inputs, outputs)).model
    model.compile(
        keras.optimizers.SGD(0.0), loss=["mse", "mae"], loss_weights=[0.5, 2.0], metrics=None
    )
    y = [X[:, :1], X[:, 1:3]]
    goal = Goal("2x", validation=(X, tuple(y)))
    model.fit(X, y, batch_size=50, epochs=1, verbose=0, callbacks=[goal])
    assert goal.progress.task == "task_loss"
    one, two = (ops.convert_to_numpy(a) for a in model(X))
    wanted = 0.5 * np.mean((one - y[0]) ** 2) + 2 * np.mean(np.abs(two - y[1]))
    assert goal.progress.epochs[-1].task.value == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.slow
def test_what_an_epoch_costs_beside_its_steps_is_counted() -> None:
    """The validation samples go through the model once an epoch, each kernel is read once."""
    calls = 0

    class Counting(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    model = orthwrap.apply(small()).model
    model.compile(
        keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> Any:
            nonlocal calls
            calls += 1
            return X_VAL, Y_VAL

    model.fit(X, Y, epochs=2, verbose=0, callbacks=[Goal("9x", validation=Batches())])
    assert calls == 4  # looked at for the metrics, as it is, and after each epoch
    assert math.isfinite(model.evaluate(X_VAL, Y_VAL, verbose=0)[0])
