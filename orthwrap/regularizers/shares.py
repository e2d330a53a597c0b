"""Whose each of a model's losses is: orthwrap's, or that of a regularizer beside it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from keras import ops

Tensor = Any


class Shares:
    """What orthwrap and what others contribute to a loss, as long as the loss lives."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Any, Tensor, Tensor]] = {}
        self._on_outputs: tuple[Tensor, Tensor, Tensor] | None = None

    def note(self, loss: Tensor, own: Tensor, other: Tensor) -> None:
        """`loss` is `own` + `other`; None stands for the whole of it, or for nothing."""
        key = id(loss)
        self._held[key] = weakref.ref(loss, lambda _: self._held.pop(key, None)), own, other

    def note_on_outputs(self, loss: Tensor, own: Tensor, other: Tensor) -> None:
        """The same of outputs; Keras divides it by the samples before the layer adds it."""
        self._on_outputs = loss, own, other

    def added(self, loss: Tensor) -> None:
        """A layer has added this, which may be what was noted last, divided."""
        if self._on_outputs is None:
            return
        (whole, own, other), self._on_outputs = self._on_outputs, None
        if other is not None:
            divided = ops.divide_no_nan(loss, whole)
            own, other = own * divided, other * divided
        self.note(loss, own, other)

    def of(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """(ours, others'), None for nothing; a loss that nobody noted is others'."""
        if id(loss) not in self._held:
            return None, loss
        _, own, other = self._held[id(loss)]
        return (loss if own is None else own), other


_LISTENING: list[Shares] = []


def tell(regularizer: Any, loss: Tensor, own: Tensor, other: Tensor) -> None:
    """What one of orthwrap's regularizers has just given, for whoever listens."""
    if not _LISTENING or not ops.is_tensor(loss):
        return
    for shares in _LISTENING:
        kept = None if own is loss else own  # the loss itself would never be forgotten
        if regularizer.attachment.on == "activity":
            shares.note_on_outputs(loss, kept, other)
        else:
            shares.note(loss, kept, other)


@contextlib.contextmanager
def listening(shares: Shares, layers: Iterable[Any]) -> Iterator[None]:
    """While active, `shares` knows what regularizers give, and what these layers add of it."""
    held = list(layers)
    for layer in held:
        vars(layer)["add_loss"] = _telling(layer.add_loss, shares)
    _LISTENING.append(shares)
    try:
        yield
    finally:
        _LISTENING.remove(shares)
        for layer in held:
            vars(layer).pop("add_loss", None)


def _telling(add_loss: Callable[[Tensor], None], shares: Shares) -> Callable[[Tensor], None]:
    def add(loss: Tensor) -> None:
        add_loss(loss)
        shares.added(loss)

    return add
