"""Batches of NumPy arrays as Keras takes them, for where TensorFlow and its tf.data are not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from orthwrap import keras_inside
from orthwrap.errors import is_installed

Element = tuple[Any, ...]


@functools.cache
def has_tensorflow() -> bool:
    """Whether TensorFlow is installed here; it is not imported."""
    return is_installed("tensorflow")


def batches(read: Callable[[], Iterator[Element]]) -> Any:
    """What `fit`, `evaluate` and `predict` take on JAX and PyTorch, and anybody can go through.

    Args:
        read: the batches, anew at each call: `(x,)`, `(x, y)` or `(x, y, weights)`.
    """
    return _batches_class()(read)


@functools.cache
def _batches_class() -> Any:
    adapter, loader_of = keras_inside.data_adapter()

    class Batches(adapter):  # type: ignore[misc, valid-type]  # Keras is untyped
        num_batches = batch_size = has_partial_batch = partial_batch_size = None

        def __init__(self, read: Callable[[], Iterator[Element]]) -> None:
            self._read = read

        def __iter__(self) -> Iterator[Element]:
            return self._read()

        as_numpy_iterator = get_numpy_iterator = get_jax_iterator = __iter__

        def get_torch_dataloader(self) -> Any:
            return loader_of(self)

        def take(self, count: int) -> Any:
            return Batches(lambda: islice(self._read(), count))

    return Batches


def ahead(found: Iterator[Element]) -> Iterator[Element]:
    """The same batches, the next one made while the last is trained on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, found, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, found, None)
            yield batch
