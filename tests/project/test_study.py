"""The study's own machinery: trials, pairs, intervals and scores, against others' formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import brier_score_loss, log_loss

from studies import networks, training
from studies.data import split
from studies.experiment import RESULTS, TUNING, Arm, Experiment, Run, kept, perform, planned
from studies.figures import Cell, cells, difference


def experiment(asked: list[Run] | None = None) -> Experiment:
    """Strength 0.1 validates best of `so`, 0.2 of `decay`."""

    def scores(case: str, arm: str, strength: float, seed: int) -> dict[str, float]:
        if asked is not None:
            asked.append(Run("toy", case, arm, strength, seed))
        best = {"plain": 0.0, "decay": 0.2, "so": 0.1}[arm]
        return {"validation": 1 - abs(strength - best), "accuracy": strength + seed / 10}

    arms = (Arm("plain"), Arm("decay", (0.1, 0.2, 0.3)), Arm("so", (0.1, 0.2, 0.3)))
    return Experiment("toy", ("a", "b"), arms, scores, seeds=4)


def test_strengths_are_tuned_on_seeds_of_their_own_and_runs_are_paired(tmp_path: Path) -> None:
    asked: list[Run] = []
    done = list(perform(experiment(asked), tmp_path, ("a",)))
    assert done == asked
    assert len(done) == planned(experiment(), "a") == 2 * 3 * 2 + 4 * 3
    results = [run for run in done if not run.is_tuning]
    assert {(run.arm, run.strength) for run in results} == {
        ("plain", 0),
        ("decay", 0.2),
        ("so", 0.1),
    }
    assert [run.seed for run in results] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert {run.seed for run in done if run.is_tuning} == {TUNING, TUNING + 1}


def test_a_study_that_was_stopped_goes_on(tmp_path: Path) -> None:
    runs = perform(experiment(), tmp_path, ("a",))
    first = [next(runs) for _ in range(15)]
    runs.close()
    asked: list[Run] = []
    rest = list(perform(experiment(asked), tmp_path, ("a",)))
    assert asked == rest
    assert not set(first) & set(rest)
    assert len(first) + len(rest) == planned(experiment(), "a")
    assert list(perform(experiment(), tmp_path, ("a",))) == []


def test_arms_get_equally_many_trials() -> None:
    with pytest.raises(ValueError, match="equally many trials"):
        Experiment("toy", ("a",), (Arm("so", (1, 2)), Arm("decay", (1, 2, 3))), lambda *_: {})


def test_results_are_without_the_seeds_that_chose(tmp_path: Path) -> None:
    list(perform(experiment(), tmp_path))
    found = cells(tmp_path, "toy")
    assert [(c.case, c.arm) for c in found] == [
        (a, b) for a in "ab" for b in ("decay", "plain", "so")
    ]
    assert all(sorted(cell.scores) == [0, 1, 2, 3] for cell in found)
    assert found[0].mean("accuracy") == pytest.approx(0.2 + 0.15)


def test_the_interval_is_that_of_scipy() -> None:
    draw = np.random.default_rng(1)
    pairs = draw.normal(0.02, 0.03, (20, 2))
    one, other = (
        Cell("", "", 0, {seed: {"m": float(v)} for seed, v in enumerate(pairs[:, i])}, 0)
        for i in range(2)
    )
    found = difference(one, other, "m")
    gaps = pairs[:, 0] - pairs[:, 1]
    wanted = bootstrap((gaps,), np.mean, n_resamples=20_000, method="percentile", rng=2)
    assert found.mean == pytest.approx(gaps.mean())
    ours = (found.low, found.high)
    assert ours == pytest.approx(tuple(wanted.confidence_interval), abs=8e-4)


def test_scores_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    p, y = draw.dirichlet(np.ones(4), 200), draw.integers(0, 4, 200)
    found = training.of_probabilities(p, y)
    assert found["nll"] == pytest.approx(log_loss(y, p))
    each = [brier_score_loss(y == c, p[:, c]) for c in range(4)]
    assert found["brier"] == pytest.approx(sum(each))
    # Sure and right half of the time: the gap is a half.
    sure = np.eye(4)[np.zeros(100, int)]
    assert training.of_probabilities(sure, np.arange(100) % 2)["ece"] == pytest.approx(0.5)


def test_what_is_kept_is_small_and_whole() -> None:
    paths = sorted(RESULTS.glob("*/*/*.json"))
    assert paths
    for path in paths:
        run = json.loads(path.read_text(encoding="utf-8"))
        again = Run(*(run[key] for key in ("experiment", "case", "arm", "strength", "seed")))
        assert again.file(RESULTS) == path
        assert path.stat().st_size < 1000
    assert kept(Run("none", "a", "so", 1, 0), RESULTS) is None


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("arm", ["decay", "so", "pull"])
def test_a_model_that_is_used_for_several_seeds_begins_anew_each_time(arm: str) -> None:
    data, how = split("digits", 0, per_class=5), training.Recipe(epochs=2)

    def weights(seed: int) -> list[np.ndarray]:
        return training.trained(networks.mlp, data, arm, 0.1, seed, how).get_weights()

    training._compiled.cache_clear()
    fresh = weights(3)
    training._compiled.cache_clear()
    weights(2)
    for one, other in zip(fresh, weights(3), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    model = training.trained(networks.mlp, data, arm, 0.1, 3, how)
    worst = training.residuals(model)["residual_worst"]
    assert (worst < 0.8) == (arm == "pull")  # the others hardly move in four steps
