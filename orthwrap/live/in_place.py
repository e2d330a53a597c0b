"""A live model changed itself, and given back as it was on an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.errors import RebuildError
from orthwrap.live.compiled import compiled_state, set_compiled_state


def set_regularizer(live: Any, key: str, variables: Sequence[Any], regularizer: Any) -> None:
    """Sets a regularizer on the live layer *and* on its variables: either alone is not enough.

    Keras reads the variable's when it sums losses, and the layer's when it saves.
    """
    if live is None:
        raise RebuildError(
            "the copy made from the model's config lacks a layer of the model: use in_place=True"
        )
    owners = [live]
    cell = getattr(live, "cell", None)
    if cell is not None:
        owners.append(cell)
    for owner in owners:
        keras_inside.set_setting(owner, key, regularizer)
    for variable in variables:
        variable.regularizer = regularizer


@contextlib.contextmanager
def restored_on_error(model: Any) -> Iterator[None]:
    """Where the block fails, the model is as it was, but for weights that were trained already.

    Its regularizers, which layers are trained, and how it is compiled are put back.
    """
    layers = [
        (layer, keras_inside.training_settings(layer)) for layer in keras_inside.every_layer(model)
    ]
    variables = [(v, v.regularizer, v.trainable) for v in model.variables]
    compiled = compiled_state(model)
    rate = getattr(compiled.get("optimizer"), "learning_rate", None)
    rates = [(rate, keras.ops.convert_to_numpy(rate))] if isinstance(rate, keras.Variable) else []
    try:
        yield
    except BaseException:
        for layer, own in layers:
            keras_inside.set_training_settings(layer, own)
        for variable, regularizer, trainable in variables:
            variable.regularizer, variable.trainable = regularizer, trainable
        set_compiled_state(model, compiled)
        for variable, value in rates:
            variable.assign(value)
        raise
