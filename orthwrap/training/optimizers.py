"""A compiled model's optimizer: at another rate, or for other variables, its state kept."""

from __future__ import annotations

from typing import Any

import keras

from orthwrap.stores.live import set_optimizer


def set_learning_rate(model: Any, rate: float) -> None:
    """The optimizer at this rate, its state kept; a schedule that it follows ends."""
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner.learning_rate, keras.Variable) and not isinstance(
        inner._learning_rate, keras.optimizers.schedules.LearningRateSchedule
    ):
        optimizer.learning_rate = rate
        return
    config = optimizer.get_config()
    own = config if inner is optimizer else config["inner_optimizer"]["config"]
    own["learning_rate"] = rate
    new = type(optimizer).from_config(config)
    if optimizer.built:
        new.build(optimizer._trainable_variables)
        constant = getattr(new, "inner_optimizer", new)._learning_rate
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
    if not optimizer.built or [id(v) for v in optimizer._trainable_variables] == [
        id(v) for v in trained
    ]:
        return ()
    before = list(optimizer._trainable_variables)
    new = type(optimizer).from_config(optimizer.get_config())
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
        for old, fresh in zip(old_slots.get(key, ()), fresh_slots, strict=False):
            fresh.assign(old)
    return ()


def _slots(
    variables: list[Any], trained: list[Any]
) -> tuple[list[Any], dict[int, list[Any]] | None]:
    """An optimizer's own variables, and those it keeps for each trained one (by its id).

    Keras lists its own first (iteration, learning rate), then for each trained variable all that
    it keeps of it. None where they do not divide so: some optimizers keep more.
    """
    named = {"iteration", "learning_rate", "step_counter", "dynamic_scale"}
    own = [v for v in variables if v.name in named]
    rest = [v for v in variables if v.name not in named]
    if len(rest) % max(len(trained), 1):
        return own, None
    each = len(rest) // max(len(trained), 1)
    slots = {id(t): rest[i * each : (i + 1) * each] for i, t in enumerate(trained)}
    for variable in trained:
        if any(s.shape != variable.shape for s in slots[id(variable)]):
            return own, None
    return own, slots
