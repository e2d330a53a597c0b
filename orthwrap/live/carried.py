"""What a config does not hold, carried from the original to its copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.live.compiled import copy_value
from orthwrap.live.live_store import _kind_of
from orthwrap.stores.replacing import scratch_folder


def layer_pairs(model: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    originals, copies = map(keras_inside.layers_within, (model, new))
    for old, fresh in zip(originals, copies, strict=False):
        if type(old).__name__ == type(fresh).__name__:
            yield old, fresh


def copy_own_state(old: Any, fresh: Any) -> None:
    """What a layer saves in its own way: statistics, a vocabulary that was learnt from data."""
    base = keras.layers.Layer.load_own_variables
    if _kind_of(old) is None and type(old).load_own_variables is not base:
        state: dict[str, Any] = {}
        old.save_own_variables(state)
        fresh.load_own_variables(state)
    if hasattr(old, "save_assets") and hasattr(fresh, "load_assets"):
        with scratch_folder() as folder:
            old.save_assets(str(folder))
            fresh.load_assets(str(folder))


def copy_seeds(model: Any, new: Any) -> tuple[str, ...]:
    """Dropout and the like go on from the state they had; a note where they cannot."""
    old_seeds = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    new_seeds = [v for v in new.non_trainable_variables if v.name == "seed_generator_state"]
    if len(old_seeds) != len(new_seeds):
        return ("the state of random numbers could not be carried over: other ones are drawn",)
    for old, fresh in zip(old_seeds, new_seeds, strict=True):
        copy_value(old, fresh)
    return ()


def copy_trainable(model: Any, new: Any, pairs: Sequence[tuple[Any, Any]]) -> None:
    """A frozen model or layer is frozen in the copy too; configs do not always say so."""
    for old, fresh in pairs:
        keras_inside.copy_own_trainable(old, fresh)
    for old, fresh in zip(model.weights, new.weights, strict=True):
        if old.trainable != fresh.trainable:
            fresh.trainable = old.trainable
