"""How a model was compiled: optimizer, losses and metrics in the words of Keras 3.

An object that no Keras had is the user's own and stays as it is: loading with `compile=False`
does not need it. What Keras once had and has no longer is left out, and the report says so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from orthwrap import keras_inside
from orthwrap.errors import FileFault
from orthwrap.model_config.tree import class_of
from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.models.modules import MOST_NESTED
from orthwrap.upgrades.rewriting import MAX_DEPTH, Rewriting, name_set

_PLACE = "training"
_EVERY_OPTIMIZER = name_set(
    """learning_rate weight_decay clipnorm clipvalue global_clipnorm use_ema ema_momentum
    ema_overwrite_frequency loss_scale_factor gradient_accumulation_steps name"""
)
_OPTIMIZERS: dict[str, frozenset[str]] = {
    "SGD": frozenset({"momentum", "nesterov"}),
    "RMSprop": frozenset({"rho", "momentum", "epsilon", "centered"}),
    "Adagrad": frozenset({"initial_accumulator_value", "epsilon"}),
    "Adadelta": frozenset({"rho", "epsilon"}),
    "Adam": frozenset({"beta_1", "beta_2", "epsilon", "amsgrad"}),
    "AdamW": frozenset({"beta_1", "beta_2", "epsilon", "amsgrad"}),
    "Adamax": frozenset({"beta_1", "beta_2", "epsilon"}),
    "Nadam": frozenset({"beta_1", "beta_2", "epsilon"}),
    "Lion": frozenset({"beta_1", "beta_2"}),
    "Adafactor": frozenset(
        {"beta_2_decay", "epsilon_1", "epsilon_2", "clip_threshold", "relative_step"}
    ),
    "Ftrl": frozenset(
        {
            "learning_rate_power",
            "initial_accumulator_value",
            "l1_regularization_strength",
            "l2_regularization_strength",
            "l2_shrinkage_regularization_strength",
            "beta",
        }
    ),
}
_BY_LOWER_CASE = {name.lower(): name for name in _OPTIMIZERS}
_SCHEDULES = name_set(
    """CosineDecay CosineDecayRestarts ExponentialDecay InverseTimeDecay PiecewiseConstantDecay
    PolynomialDecay"""
)
# Names of functions in Keras 1 and 2 that Keras 3 spells otherwise, and the abbreviations that it
# looks for among the metrics when it reads an `.h5` ("keras.metrics.mse ... not KerasSaveable").
_LOSS_NAMES = {
    **dict.fromkeys(("mse", "MSE"), "mean_squared_error"),
    **dict.fromkeys(("mae", "MAE"), "mean_absolute_error"),
    **dict.fromkeys(("mape", "MAPE"), "mean_absolute_percentage_error"),
    **dict.fromkeys(("msle", "MSLE"), "mean_squared_logarithmic_error"),
    **dict.fromkeys(("kld", "KLD"), "kl_divergence"),
    **dict.fromkeys(("bce", "BCE"), "binary_crossentropy"),
    "cosine_proximity": "cosine_similarity",
    "cosine": "cosine_similarity",
    "kullback_leibler_divergence": "kl_divergence",
    "logcosh": "log_cosh",
    "huber_loss": "huber",
}
_METRIC_NAMES = {
    "cosine_proximity": "cosine_similarity",
    "cosine": "cosine_similarity",
    **dict.fromkeys(("kullback_leibler_divergence", "kld", "KLD"), "kl_divergence"),
    "logcosh": "log_cosh_error",
    "log_cosh": "log_cosh_error",
}
_GONE_METRICS = frozenset({"matthews_correlation", "fmeasure", "fbeta_score"})
# Keras 1 had these as functions of one batch; Keras 3's classes of these names count over all.
_GONE_WITH_KERAS_1 = frozenset({"precision", "recall"})
_WRAPPERS = frozenset({"MeanMetricWrapper", "LossFunctionWrapper", "SumOverBatchSizeMetricWrapper"})
_LOSS_CLASSES = {
    "binary_crossentropy": "BinaryCrossentropy",
    "binary_focal_crossentropy": "BinaryFocalCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "categorical_focal_crossentropy": "CategoricalFocalCrossentropy",
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
    "mean_squared_error": "MeanSquaredError",
    "mean_absolute_error": "MeanAbsoluteError",
    "mean_absolute_percentage_error": "MeanAbsolutePercentageError",
    "mean_squared_logarithmic_error": "MeanSquaredLogarithmicError",
    "cosine_similarity": "CosineSimilarity",
    "kl_divergence": "KLDivergence",
    "log_cosh": "LogCosh",
    "huber": "Huber",
    "hinge": "Hinge",
    "squared_hinge": "SquaredHinge",
    "categorical_hinge": "CategoricalHinge",
    "poisson": "Poisson",
}
_METRIC_CLASSES = {
    **{name: cls for name, cls in _LOSS_CLASSES.items() if name not in {"huber", "log_cosh"}},
    "log_cosh_error": "LogCoshError",
    "accuracy": "Accuracy",
    "binary_accuracy": "BinaryAccuracy",
    "categorical_accuracy": "CategoricalAccuracy",
    "sparse_categorical_accuracy": "SparseCategoricalAccuracy",
    "top_k_categorical_accuracy": "TopKCategoricalAccuracy",
    "sparse_top_k_categorical_accuracy": "SparseTopKCategoricalAccuracy",
}


def modernise_training(config: Any, run: Rewriting) -> Config | None:
    """`training_config` of an `.h5` in the words of Keras 3."""
    if config is None:
        return None
    if not isinstance(config, dict):
        raise FileFault("training config: expected an object; the file is broken")
    new = copy.deepcopy(config)
    if isinstance(new.get("optimizer_config"), dict):
        new["optimizer_config"] = optimizer(new["optimizer_config"], run, named=False)
    elif "loss" in new and "optimizer_config" not in new:
        run.ledger.note("training config", "Keras 1.0-2.15", _PLACE, "no optimizer, left out")
        return None
    _losses_and_metrics(new, run, named=False)
    new.setdefault("loss_weights", None)
    return new


def spelled_out(config: Config | None, run: Rewriting | None = None) -> Config | None:
    """The losses of a `training_config` without abbreviations.

    Keras 3 writes `mse` into an `.h5` as it was given, and when it reads it looks for it among the
    metrics' classes and fails.
    """
    if not config or "loss" not in config:
        return config
    run = run or Rewriting((3, 0), "", None)

    def one_loss(value: Any) -> Any:
        new = _LOSS_NAMES.get(value, value) if isinstance(value, str) else value
        if new != value:
            run.ledger.note("loss name", "Keras 3", _PLACE, f"{value} is {new}")
        return new

    return {**config, "loss": _each(config["loss"], one_loss, run)}


def portable(value: Any, run: Rewriting, depth: int = 0) -> None:
    """Optimizers under the names that every backend knows, in place.

    On PyTorch Keras 3 writes its own class for that backend into a `.keras`. Elsewhere that class
    cannot be imported, or fails in training.
    """
    if depth > MOST_NESTED:
        raise FileFault("model config: nested too deeply; the file is broken")
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, (dict, list)):
            portable(inner, run, depth + 1)
    if not isinstance(value, dict):
        return
    name, module = str(value.get("class_name")), str(value.get("module"))
    if name in _OPTIMIZERS and module.startswith(f"{keras_inside.TORCH_OPTIMIZERS}."):
        value |= {"module": "keras.optimizers", "registered_name": None}
        run.ledger.note("optimizer", "Keras 3 on PyTorch", _PLACE, f"{name}: module")


def without_metrics(config: Config, is_known: Callable[[str], bool]) -> Config:
    """A `training_config` without the metrics whose names are not known."""

    def one_metric(value: Any) -> Any:
        return None if isinstance(value, str) and not is_known(value) else value

    run = Rewriting((3, 0), "", None)
    keys = [key for key in ("metrics", "weighted_metrics") if config.get(key) is not None]
    return {**config, **{key: _each(config[key], one_metric, run) for key in keys}}


def modernise_compile(config: Any, run: Rewriting) -> Config | None:
    """`compile_config` of a `.keras`, where objects name their modules."""
    if not isinstance(config, dict) or not config:
        return config if isinstance(config, dict) else None
    new = copy.deepcopy(config)
    if isinstance(new.get("optimizer"), dict):
        new["optimizer"] = optimizer(new["optimizer"], run, named=True)
    _losses_and_metrics(new, run, named=True)
    # Keras 3 counts with the number of steps, and None was Keras 2's word for its default.
    unsaid = [key for key in ("steps_per_execution", "jit_compile") if new.get(key, 0) is None]
    for key in unsaid:
        del new[key]
    if unsaid:
        run.ledger.note("compile arguments", "Keras 2.12-2.15", _PLACE, ", ".join(unsaid))
    return new


def _losses_and_metrics(config: Config, run: Rewriting, named: bool) -> None:
    keras_1 = run.version[0] == 1

    def one_loss(value: Any) -> Any:
        return _object(value, run, _LOSS_NAMES, _LOSS_CLASSES, "keras.losses" if named else None)

    def one_metric(value: Any) -> Any:
        name = value if isinstance(value, str) else None
        if name in _GONE_METRICS or (keras_1 and name in _GONE_WITH_KERAS_1):
            run.ledger.note("metric gone", "Keras 1.0-1.2", _PLACE, f"{name} left out")
            return None
        module = "keras.metrics" if named else None
        return _object(value, run, _METRIC_NAMES, _METRIC_CLASSES, module)

    config["loss"] = _each(config.get("loss"), one_loss, run)
    for key in ("metrics", "weighted_metrics"):
        if config.get(key) is not None:
            config[key] = _each(config[key], one_metric, run)
    if isinstance(config.get("loss_weights"), dict):
        config["loss_weights"] = _output_names(config["loss_weights"], run)


def _each(value: Any, change: Callable[[Any], Any], run: Rewriting, depth: int = 0) -> Any:
    """Apply `change` to every loss or metric; those that become None are left out of lists."""
    if depth > MAX_DEPTH:
        raise FileFault("training config: nested too deeply; the file is broken")
    if isinstance(value, dict) and "class_name" not in value:
        value = _output_names(value, run)
        return {key: _each(item, change, run, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        items = [(item, _each(item, change, run, depth + 1)) for item in value]
        return [new for old, new in items if new is not None or old is None]
    return change(value)


def _output_names(value: Config, run: Rewriting) -> Config:
    return {run.renamed.get(key, key): item for key, item in value.items()}


def _object(
    value: Any, run: Rewriting, names: dict[str, str], classes: dict[str, str], module: str | None
) -> Any:
    """One loss or metric, by name or as an object with a config."""
    if isinstance(value, str):
        new = names.get(value, value)
        if new != value:
            run.ledger.note("loss or metric name", "Keras 1.0-2.15", _PLACE, f"{value} is {new}")
        return new
    if not isinstance(value, dict):
        return value
    if class_of(value) == "function":
        inner = value.get("config")
        return _object(inner, run, names, classes, module) if isinstance(inner, str) else value
    config = value.get("config")
    if not isinstance(config, dict):
        return value
    old = class_of(value)
    function = config.get("fn")
    name = old
    if old in _WRAPPERS and isinstance(function, str):
        known = classes.get(names.get(function, function))
        if known is None:
            return value
        name = known
    changed = name != old
    if "fn" in config and (name in classes.values()):
        del config["fn"]
        changed = True
    if config.get("reduction") == "auto":
        config["reduction"] = "sum_over_batch_size"
        changed = True
    if name in classes.values() or module is not None:
        value = {**value, "class_name": name}
    if module is not None and (name in classes.values() or _from_keras(value)):
        new_place = {"module": module, "registered_name": None}
        changed = changed or any(value.get(key, "") != item for key, item in new_place.items())
        value |= new_place
    if changed:
        run.ledger.note("loss or metric object", "tf.keras 2.0-2.15", _PLACE, name)
    return value


def _from_keras(value: Config) -> bool:
    module = value.get("module")
    return isinstance(module, str) and module.split(".")[0] in {"keras", "tf_keras"}


def optimizer(node: Config, run: Rewriting, named: bool) -> Config:
    """An optimizer's node. `named` says whether the file's objects name their modules."""
    config = node.get("config")
    name = _BY_LOWER_CASE.get(class_of(node).lower())
    if class_of(node) == "LossScaleOptimizer" and isinstance(config, dict):
        inner = config.get("inner_optimizer", config.get("optimizer"))
        if isinstance(inner, dict):
            run.ledger.note("loss scaling", "tf.keras 2.1-2.15", _PLACE, "done by Keras itself now")
            return optimizer(inner, run, named)
    if name is None or not isinstance(config, dict):
        return node
    done = [f"{node['class_name']} is {name}"] if name != node["class_name"] and not named else []
    done += _renewed(name, config)
    new = {**node, "class_name": name}
    if named:
        place = {"module": "keras.optimizers", "registered_name": None}
        if any(node.get(key, "") != value for key, value in place.items()):
            done.append("module")
        new |= place
    if done:
        run.ledger.note("optimizer", "Keras 1.0-2.15", _PLACE, f"{name}: {', '.join(done)}")
    return new


def _renewed(name: str, config: Config) -> list[str]:
    """Brings an optimizer's config up to Keras 3; what was done, in words."""
    done = []
    if "lr" in config:
        config.setdefault("learning_rate", config.pop("lr"))
        config.pop("lr", None)
        done.append("lr is learning_rate")
    decay = config.pop("decay", None)
    if decay is not None:
        done.append("decay")
    rate = config.get("learning_rate")
    if isinstance(rate, dict):
        done += _schedule(rate)
    elif isinstance(decay, (int, float)) and decay > 0 and name != "Nadam":
        config["learning_rate"] = _inverse_time_decay(rate, float(decay))
        done.append("decay is a schedule")
    if config.get("epsilon", 0) is None:
        del config["epsilon"]
        done.append("epsilon")
    if name == "Adagrad" and "initial_accumulator_value" not in config:
        config["initial_accumulator_value"] = 0.0
        done.append("accumulator starts at 0")
    for key in [key for key in config if key not in _OPTIMIZERS[name] | _EVERY_OPTIMIZER]:
        del config[key]
        done.append(key)
    return done


def _schedule(node: Config) -> list[str]:
    if class_of(node) not in _SCHEDULES:
        return []
    place = {
        "module": "keras.optimizers.schedules",
        "class_name": class_of(node),
        "registered_name": None,
    }
    changed = any(node.get(key, "") != value for key, value in place.items())
    node |= place
    return ["schedule"] if changed else []


def _inverse_time_decay(rate: Any, decay: float) -> Config:
    """rate / (1 + decay · step), which is what `decay` meant in Keras 1 and 2."""
    if not isinstance(rate, (int, float)):
        raise FileFault(f"training config: expected a learning rate, found {rate!r:.40}")
    return {
        "module": "keras.optimizers.schedules",
        "class_name": "InverseTimeDecay",
        "config": {
            "initial_learning_rate": float(rate),
            "decay_steps": 1,
            "decay_rate": decay,
            "staircase": False,
            "name": "InverseTimeDecay",
        },
        "registered_name": None,
    }
