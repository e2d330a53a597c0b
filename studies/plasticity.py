"""(b) One network learns one set of random labels after another: does it still learn the last?"""

from __future__ import annotations

import keras
import numpy as np

from studies import networks, training
from studies.data import Array, split
from studies.experiment import Arm, Experiment, Scores

TASKS, LATE, SAMPLES = 30, 5, 400
HOW = training.Recipe(epochs=20)


def scores(case: str, arm: str, strength: float, seed: int) -> Scores:
    """Accuracy on what was learnt, at the end of a task: of the first and of the last tasks.

    `permuted`: the pixels change places with each task and the labels stay. `labels`: the labels
    are drawn anew.
    """
    data = split("digits", seed)
    x, y = data.x[:SAMPLES].reshape(SAMPLES, -1), data.y[:SAMPLES]
    keras.utils.set_random_seed(seed)
    model = training.equipped(networks.mlp(x.shape[1:], 10), arm, strength, HOW)
    training.compile_for(model, HOW.rate, decay=strength if arm == "decay" else 0)
    found, draw = [], np.random.default_rng(seed)
    for task in range(TASKS):
        now, labels = _task(case, x, y, draw)
        training.fit(model, now, labels, seed + task, HOW)
        found.append(training.accuracy(training.probabilities(model, now), labels))
    early, late = float(np.mean(found[:LATE])), float(np.mean(found[-LATE:]))
    ended = training.residuals(model)
    return {"validation": late, "early": early, "late": late, "late - early": late - early, **ended}


def _task(case: str, x: Array, y: Array, draw: np.random.Generator) -> tuple[Array, Array]:
    if case == "permuted":
        return x[:, draw.permutation(x.shape[1])], y
    return x, draw.integers(0, 10, len(y))


EXPERIMENT = Experiment(
    name="plasticity",
    cases=("labels", "permuted"),
    arms=(
        Arm("plain"),
        Arm("decay", (1e-3, 1e-2, 1e-1)),
        Arm("so", (1e-3, 1e-2, 1e-1)),
    ),
    scores=scores,
    tuning_seeds=1,
)
