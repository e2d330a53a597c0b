"""(e) Few samples of each class."""

from __future__ import annotations

from studies import networks, training
from studies.data import split
from studies.experiment import Arm, Experiment, Scores

# As many steps, about, whatever the number of samples.
HOW = {10: training.Recipe(80), 30: training.Recipe(40), 100: training.Recipe(15)}


def scores(case: str, arm: str, strength: float, seed: int) -> Scores:
    """`digits-30`: thirty of each class."""
    name, count = case.split("-")
    data = split(name, seed, per_class=int(count))
    model = training.trained(networks.vgg, data, arm, strength, seed, HOW[int(count)])
    return training.scores(model, data)


EXPERIMENT = Experiment(
    name="few_data",
    cases=("digits-10", "digits-30", "mnist-10", "mnist-30", "mnist-100"),
    arms=(
        Arm("plain"),
        Arm("decay", (1e-3, 1e-2, 1e-1, 1.0)),
        Arm("so", (1e-3, 1e-2, 1e-1, 1.0)),
    ),
    scores=scores,
    seeds=20,
)
