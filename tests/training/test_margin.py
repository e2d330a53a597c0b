"""The way to a goal, gone by simulated networks: the task's truth is known, and chance is drawn.

A network's accuracy suffers from how far its kernels are on their way, and from how fast they went;
what is seen of it are so many samples, some of which change sides by chance alone.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import orthwrap
from orthwrap.report.goal_progress import GoalEpoch, GoalProgress, KernelGoal, TaskStanding
from orthwrap.training.goal.controller import (
    HIGHEST,
    Answer,
    Course,
    ending,
    first_rates,
    next_rates,
    pace,
    rate_for,
)
from orthwrap.training.goal.task import MARGIN, Measured, Task
from orthwrap.training.pull.kernels import driven_kernels

TASK = Task("accuracy", False, lambda: Measured(0.0))
STEPS, EPOCHS = 40, 20


@dataclass(frozen=True)
class Network:
    """A network that is not there.

    Attributes:
        starts: residuals of its kernels.
        push: how much of a kernel's goal the task would undo in an epoch.
        level: accuracy that is lost in the end where the whole way is gone.
        speed: accuracy that is lost for a while where it is gone in one epoch.
        flicker: share of the samples that are lost by chance in an epoch, and as many gained.
        held_out: samples that are validated on.
        trained: of those that are trained on; 0 are not asked.
    """

    starts: tuple[float, ...] = (0.5, 1.3, 3.5)
    push: float = 0.5
    level: float = 0.0
    speed: float = 0.0
    flicker: float = 0.0
    held_out: int = 130
    trained: int = 1000


@dataclass(frozen=True)
class Run:
    """How it went: what is known of it, and the accuracy that was truly lost after each epoch."""

    progress: GoalProgress
    lost: tuple[float, ...]

    @property
    def kept(self) -> GoalEpoch:
        assert self.progress.best is not None
        return self.progress.best

    @property
    def truly_lost(self) -> float:
        return self.lost[self.kept.epoch - 1]

    @property
    def division(self) -> float:
        pairs = zip(self.progress.kernels, self.kept.residuals, strict=True)
        return min(k.division(r) or math.inf for k, r in pairs)


class Samples:
    """So many samples, all right at first, of which a share is wrong later."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self._rng, self._fate = rng, rng.random(count)
        self._right = rng.random(count) < 0.9
        self.first = Measured(float(self._right.mean()), self._right.astype("float32"))

    def measured(self, lost: float, flicker: float) -> Measured:
        now = self._right & (self._fate >= lost / 0.9)
        changing = self._rng.random(len(now))
        now = (now & (changing >= flicker)) | (~now & (changing < 9 * flicker))
        return Measured(float(now.mean()), now.astype("float32"))


def gone(network: Network, seed: int, unlucky: int | None = None, epochs: int = EPOCHS) -> Run:
    """A run of it. `unlucky`: an epoch after which five samples more are lost, by chance."""
    rng = np.random.default_rng(seed)
    held_out = Samples(network.held_out, rng)
    trained = Samples(network.trained, rng) if network.trained else None
    kernels = tuple(
        KernelGoal(f"k{i}", "residual", start, start / 10, True)
        for i, start in enumerate(network.starts)
    )
    progress = GoalProgress("10x", kernels, (), "accuracy", False, 0.9)
    course = Course(STEPS, epochs)
    rates, residuals, lost, told = first_rates(progress, course), network.starts, 0.0, []
    for number in range(1, epochs + 1):
        before = way(network, residuals)
        residuals = tuple(
            fallen(r, rate or 0.0, network.push * start / 10 / STEPS)
            for r, rate, start in zip(residuals, rates, network.starts, strict=True)
        )
        now = way(network, residuals)
        lost += network.speed * max(now - before, 0.0)
        lost += 0.4 * (network.level * now - lost)  # it recovers, as far as it can
        told.append(lost)
        seen = held_out.measured(lost, network.flicker)
        if number == unlucky:
            assert seen.each is not None
            seen.each[np.nonzero(seen.each)[0][:5]] = 0
            seen = Measured(float(seen.each.mean()), seen.each)
        standing = TASK.standing(0.9, held_out.first, seen)
        if trained is not None and standing.cannot_tell:
            then = held_out.first.with_more(trained.first)
            more = seen.with_more(trained.measured(lost, network.flicker))
            standing = replace(standing, pooled_worse_by=TASK.worse_by(then, more)[0])
        progress = progress.with_epoch(GoalEpoch(number, residuals, rates, standing))
        progress = replace(progress, ended=ending(progress))
        if progress.ended:
            break
        rates = next_rates(progress, course)
    return Run(progress, tuple(told))


def fallen(residual: float, rate: float, push: float) -> float:
    for _ in range(STEPS):
        residual = residual * (1 - 2 * rate) + push
    return residual


def way(network: Network, residuals: tuple[float, ...]) -> float:
    """The share of the way that lies behind, by the kernels' divisions."""
    pairs = zip(network.starts, residuals, strict=True)
    return float(np.mean([math.log(max(s / r, 1.0)) / math.log(10.5) for s, r in pairs]))


def runs(network: Network, count: int = 40) -> list[Run]:
    return [gone(network, seed) for seed in range(count)]


# What every run should come to


@pytest.mark.parametrize("held_out", [100, 130, 500, 5000])
@pytest.mark.parametrize("flicker", [0.0, 0.003, 0.01])
def test_a_task_that_loses_nothing_stands_in_nobodys_way(held_out: int, flicker: float) -> None:
    """Samples that change sides by chance, some of them epochs long, cost a few epochs."""
    found = runs(Network(held_out=held_out, flicker=flicker))
    there = [r for r in found if r.division >= 10]
    assert len(there) >= 0.95 * len(found)
    assert np.mean([len(r.progress.epochs) for r in there]) <= 16


@pytest.mark.parametrize("held_out", [130, 500, 5000])
@pytest.mark.parametrize("level", [0.03, 0.1])
@pytest.mark.parametrize("flicker", [0.0, 0.005])
def test_the_margin_holds_where_orthogonality_is_dear(
    held_out: int, level: float, flicker: float
) -> None:
    """In truth, that is, and not on the samples that are seen."""
    found = runs(Network(level=level, flicker=flicker, held_out=held_out))
    lost = [r.truly_lost for r in found]
    assert np.mean(lost) <= {130: 2.0, 500: 1.5, 5000: 1.1}[held_out] * MARGIN
    assert np.quantile(lost, 0.9) <= {130: 3.5, 500: 3.0, 5000: 2.0}[held_out] * MARGIN
    assert np.median([r.division for r in found]) > 1.05


def test_trained_samples_hold_a_margin_that_few_others_cannot() -> None:
    """130 samples call a loss of 2 points chance in most epochs."""
    dear = Network(level=0.05, flicker=0.005)
    asked = np.mean([r.truly_lost for r in runs(dear)])
    alone = np.mean([r.truly_lost for r in runs(replace(dear, trained=0))])
    assert asked < 0.75 * alone


def test_a_task_that_suffers_from_haste_alone_arrives_all_the_same() -> None:
    found = runs(Network(speed=0.05, flicker=0.002, held_out=500))
    assert np.mean([r.division >= 10 for r in found]) >= 0.75
    assert np.mean([r.truly_lost for r in found]) <= MARGIN


@pytest.mark.parametrize("when", range(1, 9))
def test_an_unlucky_epoch_costs_a_few_and_not_the_goal(when: int) -> None:
    calm = gone(Network(), 0)
    hit = gone(Network(), 0, unlucky=when)
    assert not hit.progress.epochs[when - 1].holds
    assert hit.division >= 10
    assert len(hit.progress.epochs) <= len(calm.progress.epochs) + 5
    # What it had lost by chance holds it where it is, and lets it go on.
    at = way(Network(), hit.progress.epochs[when - 1].residuals)
    assert way(Network(), hit.progress.epochs[when].residuals) == pytest.approx(at, abs=0.02)


@given(
    st.integers(0, 1000),
    st.floats(0, 0.2),
    st.floats(0, 0.2),
    st.floats(0, 0.02),
    st.floats(0, 3),
    st.sampled_from([60, 130, 1000]),
    st.sampled_from([0, 1000]),
    st.integers(1, 30),
)
def test_no_run_oscillates(
    seed: int,
    level: float,
    speed: float,
    flicker: float,
    push: float,
    held_out: int,
    trained: int,
    epochs: int,
) -> None:
    network = Network((0.5, 2.0), push, level, speed, flicker, held_out, trained)
    progress = gone(network, seed, epochs=epochs).progress
    course = Course(STEPS, epochs)
    for epoch in progress.epochs:
        assert all(rate is not None and 0 <= rate <= HIGHEST for rate in epoch.rates)
    for i in range(1, len(progress.epochs)):
        earlier = replace(progress, epochs=progress.epochs[:i])
        here, after = (way(network, progress.epochs[j].residuals) for j in (i - 1, i))
        step = pace(earlier, course)
        assert course.shortest / 4 <= step <= course.longest
        # No epoch goes further than its step, but for what the task moves by itself.
        allowed = step if progress.epochs[i - 1].holds else 0.0
        assert after - here <= 2 * allowed + 0.1 * (1 + push)


def test_steps_become_shorter_as_the_task_suffers_and_longer_as_it_recovers() -> None:
    course, lost, well = Course(STEPS, 20), TaskStanding(0.8, 0.9, 0.1, 0.01, 0.005), None

    def after(*tasks: TaskStanding | None) -> float:
        kernels = (KernelGoal("k", "residual", 1.0, 0.1, True),)
        epochs = tuple(GoalEpoch(i + 1, (0.5,), (0.01,), t) for i, t in enumerate(tasks))
        return pace(GoalProgress("10x", kernels, epochs), course)

    lengths = [after(*tasks) for tasks in itertools.accumulate([(well,)] * 6, lambda a, b: a + b)]
    assert lengths == sorted(lengths)
    assert lengths[-1] == course.longest
    assert after(lost) == after() / 2
    assert after(lost, well) == after()
    unsure = TaskStanding(0.89, 0.9, 0.01, 0.01, 0.005)
    assert after(unsure) == after() / 2
    assert after(replace(unsure, pooled_worse_by=0.0)) == after() * 1.5
    assert after(replace(unsure, pooled_worse_by=0.01)) == after() / 2


# Rates


@given(
    before=st.floats(0.05, 5),
    rate=st.floats(1e-5, 0.05),
    push=st.floats(0, 1e-3),
    steps=st.sampled_from([5, 40, 1000]),
    by=st.floats(1.05, 3),
)
def test_a_rate_leads_where_it_should_if_the_task_pushes_as_before(
    before: float, rate: float, push: float, steps: int, by: float
) -> None:
    def stepped(residual: float, rate: float) -> float:
        for _ in range(steps):
            residual = residual * (1 - 2 * rate) + push
        return residual

    after = stepped(before, rate)
    answer = Answer(rate, steps, before, after)
    assert answer.push == pytest.approx(push, rel=1e-3, abs=1e-6 * before)
    wanted = max(after / by, stepped(after, HIGHEST) * 1.01)
    assert stepped(after, rate_for(wanted, answer)) == pytest.approx(wanted, rel=0.02, abs=1e-4)


def test_a_kernel_with_large_singular_values_is_pulled_the_more_gently() -> None:
    kernels = tuple(KernelGoal(name, "residual", 2.0, 0.2, True) for name in "ab")
    slow, fast = first_rates(GoalProgress("10x", kernels), Course(STEPS, 20), (1.0, 10.0))
    assert slow is not None
    assert fast == pytest.approx(slow / 10)


@pytest.mark.parametrize("scale", ["unit", "preserve"])
def test_the_speed_is_that_of_a_small_pull(scale: str) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((12,)), keras.layers.Dense(8)])
    kernel = model.layers[0].kernel
    u, _, v = np.linalg.svd(np.asarray(kernel), full_matrices=False)
    kernel.assign(u * np.array([3, 1.5, 1.2, 1, 1, 0.9, 0.8, 0.5], "float32") @ v)
    model = orthwrap.apply(model, scale=scale).model
    (driven,) = driven_kernels(model)
    before, beta = driven.figures(), 1e-4
    assert before.residual == pytest.approx(driven.residual())
    driven.variable.assign(driven.regularizer.pulled(driven.variable, beta))
    fell = math.log(before.residual / driven.residual()) / (2 * beta)
    if scale == "unit":
        assert before.speed == pytest.approx(fell, rel=0.02)
        assert before.speed > 4
    else:
        assert 1 < fell <= before.speed


# What is asked


CASES: list[tuple[float, float, float | None, bool, bool, bool]] = [
    # worse by, error, on trained samples; cannot tell, holds, is well
    (0.0, 0.0, None, False, True, True),
    (0.03, 0.01, None, False, False, False),
    (0.01, 0.01, None, True, True, False),
    (0.01, 0.01, 0.004, True, True, False),
    (0.01, 0.01, 0.006, True, False, False),
    (0.0, 0.01, 0.02, True, False, False),
    (0.0, 0.01, 0.0, True, True, True),
    (-0.02, 0.01, 0.02, False, True, True),  # they tell: others are not believed
    (0.03, 0.01, 0.0, False, False, False),
]


@pytest.mark.parametrize(("worse", "error", "there", "unsure", "holds", "well"), CASES)
def test_trained_samples_decide_where_the_others_cannot_tell(
    worse: float, error: float, there: float | None, unsure: bool, holds: bool, well: bool
) -> None:
    found = TaskStanding(0.9, 0.9, worse, error, 0.005, there)
    assert (found.cannot_tell, found.holds, found.is_well) == (unsure, holds, well)
    assert found.spent is (worse - 0.005 > error)  # whatever is said elsewhere


def right(count: int, wrong: int) -> Measured:
    each = np.ones(count, "float32")
    each[:wrong] = 0
    return Measured(float(each.mean()), each)


@pytest.mark.parametrize(
    ("is_split", "wrong", "wrong_of_trained", "known"),
    [
        (True, 2, 20, True),
        (True, 15, 20, False),
        (True, 15, 120, False),  # as good on both, and on neither as on what is known by heart
        (False, 2, 20, False),
    ],
)
def test_samples_are_known_where_they_are_split_off_and_the_original_is_as_good_on_them(
    is_split: bool, wrong: int, wrong_of_trained: int, known: bool
) -> None:
    task = replace(TASK, is_split=is_split)
    assert task.may_have_known(right(130, wrong), right(1000, wrong_of_trained)) is known


def test_of_a_loss_it_is_not_known_whether_samples_are() -> None:
    losses = Measured(0.0, np.zeros(100, "float32"))
    assert not replace(TASK, is_split=True, lower_is_better=True).may_have_known(losses, losses)


def test_what_is_forgotten_by_heart_is_told_from_what_is_lost() -> None:
    held_out = TASK.standing(1.0, right(130, 0), right(130, 10))
    holds = TASK.standing(1.0, right(1000, 0), right(1000, 5))
    lost = TASK.standing(1.0, right(1000, 0), right(1000, 60))
    assert held_out.spent
    assert not held_out.holds
    assert TASK.is_by_heart(held_out, holds)
    assert not TASK.is_by_heart(held_out, lost)
    assert replace(held_out, trained=holds).holds
    assert not replace(held_out, trained=lost).holds


@pytest.mark.parametrize(
    ("wrong", "holds", "goes_on", "is_well"),
    [
        (0, True, True, True),
        (4, True, True, False),
        (7, False, True, False),
        (12, False, False, False),
    ],
)
def test_of_trained_samples_less_is_kept_than_is_gone_on_with(
    wrong: int, holds: bool, goes_on: bool, is_well: bool
) -> None:
    there = TASK.standing(1.0, right(1000, 0), right(1000, wrong))
    found = replace(TASK.standing(1.0, right(130, 0), right(130, 3)), trained=there)
    assert (found.holds, found.may_go_on, found.is_well) == (holds, goes_on, is_well)
    epoch = GoalEpoch(1, (0.5,), (0.1,), found)
    progress = GoalProgress("10x", (KernelGoal("k", "residual", 1.0, 0.1, True),), (epoch,))
    assert GoalProgress.from_json(progress.to_json()) == progress


def test_a_share_in_which_no_sample_changed_is_not_certain() -> None:
    """Its standard error is √2/n: one more lost and one more gained of n."""
    right = Measured(1.0, np.ones(100, "float32"))
    worse_by, standard_error = TASK.worse_by(right, right)
    assert worse_by == 0
    assert standard_error == pytest.approx(math.sqrt(2) / 100)
    error = Task("mae", True, lambda: right)
    assert error.worse_by(right, right) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("before", "now", "recovers"), [(0.5, 0.3, True), (0.5, 0.49, False), (0.1, 0.05, False)]
)
def test_the_task_recovers_where_a_part_of_the_risen_loss_comes_back(
    before: float, now: float, recovers: bool
) -> None:
    noise = np.random.default_rng(0).uniform(0.95, 1.05, 100)
    first, then, last = (Measured(1.0, noise, level * noise) for level in (0.1, before, now))
    standing = TASK.standing(1.0, first, last, then)
    assert standing.recovers is recovers
    epochs = tuple(GoalEpoch(i, (0.1,), (0.1,), standing) for i in (1, 2))
    kernels = (KernelGoal("k", "residual", 1.0, 0.1, True),)
    assert ending(GoalProgress("10x", kernels, epochs)) == ("" if recovers else "reached")


def test_an_epoch_is_not_kept_for_its_luck() -> None:
    unsure = TaskStanding(0.9, 0.9, 0.01, 0.01, 0.005, 0.0)
    tasks = [unsure, replace(unsure, pooled_worse_by=0.02), unsure, unsure]
    epochs = tuple(GoalEpoch(i + 1, (0.9 - i / 10,), (0.1,), t) for i, t in enumerate(tasks))
    kernels = (KernelGoal("k", "residual", 1.0, 0.1, True),)
    lucky = GoalProgress("10x", kernels, epochs[:3])
    assert lucky.best is epochs[0]
    assert replace(lucky, epochs=epochs).best is epochs[3]
    sure = replace(epochs[2], task=TaskStanding(0.9, 0.9, -0.1, 0.01, 0.005))
    assert replace(lucky, epochs=(*epochs[:2], sure)).best is sure


# What it costs


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts in its graphs")
def test_an_epoch_with_a_goal_multiplies_a_tenth_more_at_most() -> None:
    """A small CNN on 3,500 images of 28×28, in batches of 32.

    A step takes three products for each kernel, forward and backward. A tenth of the samples is
    held out; it is looked at twice at the end of an epoch, and no step is made with it.
    """
    samples, held_out, batch = 3500, 350, 32
    forward = pulls = 0
    for shape, places in (
        ((3, 3, 1, 16), 784),
        ((3, 3, 16, 32), 196),
        ((3, 3, 32, 32), 49),
        ((1568, 64), 1),
        ((64, 10), 1),
    ):
        forward += 2 * math.prod(shape) * places
        pulls += multiplied(shape)
    plain = samples * 3 * forward
    steps = (samples - held_out) * 3 * forward + (samples - held_out) // batch * pulls
    assert pulls > 0
    assert steps + 2 * held_out * forward <= 1.1 * plain


def multiplied(shape: tuple[int, ...]) -> int:
    """Multiplications and additions in the matrix products of a pull."""
    import tensorflow as tf

    regularizer = orthwrap.regularizer("so")
    pulled = tf.function(lambda w: regularizer.pulled(w, 0.01))
    graph = pulled.get_concrete_function(tf.TensorSpec(shape, "float32")).graph
    products = [op for op in graph.get_operations() if "MatMul" in op.type or op.type == "Einsum"]
    assert products
    rows = {"MatMul": "transpose_a", "BatchMatMulV2": "adj_x"}
    return sum(
        2
        * math.prod(op.outputs[0].shape)
        * op.inputs[0].shape[-2 if op.get_attr(rows[op.type]) else -1]
        for op in products
    )


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON, and where in that."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*at, key)
            yield from places(inner, (*at, key))


@pytest.mark.parametrize("other", ["x", None, [], {}, True, 5, -1, float("nan")], ids=repr)
def test_a_way_to_a_goal_that_was_tampered_with_is_refused_or_can_be_gone_on(other: Any) -> None:
    there = replace(TASK.standing(1.0, right(130, 2), right(130, 3)), loss=0.5)
    there = replace(there, pooled_worse_by=0.01, trained=there)
    kernels = (KernelGoal("a", "residual", 1.0, 0.1, True),)
    epochs = tuple(GoalEpoch(n, (0.5,), (0.01,), there, 1.0) for n in (1, 2))
    whole = GoalProgress("10x", kernels, epochs, "accuracy", original=1.0).to_json()
    assert GoalProgress.from_json(whole).best is not None
    for *above, last in places(whole):
        changed = holder = copy.deepcopy(whole)
        for key in above:
            holder = holder[key]
        holder[last] = other
        try:
            found = GoalProgress.from_json(changed)
        except (KeyError, TypeError, ValueError):
            continue
        assert (found.best is None) is (not found.epochs)
        assert isinstance(ending(found), str)
