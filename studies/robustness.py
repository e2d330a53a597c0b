"""(c) Noise and attacks against λ, and what the operator norms multiply to. (d) Calibration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

import orthwrap
from studies import networks, training
from studies.data import Array, split
from studies.experiment import Arm, Experiment, Scores

NOISE, EPSILON, STEPS = 0.2, 0.1, 10  # pixels are 0 to 1
HOW = {"digits": training.Recipe(epochs=20), "mnist": training.Recipe(epochs=10)}


def scores(case: str, arm: str, strength: float, seed: int) -> Scores:
    """Accuracy on what is disturbed, and the product of the layers' norms, as its logarithm."""
    data = split(case, seed)
    model = training.trained(networks.vgg, data, arm, strength, seed, HOW[case])
    x, y = data.x_test[:500], data.y_test[:500]
    noise = np.random.default_rng(seed).normal(0, NOISE, x.shape).astype("float32")
    disturbed = {
        "noise": x + noise,
        "fgsm": attacked(model, x, y, EPSILON, 1),
        "pgd": attacked(model, x, y, EPSILON / 4, STEPS),
    }
    probabilities = {how: training.probabilities(model, z) for how, z in disturbed.items()}
    return {
        **training.scores(model, data),
        **{how: training.accuracy(p, y) for how, p in probabilities.items()},
        "log10_norms": sum(math.log10(norm) for norm in norms(model)),
    }


def attacked(model: Any, x: Array, y: Array, step: float, steps: int) -> Array:
    """Steps of the gradient's sign, within EPSILON of each pixel and within 0 to 1."""
    loss, z = tf.keras.losses.SparseCategoricalCrossentropy(), tf.convert_to_tensor(x)
    for _ in range(steps):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(y, model(z, training=False))
        z = z + step * tf.sign(tape.gradient(value, z))
        z = tf.clip_by_value(tf.clip_by_value(z, x - EPSILON, x + EPSILON), 0, 1)
    return np.asarray(z)


def norms(model: Any) -> list[float]:
    """An upper bound of each layer's norm: the convolution's own, or the largest singular value."""
    layers = orthwrap.inspect(model, target="all", operator=True).layers
    return [
        figures.sigma_max if figures.operator is None else figures.operator.norm_upper
        for figures in (layer.before for layer in layers)
    ]


STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
EXPERIMENT = Experiment(
    name="robustness",
    cases=("digits", "mnist"),
    arms=(
        Arm("plain"),
        Arm("decay", (1e-3, 1e-2, 1e-1, 1.0)),
        *(Arm(penalty, STRENGTHS) for penalty in ("so", "lorth")),
    ),
    scores=scores,
    tuned=False,
)
