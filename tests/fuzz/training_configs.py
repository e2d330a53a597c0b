"""How a model was compiled: losses, metrics, optimizers, schedules, of either generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py

from tests.fuzz.model_configs import write as write_model
from tests.fuzz.values import Draw
from tests.support.hostile import many_layers

OPTIMIZERS = ("Adam", "SGD", "Custom>RMSprop", "Nadam", "LossScaleOptimizer", "TFOptimizer", "Own")
SCHEDULES = ("ExponentialDecay", "PiecewiseConstantDecay", "CosineDecay", "Own")
LOSSES = ("mse", "categorical_crossentropy", "SparseCategoricalCrossentropy", "own", "kld")


def schedule(d: Draw) -> Any:
    config = {
        "initial_learning_rate": 0.01,
        "decay_steps": 100,
        "decay_rate": 0.9,
        "boundaries": [10],
        "values": [0.1, 0.01],
        "name": None,
    }
    return d.slips({"class_name": d.one(SCHEDULES), "config": d.slip(d.slips(config))})


def optimizer(d: Draw, depth: int = 2) -> Any:
    """A name, or a node; its rate a number or a schedule; one may be around another."""
    if d.chance(0.1):
        return d.slip("adam")
    config: dict[str, Any] = {
        d.one(("learning_rate", "lr")): d.slip(schedule(d) if d.chance(0.4) else 0.001),
        "decay": 0.0,
        "beta_1": 0.9,
        "name": "Adam",
        "clipnorm": None,
        "amsgrad": False,
        "is_legacy_optimizer": False,
        "jit_compile": True,
        "weight_decay": None,
    }
    class_name = d.one(OPTIMIZERS)
    if class_name == "LossScaleOptimizer" and depth:
        config[d.one(("inner_optimizer", "optimizer"))] = d.slip(optimizer(d, depth - 1))
        config["dynamic"] = True
    made = {"class_name": class_name, "config": d.slip(d.slips(config))}
    if d.chance(0.4):
        made |= {"module": "keras.optimizers", "registered_name": class_name}
    return d.slips(made)


def loss(d: Draw) -> Any:
    """A name, a function, a node, code; or several, by output or in a list."""
    kind = d.count(0, 6)
    if kind == 0:
        return {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None}}
    if kind == 1:
        return {"class_name": "function", "config": d.one(LOSSES), "module": "builtins"}
    if kind == 2:
        config = d.slips({"name": "x", "reduction": "auto", "from_logits": False, "fn": "mse"})
        return d.slips({"class_name": d.one(LOSSES), "config": d.slip(config)})
    if kind == 3:
        return {d.one(("classes", "x")): d.slip(d.one(LOSSES))}
    if kind == 4:
        return d.many(lambda: loss(d), 3)
    return d.slip(d.one(LOSSES))


def compiled(d: Draw) -> Any:
    made: dict[str, Any] = {
        d.one(("optimizer_config", "optimizer")): optimizer(d),
        "loss": loss(d),
        d.one(("metrics", "weighted_metrics")): d.slip(d.many(lambda: loss(d), 3)),
        "loss_weights": d.slip(None),
        "sample_weight_mode": d.slip(None),
        "run_eagerly": d.slip(True),
        "steps_per_execution": d.slip(1),
        "jit_compile": False,
    }
    return d.slip(d.slips(made))


def write(d: Draw, folder: Path) -> Path:
    """A small model whose training config is drawn."""
    config = many_layers(2, ("conv1", "classes").__getitem__)
    training = compiled(d)
    config["compile_config"] = training
    path = write_model(d, folder, config)
    if path.suffix == ".h5":
        text = json.dumps(training)
        with h5py.File(path, "r+") as f:
            value = text if d.chance(0.9) else text[: d.count(0, len(text))].encode()
            f.attrs.create("training_config", value)
    return path
