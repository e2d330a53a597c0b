"""A compiled model's optimizer: at another rate, or for other variables, its state kept."""

from __future__ import annotations

from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.live.compiled import copy_exclusions, inner_of, new_from_config, set_optimizer


def set_learning_rate(model: Any, rate: float) -> None:
    """The optimizer at this rate, its state kept; a schedule that it follows ends."""
    optimizer = model.optimizer
    inner = inner_of(optimizer)
    if isinstance(inner.learning_rate, keras.Variable) and not isinstance(
        keras_inside.rate_of(inner), keras.optimizers.schedules.LearningRateSchedule
    ):
        optimizer.learning_rate = rate
        return
    config = optimizer.get_config()
    own = config if inner is optimizer else config["inner_optimizer"]["config"]
    own["learning_rate"] = rate
    new = type(optimizer).from_config(config)
    copy_exclusions(optimizer, new)
    if optimizer.built:
        new.build(keras_inside.trained_variables(optimizer))
        constant = keras_inside.rate_of(inner_of(new))
        state = [v for v in new.variables if v is not constant]
        for old, fresh in zip(optimizer.variables, state, strict=True):
            fresh.assign(old)
    set_optimizer(model, new)


def follow_variables(model: Any) -> tuple[str, ...]:
    """Makes the optimizer one for the variables that are trained now.

    What it knew of those it trained before is kept; for the others it starts afresh. Keras
    refuses a variable that an optimizer was not built for, and on JAX one that is missing.
    """
    optimizer = model.optimizer
    trained = list(model.trainable_variables)
    before = keras_inside.trained_variables(optimizer) if optimizer.built else trained
    if [id(v) for v in before] == [id(v) for v in trained]:
        return ()
    new = new_from_config(optimizer)
    copy_exclusions(optimizer, new)
    new.build(trained)
    set_optimizer(model, new)
    old_own, old_slots = _slots(optimizer.variables, before)
    new_own, new_slots = _slots(new.variables, trained)
    names = [[v.name for v in own] for own in (old_own, new_own)]
    if old_slots is None or new_slots is None or names[0] != names[1]:
        return ("other layers are trained than before: the optimizer's state starts afresh",)
    for old, fresh in zip(old_own, new_own, strict=True):
        fresh.assign(old)
    for key, fresh_slots in new_slots.items():
        for kind, fresh in fresh_slots.items():
            old = old_slots.get(key, {}).get(kind)
            if old is not None:
                fresh.assign(old)
    return ()


def _slots(
    variables: list[Any], trained: list[Any]
) -> tuple[list[Any], dict[int, dict[str, Any]] | None]:
    """An optimizer's own variables, and by kind those it keeps for each trained one (by its id).

    Keras calls `momentum` of the variable `dense/kernel` `dense_kernel_momentum`. None where names
    do not tell which belongs to which: two variables may be called the same.
    """
    named = {"iteration", "learning_rate", "step_counter", "dynamic_scale"}
    own = [v for v in variables if v.name in named]
    slots: dict[int, dict[str, Any]] = {id(t): {} for t in trained}
    prefixes = {f"{t.path.replace('/', '_')}_": t for t in trained}
    longest_first = sorted(prefixes, key=len, reverse=True)
    for variable in variables:
        if variable.name in named:
            continue
        prefix = next((p for p in longest_first if variable.name.startswith(p)), None)
        if prefix is None:
            return own, None
        slots[id(prefixes[prefix])][variable.name.removeprefix(prefix)] = variable
    kinds = {tuple(sorted(of_one)) for of_one in slots.values()}
    return own, slots if len(kinds) <= 1 and len(prefixes) == len(trained) else None
