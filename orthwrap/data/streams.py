"""Batches that the user's own code makes: datasets, loaders, generator functions."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orthwrap.data.batches import batches, has_tensorflow
from orthwrap.data.ports import (
    Array,
    NotFinite,
    Port,
    as_model_takes,
    check_input,
    check_lengths,
    check_numbers,
    not_finite,
    shape_text,
    shapes,
    trained_dtype,
)
from orthwrap.errors import OrthwrapError, ValueFault
from orthwrap.rules.references import imported
from orthwrap.text import error_summary

# Of how many batches the labels are looked at, to choose a loss.
_LOOKED_AT = 8
# Of how many batches figures are taken, where only the end would tell how many there are.
_EVALUATED = 1000


_TF_DATASET = "tf.data.Dataset"


class Flow(NamedTuple):
    """Where batches come from.

    Attributes:
        kind: what the user calls it.
        read: the batches from that number on, their parts as NumPy arrays; anew at each call.
        native: what Keras takes as it is; None for what only `read` can give.
        steps: how many batches; None where only the end tells.
    """

    kind: str
    read: Callable[[int], Iterator[Any]]
    native: Any
    steps: int | None


class Batch(NamedTuple):
    """A batch in the order of the model's inputs and outputs; y and weights may be ()."""

    x: tuple[Array, ...]
    y: tuple[Array, ...]
    weights: tuple[Array, ...]

    @property
    def element(self) -> tuple[Any, ...]:
        """As Keras takes it."""
        return tuple(as_model_takes(part) for part in self if part)


# What may be a stream


def is_reference(source: Any) -> bool:
    return isinstance(source, str) and re.fullmatch(r"[A-Za-z_][\w.]*:\w+", source) is not None


def referenced(reference: str) -> Callable[[], Any]:
    """The function of `"package.module:function"`, which the user named.

    The module is looked for in the current folder too, after everything installed.

    Raises:
        ValueFault: there is no such module, or no such function in it.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    function: Callable[[], Any] = imported(reference, "data")
    return function


def called(function: Callable[[], Any]) -> Any:
    """What a function without arguments returns.

    Raises:
        ValueFault: it fails.
    """
    name = name_of(function)
    try:
        return function()
    except Exception as e:  # the user's own code
        raise ValueFault(f"data function {name} failed: {error_summary(e)}") from e


def name_of(function: Any) -> str:
    return f"{getattr(function, '__name__', type(function).__name__)}()"


def flow_of_generators(function: Callable[[], Any], kind: str) -> Flow:
    """Batches of the iterators that a function makes, one per epoch."""
    return Flow(kind, lambda start: islice(iter(function()), start, None), None, None)


def flow_of(source: Any, *, endless: bool = False) -> Flow | None:
    """Batches of a `tf.data.Dataset`, a `keras.utils.PyDataset`, a PyTorch `DataLoader`, or of
    anything else that can be gone through again and again; None for what is no such thing.

    Args:
        endless: it may never end.

    Raises:
        ValueFault: one that never ends, or can be gone through once only.
    """
    kinds = {(c.__module__.partition(".")[0], c.__name__) for c in type(source).__mro__}
    if ("tensorflow", "DatasetV2") in kinds:
        return _flow_of_dataset(source, endless)
    if ("keras", "PyDataset") in kinds:
        return _flow_of_pydataset(source, endless)
    if ("torch", "DataLoader") in kinds:
        return _flow_of_loader(source)
    if isinstance(source, Iterator):
        raise ValueFault(
            "data must be there anew for each epoch, and an iterator ends for good; got "
            f"{type(source).__name__}: give the function that makes it"
        )
    # Arrays and tensors of all kinds can be gone through too.
    is_array = isinstance(source, (str, bytes, Sequence, Mapping)) or hasattr(source, "__array__")
    if isinstance(source, Iterable) and not is_array:
        return flow_of_generators(lambda: source, type(source).__name__)
    return None


def _never_ends(kind: str, how: str) -> ValueFault:
    return ValueFault(
        f"the {kind} never ends, so that there are no epochs: give steps per epoch, or {how}"
    )


def _flow_of_dataset(dataset: Any, endless: bool) -> Flow:
    kind, steps = _TF_DATASET, int(dataset.cardinality())
    if steps == -1 and not endless:
        raise _never_ends(kind, "leave repeat() out")

    def read(start: int) -> Iterator[Any]:
        return iter(dataset.skip(start).as_numpy_iterator())

    return Flow(kind, read, dataset, steps if steps >= 0 else None)


def _flow_of_pydataset(dataset: Any, endless: bool) -> Flow:
    kind = "PyDataset"
    try:
        steps = dataset.num_batches
    except NotImplementedError:
        steps = None
    if steps is None and endless:
        return Flow(kind, lambda start: (dataset[i] for i in count(start)), dataset, None)
    if steps is None:
        raise _never_ends(kind, "let num_batches say how many batches an epoch has")
    return Flow(kind, lambda start: (dataset[i] for i in range(start, steps)), dataset, int(steps))


def _flow_of_loader(loader: Any) -> Flow:
    import keras

    def array(tensor: Any) -> Any:
        return tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor

    def read(start: int) -> Iterator[Any]:
        for batch in islice(iter(loader), start, None):
            yield keras.tree.map_structure(array, batch)

    try:
        steps = len(loader)
    except TypeError:  # it is over a dataset that does not know its length
        steps = None
    return Flow("DataLoader", read, loader, steps)


# A stream, checked against the model


@dataclass(frozen=True)
class Stream:
    """Batches in the order of whoever makes them.

    Attributes:
        flow: where they come from.
        takes, gives: the model's inputs and outputs; gives is () where labels are left alone.
        first: the first batch.
        labels: of the first batches.
        repeatable: whether the first batch is the same each time.
        faults: what went wrong while batches were read.
        epoch_steps: batches of an epoch, where it does not go by the flow's own end: the next one
            goes on behind them, and from the beginning when the flow has ended.
    """

    flow: Flow
    takes: tuple[Port, ...]
    gives: tuple[Port, ...]
    first: Batch
    labels: tuple[Array, ...]
    repeatable: bool
    faults: list[BaseException] = field(default_factory=list, compare=False)
    epoch_steps: int | None = None

    count = None
    class_names = ()

    def describe(self) -> str:
        size = len(self.first.x[0])
        parts = [f"{self.flow.kind}, first batch {shapes('x', self.first.x, size)}"]
        for part, arrays in (("y", self.first.y), ("weights", self.first.weights)):
            if arrays:
                parts.append(shapes(part, arrays, size))
        steps = self.steps(0)
        parts.append("an epoch being all of it" if steps is None else f"{steps} batches")
        if not self.repeatable:
            parts.append("its first batch differs each time: a resumed run may see other samples")
        return ", ".join(parts)

    def steps(self, batch_size: int) -> int | None:
        return self.epoch_steps or self.flow.steps

    def with_steps(self, steps: int, batch_size: int) -> Stream:
        return replace(self, epoch_steps=steps)

    def training(
        self, batch_size: int, seed: int, start_epoch: int, start_step: int, epochs: int
    ) -> Any:
        native = self.flow.native
        if self.epoch_steps is not None:
            return self._continuing(start_epoch * self.epoch_steps + start_step, epochs)
        if native is not None and self.gives:
            if not start_step:
                return native
            if self.flow.kind == _TF_DATASET:
                return native.skip(start_step)
        return self._dataset(start_step, lambda batch: batch.element)

    def _continuing(self, start: int, epochs: int) -> Any:
        """Batches from that number on, over the end of the flow, to that of the last epoch."""
        assert self.epoch_steps is not None
        left = epochs * self.epoch_steps - start
        native = self.flow.native
        if self.gives and self.flow.kind == _TF_DATASET and native is not None:
            return native.repeat().skip(start).take(left)
        first = start if self.flow.steps is None else start % self.flow.steps
        endless = replace(self, flow=self.flow._replace(read=self._endless, steps=None))
        return endless._dataset(first, lambda batch: batch.element).take(left)

    def _endless(self, start: int) -> Iterator[Any]:
        """The flow's batches from that number on, then all of them, over and over."""
        is_short = self.flow.steps is not None
        batches, skipped = (self.flow.read(start), 0) if is_short else (self.flow.read(0), start)
        while True:
            seen = 0
            for batch in batches:
                seen += 1
                if skipped:
                    skipped -= 1
                else:
                    yield batch
            if not seen:
                raise ValueFault(f"{self.flow.kind} gave no batches when it was gone through again")
            batches = self.flow.read(0)

    def ordered(self, batch_size: int) -> Any:
        if self.flow.steps is not None:
            return replace(self, epoch_steps=None).training(batch_size, 0, 0, 0, 1)
        # A stream whose length is not known may have no end.
        few = self.epoch_steps or _EVALUATED
        return self._dataset(0, lambda batch: batch.element).take(few)

    def inputs(self, batch_size: int) -> Any:
        return self._dataset(0, lambda batch: batch.element[:1])

    def shared_by(self, devices: int) -> Stream:
        return self

    def with_targets(self, y: tuple[Array, ...]) -> Stream:
        raise ValueFault(
            f"{self.flow.kind} gives batches of samples that have no numbers: its labels are "
            "replaced batch by batch"
        )

    def relabelled(self, outputs_of: Callable[[Any], Any], batch_size: int) -> Stream:
        def relabelled(batch: Batch) -> Batch:
            found = outputs_of(as_model_takes(batch.x))
            y = tuple(found) if isinstance(found, (list, tuple)) else (found,)
            return Batch(batch.x, y, batch.weights)

        # There may be other outputs than the model's: as many as the function gives.
        gives = tuple(Port(f"y{i}", a.shape[1:]) for i, a in enumerate(relabelled(self.first).y))
        flow = self.flow._replace(
            read=lambda start: (relabelled(b).element for b in self._batches(start)), native=None
        )
        first, labels = _look(flow, self.takes, gives)
        return replace(self, flow=flow, gives=gives, first=first, labels=labels)

    def with_labels(self, changed: Callable[[tuple[Array, ...]], tuple[Array, ...]]) -> Stream:
        """The same samples with each batch's labels changed, as it is read."""

        def read(start: int) -> Iterator[Any]:
            for batch in self._batches(start):
                yield batch._replace(y=changed(batch.y)).element

        flow = self.flow._replace(read=read, native=None)
        first, labels = _look(flow, self.takes, self.gives)
        return replace(self, flow=flow, first=first, labels=labels)

    def not_finite(self) -> NotFinite | None:
        return not_finite(self.first.x)

    def explain(self, error: BaseException) -> OrthwrapError | None:
        if not self.faults:
            return None
        fault = self.faults[-1]
        if isinstance(fault, OrthwrapError):
            return fault
        return ValueFault(f"reading a batch of {self.flow.kind} failed: {error_summary(fault)}")

    def _batches(self, start: int) -> Iterator[Batch]:
        for batch in self.flow.read(start):
            yield _parts(batch, self.takes, self.gives, self.flow.kind)

    def _dataset(self, start: int, take: Callable[[Batch], tuple[Any, ...]]) -> Any:
        """A `tf.data.Dataset` of what is taken of each batch, from a batch on.

        Where TensorFlow is not installed, `batches` of the same.
        """
        import keras

        def trained(array: Array) -> Array:
            return array.astype(trained_dtype(array.dtype), copy=False)

        def elements() -> Iterator[Any]:
            try:
                for batch in self._batches(start):
                    yield keras.tree.map_structure(trained, take(batch))
            except Exception as e:
                self.faults.append(e)
                raise

        if not has_tensorflow():
            return batches(elements)
        import tensorflow as tf

        flow = tf.data.Dataset.from_generator(elements, output_signature=take(self._specs()))
        if self.flow.steps is not None:
            flow = flow.apply(tf.data.experimental.assert_cardinality(self.flow.steps - start))
        return flow.prefetch(2)

    def _specs(self) -> Any:
        """Of the parts of a batch, a `tf.TensorSpec` for each array."""
        import tensorflow as tf

        def spec(array: Array, shape: Sequence[int | None]) -> Any:
            is_open = [d is None for d in shape] + [False] * array.ndim
            own = (None if o else d for o, d in zip(is_open, array.shape[1:], strict=False))
            return tf.TensorSpec((None, *own), trained_dtype(array.dtype))

        x, y, weights = self.first
        return Batch(
            tuple(spec(a, port.shape) for a, port in zip(x, self.takes, strict=True)),
            tuple(spec(a, port.shape) for a, port in zip(y, self.gives, strict=True)),
            tuple(spec(a, ()) for a in weights),
        )


def stream_of(
    flow: Flow, inputs: Sequence[Port], outputs: Sequence[Port], labelled: bool
) -> Stream:
    """A stream whose first batches fit the model.

    Raises:
        ValueFault: there are none, or they do not fit; shapes are named.
    """
    takes, gives = tuple(inputs), tuple(outputs) if labelled else ()
    first, labels = _look(flow, takes, gives)
    second, _ = _look(flow, takes, gives, 1)
    same = all(
        a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip((*first.x, *first.y), (*second.x, *second.y), strict=True)
    )
    return Stream(flow, takes, gives, first, labels, same)


def _look(
    flow: Flow, takes: Sequence[Port], gives: Sequence[Port], batches: int = _LOOKED_AT
) -> tuple[Batch, tuple[Array, ...]]:
    """The first batch, and the labels of the first few."""
    try:
        read = list(islice(flow.read(0), batches))
    except OrthwrapError:
        raise
    except Exception as e:  # the user's own code
        raise ValueFault(f"reading a batch of {flow.kind} failed: {error_summary(e)}") from e
    if not read:
        raise ValueFault(
            f"{flow.kind} gave no batches: each epoch goes through it anew, and it must give "
            "some each time"
        )
    parsed = [_parts(batch, takes, gives, flow.kind) for batch in read]
    labels = []
    for arrays in zip(*(batch.y for batch in parsed), strict=True):
        alike = [a for a in arrays if a.shape[1:] == arrays[0].shape[1:]]
        labels.append(np.concatenate(alike))
    return parsed[0], tuple(labels)


def _parts(batch: Any, takes: Sequence[Port], gives: Sequence[Port], where: str) -> Batch:
    """A batch as Keras understands it: `(x, y, weights)`, `(x, y)`, `(x,)`, or x alone.

    Several inputs or outputs are a tuple, or a mapping by their names. Without `gives`, labels are
    left alone.
    """
    whole = tuple(batch) if isinstance(batch, (list, tuple)) else (batch,)
    if not 1 <= len(whole) <= 3:
        raise ValueFault(f"{where} gives batches of {len(whole)} parts; expected (x, y)")
    if gives and len(whole) == 1:
        raise ValueFault(f"{where} gives batches without labels; expected (x, y)")
    x = _arrays("x", whole[0], takes, where)
    for array, port in zip(x, takes, strict=True):
        _check_batched(array, port, where)
        check_input("x", array, port, where)
    y = _arrays("y", whole[1], gives, where) if gives else ()
    weights: tuple[Array, ...] = ()
    if gives and len(whole) == 3 and whole[2] is not None:
        is_one = not isinstance(whole[2], (Mapping, list, tuple))  # for all outputs, as in Keras
        weights = _arrays("weights", whole[2], gives[:1] if is_one else gives, where)
    found = Batch(x, y, weights)
    check_lengths(f"a batch of {where}", x, y)
    if any(len(array) != len(x[0]) for array in found.weights):
        raise ValueFault(f"a batch of {where}: not as many weights as samples")
    return found


def _arrays(letter: str, part: Any, ports: Sequence[Port], where: str) -> tuple[Array, ...]:
    names = [port.name for port in ports]
    if isinstance(part, Mapping):
        if not all(name in part for name in names):
            raise ValueFault(
                f"{where} gives {letter} with the keys {', '.join(map(str, part)) or '(none)'}; "
                f"expected {', '.join(names)}"
            )
        part = tuple(part[name] for name in names)
    elif not isinstance(part, (list, tuple)):
        part = (part,)
    if len(part) != len(ports):
        raise ValueFault(
            f"{where} gives {len(part)} arrays as {letter}; the model has {len(ports)}: "
            f"{', '.join(names)}"
        )
    arrays = []
    for value in part:
        try:
            arrays.append(np.asarray(value))
        except ValueError as e:
            raise ValueFault(f"{where}: {letter} is no array ({e})") from e
        check_numbers(letter, arrays[-1], where)
    return tuple(arrays)


def _check_batched(array: Array, port: Port, where: str) -> None:
    is_single = array.ndim == len(port.shape) and all(
        wanted in (None, have) for wanted, have in zip(port.shape, array.shape, strict=True)
    )
    if is_single:
        raise ValueFault(
            f"{where} gives single samples of shape {shape_text(array.shape)}: let it give "
            "batches, such as with batch(32)"
        )
