"""What a config does not hold, carried from the original to its copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.live.live_store import _kind_of
from orthwrap.live.state import own_variables, value_of
from orthwrap.regularizers import OrthogonalityRegularizer
from orthwrap.stores.replacing import scratch_folder


def layer_pairs(model: Any, new: Any) -> list[tuple[Any, Any]]:
    """The model and each layer below it, with what stands in its place in the copy.

    Members go by their names where both sides have the same ones, else by their order.
    """
    pairs: dict[int, tuple[Any, Any]] = {}
    waiting = [(model, new)]
    for old, fresh in waiting:
        if id(old) in pairs or type(old).__name__ != type(fresh).__name__:
            continue
        pairs[id(old)] = old, fresh
        olds, fresh_ones = map(keras_inside.held_layers, (old, fresh))
        by_name = {layer.name: layer for layer in fresh_ones}
        if len(by_name) == len(olds) and by_name.keys() == {layer.name for layer in olds}:
            waiting += [(layer, by_name[layer.name]) for layer in olds]
        else:
            waiting += zip(olds, fresh_ones, strict=False)
    return list(pairs.values())


def variable_pairs(
    model: Any, new: Any, pairs: Sequence[tuple[Any, Any]]
) -> list[tuple[Any, Any]] | None:
    """Each weight and each other variable of the model, with its own in the copy.

    Where a layer holds it decides, not its place among the weights, which Keras may change; that
    decides where layers do not correspond. None where the copy's weights are not the model's.
    """
    found: dict[int, tuple[Any, Any]] = {}
    for old, fresh in pairs:
        theirs = own_variables(fresh)
        for key, variable in own_variables(old).items():
            if key in theirs and _alike(variable, theirs[key]):
                found.setdefault(id(variable), (variable, theirs[key]))
    weights = {id(v) for v in new.weights}
    taken = {id(found[id(v)][1]) for v in model.weights if id(v) in found}
    if taken == weights and len(taken) == len(model.weights):
        return list(found.values())
    in_order = list(zip(model.weights, new.weights, strict=False))
    if len(model.weights) != len(weights) or not all(_alike(*pair) for pair in in_order):
        return None
    found.update((id(old), (old, fresh)) for old, fresh in in_order)
    return list(found.values())


def _alike(first: Any, second: Any) -> bool:
    return tuple(first.shape) == tuple(second.shape)


def copy_own_state(old: Any, fresh: Any) -> None:
    """What a layer saves in its own way: statistics, a vocabulary that was learnt from data."""
    base = keras.layers.Layer.load_own_variables
    if _kind_of(old) is None and type(old).load_own_variables is not base:
        state: dict[str, Any] = {}
        old.save_own_variables(state)
        # By value: on JAX both would hold one buffer, which the next training step gives away.
        fresh.load_own_variables({key: value_of(value) for key, value in state.items()})
    if hasattr(old, "save_assets") and hasattr(fresh, "load_assets"):
        with scratch_folder() as folder:
            old.save_assets(str(folder))
            fresh.load_assets(str(folder))


def copy_counts(old: Any, fresh: Any) -> None:
    """A regularizer of ours that the copy keeps draws and counts on from where it was."""
    for name, value in vars(old).items():
        other = vars(fresh).get(name)
        ours = isinstance(value, OrthogonalityRegularizer) and type(other) is type(value)
        if ours and other.get_config() == value.get_config():
            other.restore(value.moment)


def seeds_left(model: Any, pairs: Sequence[tuple[Any, Any]]) -> tuple[str, ...]:
    """A note where Dropout and the like do not go on from the state they had."""
    known = {id(old) for old, _ in pairs}
    seeds = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    if all(id(seed) in known for seed in seeds):
        return ()
    return ("the state of random numbers could not be carried over: other ones are drawn",)


def copy_values(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Weights and all that is kept beside them: Dropout and the like go on from where they were."""
    for old, fresh in pairs:
        fresh.assign(value_of(old))


def copy_trainable(layers: Sequence[tuple[Any, Any]], variables: Sequence[tuple[Any, Any]]) -> None:
    """A frozen model or layer is frozen in the copy too; configs do not always say so."""
    for old, fresh in layers:
        keras_inside.copy_own_trainable(old, fresh)
    for old, fresh in variables:
        if isinstance(old, keras.Variable) and old.trainable != fresh.trainable:
            fresh.trainable = old.trainable
