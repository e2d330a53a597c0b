"""How to train: what the user may say of it, checked. NumPy alone; Keras is not needed."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

from orthwrap.errors import ValueFault

DEFAULT_EPOCHS = 5
DEFAULT_BATCH_SIZE = 32
DEFAULT_LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        epochs: times through the data.
        batch_size: samples per step.
        learning_rate: None keeps the model's own, or takes 1e-4 where it has none.
        seed: makes a run repeatable; None leaves randomness as it is.
    """

    epochs: int = DEFAULT_EPOCHS
    batch_size: int = DEFAULT_BATCH_SIZE
    learning_rate: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _whole_number(name, value, lowest))
        rate = self.learning_rate
        if rate is None:
            return
        is_number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
        if not (is_number and math.isfinite(rate) and rate > 0):
            raise ValueFault(f"learning rate {rate!r} must be a finite number above 0")
        object.__setattr__(self, "learning_rate", float(rate))


def _whole_number(name: str, value: Any, lowest: int) -> int:
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (is_whole and lowest <= value < 2**32):
        limit = " and below 2**32" if is_whole and value > 0 else ""
        raise ValueFault(f"{name} {value!r} must be a whole number of at least {lowest}{limit}")
    return int(value)
