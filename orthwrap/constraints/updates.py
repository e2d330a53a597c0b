"""When something that Keras calls after each optimizer step is to act."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from orthwrap import keras_inside

Tensor = Any


def at_updates(
    act: Callable[[Tensor], Tensor], x: Tensor, optimizer: Any, every: int = 1
) -> Tensor:
    """`act(x)` at one update in `every`, else x.

    With gradient accumulation, Keras calls at each of the small steps: an update is the last.

    Args:
        optimizer: without a wrapper; None where nobody counts, so that each call is an update.
    """
    period = every * (getattr(optimizer, "gradient_accumulation_steps", None) or 1)
    if optimizer is None or period == 1:
        return act(x)
    # Keras counts the step once its constraints are done.
    step = ops.convert_to_tensor(keras_inside.steps_of(optimizer)) + 1
    return ops.cond(ops.equal(step % period, 0), lambda: act(x), lambda: x)
