"""Which regularizers act on a live model, and which of them a file of it would keep."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.constraints import OrthogonalityConstraint
from orthwrap.errors import RebuildError
from orthwrap.live.carried import layer_pairs
from orthwrap.live.live_store import LiveStore, live_layers, variable_of
from orthwrap.live.rebuild import (
    _keep_functions,
    _named_nodes,
    held_by_several,
    live_objects,
)
from orthwrap.live.theirs import is_keras
from orthwrap.survey import Slot


def acts_on(live: Any, slot: Slot) -> bool:
    """Whether one of our regularizers is where Keras applies it, for a slot of a live layer.

    Of a layer that has no weights yet, what it was made with counts.
    """
    from orthwrap.regularizers import _Regularizer

    if slot.name == "activity":
        return isinstance(live.activity_regularizer, _Regularizer)
    variables = [variable_of(live, k.spec) for k in slot.kernels]
    held = [v.regularizer for v in variables if v is not None]
    held = held or [keras_inside.setting(live, slot.key)]
    return all(isinstance(r, _Regularizer) for r in held)


def holds(live: Any, slot: Slot) -> bool:
    """The same of our constraint."""
    variables = [variable_of(live, k.spec) for k in slot.kernels]
    held = [v.constraint for v in variables if v is not None]
    held = held or [keras_inside.setting(live, slot.constraint_key)]
    return all(isinstance(c, OrthogonalityConstraint) for c in held)


@dataclass(frozen=True)
class ToCarry:
    """What of ours a slot is to carry."""

    slot: Slot
    regularizer: bool
    constraint: bool

    def is_on(self, live: Any) -> bool:
        """Whether all of it is where Keras applies it, on a live layer; None has nothing."""
        return live is not None and (
            (not self.regularizer or acts_on(live, self.slot))
            and (not self.constraint or holds(live, self.slot))
        )


def acting(model: Any) -> int:
    """How many variables of a model have a regularizer or a constraint of ours."""
    from orthwrap.regularizers import _Regularizer

    held = ((v, v.regularizer, v.constraint) for v in model.variables)
    ours = (_Regularizer, OrthogonalityConstraint)
    return len({id(v) for v, *own in held if any(isinstance(o, ours) for o in own)})


def is_in_doubt(model: Any) -> bool:
    """Whether a model made from its config may have other layers.

    Those within a class of others are made as it likes; those with weights that two models hold
    are made twice.
    """
    return any(layer.weights for layer in held_by_several(model)) or any(
        keras_inside.held_layers(layer) and not is_keras(type(layer).__module__)
        for layer in keras_inside.every_layer(model)
    )


def maker_of(store: LiveStore, slot: Slot) -> str:
    """The class that decides what becomes of a layer: the outermost around it that is not Keras's.

    That of the model where all are Keras's.
    """
    parts = slot.layer.path.split("/")
    around = [store.model, *(store._objects.get("/".join(parts[:i])) for i in range(1, len(parts)))]
    classes = [type(owner) for owner in around if owner is not None]
    return next((c.__name__ for c in classes if not is_keras(c.__module__)), classes[0].__name__)


def lost_in_file(store: LiveStore, carried: Sequence[ToCarry]) -> list[Slot]:
    """The slots that lose something of ours once the model was made anew from its config.

    Raises:
        Exception: whatever the model's classes raise, where it cannot be made.
        RebuildError: what two models share is made twice, while a file may have its weights once.
    """
    made_anew = _made_anew(store)
    if len(made_anew.weights) > len(store.model.weights):
        raise RebuildError(
            f"its config makes {len(made_anew.weights)} weights where the model has "
            f"{len(store.model.weights)}: Keras makes what two models share twice"
        )
    pairs = list(layer_pairs(store.model, made_anew))
    is_same = len(pairs) == len(keras_inside.layers_within(store.model))
    twins = {id(old): new for old, new in pairs} if is_same else {}
    by_path = live_layers(made_anew)

    def is_lost(wanted: ToCarry) -> bool:
        layer = wanted.slot.layer
        old = store.object_of(layer)
        return not wanted.is_on(twins.get(id(old)) if is_same else by_path.get(layer.path))

    return [wanted.slot for wanted in carried if is_lost(wanted)]


def _made_anew(store: LiveStore) -> Any:
    """The model as Keras loads it from a file, without its weights."""
    root = store.root
    known = {**live_objects(store), **_keep_functions(store, root)}
    for node in _named_nodes(root):
        node.pop("compile_config", None)
    with warnings.catch_warnings(), keras_inside.sharing_scope():
        warnings.simplefilter("ignore")
        # What code there is in the config is the caller's own.
        return keras.saving.deserialize_keras_object(root, custom_objects=known, safe_mode=False)
