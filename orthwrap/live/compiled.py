"""What a live model was compiled with, beside its config and weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.errors import ValueFault
from orthwrap.live.state import value_of
from orthwrap.rules.references import known_objects
from orthwrap.text import first_line


def compiled_state(model: Any) -> dict[str, Any]:
    """For `set_compiled_state`, once the model was compiled in another way."""
    held = vars(model)
    return {name: held[name] for name in keras_inside.COMPILED_STATE if name in held}


def set_compiled_state(model: Any, state: Mapping[str, Any]) -> None:
    held = vars(model)
    for name in keras_inside.COMPILED_STATE:
        held.pop(name, None)
    held.update(state)
    if state.get("optimizer") is not None:
        set_optimizer(model, state["optimizer"])  # what a file keeps of it may be another one now
    forget_compiled_steps(model)


def copy_compiled(
    model: Any, new: Any, variables: Iterable[tuple[Any, Any]], known: Mapping[str, Any]
) -> tuple[str, ...]:
    """Compiles a copy as the model is, optimizer state and all; notes of what did not work.

    Args:
        model, new: the model and its copy.
        variables: the model's, each with that of the copy which stands for it.
        known: classes and functions by name.
    """
    try:
        with warnings.catch_warnings(), known_objects(known):
            warnings.simplefilter("ignore")
            if type(model).compile is keras.Model.compile:
                new.compile(**_compile_arguments(model))
            else:
                new.compile_from_config(model.get_compile_config())
        if new.compiled and model.optimizer is not None:
            pairs = [pair for pair in variables if isinstance(pair[0], keras.Variable)]
            copy_exclusions(model.optimizer, new.optimizer, pairs)
            # It may have been built before a layer was frozen: for the same variables, then.
            if model.optimizer.built:
                twins = {id(a): b for a, b in pairs}
                trained = keras_inside.trained_variables(model.optimizer)
                new.optimizer.build([twins[id(v)] for v in trained])
                copy_variables(model.optimizer, new.optimizer)
    except Exception as e:  # a user's loss or metric may not come back from its config
        return (
            f"the compiled state could not be carried over ({type(e).__name__}: "
            f"{first_line(e)}): compile the new model before training",
        )
    if not new.compiled:
        return ("the compiled state could not be carried over: compile the new model",)
    return ()


def _compile_arguments(model: Any) -> dict[str, Any]:
    """What the model was compiled with. Losses keep no state; optimizer and metrics are new."""
    arguments = dict(keras_inside.compile_arguments(model))
    optimizer = model.optimizer
    arguments["optimizer"] = optimizer and new_from_config(optimizer)
    arguments["auto_scale_loss"] = False  # where it was scaled, the optimizer is that already
    for key in ("metrics", "weighted_metrics"):
        arguments[key] = keras.tree.map_structure(
            lambda m: new_from_config(m) if isinstance(m, keras.metrics.Metric) else m,
            arguments[key],
        )
    return arguments


def new_from_config(thing: Any) -> Any:
    """Another one of the same config: a metric, an optimizer, without what it keeps."""
    return type(thing).from_config(thing.get_config())


def inner_of(optimizer: Any) -> Any:
    """The optimizer itself, where Keras has wrapped it to scale the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def copy_exclusions(source: Any, target: Any, pairs: Iterable[tuple[Any, Any]] = ()) -> None:
    """Which variables an optimizer's weight decay passes over; its config does not say.

    Args:
        source, target: optimizers, the second not yet built.
        pairs: the variables of the first, each with that of the second which it stands for; none
            where they are the same.
    """
    keras_inside.copy_exclusions(inner_of(source), inner_of(target), pairs)


def copy_variables(source: Any, target: Any) -> None:
    """Optimizer state, variable by variable; ValueFault where they do not correspond."""
    old, new = source.variables, target.variables
    if [tuple(v.shape) for v in old] != [tuple(v.shape) for v in new]:
        raise ValueFault("the optimizers have different variables")
    for a, b in zip(old, new, strict=True):
        b.assign(value_of(a))


def set_optimizer(model: Any, optimizer: Any) -> None:
    """Another optimizer for a compiled model, in the model and in what a file keeps of it."""
    model.optimizer = optimizer
    keras_inside.compile_arguments(model)["optimizer"] = optimizer


def own_policy(layer: Any) -> str | None:
    """The name of the dtype policy that a layer or model has; None for one of many parts."""
    policy = layer.dtype_policy
    return str(policy.name) if type(policy) is keras.DTypePolicy else None


@contextmanager
def as_policy(name: str | None) -> Iterator[None]:
    """While active, models are made under this dtype policy; None changes nothing."""
    before = keras.config.dtype_policy()
    if name is not None:
        keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


EXACT_STEP = "_step_of_exact_penalties"
"""The attribute that holds a step in which no penalty is left to chance."""


def forget_compiled_steps(model: Any) -> None:
    """Steps that Keras compiled keep the losses and regularizers they were traced with."""
    vars(model).pop(EXACT_STEP, None)
    for name in ("train_function", "test_function"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)


def set_steps_per_execution(model: Any, count: int) -> None:
    """How many steps Keras runs before it looks up."""
    if count != model.steps_per_execution:
        model.steps_per_execution = count
        forget_compiled_steps(model)


def made_one_by_one(model: Any) -> bool:
    """On PyTorch, where Keras refuses several steps at once; whether the model asked for them."""
    if keras.backend.backend() != "torch" or model.steps_per_execution == 1:
        return False
    set_steps_per_execution(model, 1)
    return True


@contextmanager
def step_made_anew(model: Any) -> Iterator[None]:
    """For a callback's `on_train_begin` that changes what a step has in it.

    `fit` makes its step before it calls; a loop of one's own may have none.
    """
    has_step = getattr(model, "train_function", None) is not None
    yield
    if has_step:
        model.make_train_function(force=True)
