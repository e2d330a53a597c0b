"""The data of a run: a set of samples to train on, and perhaps one to validate on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from orthwrap.data.ports import Array, NotFinite
from orthwrap.data.samples import Samples
from orthwrap.errors import OrthwrapError


class Set(Protocol):
    """Some samples with or without labels; `Data` says what the methods do."""

    @property
    def count(self) -> int | None: ...
    @property
    def repeatable(self) -> bool: ...
    @property
    def labels(self) -> tuple[Array, ...]: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    def describe(self) -> str: ...
    def with_steps(self, steps: int, batch_size: int) -> Set: ...
    def shared_by(self, devices: int) -> Set: ...
    def steps(self, batch_size: int) -> int | None: ...
    def training(
        self, batch_size: int, seed: int, start_epoch: int, start_step: int, epochs: int
    ) -> Any: ...
    def ordered(self, batch_size: int) -> Any: ...
    def inputs(self, batch_size: int) -> Any: ...
    def with_targets(self, y: tuple[Array, ...]) -> Set: ...
    def with_labels(self, changed: Callable[[tuple[Array, ...]], tuple[Array, ...]]) -> Set: ...
    def relabelled(self, outputs_of: Callable[[Any], Any], batch_size: int) -> Set: ...
    def not_finite(self) -> NotFinite | None: ...
    def explain(self, error: BaseException) -> OrthwrapError | None: ...


FEWEST_HELD_OUT = 20
"""Samples: with fewer, chance of which they are is larger than what they are to tell."""


@dataclass(frozen=True)
class Data:
    """Samples to train on, and to validate on where there are any.

    Nothing is loaded whole that was not given whole. Floats go to the model in Keras's floatx,
    other numbers as they are. Batches are what `fit`, `evaluate` and `predict` take on any
    backend: `(x, y)`, where several inputs or outputs are tuples, and `(x,)` without labels.

    Attributes:
        train: what to train on.
        held_out: what to validate on, or None.
        is_split: whether both are parts of what was given to train on.
    """

    train: Set
    held_out: Set | None = None
    is_split: bool = False

    @property
    def samples(self) -> int | None:
        """How many there are to train on; None where only the end of a stream tells."""
        return self.train.count

    @property
    def validation_samples(self) -> int | None:
        """How many there are to validate on: 0 for none, None where it is not known."""
        return 0 if self.held_out is None else self.held_out.count

    @property
    def labels(self) -> tuple[Array, ...]:
        """Labels of the training set, one array per output: all, or a stream's first batches'.

        Empty without labels. Classes of a folder are int32 numbers.
        """
        return self.train.labels

    @property
    def validation_labels(self) -> tuple[Array, ...]:
        """The same of the validation set; empty without one."""
        return () if self.held_out is None else self.held_out.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of a folder of images, in the order of their numbers; else empty."""
        return self.train.class_names

    @property
    def are_kept(self) -> tuple[bool, bool]:
        """Of either set, whether `relabelled` asks for all labels now, not as batches are read."""
        return isinstance(self.train, Samples), isinstance(self.held_out, Samples | None)

    @property
    def repeatable(self) -> bool:
        """Whether the order of samples depends on seed and epoch alone."""
        return self.train.repeatable

    def with_steps(self, steps: int, batch_size: int) -> Data:
        """With epochs of so many steps to train on.

        Of samples, each epoch takes others. A stream goes on where the last epoch ended, and from
        its beginning once it has ended.

        Raises:
            ValueFault: more steps than the samples have batches.
        """
        return replace(self, train=self.train.with_steps(steps, batch_size))

    def shared_by(self, devices: int) -> Data:
        """For so many devices: each takes an even share of every batch that is trained on.

        An epoch's last batch loses what cannot be shared out, other samples in every epoch. A
        stream has batches of its own.
        """
        return replace(self, train=self.train.shared_by(devices))

    def with_some_held_out(self, fraction: float, seed: int) -> Data:
        """With a part of the samples to validate on, where there is none and enough of them.

        Each class gives its share, where labels are classes. A stream, and fewer than
        `FEWEST_HELD_OUT` samples, stay whole.
        """
        train = self.train
        if self.held_out is not None or not isinstance(train, Samples):
            return self
        if round(train.count * fraction) < FEWEST_HELD_OUT:
            return self
        return Data(*train.split(fraction, seed, stratified=True), is_split=True)

    def describe(self) -> str:
        """Shapes, dtypes, numbers of samples and classes in one line."""
        if self.held_out is None:
            return self.train.describe()
        count = self.held_out.count
        more = "more" if count is None else f"{count} more"
        return f"{self.train.describe()}; {more} to validate"

    def steps(self, batch_size: int) -> int | None:
        """Steps in an epoch; None where only the end of a stream tells."""
        return self.train.steps(batch_size)

    def training(
        self,
        batch_size: int,
        seed: int,
        start_epoch: int = 0,
        start_step: int = 0,
        epochs: int = 1,
    ) -> Any:
        """What `model.fit` takes, with `steps_per_epoch=steps(batch_size)` and `shuffle=False`.

        The order of samples is a pure function of seed and epoch (a stream's is its own). An
        epoch's last batch may be smaller. Where start_step is above 0, the first epoch is shorter
        by as many steps, so that it wants a call of `fit` for itself.

        Args:
            batch_size: samples per step; a stream has its own.
            seed: of the order.
            start_epoch, start_step: where to start, from 0.
            epochs: where to stop: epoch numbers stay below it.
        """
        return self.train.training(batch_size, seed, start_epoch, start_step, epochs)

    def validation(self, batch_size: int) -> Any:
        """What `model.evaluate` takes, in the order of samples; None without a validation set."""
        return None if self.held_out is None else self.held_out.ordered(batch_size)

    def evaluation(self, batch_size: int) -> Any:
        """What to evaluate on: the validation set, or the training set in the order of samples."""
        return (self.held_out or self.train).ordered(batch_size)

    def some_trained(self, count: int, batch_size: int) -> Any:
        """So many samples of the training set at most, evenly spread, in batches as `evaluation`.

        None of a stream.
        """
        train = self.train
        return (
            train.evenly_spread(count).ordered(batch_size) if isinstance(train, Samples) else None
        )

    def inputs(self, batch_size: int) -> Any:
        """x of the training set in the order of samples: batches `(x,)`, as `predict` takes."""
        return self.train.inputs(batch_size)

    def first_inputs(self, batch_size: int) -> Any:
        """x of the first of these batches."""
        (x,) = next(iter(self.inputs(batch_size)))
        return x

    def with_targets(
        self, y: Sequence[Array] | None, validation_y: Sequence[Array] | None = None
    ) -> Data:
        """The same samples with other labels, in the order of samples.

        Args:
            y: arrays of the training set, one per output; None leaves its labels.
            validation_y: the same of the validation set.

        Raises:
            ValueFault: not as many as samples, or a stream: see `relabelled`.
        """
        train, held_out = self.train, self.held_out
        if y is not None:
            train = train.with_targets(tuple(map(np.asarray, y)))
        if held_out is not None and validation_y is not None:
            held_out = held_out.with_targets(tuple(map(np.asarray, validation_y)))
        return replace(self, train=train, held_out=held_out)

    def with_stream_labels(self, changed: Callable[[tuple[Array, ...]], tuple[Array, ...]]) -> Data:
        """With the labels of streams changed, batch by batch; other sets stay."""
        train, held_out = (
            part if part is None or isinstance(part, Samples) else part.with_labels(changed)
            for part in (self.train, self.held_out)
        )
        assert train is not None
        return replace(self, train=train, held_out=held_out)

    def relabelled(self, outputs_of: Callable[[Any], Any], batch_size: int) -> Data:
        """The same samples, labelled by a function, for both sets.

        Args:
            outputs_of: from x of a batch (a NumPy array, or a tuple of them) to y (an array, or
                a list of one per output). For arrays and folders it is called once per batch, now,
                and its answers are kept; for a stream each time a batch is read.
            batch_size: samples per call; a stream has its own.
        """
        held_out = self.held_out and self.held_out.relabelled(outputs_of, batch_size)
        return replace(self, train=self.train.relabelled(outputs_of, batch_size), held_out=held_out)

    def explain(self, error: BaseException) -> OrthwrapError | None:
        """What in the data led to an error while batches were read; None where nothing did."""
        for part in (self.train, self.held_out):
            found = part.explain(error) if part is not None else None
            if found is not None:
                return found
        return None
