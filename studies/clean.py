"""Clean accuracy with all data, the head, depthwise kernels, and a penalty that is too strong."""

from __future__ import annotations

from dataclasses import replace

from studies import networks, training
from studies.data import split
from studies.experiment import Arm, Experiment, Scores

HOW = training.Recipe(epochs=15, exclude=("head", "re:depthwise.*"))


def scores(case: str, arm: str, strength: float, seed: int) -> Scores:
    """`digits-vgg`: data and network. `so_head` and `so_depthwise` regularize these as well."""
    name, network = case.split("-")
    build, how = getattr(networks, network), HOW
    if network != "mobilenet" or arm == "so_depthwise":
        how = replace(how, exclude=("head",))
    if arm == "so_head":
        how = replace(how, exclude=tuple(e for e in how.exclude if e != "head"))
    if arm.startswith("so"):
        arm = "so"
    data = split(name, seed)
    model = training.trained(build, data, arm, strength, seed, how)
    return training.scores(model, data)


ARMS = (
    Arm("plain"),
    Arm("decay", (1e-3, 1e-2, 1e-1)),
    Arm("so", (1e-4, 1e-3, 1e-2)),
    Arm("so_head", (1e-4, 1e-3, 1e-2)),
    Arm("so_strong", (10.0,)),
)
EXPERIMENT = Experiment(
    name="clean",
    cases=(
        "digits-vgg",
        "mnist-vgg",
        "digits-resnet",
        "mnist-resnet",
        "photographs-mobilenet",
        "digits-transformer",
    ),
    arms=ARMS,
    scores=scores,
)
DEPTHWISE = Experiment(
    name="depthwise",
    cases=("photographs-mobilenet", "digits-mobilenet"),
    arms=(*ARMS[:3], Arm("so_depthwise", ARMS[2].strengths)),
    scores=scores,
)
