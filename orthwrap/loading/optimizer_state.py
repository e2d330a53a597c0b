"""The optimizer's state of an `.h5`, which Keras 3 does not restore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orthwrap.stores.h5 import group_of_arrays
from orthwrap.upgrades.by_format import STATE, STATE_ASIDE

_UNBUILT = 2  # variables of an optimizer that has none for its model yet: iteration, learning rate


def restore_optimizer(model: Any, path: Path) -> tuple[str, ...]:
    """An optimizer for the model's own variables, in the state the file has."""
    from orthwrap.live.compiled import new_from_config, set_optimizer

    optimizer = new_from_config(model.optimizer)
    optimizer.build(model.trainable_variables)
    set_optimizer(model, optimizer)
    found = group_of_arrays(path, STATE, STATE_ASIDE)
    if found is None:
        return ()
    names, saved = found
    if len(saved) <= _UNBUILT and not any(np.any(a) for a in saved[:1]):
        return ()  # it had not trained: it starts as it was
    arranged = _arrange(saved, names, optimizer.variables, model.trainable_variables)
    if arranged is None:
        return ("the file's optimizer state does not fit this optimizer: it starts afresh",)
    for variable, value in zip(optimizer.variables, arranged, strict=True):
        if value is not None:
            variable.assign(value)
    return ()


def _arrange(
    saved: Sequence[Any], names: Sequence[str], variables: Sequence[Any], trained: Sequence[Any]
) -> list[Any] | None:
    """The saved arrays in the optimizer's order; None for what the file does not have.

    Keras 3 writes iteration, learning rate, then each variable's slots together. Keras 2.11 left
    out the learning rate (`Adam/m/dense/kernel:0`, `Adam/v/dense/kernel:0`, …); before, Keras 2
    wrote the first slot of every variable, then the second (`Adam/dense/kernel/m:0`, …), with
    placeholders of one number for slots that were not in use; RMSprop and its like of Keras 2.1
    came without the iteration.
    """
    shapes = [tuple(v.shape) for v in variables]
    if [a.shape for a in saved] == shapes:
        return list(saved)
    # A learning rate that follows a schedule is no variable.
    own = 2 if len(variables) > 1 and variables[1].name == "learning_rate" else 1
    slots, count = len(shapes) - own, len(trained)
    if not saved or not count or slots % count:
        return None
    if len(saved) == 1 + slots + count and all(a.shape == (1,) for a in saved[-count:]):
        saved = saved[:-count]
    iteration: Any = saved[0]
    ordered = list(saved[1:])
    if len(saved) == slots:
        iteration, ordered = None, list(saved)
    if len(ordered) != slots:
        return None
    first = names[len(saved) - slots].rpartition("/")[2].partition(":")[0] if slots else ""
    if slots and first != trained[0].name:
        per_variable = slots // count
        ordered = [ordered[s * count + i] for i in range(count) for s in range(per_variable)]
    arranged = [iteration, *[None] * (own - 1), *ordered]
    fits = all(a is None or a.shape == s for a, s in zip(arranged, shapes, strict=True))
    return arranged if fits else None
