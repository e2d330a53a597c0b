"""Whether two models give the same outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from orthwrap import keras_inside
from orthwrap.errors import RebuildError
from orthwrap.live.state import state_kept
from orthwrap.text import error_summary

Array = np.ndarray[Any, np.dtype[Any]]


_SAME_OUTPUTS = 1e-5  # the largest difference that arithmetic in another order may make
_SIZES = (32, 8, 2)


def check_outputs(layers: Sequence[tuple[Any, Any]]) -> tuple[str, ...]:
    """RebuildError where a copy gives other outputs; a note where they cannot be compared.

    Args:
        layers: the model and its copy first, then each layer below it with its own; of a model
            that has no graph, the outputs of those models below it are compared that have one.
    """
    model = layers[0][0]
    inside: set[int] = set()  # of a model whose outputs are compared
    differences = []
    for old, fresh in layers:
        if id(old) in inside or not isinstance(old, keras.Model) or not has_graph(old):
            continue
        inside |= {id(layer) for layer in keras_inside.layers_within(old)}
        differences.append(output_difference(old, fresh))
    difference = max((d for d in differences if d is not None), default=0.0)
    if not difference <= _SAME_OUTPUTS:
        raise RebuildError(
            f"model {model.name!r}: the copy made from its config gives other outputs (by "
            f"{difference:.3g}): use in_place=True, or mend the class's get_config"
        )
    is_called = type(model).call is not keras.Model.call
    if not differences or None in differences or (is_called and not has_graph(model)):
        return (
            "outputs of original and copy were not compared: no inputs were found that it takes",
        )
    return ()


def has_graph(model: Any) -> bool:
    """Whether Keras knows how a model's outputs come from its inputs."""
    return keras_inside.input_structure(keras_inside.graph_of(model)) is not None


def output_difference(first: Any, second: Any, seed: int = 0) -> float | None:
    """The largest |difference| of two models' outputs on random inputs; None if none can be made.

    Inputs have each input's dtype; unknown dimensions become 1 for the batch, and elsewhere the
    first of 32, 8 and 2 that the first model takes. Neither model's state changes.

    Raises:
        RebuildError: the second fails on inputs that the first takes.
    """
    for size in _SIZES:
        inputs = _random_inputs(first, size, seed)
        if inputs is None:
            return None
        try:
            before = _outputs(first, inputs)
            break
        except Exception:  # a model may not take inputs of the sizes chosen for its free dimensions
            continue
    else:
        return None
    try:
        after = _outputs(second, inputs)
    except Exception as e:  # the copy of a user's class may do anything
        raise RebuildError(
            f"model {first.name!r}: the copy made from its config fails on inputs that the model "
            f"takes ({error_summary(e)}): use in_place=True, or mend the "
            "class's get_config"
        ) from e
    if [a.shape for a in before] != [b.shape for b in after]:
        return math.inf
    return max(map(_largest_difference, before, after), default=0.0)


def _outputs(model: Any, inputs: Any) -> list[Array]:
    with state_kept(model):
        flat = keras.tree.flatten(model(inputs, training=False))
        return [np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in flat]


def _largest_difference(a: Array, b: Array) -> float:
    """Infinite where one is a number and the other none."""
    with np.errstate(invalid="ignore"):
        away = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.max(np.nan_to_num(away, nan=math.inf, posinf=math.inf), initial=0.0))


def _random_inputs(model: Any, size: int, seed: int) -> Any:
    template = keras_inside.input_structure(keras_inside.graph_of(model))
    if template is None:
        return None
    rng = np.random.default_rng(seed)

    def make(tensor: Any) -> Any:
        shape = [d if d is not None else (size if i else 1) for i, d in enumerate(tensor.shape)]
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
