"""(f) Recurrent kernels: equal singular values against a band of them."""

from __future__ import annotations

from studies import networks, training
from studies.data import split
from studies.experiment import Arm, Experiment, Scores

HOW = training.Recipe(epochs=60, batch_size=16, target="lstm@recurrent", rate=3e-3)


def scores(case: str, arm: str, strength: float, seed: int) -> Scores:
    """An LSTM on series; penalties are of its recurrent kernel alone."""
    data = split(case, seed)
    model = training.trained(networks.lstm, data, arm, strength, seed, HOW)
    return training.scores(model, data, target=HOW.target)


EXPERIMENT = Experiment(
    name="recurrent",
    cases=("ItalyPowerDemand", "JapaneseVowels", "BasicMotions", "GunPoint", "ArrowHead"),
    arms=(
        Arm("plain"),
        Arm("decay", (1e-3, 1e-2, 1e-1)),
        Arm("so", (1e-3, 1e-2, 1e-1)),
        Arm("band", (1e-3, 1e-2, 1e-1)),
    ),
    scores=scores,
    tuning_seeds=4,  # there are few samples to validate on
)
