"""(a) A very deep plain tanh network: does it train at all?"""

from __future__ import annotations

import functools

from studies import networks, training
from studies.data import split
from studies.experiment import Arm, Experiment, Scores

HOW = training.Recipe(epochs=30, rate=3e-4, batch_size=64, target="deep*", exclude=())


def scores(case: str, arm: str, strength: float, seed: int) -> Scores:
    """`orthogonal` is the initializer of that name, and nothing else."""
    build = networks.deep_tanh
    if arm == "orthogonal":
        build, arm = functools.partial(build, initializer="orthogonal"), "plain"
    data = split(case, seed)
    model = training.trained(build, data, arm, strength, seed, HOW)
    return training.scores(model, data, target="deep*")


EXPERIMENT = Experiment(
    name="deep_tanh",
    cases=("digits",),
    arms=(
        Arm("plain"),
        Arm("decay", (1e-3, 1e-1)),
        Arm("so", (1e-1, 1.0)),
        Arm("pull", (1e-2, 1e-1)),
        Arm("orthogonal"),
    ),
    scores=scores,
    tuning_seeds=1,
)
