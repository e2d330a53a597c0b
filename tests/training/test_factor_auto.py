"""`factor="auto"`: factors from the gradients of task and penalty."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from orthwrap.live.live_store import LiveStore
from orthwrap.plan.decide import plan
from orthwrap.rules.file import read_rules
from orthwrap.survey import survey
from orthwrap.training.factors.auto import (
    MOVED,
    Norms,
    Resolved,
    apply_resolved,
    chosen_of,
    factors_from,
    resolve,
    resolved_in_words,
    with_resolved,
)
from orthwrap.training.factors.gradients import penalty_gradients, task_gradients
from tests.support import models
from tests.support.backend import value_and_grad

Array = np.ndarray[Any, np.dtype[Any]]


def numpy(tensor: Any) -> Array:
    return np.array(ops.convert_to_numpy(tensor))


def attached(model: Any, **words: Any) -> Any:
    return orthwrap.apply(model, measure=False, **{"scale": "unit", **words}).model


def batch_of(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# From norms to factors


def named(name: str, task: float, penalty: float, *, trainable: bool = True) -> Norms:
    return Norms((name, "kernel"), task, penalty, 1e-3, trainable)


def test_the_penaltys_gradient_becomes_rho_times_the_tasks() -> None:
    norms = [named("a", 2.0, 4.0), named("b", 3.0, 0.5)]
    for rho in (1.0, 0.1, 7.0):
        found = factors_from(norms, rho, "kernel")
        assert [r.factor for r in found] == pytest.approx([0.5 * rho, 6.0 * rho])
        for r, n in zip(found, norms, strict=True):
            assert r.factor * n.penalty == pytest.approx(rho * n.task)
            assert (r.task, r.penalty, r.problem) == (n.task, n.penalty, "")


def test_over_all_gives_one_factor_from_the_norms_of_all_together() -> None:
    norms = [named("a", 3.0, 12.0), named("b", 4.0, 5.0), named("c", 9.0, 9.0, trainable=False)]
    found = factors_from([*norms, named("d", math.nan, 1.0)], 2.0, "all")
    assert [r.factor for r in found] == pytest.approx([2 * 5 / 13, 2 * 5 / 13, 1e-3, 1e-3])
    assert [bool(r.problem) for r in found] == [False, False, True, True]


@pytest.mark.parametrize("over", ["kernel", "all"])
@pytest.mark.parametrize(
    ("norms", "words"),
    [
        (named("a", 0.0, 1.0), "the task's gradient is 0"),
        (named("a", math.nan, 1.0), "the task's gradient is nan"),
        (named("a", math.inf, 1.0), "the task's gradient is inf"),
        (named("a", 1.0, math.nan), "the penalty's gradient is nan"),
        (named("a", 1.0, 0.9e-6), "the penalty's gradient is next to nothing"),
        (named("a", 1.0, 1.0, trainable=False), "frozen"),
        (named("a", 1e-200, 1e200), "the quotient is 0"),
    ],
)
def test_where_no_factor_follows_the_default_stays_and_says_why(
    norms: Norms, words: str, over: str
) -> None:
    (found,) = factors_from([norms], 1.0, over)
    assert found.factor == 1e-3
    assert words in found.problem
    assert found.why == f"factor auto: 0.001, the default, as {found.problem}"
    assert resolved_in_words([found]) == (f"{found.name}: {found.why}",)
    good = [Resolved((f"conv{i}", "kernel"), 0.01 * i, 1.0, 1.0) for i in range(1, 9)]
    names = ", ".join([found.name] * 3)
    assert resolved_in_words([*good, *[found] * 4]) == (
        "factor auto: 0.01 to 0.08 over 8 kernels",
        f"factor auto: the default for {names} and 1 more, as {found.problem}",
    )


def test_a_small_penalty_still_counts_just_above_the_limit() -> None:
    (found,) = factors_from([named("a", 1.0, 1.1e-6)], 1.0, "kernel")
    assert found.factor == pytest.approx(1 / 1.1e-6)


def test_names_are_those_of_the_report() -> None:
    assert Resolved(("conv", "kernel"), 1.0, 1.0, 1.0).name == "conv"
    assert Resolved(("lstm", "recurrent"), 1.0, 1.0, 1.0).name == "lstm@recurrent"


# The gradients, against what they are by hand


def linear(rate: float = 0.0) -> Any:
    inputs = layers.Input((5,))
    x = layers.Dropout(rate)(inputs) if rate else inputs
    outputs = layers.Dense(3, use_bias=False, name="dense")(x)
    model = models.randomized(keras.Model(inputs, outputs))
    model.compile("sgd", "mse")
    return model


def by_hand(w: Array, x: Array, y: Array) -> Array:
    return 2.0 * x.T @ (x @ w - y) / y.size


def test_factor_is_the_quotient_of_the_gradients_of_mse_and_so() -> None:
    model = attached(linear(), target="dense", factor=0.5)
    w = numpy(model.get_layer("dense").kernel).astype("float64")
    pairs = [(batch_of(8, 5, seed=i), batch_of(8, 3, seed=10 + i)) for i in range(3)]
    task = math.sqrt(np.mean([np.sum(by_hand(w, x, y) ** 2) for x, y in pairs]))
    penalty = np.linalg.norm(4.0 * w @ (w.T @ w - np.eye(3)))
    (found,) = resolve(model, pairs, chosen_of(model), rho=0.7)
    assert found.task == pytest.approx(task, rel=1e-4)
    assert found.penalty == pytest.approx(penalty, rel=1e-4)
    assert found.factor == pytest.approx(0.7 * task / penalty, rel=1e-4)


def test_weights_of_samples_count() -> None:
    model = attached(linear(), target="dense")
    x, y = batch_of(8, 5), batch_of(8, 3, seed=1)
    weight = np.zeros(8, "float32")
    weight[:4] = 2.0
    kernel = model.get_layer("dense").kernel
    ((weighted,),) = task_gradients(model, [(x, y, weight)], [kernel])
    ((half,),) = task_gradients(model, [(x[:4], y[:4])], [kernel])
    np.testing.assert_allclose(weighted, half, rtol=1e-4, atol=1e-6)


def test_factor_makes_the_gradients_equal_whatever_the_penalty() -> None:
    for name in ("so", "dso", "mc", "offdiag", "cosine", "frobenius"):
        model = attached(linear(), target="dense", regularizer=name)
        pairs = [(batch_of(8, 5), batch_of(8, 3, seed=1))]
        chosen = chosen_of(model)
        resolved = resolve(model, pairs, chosen)
        apply_resolved(chosen, resolved)
        layer = model.get_layer("dense")
        _, gradient = value_and_grad(layer.kernel_regularizer, numpy(layer.kernel))
        task = by_hand(numpy(layer.kernel), *pairs[0])
        assert np.linalg.norm(gradient) == pytest.approx(np.linalg.norm(task), rel=1e-3), name


def test_every_sketch_and_scale_are_those_that_training_sees() -> None:
    def factor(**words: Any) -> float:
        model = attached(linear(), target="dense", **words)
        pairs = [(batch_of(8, 5), batch_of(8, 3, seed=1))]
        return resolve(model, pairs, chosen_of(model))[0].factor

    exact = factor()
    assert factor(options={"every": 4}) == pytest.approx(exact)
    sketched = factor(options={"estimate": "sketch", "probes": 64, "seed": 3})
    assert sketched == pytest.approx(exact, rel=0.35)
    assert sketched == factor(options={"estimate": "sketch", "probes": 64, "seed": 3})
    assert sketched != factor(options={"estimate": "sketch", "probes": 64, "seed": 4})
    assert factor(regularizer="srip", options={"seed": 0}) > 0
    w = numpy(linear().get_layer("dense").kernel).astype("float64")
    alpha = np.linalg.norm(w) / math.sqrt(3)
    quotient = np.linalg.norm(w @ (w.T @ w - np.eye(3)))
    scaled = w / alpha
    quotient /= np.linalg.norm(scaled @ (scaled.T @ scaled - np.eye(3)) / alpha)
    assert factor(scale="preserve") == pytest.approx(exact * quotient, rel=1e-3)


def test_foreign_regularizers_have_a_factor_too_and_others_belong_to_the_task() -> None:
    pairs = [(batch_of(8, 5), batch_of(8, 3, seed=1))]
    model = attached(linear(), target="dense", regularizer="l2")
    w = numpy(model.get_layer("dense").kernel)
    (found,) = resolve(model, pairs, chosen_of(model))
    assert found.penalty == pytest.approx(2 * np.linalg.norm(w), rel=1e-4)

    plain = linear()
    plain.get_layer("dense").kernel_regularizer = keras.regularizers.L2(0.3)
    plain.get_layer("dense").kernel.regularizer = keras.regularizers.L2(0.3)
    combined = attached(plain, target="dense")
    (found,) = resolve(combined, pairs, chosen_of(combined))
    with_decay = np.linalg.norm(by_hand(w, *pairs[0]) + 0.6 * w)
    assert found.task == pytest.approx(with_decay, rel=1e-4)
    assert found.penalty == pytest.approx(np.linalg.norm(4.0 * w @ (w.T @ w - np.eye(3))), rel=1e-4)


# The model stays as it was


def busy() -> Any:
    """Dropout, statistics, metrics, a frozen layer and two outputs."""
    inputs = layers.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.4, name="drop")(x)
    x = layers.Conv2D(4, 2, name="frozen", trainable=False)(x)
    x = layers.Flatten(name="flat")(x)
    kind = layers.Dense(3, activation="softmax", name="kind")(x)
    size = layers.Dense(1, name="size")(x)
    model = models.randomized(keras.Model(inputs, [kind, size]))
    model.compile(
        "adam", ["sparse_categorical_crossentropy", "mse"], metrics=[["accuracy"], ["mae"]]
    )
    return model


def pairs_of(samples: int = 8) -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        (
            batch_of(samples, 6, 6, 2, seed=i),
            (rng.integers(0, 3, samples), batch_of(samples, 1, seed=9 + i)),
        )
        for i in range(2)
    ]


@pytest.mark.slow
def test_measuring_changes_nothing_and_comes_out_the_same_again() -> None:
    model = attached(busy())
    x, y = pairs_of()[0]
    model.fit(x, list(y), epochs=1, verbose=0)
    held = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [numpy(v) for v in held]
    regularizers = [v.regularizer for v in model.weights]
    chosen = chosen_of(model)
    first = resolve(model, pairs_of(), chosen)
    assert resolve(model, pairs_of(), chosen) == first
    for old, variable in zip(before, held, strict=True):
        np.testing.assert_array_equal(old, numpy(variable))
    assert [v.regularizer for v in model.weights] == regularizers
    assert all(c.factor == 1e-3 for c in chosen)


def test_frozen_kernels_keep_their_default_and_the_report_says_what_was_found() -> None:
    result = orthwrap.apply(busy(), scale="unit", measure=False)
    model = result.model
    chosen = chosen_of(model)
    resolved = resolve(model, pairs_of(), chosen)
    assert [r.name for r in resolved] == ["conv", "frozen", "kind", "size"]
    assert [r.problem for r in resolved] == ["", "frozen", "", ""]
    apply_resolved(chosen, resolved)
    for r in resolved:
        assert model.get_layer(r.name).kernel_regularizer.factor == r.factor
        assert model.get_layer(r.name).kernel.regularizer.factor == r.factor
    report = with_resolved(result.report, chosen, resolved)
    for record, r in zip((x for x in report.layers if x.carries), resolved, strict=True):
        assert record.regularizer is not None
        assert record.regularizer.factor == r.factor
        assert record.reason.endswith(r.why)


def test_an_orthonormal_kernel_keeps_its_default() -> None:
    model = linear()
    q, _ = np.linalg.qr(batch_of(5, 3).astype("float64"))
    model.get_layer("dense").kernel.assign(q)
    model = attached(model, target="dense", factor=0.25)
    (found,) = resolve(model, [(batch_of(8, 5), batch_of(8, 3))], chosen_of(model))
    assert found.factor == 0.25
    assert "next to nothing" in found.problem


def test_the_four_kernels_of_attention_have_one_factor() -> None:
    inputs = layers.Input((4, 6))
    x = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    model = models.randomized(keras.Model(inputs, layers.Dense(2, name="dense")(x)))
    model.compile("sgd", "mse")
    model = attached(model, target="all-attention")
    pairs = [(batch_of(8, 4, 6), batch_of(8, 4, 2))]
    (chosen,) = chosen_of(model)
    assert len(chosen.variables) == 4
    (found,) = resolve(model, pairs, [chosen])
    (task,) = task_gradients(model, pairs, chosen.variables)
    assert found.task == pytest.approx(math.sqrt(sum(np.sum(g**2) for g in task)), rel=1e-5)
    penalty = [next(penalty_gradients(v.regularizer, v)) for v in chosen.variables]
    assert found.penalty == pytest.approx(math.sqrt(sum(np.sum(g**2) for g in penalty)))
    apply_resolved([chosen], [found])
    assert {v.regularizer.factor for v in chosen.variables} == {found.factor}


def test_both_directions_and_both_kernels_of_a_recurrent_layer_have_their_own() -> None:
    inputs = layers.Input((4, 3))
    outputs = layers.Bidirectional(layers.GRU(2, name="gru"), name="both")(inputs)
    model = models.randomized(keras.Model(inputs, outputs))
    model.compile("sgd", "mse")
    model = attached(model, target="all-recurrent")
    resolved = resolve(model, [(batch_of(4, 4, 3), batch_of(4, 4))], chosen_of(model))
    assert [r.name for r in resolved] == [
        "both/forward_gru",
        "both/forward_gru@recurrent",
        "both/backward_gru",
        "both/backward_gru@recurrent",
    ]
    assert len({r.factor for r in resolved}) == 4
    places = [("both/backward_gru", "recurrent")]
    assert [c.place for c in chosen_of(model, places)] == places


def test_where_the_task_is_solved_the_gradient_is_taken_a_little_away() -> None:
    model = attached(linear(), target="dense")
    x = batch_of(64, 5)
    own = [(x, model.predict_on_batch(x))]
    kernel = model.get_layer("dense").kernel
    w = numpy(kernel).astype("float64")
    (here,) = resolve(model, own, chosen_of(model))
    (away,) = resolve(model, own, chosen_of(model), moved=MOVED)
    assert here.task == pytest.approx(0, abs=1e-6)
    direction = w @ (w.T @ w - np.eye(3))
    moved = w - MOVED * np.linalg.norm(w) / np.linalg.norm(direction) * direction
    assert away.task == pytest.approx(np.linalg.norm(by_hand(moved, x, own[0][1])), rel=1e-3)
    np.testing.assert_array_equal(numpy(kernel), w.astype("float32"))


def test_a_loss_that_fails_is_one_line() -> None:
    model = attached(linear(), target="dense")

    def broken(y_true: Any, y_pred: Any) -> Any:
        raise RuntimeError("no such thing\nand more")

    model.compile("sgd", broken)
    with pytest.raises(orthwrap.OrthwrapError) as caught:
        resolve(model, [(batch_of(8, 5), batch_of(8, 3))], chosen_of(model))
    assert "factor auto: the gradient of the model's loss could not be taken" in str(caught.value)
    assert "\n" not in str(caught.value)


# The word in rules and options


def decided(rule: orthwrap.Rule) -> dict[str, Any]:
    surveyed = survey(LiveStore(models.dense()))
    return {d.slot.layer.path: d for d in plan(surveyed, [rule]).decisions}


def test_a_plan_holds_the_default_and_marks_the_decision() -> None:
    by_path = decided(orthwrap.Rule(factor="auto", factor_for={"head": 0.5}))
    assert (by_path["wide"].auto, by_path["wide"].attachment.factor) == (True, 1e-3)
    assert by_path["wide"].reason.endswith("factor auto: 0.001 until training finds it")
    assert (by_path["head"].auto, by_path["head"].attachment.factor) == (False, 0.5)
    assert "auto" not in by_path["head"].reason

    by_path = decided(orthwrap.Rule(factor=0.25, factor_for={"head": "auto"}))
    assert (by_path["wide"].auto, by_path["wide"].attachment.factor) == (False, 0.25)
    assert (by_path["head"].auto, by_path["head"].attachment.factor) == (True, 0.25)

    by_path = decided(orthwrap.Rule(regularizer="l2", factor="auto"))
    assert (by_path["wide"].auto, by_path["wide"].attachment.factor) == (True, 1e-2)


def test_an_identical_regularizer_that_is_there_is_found_anew() -> None:
    surveyed = survey(LiveStore(attached(models.dense())))
    decisions = plan(surveyed, [orthwrap.Rule(factor="auto")]).decisions
    assert {(d.decision, d.auto) for d in decisions} == {("already", True)}


def test_an_object_takes_auto_with_its_own_factor_until_then() -> None:
    result = orthwrap.apply(
        models.dense(),
        regularizer=orthwrap.SO(0.125),
        factor="auto",
        data=(batch_of(8, 6), np.zeros(8, int)),
        dry_run=True,
    )
    assert {r.regularizer.factor for r in result.report.layers if r.regularizer} == {0.125}


def test_auto_needs_data_and_kernels() -> None:
    model = models.dense()
    for words in ({"factor": "auto"}, {"factor_for": {"head": "auto"}}):
        with pytest.raises(orthwrap.UsageError, match="factor auto needs data"):
            orthwrap.apply(model, **words)
    with pytest.raises(orthwrap.UsageError, match="factor auto works on kernels"):
        decided(orthwrap.Rule(factor="auto", on="activity"))
    with pytest.raises(orthwrap.UsageError, match="factor auto works on kernels"):
        decided(orthwrap.Rule(target="wide@activity", factor_for={"wide": "auto"}))
    others: tuple[Any, ...] = ("automatic", "AUTO", "", [], math.nan)
    for wrong in others:
        with pytest.raises(orthwrap.ValueFault):
            orthwrap.Rule(factor=wrong)
    with pytest.raises(orthwrap.ValueFault, match="factor 'auto' is not a number"):
        orthwrap.SO("auto")  # type: ignore[arg-type]  # that is the point


def test_auto_stands_in_a_rules_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nfactor = "auto"\n[[rule]]\nfactor_for = {conv = "auto"}\n')
    first, second = read_rules(path)
    assert first.factor == "auto"
    assert second.factor_for == (("conv", "auto"),)
    assert first.is_auto
    assert second.is_auto


def test_auto_on_the_command_line(run: Callable[..., Any], tmp_path: Path) -> None:
    models.dense().save(tmp_path / "m.keras")
    done = run("apply", "m.keras", "--factor", "auto")
    assert (done.returncode, done.stdout) == (2, "")
    assert "factor auto needs data" in done.stderr
    done = run("apply", "m.keras", "--factor", "much")
    assert done.returncode == 2
    assert "--factor 'much' is not a number: give one like 1e-3, or auto" in done.stderr
