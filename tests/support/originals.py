"""Every verb leaves the model that it is given as it was: each variable has the same bits.

What a model keeps is found here anew, without orthwrap.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

VERBS = ("apply", "bench", "finetune", "strip", "inspect")


def variables_of(model: Any) -> list[Any]:
    """All variables that can be reached: weights, states, seeds, metrics, the optimizer's."""
    import keras

    holds = (
        *(keras.Layer, keras.Metric, keras.Optimizer, keras.Loss, keras.Regularizer),
        keras.random.SeedGenerator,
    )

    def within(value: Any) -> Iterator[Any]:
        if isinstance(value, keras.Variable):
            yield value
        if isinstance(value, holds):
            value = vars(value)
        if not isinstance(value, (Mapping, list, tuple, set)) or id(value) in seen:
            return
        seen[id(value)] = value
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from within(inner)

    seen: dict[int, Any] = {}
    return list({id(v): v for v in within(model)}.values())


def bits_of(model: Any) -> dict[int, tuple[str, bytes]]:
    """Name and digest of each variable."""
    import keras

    def digest(variable: Any) -> bytes:
        return hashlib.blake2b(keras.ops.convert_to_numpy(variable).tobytes()).digest()

    return {id(v): (v.path, digest(v)) for v in variables_of(model)}


def keeping_bits(verb: str) -> Callable[..., Any]:
    """The verb, with an assertion about the model it is given.

    Training in place is to change it; all else is not. A regularizer that is taken away in place
    takes its own count with it.
    """

    true_verb = getattr(importlib.import_module(f"orthwrap.verbs.{verb}"), verb)

    @functools.wraps(true_verb)
    def call(model: Any, *args: Any, **words: Any) -> Any:
        trains = words.get("in_place") and words.get("data") is not None
        if trains or not _is_model(model):
            return true_verb(model, *args, **words)
        before = bits_of(model)
        try:
            return true_verb(model, *args, **words)
        finally:
            after = bits_of(model)
            gone = set(before) - set(after) if words.get("in_place") else set()
            kept = {key: was for key, was in before.items() if key not in gone}
            changed = [path for key, (path, bits) in kept.items() if after[key][1] != bits]
            assert not changed, f"{verb} changed its original's {changed}"

    return call


def _is_model(thing: Any) -> bool:
    return any(cls.__module__.startswith("keras.") for cls in type(thing).__mro__) and hasattr(
        thing, "weights"
    )
