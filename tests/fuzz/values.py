"""Choices from a seed, and values that a hostile file may hold where something sensible belongs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

STRINGS = (
    *("", "x", "same", "conv1", "classes", "Dense", "Conv2D", "a/b", "/", ".", "..", "../../x"),
    *("/etc/passwd", "/dev/zero", "file:///dev/zero", "C:\\x", "\n", "\r\nx", "\x1b[31m", "\0"),
    *("\ud800", "\u202e", "\u2028", "\x9b", "é" * 300, "x" * 5000, "[/red]", "{0}", "%s%n", "=1+1"),
    *("ab,bc->ac", "...a,ab->...b", "->", ",", "orthwrap>SO", "orthwrap>Attached", "os>system"),
    *("builtins:exec", "__lambda__", "__class__", "keras.src.ops", "float16", "NaN", "1e999", "٣"),
)
NUMBERS = (
    *(-1, 0, 1, 2, 3, 9, 255, 256, 2**31 - 1, 2**31, 2**63, -(2**63), 2**70, 10**400),
    *(0.0, -0.0, 0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"), -float("inf")),
)
KEYS = (
    *("class_name", "config", "layers", "layer", "name", "module", "registered_name", "factor"),
    *("layout", "kernel_regularizer", "dtype", "shared_object_id", "inbound_nodes", "cell"),
    *("value", "code", "optimizer", "learning_rate", "trainable", "build_config", ""),
)


class Draw:
    """A seeded source of choices.

    Args:
        seed: of all that is drawn.

    Attributes:
        rate: how often `slip` gives something other than what belongs there; it is drawn as well,
            so that some inputs are nearly sound and others are mad.
    """

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.rate = self.random.choice((0.0, 0.003, 0.01, 0.03, 0.2))

    def one(self, options: Sequence[T]) -> T:
        """One of several."""
        return self.random.choice(options)

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return self.random.random() < share

    def count(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return self.random.randint(low, high)

    def many(self, make: Callable[[], T], most: int) -> list[T]:
        """Up to so many of them."""
        return [make() for _ in range(self.count(0, most))]

    def scalar(self) -> Any:
        """What JSON has, but lists and objects."""
        kind = self.count(0, 3)
        if kind == 0:
            return self.one((None, True, False))
        return self.one(STRINGS) if kind < 3 else self.one(NUMBERS)

    def junk(self, depth: int = 3) -> Any:
        """Anything that JSON can hold."""
        if depth == 0 or self.chance(0.5):
            return self.scalar()
        if self.chance(0.5):
            return self.many(lambda: self.junk(depth - 1), 4)
        return {self.one(KEYS): self.junk(depth - 1) for _ in range(self.count(0, 4))}

    def slip(self, value: Any) -> Any:
        """The value, or now and then junk, a value in a list, or one in a list less."""
        if not self.chance(self.rate):
            return value
        if self.chance(0.2):
            return [value]
        if isinstance(value, list) and value and self.chance(0.3):
            return value[0]
        return self.junk()

    def slips(self, fields: dict[str, Any]) -> dict[str, Any]:
        """An object with slips in it: values, missing keys, keys that do not belong there."""
        out = {k: self.slip(v) for k, v in fields.items() if not self.chance(self.rate / 3)}
        if self.chance(self.rate):
            out[self.one(KEYS)] = self.junk()
        return out
