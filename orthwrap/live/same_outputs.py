"""Whether two models give the same outputs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from orthwrap import keras_inside
from orthwrap.errors import RebuildError
from orthwrap.text import error_summary


def output_difference(first: Any, second: Any, seed: int = 0) -> float | None:
    """The largest |difference| of two models' outputs on random inputs; None if none can be made.

    Inputs have each input's dtype; unknown dimensions become 1 for the batch and 32 elsewhere.

    Raises:
        RebuildError: the second fails on inputs that the first takes.
    """
    inputs = _random_inputs(first, seed)
    if inputs is None:
        return None
    try:
        before = first(inputs, training=False)
    except Exception:  # a model may not take inputs of the sizes chosen for its free dimensions
        return None
    try:
        after = second(inputs, training=False)
    except Exception as e:  # the copy of a user's class may do anything
        raise RebuildError(
            f"model {first.name!r}: the copy made from its config fails on inputs that the model "
            f"takes ({error_summary(e)}): use in_place=True, or mend the "
            "class's get_config"
        ) from e
    worst = 0.0
    pairs = zip(keras.tree.flatten(before), keras.tree.flatten(after), strict=True)
    for a, b in pairs:
        a, b = (np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in (a, b))
        if a.size:
            both_nan = np.isnan(a) & np.isnan(b)
            worst = max(worst, float(np.max(np.where(both_nan, 0.0, np.abs(a - b)))))
    return worst


def _random_inputs(model: Any, seed: int) -> Any:
    template = keras_inside.input_structure(keras_inside.graph_of(model))
    if template is None:
        return None
    rng = np.random.default_rng(seed)

    def make(tensor: Any) -> Any:
        shape = [d if d is not None else (32 if i else 1) for i, d in enumerate(tensor.shape)]
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype == "string":
            raise TypeError
        if "int" in dtype or dtype == "bool":
            return keras.ops.convert_to_tensor(rng.integers(0, 2, shape), dtype)
        return keras.ops.convert_to_tensor(rng.normal(size=shape), dtype)

    try:
        return keras.tree.map_structure(make, template)
    except (TypeError, ValueError):
        return None
