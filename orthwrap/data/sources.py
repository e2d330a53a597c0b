"""A source that the user names → data, checked against the model."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from orthwrap.data.arrays import ArrayRows, find_arrays
from orthwrap.data.images import Pixels, find_images, pixels
from orthwrap.data.ports import Port
from orthwrap.data.samples import Samples
from orthwrap.data.sets import Data, Set
from orthwrap.data.streams import (
    called,
    flow_of,
    flow_of_generators,
    is_reference,
    name_of,
    referenced,
    stream_of,
)
from orthwrap.errors import UsageError, ValueFault

Pair = tuple[Set, Set | None]


def load(
    source: Any,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    *,
    validation: Any = None,
    validation_split: float | None = None,
    seed: int = 0,
    rescale: Any = None,
    preprocessing: str | None = None,
    image_size: Any = None,
    labelled: bool = True,
    endless: bool = False,
) -> Data:
    """The data of a source, checked against the model.

    Args:
        source: arrays (the path of a `.npz`, a mapping, `(x, y)`, `(x, y, x_val, y_val)`; see
            `find_arrays`); a folder of class folders of images (see `find_images`); batches (a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a PyTorch `DataLoader`, or another object
            that can be gone through again and again); a pair (training, validation) of any but
            folders; a function without arguments that returns any of these or an iterator of
            batches; or such a function's name, `package.module:function`.
        inputs, outputs: of the model.
        validation: another source, to validate on.
        validation_split: the fraction of the samples, above 0 and below 1, to validate on
            rather than train on.
        seed: which samples these are.
        rescale, preprocessing, image_size: of images; see `pixels`.
        labelled: False needs x alone, and ignores y.
        endless: what to train on may never end, as something else ends its epochs.

    Raises:
        FileFault: a file is missing or broken.
        ValueFault: a key is missing, or a shape does not fit; both shapes are named.
        UsageError: options that contradict each other or the source.
    """
    how = pixels(rescale, preprocessing, image_size)
    reader = _Reader(inputs, outputs, labelled, how, endless)
    if validation is not None and validation_split is not None:
        raise UsageError("validation and validation split contradict each other: give one")
    fraction = None if validation_split is None else _fraction(validation_split)
    train, held_out = reader.read(source)
    if held_out is not None and (validation is not None or fraction is not None):
        word = "validation" if fraction is None else "validation split"
        raise UsageError(f"the data has its own validation set: leave {word} out")
    if validation is not None:
        held_out, more = replace(reader, endless=False).read(validation)
        if more is not None:
            raise ValueFault("validation has two sets itself: give the one to validate on")
    elif fraction is not None:
        if not isinstance(train, Samples):
            raise UsageError("a stream of batches cannot be split: give validation instead")
        train, held_out = train.split(fraction, seed)
    if held_out is not None:
        _check_same_classes(train, held_out)
    return Data(train, held_out, is_split=fraction is not None)


@dataclass(frozen=True)
class _Reader:
    """Reads sources for one model."""

    inputs: Sequence[Port]
    outputs: Sequence[Port]
    labelled: bool
    pixels: Pixels | None
    endless: bool = False

    def read(self, source: Any) -> Pair:
        """What to train on, and what the source itself has to validate on."""
        if is_reference(source) and not Path(source).exists():
            source = referenced(source)
        if callable(source) and not _is_made(source):
            return self._called(source)
        if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
            return find_images(
                Path(source), self.inputs, self.outputs, self.labelled, self.pixels or Pixels()
            )
        if self.pixels is not None:
            raise UsageError(
                "rescale, preprocessing and image size are about a folder of images: other data "
                "is used as it is"
            )
        if _is_pair(source):
            train, none = self.read(source[0])
            held_out, nothing = replace(self, endless=False).read(source[1])
            if none is not None or nothing is not None:
                raise ValueFault("a pair of sources must be (training, validation) alone")
            return train, held_out
        flow = flow_of(source, endless=self.endless)
        if flow is not None:
            return stream_of(flow, self.inputs, self.outputs, self.labelled), None
        if isinstance(source, np.ndarray) and not self.labelled:
            source = {"x": source}
        found = find_arrays(source, self.inputs, self.outputs, self.labelled)
        train = Samples(ArrayRows(found.x), found.y)
        if found.x_val is None:
            return train, None
        return train, Samples(ArrayRows(found.x_val), found.y_val or ())

    def _called(self, function: Callable[[], Any]) -> Pair:
        """The data that a function returns; an iterator of batches is asked for anew each time."""
        made = called(function)
        if isinstance(made, Iterator):
            flow = flow_of_generators(function, name_of(function))
            return stream_of(flow, self.inputs, self.outputs, self.labelled), None
        if made is None:
            raise ValueFault(
                f"data function {name_of(function)} returned None: let it return the data"
            )
        try:
            return self.read(made)
        except ValueFault as e:
            raise type(e)(
                f"what {name_of(function)} returned: {str(e).removeprefix('data: ')}"
            ) from e


def _is_made(source: Any) -> bool:
    """Whether it is data itself, though it can be called or not."""
    return isinstance(source, (str, os.PathLike, Mapping, Sequence)) or hasattr(source, "__iter__")


def _is_pair(source: Any) -> bool:
    """Whether it is `(training, validation)`, of streams, mappings or `(x, y)`."""
    if not isinstance(source, (tuple, list)) or len(source) != 2:
        return False
    if all(isinstance(part, tuple) for part in source):
        return True
    return any(
        isinstance(part, Mapping) or flow_of(part, endless=True) is not None for part in source
    )


def _fraction(value: Any) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and 0 < value < 1):
        raise ValueFault(f"validation split {value!r} must be a number above 0 and below 1")
    return float(value)


def _check_same_classes(train: Set, held_out: Set) -> None:
    ours, theirs = train.class_names, held_out.class_names
    if ours and theirs and ours != theirs:
        odd = ", ".join(sorted({*ours} ^ {*theirs}))
        raise ValueFault(
            f"the two sets have different classes: {odd} in only one of them; their folders must "
            "have the same names"
        )
