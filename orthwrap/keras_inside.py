"""Every private name of Keras that orthwrap relies on; they stand nowhere else.

Keras promises nothing about them. Each docstring ends with the names it rests on and the versions
they are true for: they were read in the sources of Keras 3.5 to 3.15.1, and "≥ 3.5" means all of
these. `tests/test_keras_inside.py` looks each one up and says which a release has moved.

Keras is imported inside the functions: files are read without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

# Modules that files name, because Keras writes them so and looks them up again.

FUNCTIONAL_MODULE = "keras.src.models.functional"
"""Where a functional model's class lives. Keras ≥ 3.5: `keras.src.models.functional:Functional`."""

OPERATIONS_MODULE = "keras.src.ops"
"""Below it live the operations of a graph. Keras ≥ 3.5: `keras.src.ops.numpy:Add`."""

TORCH_OPTIMIZERS = "keras.src.backend.torch.optimizers"
"""Below it live PyTorch's own optimizers. Keras ≥ 3.0:
`keras.src.backend.torch.optimizers.torch_adam:Adam`."""

CONVNEXT_MODULE = "keras.src.applications.convnext"
"""Keras ≥ 3.5: `keras.src.applications.convnext:LayerScale`,
`keras.src.applications.convnext:StochasticDepth`."""

INCEPTION_RESNET_MODULE = "keras.src.applications.inception_resnet_v2"
"""Keras ≥ 3.5: `keras.src.applications.inception_resnet_v2:CustomScaleLayer`."""


# Custom objects


def objects_in_scope() -> dict[str, Any]:
    """What the `custom_object_scope`s around know, by name.

    Keras ≥ 3.5: `keras.src.backend.common.global_state:get_global_attribute`.
    """
    from keras.src.backend.common.global_state import get_global_attribute

    found: dict[str, Any] = get_global_attribute("custom_objects_scope_dict", {})
    return found


def global_seeds() -> list[Any]:
    """The variable of random numbers that are drawn without a seed, if there were any yet.

    Keras ≥ 3.5: `keras.src.backend.common.global_state:get_global_attribute`.
    """
    from keras.src.backend.common.global_state import get_global_attribute

    generator = get_global_attribute("global_seed_generator")
    return [] if generator is None else [generator.state]


# Layers


def layers_within(layer: Any) -> list[Any]:
    """All layers below a layer or model, at every depth, each once.

    Keras ≥ 3.5: `Layer._flatten_layers`.
    """
    return list(layer._flatten_layers(include_self=False))


def every_layer(model: Any) -> list[Any]:
    """The model itself and all layers below it."""
    return [model, *layers_within(model)]


def held_layers(layer: Any) -> list[Any]:
    """The layers that a layer holds as its own, one level down.

    Keras ≥ 3.5: `Layer._layers`.
    """
    return list(layer._layers)


def attribute_of(owner: Any, layer: Any) -> str:
    """What a layer calls one that it holds: `self.generator`; "" for one in a list, say.

    On PyTorch, a layer is a module, which keeps those below it apart from other attributes.
    """
    children = getattr(owner, "named_children", dict)
    held = {**vars(owner), **dict(children())}
    return next((k for k, v in held.items() if v is layer and not k.startswith("_")), "")


def tracked_lists(layer: Any) -> dict[str, list[Any]]:
    """What Keras tracks of a layer itself, not of those below it, by the lists it keeps.

    Keras ≥ 3.5: `Layer._trainable_variables`, `Layer._non_trainable_variables`,
    `Layer._seed_generators`, `Layer._metrics`.
    """
    names = ("_trainable_variables", "_non_trainable_variables", "_seed_generators", "_metrics")
    return {name: list(getattr(layer, name)) for name in names}


def added_losses(layer: Any) -> list[Any]:
    """The losses that a layer added in its last call: its own list.

    Keras ≥ 3.5: `Layer._losses`.
    """
    losses: list[Any] = layer._losses
    return losses


ATTENTION_PARTS = {
    "query": "_query_dense",
    "key": "_key_dense",
    "value": "_value_dense",
    "gate": "_gate_dense",  # with use_gate alone
    "attention_output": "_output_dense",
}
"""The layer inside an attention layer, by what it is called in the report.

Keras ≥ 3.5: `MultiHeadAttention._query_dense`, `MultiHeadAttention._key_dense`,
`MultiHeadAttention._value_dense`, `MultiHeadAttention._output_dense`,
`GroupQueryAttention._query_dense`, `GroupQueryAttention._key_dense`,
`GroupQueryAttention._value_dense`, `GroupQueryAttention._output_dense`.
Keras ≥ 3.14: `MultiHeadAttention._gate_dense`, `GroupQueryAttention._gate_dense`."""


def variable_called(layer: Any, weight: str) -> Any:
    """The variable that a layer keeps as `weight`, or None.

    `Dense.kernel` is a property that adds LoRA's factors; the variable is behind it. Keras 3 calls
    the kernel of a depthwise convolution `kernel`.

    Keras ≥ 3.5: `Dense._kernel`, `EinsumDense._kernel`, `Conv2D._kernel`, `Embedding._embeddings`.
    """
    import keras

    found = (getattr(layer, name, None) for name in (f"_{weight}", weight, "kernel"))
    return next((v for v in found if isinstance(v, keras.Variable)), None)


def setting(layer: Any, key: str) -> Any:
    """What a layer keeps of its config's `key`, or None; some keep it behind an underscore.

    Keras ≥ 3.5: `MultiHeadAttention._kernel_regularizer`.
    """
    return getattr(layer, key, getattr(layer, f"_{key}", None))


def set_setting(layer: Any, key: str, value: Any) -> None:
    """Sets what a layer saves as its config's `key`, where it has that.

    A built layer takes no more generators of random numbers; for this one it makes an exception.

    Keras ≥ 3.5: `MultiHeadAttention._kernel_regularizer`, `Layer._tracker`.
    """
    tracker = layer._tracker
    was_locked = tracker.locked
    tracker.unlock()
    try:
        for name in (key, f"_{key}"):
            is_view = isinstance(getattr(type(layer), name, None), property)  # of its cell's
            if hasattr(layer, name) and not is_view:
                tracker.untrack(getattr(layer, name))
                setattr(layer, name, value)
    finally:
        tracker.locked = was_locked


def training_settings(layer: Any) -> dict[str, Any]:
    """A layer's regularizers, constraints, and whether it is trained: see `set_training_settings`.

    Keras ≥ 3.5: `Layer._trainable`, `MultiHeadAttention._kernel_regularizer`.
    """
    ends = ("regularizer", "constraint", "_trainable")
    return {k: v for k, v in vars(layer).items() if k.endswith(ends)}


def set_training_settings(layer: Any, settings: dict[str, Any]) -> None:
    """Puts back what `training_settings` gave.

    Keras ≥ 3.5: `Layer._trainable`.
    """
    for key, value in settings.items():
        if key.endswith(("regularizer", "constraint")):
            set_setting(layer, key, value)
        else:
            vars(layer)[key] = value


def copy_own_trainable(source: Any, target: Any) -> None:
    """Sets whether one layer itself is trained as another is; `trainable` sets all below it too.

    Keras ≥ 3.5: `Layer._trainable`.
    """
    if source._trainable != target._trainable:
        target._trainable = source._trainable


def own_trainable_variables(layer: Any) -> list[Any]:
    """The trained variables that belong to a layer itself, not to those below it.

    Keras ≥ 3.5: `Layer._trainable_variables`.
    """
    return list(layer._trainable_variables)


def own_variables(layer: Any) -> list[Any]:
    """The variables that belong to a layer itself, in the order in which it saves them.

    Keras ≥ 3.5: `Layer._trainable_variables`, `Layer._non_trainable_variables`.
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def is_recurrent_dropout(layer: Any) -> bool:
    """Whether it is a cell with dropout of inputs and states.

    Keras ≥ 3.5: `keras.src.layers.rnn.dropout_rnn_cell:DropoutRNNCell`.
    """
    from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

    return isinstance(layer, DropoutRNNCell)


# The graph of a model


def graph_of(model: Any) -> Any:
    """What knows inputs and outputs: a Sequential holds its graph inside, others are one.

    Keras ≥ 3.5: `Sequential._functional`.
    """
    return getattr(model, "_functional", None) or model


def input_structure(graph: Any) -> Any:
    """The inputs as the model takes them, nested; None where there is no graph.

    Keras ≥ 3.5: `Model._inputs_struct`.
    """
    return getattr(graph, "_inputs_struct", None)


def output_structure(graph: Any) -> Any:
    """The outputs as the model gives them, nested; None where there is no graph.

    Keras ≥ 3.5: `Model._outputs_struct`.
    """
    return getattr(graph, "_outputs_struct", None)


def origin_of(tensor: Any) -> tuple[Any, int, int]:
    """Of a tensor in a graph: the layer, which of its calls, and which of that call's outputs.

    (None, 0, 0) for other tensors. Keras ≥ 3.5: `KerasTensor._keras_history`.
    """
    return getattr(tensor, "_keras_history", None) or (None, 0, 0)


def inputs_of_call(layer: Any, call: int) -> list[Any]:
    """The tensors that a layer took at one of its calls in a graph.

    Keras ≥ 3.5: `Layer._inbound_nodes`.
    """
    return list(layer._inbound_nodes[call].input_tensors)


def output_shapes(layer: Any) -> list[tuple[int | None, ...]]:
    """The shapes of all that a layer gives in the graphs it stands in; none outside of a graph.

    Keras ≥ 3.5: `Layer._inbound_nodes`.
    """
    return [tuple(t.shape) for node in layer._inbound_nodes for t in node.output_tensors]


# What a model was compiled with

COMPILED_STATE = (
    "optimizer",
    "loss",
    "compiled",
    "steps_per_execution",
    "stop_training",
    "_compile_config",
    "_compile_loss",
    "_compile_metrics",
    "_compiled_trainable_state",
    "_jit_compile",
    "_loss_tracker",
    "_run_eagerly",
)
"""All that `compile` sets on a model.

Keras ≥ 3.5: `Model._compile_config`, `Model._compile_loss`, `Model._compile_metrics`,
`Model._jit_compile`, `Model._loss_tracker`, `Model._run_eagerly`.
Keras ≥ 3.15: `Model._compiled_trainable_state`."""


def compile_arguments(model: Any) -> dict[str, Any]:
    """What `compile` was called with: the model's own dict, which goes into files.

    Keras ≥ 3.5: `Model._compile_config`.
    """
    arguments: dict[str, Any] = model._compile_config.config
    return arguments


def has_metrics(model: Any) -> bool:
    """Whether `compile` was given metrics.

    Keras ≥ 3.5: `CompileMetrics._user_metrics`, `CompileMetrics._user_weighted_metrics`.
    """
    own = getattr(model, "_compile_metrics", None)
    return bool(getattr(own, "_user_metrics", None) or getattr(own, "_user_weighted_metrics", None))


def metrics_as_given(model: Any) -> Any:
    """The metrics that `compile` was given, as they were given; None for none.

    Keras ≥ 3.5: `Model._compile_metrics`, `CompileMetrics._user_metrics`.
    """
    return getattr(getattr(model, "_compile_metrics", None), "_user_metrics", None)


def forget_metrics(model: Any) -> None:
    """Takes away what `compile` leaves as it is where it is given no metrics.

    Keras ≥ 3.5: `Model._compile_metrics`.
    """
    vars(model)["_compile_metrics"] = None


def own_metrics(model: Any) -> list[Any]:
    """The metrics that a model itself tracks beside the compiled ones: its own list.

    Keras ≥ 3.5: `Model._metrics`.
    """
    metrics: list[Any] = model._metrics
    return metrics


def direction_of(metric: Any) -> str | None:
    """Where a metric says which is better, "up" or "down"; EarlyStopping goes by it too.

    Keras ≥ 3.5: `Metric._direction`.
    """
    return getattr(metric, "_direction", None)


def compiled_metrics(model: Any) -> list[Any]:
    """The metrics that `compile` was given, in order, once a batch was seen; else none.

    Keras ≥ 3.5: `Model._compile_metrics`.
    """
    own = getattr(model, "_compile_metrics", None)
    return [] if own is None else list(own.metrics)


def function_of_each(metric: Any) -> Any:
    """(y, output) → a figure of each sample, whose mean a metric is; None of those that are none.

    Keras ≥ 3.5: `MeanMetricWrapper._fn`, `MeanMetricWrapper._fn_kwargs`.
    """
    import keras

    if not isinstance(metric, keras.metrics.MeanMetricWrapper):
        return None
    function, words = metric._fn, metric._fn_kwargs
    return lambda y, output: function(y, output, **words)


# A training step


def build_for(model: Any, batch: tuple[Any, ...]) -> None:
    """Lets losses, metrics and optimizer make their variables for (x, y, sample weight).

    Keras ≥ 3.5: `Model._symbolic_build`.
    """
    model._symbolic_build(data_batch=batch)


def training_flag(model: Any) -> dict[str, Any]:
    """The keywords with which a training step calls the model.

    Keras ≥ 3.5: `Model._call_has_training_arg`.
    """
    return {"training": True} if model._call_has_training_arg else {}


def whole_loss(model: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
    """What a training step minimises, for models with a `compute_loss` of older Keras too.

    On one device's share of a batch, see `unscaled`. Keras ≥ 3.5: `Model._compute_loss`.
    """
    return model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)


def unscaled(loss: Any) -> Any:
    """A loss as it is on one device: `tf.distribute` divides it by the number of replicas.

    Keras ≥ 3.8: `keras.src.losses.loss:unscale_loss_for_distribution`; before, Keras did not
    divide.
    """
    from keras.src.losses.loss import unscale_loss_for_distribution

    return unscale_loss_for_distribution(loss)


def as_added(model: Any, loss: Any) -> Any:
    """One of `model.losses` as `compute_loss` adds it to the total.

    Keras ≥ 3.8: `Model._aggregate_additional_loss`.
    """
    return model._aggregate_additional_loss(loss)


def given_losses(model: Any) -> list[Any]:
    """What stands for `model.losses` where it is not empty.

    Keras ≥ 3.5: `Model._losses_override`.
    """
    losses: list[Any] = vars(model)["_losses_override"]
    return losses


def give_losses(model: Any, losses: list[Any]) -> None:
    """Lets this very list stand for `model.losses`, not the copy that Keras would track.

    Keras ≥ 3.5: `Model._losses_override`.
    """
    vars(model)["_losses_override"] = losses


def forget_losses(model: Any) -> None:
    """Drops the losses that layers added in the last call.

    Keras ≥ 3.5: `Model._clear_losses`.
    """
    model._clear_losses()


def seed_generators(layer: Any) -> list[Any]:
    """The generators whose state goes into each step without being a weight: its own list.

    Keras ≥ 3.5: `Layer._seed_generators`.
    """
    generators: list[Any] = layer._seed_generators
    return generators


def torch_device() -> str:
    """On which device Keras makes PyTorch's tensors now; `meta` where it only asks for shapes.

    Keras ≥ 3.5: `keras.src.backend.torch.core:get_device`.
    """
    from keras.src.backend.torch.core import get_device

    return str(get_device())


def in_symbolic_scope() -> bool:
    """Whether Keras only asks for shapes.

    Keras ≥ 3.5: `keras.src.backend.common.symbolic_scope:in_symbolic_scope`.
    """
    from keras.src.backend.common.symbolic_scope import in_symbolic_scope

    return bool(in_symbolic_scope())


def in_stateless_scope() -> bool:
    """Whether what is assigned to variables is handed on instead.

    Keras ≥ 3.5: `keras.src.backend.common.stateless_scope:in_stateless_scope`.
    """
    from keras.src.backend.common.stateless_scope import in_stateless_scope

    return bool(in_stateless_scope())


def key_in_scope(value: Any) -> int | None:
    """The id of the variable whose value this very tensor is where variables are handed on.

    Keras ≥ 3.5: `keras.src.backend.common.stateless_scope:get_stateless_scope`.
    """
    from keras.src.backend.common.stateless_scope import get_stateless_scope

    if not in_stateless_scope():
        return None
    held = get_stateless_scope().state_mapping
    return next((key for key, own in held.items() if own is value), None)


def is_handed_in(variable: Any) -> bool:
    """Whether the stateless scope around knows a variable, and hands its next value on.

    Keras ≥ 3.5: `keras.src.backend.common.stateless_scope:get_stateless_scope`.
    """
    from keras.src.backend.common.stateless_scope import get_stateless_scope

    return get_stateless_scope().get_current_value(variable) is not None


@contextlib.contextmanager
def without_effects() -> Iterator[None]:
    """While active, variables have the values of now, and what is assigned to them is forgotten.

    Keras ≥ 3.5: `keras.src.backend.common.stateless_scope:get_stateless_scope`.
    """
    import keras
    from keras.src.backend.common.stateless_scope import get_stateless_scope

    around = get_stateless_scope()
    scope = keras.StatelessScope(initialize_variables=False)
    if around is not None:
        scope.state_mapping.update(around.state_mapping)
    with scope:
        yield


# Optimizers


def trained_variables(optimizer: Any) -> list[Any]:
    """The variables that an optimizer was built for.

    Keras ≥ 3.5: `Optimizer._trainable_variables`.
    """
    return list(optimizer._trainable_variables)


def rate_of(optimizer: Any) -> Any:
    """The variable of the learning rate, or the schedule that it follows.

    Keras ≥ 3.5: `Optimizer._learning_rate`.
    """
    return optimizer._learning_rate


def steps_of(optimizer: Any) -> Any:
    """The variable that counts every call of `apply`, those that only gather gradients too.

    Keras ≥ 3.5: `Optimizer._iterations`.
    """
    return optimizer._iterations


def optimizer_at_work() -> Any:
    """The optimizer, without a wrapper, that calls a constraint now; None outside of its step.

    Keras ≥ 3.5: `keras.src.backend.common.global_state:get_global_attribute`, and what
    `Optimizer.apply` leaves as the caller of its `name_scope`.
    """
    import keras
    from keras.src.backend.common.global_state import get_global_attribute

    scopes = get_global_attribute("name_scope_stack") or [None]
    caller = getattr(scopes[-1], "caller", None)
    return caller if isinstance(caller, keras.optimizers.Optimizer) else None


def average_of(optimizer: Any, variable: Any) -> Any:
    """The variable in which an optimizer with `use_ema` averages another one; None without.

    Keras ≥ 3.5: `Optimizer._model_variables_moving_average`, `Optimizer._get_variable_index`.
    """
    import keras

    if not (getattr(optimizer, "use_ema", False) and isinstance(variable, keras.Variable)):
        return None
    return optimizer._model_variables_moving_average[optimizer._get_variable_index(variable)]


def track_in(optimizer: Any, variable: Any) -> None:
    """Makes a variable one of the optimizer's, so that JAX hands it to each step.

    Keras ≥ 3.5: `Optimizer._track_variable`.
    """
    optimizer._track_variable(variable)


def untrack_in(optimizer: Any, variable: Any) -> None:
    """The inverse of `track_in`.

    Keras ≥ 3.5: `Optimizer._untrack_variable`.
    """
    optimizer._untrack_variable(variable)


def copy_exclusions(source: Any, target: Any, pairs: Iterable[tuple[Any, Any]] = ()) -> None:
    """Which variables an optimizer's weight decay passes over; its config does not say.

    Args:
        source, target: optimizers without a wrapper, the second not yet built.
        pairs: the variables of the first, each with that of the second which it stands for; none
            where they are the same.

    Keras ≥ 3.5: `Optimizer._exclude_from_weight_decay`, `Optimizer._var_key`,
    `Optimizer._exclude_from_weight_decay_pattern`, `Optimizer._exclude_from_weight_decay_cache`.
    """
    pattern = getattr(source, "_exclude_from_weight_decay_pattern", None)
    keys: set[Any] = getattr(source, "_exclude_from_weight_decay", set())
    if pattern is None and not keys:
        return
    twins = {source._var_key(a): target._var_key(b) for a, b in pairs}
    target._exclude_from_weight_decay_pattern = pattern
    target._exclude_from_weight_decay = {twins.get(k, k) for k in keys}
    target._exclude_from_weight_decay_cache = {}


# Data


def data_adapter() -> tuple[type, Callable[[Iterable[Any]], Any]]:
    """The class of what Keras trains from as it is, and what makes a PyTorch loader of batches.

    Keras ≥ 3.8: `keras.src.trainers.data_adapters.data_adapter:DataAdapter`,
    `keras.src.trainers.data_adapters.data_adapter_utils:get_torch_dataloader`.
    """
    from keras.src.trainers.data_adapters.data_adapter import DataAdapter
    from keras.src.trainers.data_adapters.data_adapter_utils import get_torch_dataloader

    return DataAdapter, get_torch_dataloader


def files_in(folder: str, labelled: bool, endings: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Files with one of these endings, and the folders that are classes, in Keras's order.

    Keras ≥ 3.8: `keras.src.utils.dataset_utils:index_directory`.
    """
    from keras.src.utils.dataset_utils import index_directory

    labels = "inferred" if labelled else None
    files, _, classes = index_directory(folder, labels, endings, shuffle=False, verbose=False)
    return [str(f) for f in files], [str(c) for c in classes or ()]


# Saving


def sharing_scope() -> AbstractContextManager[Any]:
    """While active, an object that stands twice in what is serialized stays one object.

    Keras ≥ 3.5: `keras.src.saving.serialization_lib:ObjectSharingScope`.
    """
    from keras.src.saving.serialization_lib import ObjectSharingScope

    scope: AbstractContextManager[Any] = ObjectSharingScope()
    return scope
