"""A source that the user names → data, checked against the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orthwrap.data.arrays import ArrayRows, find_arrays
from orthwrap.data.ports import Port
from orthwrap.data.samples import Samples
from orthwrap.data.sets import Data


def load(
    source: Any,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    *,
    labelled: bool = True,
) -> Data:
    """The data of a source, checked against the model.

    Args:
        source: see `find_arrays`.
        inputs, outputs: of the model.
        labelled: False needs x alone, and ignores y.

    Raises:
        FileFault: a file is missing or broken.
        ValueFault: a key is missing, or a shape does not fit; both shapes are named.
    """
    found = find_arrays(source, inputs, outputs, labelled)
    train = Samples(ArrayRows(found.x), found.y)
    if found.x_val is None:
        return Data(train)
    return Data(train, Samples(ArrayRows(found.x_val), found.y_val or ()))
