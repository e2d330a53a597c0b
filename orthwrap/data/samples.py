"""A set of samples that any order can be taken from: rows of x, and labels beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from orthwrap.data.arrays import gatherer, rows_of
from orthwrap.data.batches import ahead, batches, has_tensorflow
from orthwrap.data.order import classes_in, order, split
from orthwrap.data.ports import Array, NotFinite, as_model_takes, shapes
from orthwrap.errors import OrthwrapError, ValueFault
from orthwrap.text import shortened


class Rows(Protocol):
    """x, by row number."""

    def __len__(self) -> int: ...

    def describe(self, samples: int) -> str:
        """In a few words, where `samples` of the rows are used."""
        ...

    def batches(self, rows: Any, batch_size: int) -> Any:
        """A `tf.data.Dataset` of x in batches, the rows as given by an int64 tensor."""
        ...

    def read(self, rows: Array) -> Any:
        """x of those rows as NumPy arrays, as the model takes it, without TensorFlow."""
        ...

    def not_finite(self, rows: Array | None) -> NotFinite | None:
        """Of some rows, or all, those that hold NaN or infinity."""
        ...

    def explain(self, error: BaseException) -> OrthwrapError | None:
        """What of these rows led to an error of TensorFlow, if it was they."""
        ...


@dataclass(frozen=True)
class Samples:
    """Samples by number.

    Attributes:
        x: where the inputs come from.
        y: one array per output; () without labels.
        x_at, y_at: which row of x and of y each sample is; None: the first is the first.
        class_names: what the labels' numbers stand for, where a folder says so.
        devices: that take an even share of each batch to train on.
        epoch_steps: batches of an epoch, where these are not all of the samples.
    """

    x: Rows
    y: tuple[Array, ...]
    x_at: Array | None = None
    y_at: Array | None = None
    class_names: tuple[str, ...] = ()
    devices: int = 1
    epoch_steps: int | None = None

    repeatable = True

    @property
    def count(self) -> int:
        return len(self.x) if self.x_at is None else len(self.x_at)

    @property
    def labels(self) -> tuple[Array, ...]:
        return self.y if self.y_at is None else tuple(a[self.y_at] for a in self.y)

    def describe(self) -> str:
        parts = [self.x.describe(self.count)]
        if self.y and not self.class_names:
            parts.append(shapes("y", self.y, self.count))
        if self.class_names:
            parts.append(f"{len(self.class_names)} classes: {shortened(self.class_names)}")
        return ", ".join(parts)

    def shared_by(self, devices: int) -> Samples:
        if self.count < devices:
            raise ValueFault(f"{self.count} samples cannot be shared out over {devices} devices")
        return replace(self, devices=devices)

    def steps(self, batch_size: int) -> int:
        return -(-self._used(batch_size) // batch_size)

    def _used(self, batch_size: int) -> int:
        """How many samples of an epoch are trained on."""
        used = self.count - self.count % batch_size % self.devices
        return used if self.epoch_steps is None else min(used, self.epoch_steps * batch_size)

    def with_steps(self, steps: int, batch_size: int) -> Samples:
        if steps > self.steps(batch_size):
            raise ValueFault(
                f"steps per epoch {steps}: {self.count} samples are {self.steps(batch_size)} "
                f"batches of {batch_size}; give as many at most, or more epochs"
            )
        return replace(self, epoch_steps=steps)

    def training(
        self, batch_size: int, seed: int, start_epoch: int, start_step: int, epochs: int
    ) -> Any:
        count, used = self.count, self._used(batch_size)

        def rows_in(epoch: Any) -> tuple[Array, Array]:
            skipped = start_step * batch_size if epoch == start_epoch else 0
            return self._rows(order(count, seed, int(epoch))[skipped:used])

        if not has_tensorflow():
            return self._read(lambda: map(rows_in, range(start_epoch, epochs)), batch_size)
        import tensorflow as tf

        def one_epoch(epoch: Any) -> Any:
            x_rows, y_rows = tf.numpy_function(
                rows_in, [epoch], [tf.int64, tf.int64], stateful=False
            )
            for rows in (x_rows, y_rows):
                rows.set_shape((None,))
            return self._batches(x_rows, y_rows, batch_size)

        numbers = tf.data.Dataset.range(start_epoch, epochs)
        return numbers.flat_map(tf.autograph.experimental.do_not_convert(one_epoch)).prefetch(2)

    def ordered(self, batch_size: int) -> Any:
        rows = self._rows(np.arange(self.count))
        if not has_tensorflow():
            return self._read(lambda: iter([rows]), batch_size)
        return self._batches(*rows, batch_size).prefetch(2)

    def inputs(self, batch_size: int) -> Any:
        return replace(self, y=()).ordered(batch_size)

    def with_targets(self, y: tuple[Array, ...]) -> Samples:
        for array in y:
            if len(array) != self.count:
                raise ValueFault(f"{len(array)} targets for {self.count} samples")
        return replace(self, y=y, y_at=None)

    def with_labels(self, changed: Callable[[tuple[Array, ...]], tuple[Array, ...]]) -> Samples:
        return self.with_targets(changed(self.labels))

    def relabelled(self, outputs_of: Callable[[Any], Any], batch_size: int) -> Samples:
        collected: list[list[Array]] = []
        for (x,) in self.inputs(batch_size).as_numpy_iterator():
            found = outputs_of(x)
            collected.append(list(found) if isinstance(found, (list, tuple)) else [found])
        parts = zip(*collected, strict=True)
        return self.with_targets(tuple(np.concatenate(part) for part in parts))

    def evenly_spread(self, count: int) -> Samples:
        """So many of them at most, evenly spread over their order."""
        wanted = min(count, self.count)
        x_at, y_at = self._rows(np.arange(wanted) * self.count // wanted)
        return replace(self, x_at=x_at, y_at=y_at)

    def split(
        self, fraction: float, seed: int, *, stratified: bool = False
    ) -> tuple[Samples, Samples]:
        """Samples to train on and to validate on, drawn by the seed; nothing is copied.

        Args:
            stratified: of each class as large a part, where the labels of one output are classes.

        Raises:
            ValueFault: a single sample.
        """
        if self.count < 2:
            raise ValueFault("one sample cannot be split into training and validation")

        def chosen(numbers: Array) -> Samples:
            x_at, y_at = self._rows(numbers)
            return replace(self, x_at=x_at, y_at=y_at)

        classes = classes_in(self.labels) if stratified else None
        train, held_out = split(self.count, fraction, seed, classes)
        return chosen(train), chosen(held_out)

    def not_finite(self) -> NotFinite | None:
        return self.x.not_finite(self.x_at)

    def explain(self, error: BaseException) -> OrthwrapError | None:
        return self.x.explain(error)

    def _rows(self, numbers: Array) -> tuple[Array, Array]:
        x_rows = numbers if self.x_at is None else self.x_at[numbers]
        y_rows = numbers if self.y_at is None else self.y_at[numbers]
        return x_rows, y_rows

    def _read(self, parts: Callable[[], Iterator[tuple[Array, Array]]], batch_size: int) -> Any:
        """Batches of such rows of x and y, one part after the other, without TensorFlow."""

        def read() -> Iterator[tuple[Any, ...]]:
            for x_rows, y_rows in parts():
                for i in range(0, len(x_rows), batch_size):
                    x = self.x.read(x_rows[i : i + batch_size])
                    y = rows_of(self.y, y_rows[i : i + batch_size])
                    yield (x, as_model_takes(y)) if y else (x,)

        return batches(lambda: ahead(read()))

    def _batches(self, x_rows: Any, y_rows: Any, batch_size: int) -> Any:
        import tensorflow as tf

        x = self.x.batches(x_rows, batch_size)
        if not self.y:
            return tf.data.Dataset.zip((x,))
        numbers = tf.data.Dataset.from_tensor_slices(y_rows).batch(batch_size)
        return tf.data.Dataset.zip((x, numbers.map(gatherer(self.y))))
