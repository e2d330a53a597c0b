"""A live model changed itself, and given back as it was on an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.errors import RebuildError
from orthwrap.live.compiled import compiled_state, set_compiled_state
from orthwrap.regularizers.base import is_lora_factor


def set_regularizer(live: Any, key: str, variables: Sequence[Any], regularizer: Any) -> None:
    """Sets a regularizer on the live layer *and* on its variables: either alone is not enough.

    Keras reads the variable's when it sums losses, and the layer's when it saves. The factors of
    LoRA, to which it gave the old one, get the new one too.
    """
    if live is None:
        raise RebuildError(
            "the copy made from the model's config lacks a layer of the model: use in_place=True"
        )
    owners = [live]
    cell = getattr(live, "cell", None)
    if cell is not None:
        owners.append(cell)
    old = {id(r) for r in (keras_inside.setting(live, key), *(v.regularizer for v in variables))}
    for owner in owners:
        keras_inside.set_setting(owner, key, regularizer)
    factors = [v for v in live.weights if is_lora_factor(v) and id(v.regularizer) in old]
    for variable in (*variables, *factors):
        variable.regularizer = regularizer


def set_constraint(live: Any, key: str, variables: Sequence[Any], constraint: Any) -> None:
    """The same of a constraint: Keras applies the variable's, and saves the layer's."""
    if live is None:
        raise RebuildError(
            "the copy made from the model's config lacks a layer of the model: use in_place=True"
        )
    for owner in (live, getattr(live, "cell", None)):
        if owner is not None:
            keras_inside.set_setting(owner, key, constraint)
    for variable in variables:
        variable.constraint = constraint


def carrying(live: Any, key: str) -> list[Any]:
    """The variables of a layer that carry the regularizer that its setting `key` is."""
    held = [keras_inside.setting(owner, key) for owner in (live, getattr(live, "cell", None))]
    own = [regularizer for regularizer in held if regularizer is not None]
    return [v for v in live.variables if any(v.regularizer is regularizer for regularizer in own)]


@contextlib.contextmanager
def restored_on_error(model: Any) -> Iterator[None]:
    """Where the block fails, the model is as it was, but for weights that were trained already.

    Its regularizers, which layers are trained, and how it is compiled are put back.
    """
    layers = [
        (layer, keras_inside.training_settings(layer)) for layer in keras_inside.every_layer(model)
    ]
    variables = [(v, v.regularizer, v.constraint, v.trainable) for v in model.variables]
    compiled = compiled_state(model)
    rate = getattr(compiled.get("optimizer"), "learning_rate", None)
    rates = [(rate, keras.ops.convert_to_numpy(rate))] if isinstance(rate, keras.Variable) else []
    try:
        yield
    except BaseException:
        for layer, own in layers:
            keras_inside.set_training_settings(layer, own)
        for variable, *had in variables:
            variable.regularizer, variable.constraint, variable.trainable = had
        set_compiled_state(model, compiled)
        for variable, value in rates:
            variable.assign(value)
        raise
