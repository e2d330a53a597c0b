"""What Keras calls on a kernel after each optimizer step: the pull, as its constraint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import ops

from orthwrap.constraints.updates import at_updates
from orthwrap.penalties.options import EVERY
from orthwrap.regularizers import OrthogonalityRegularizer

Tensor = Any


class PullConstraint(keras.constraints.Constraint):  # type: ignore[misc]  # Keras is untyped
    """W/α ← W/α − β·direction, and then whatever constraint was there.

    Keras calls it at each `apply` of the optimizer. With gradient accumulation, and where the
    penalty is paid for at one step in `every`, it acts at the step that counts alone.

    Args:
        owner: who put it there.
        regularizer: of the kernel.
        rate: gives β inside of a step, a scalar tensor.
        optimizer: without a wrapper.
        own: the constraint that was there, or None.

    Attributes:
        was_called: whether Keras has called it, also to compile a step. It does not where the
            kernel has no gradient.
    """

    def __init__(
        self,
        owner: Any,
        regularizer: OrthogonalityRegularizer,
        rate: Callable[[], Tensor],
        optimizer: Any,
        own: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.owner = owner
        self.own = own
        self.was_called = False
        self._regularizer = regularizer
        self._rate = rate
        self._optimizer = optimizer
        self._every: int = regularizer.attachment.option(EVERY)

    def __call__(self, w: Tensor) -> Tensor:
        self.was_called = True
        split = self._regularizer.split_of(w)
        w = ops.convert_to_tensor(w)
        pulled = at_updates(partial(self._pulled, split=split), w, self._optimizer, self._every)
        return pulled if self.own is None else self.own(pulled)

    def _pulled(self, w: Tensor, split: Any) -> Tensor:
        return self._regularizer.pulled(w, self._every * self._rate(), split)

    def get_config(self) -> dict[str, Any]:
        raise TypeError("a pull is of a training, not of a file")
