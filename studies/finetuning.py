"""A trained network, fine-tuned in the ways of `apply`: residual reached, accuracy kept."""

from __future__ import annotations

import functools
from typing import Any

import orthwrap
from studies import networks, training
from studies.data import Split, split
from studies.experiment import Arm, Experiment, Scores

RATE, EPOCHS = 1e-4, 8
BEFORE = training.Recipe(epochs=20)

WAYS: dict[str, dict[str, Any]] = {
    **{name: {"regularizer": name} for name in ("so", "srip", "lorth", "offdiag")},
    "auto": {"factor": "auto"},
    "pull": {"pull": 0.01, "scale": "preserve"},
    "pull_unit": {"pull": 0.01, "scale": "unit"},
    "default": {},
}


def scores(case: str, arm: str, strength: float, seed: int) -> Scores:
    """Each way with what it does by default, and `control`: as long, without a regularizer."""
    data, model = split("digits", seed), network(case, seed)
    before = training.scores(model, data)
    after: Any = model
    worst: Any = 1.0
    if arm == "control":
        training.compile_for(model, RATE)
        training.fit(model, data.x, data.y, seed, training.Recipe(EPOCHS))
    elif arm != "original":
        result = orthwrap.apply(
            model,
            data=(data.x, data.y),
            validation=(data.x_val, data.y_val),
            epochs=20 if arm == "default" else EPOCHS,
            learning_rate=RATE,
            seed=seed,
            progress=False,
            **({"factor": orthwrap.regularizer(arm).factor} if "regularizer" in WAYS[arm] else {}),
            **({} if arm == "default" else {"keep": "last"}),
            **WAYS[arm],
        )
        after, worst = result.model, result.report.training.verdict.worst.division
    found = training.scores(after, data)
    return {**found, "lost": before["accuracy"] - found["accuracy"], "division": worst}


@functools.lru_cache(maxsize=64)
def _weights(case: str, seed: int) -> Any:
    data = split("digits", seed)
    return training.trained(getattr(networks, case), data, "plain", 0, seed, BEFORE).get_weights()


def network(case: str, seed: int) -> Any:
    """A trained one, made once for each seed."""
    data: Split = split("digits", seed)
    model = getattr(networks, case)(data.x.shape[1:], data.classes)
    model.set_weights(_weights(case, seed))
    training.compile_for(model, RATE)
    return model


EXPERIMENT = Experiment(
    name="finetuning",
    cases=("vgg", "resnet", "transformer"),
    arms=(Arm("original"), Arm("control"), *(Arm(way) for way in WAYS)),
    scores=scores,
)
