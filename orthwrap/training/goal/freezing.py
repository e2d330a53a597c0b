"""Which layers are trained: patterns → frozen and unfrozen layers of a live model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.errors import NoMatchError, UsageError, ValueFault
from orthwrap.live.live_store import LiveStore
from orthwrap.model_config.tree import Layer
from orthwrap.rules.patterns import Candidate, Pattern, nearest, parse
from orthwrap.survey import survey
from orthwrap.training.settings import Settings


def freeze(model: Any, settings: Settings) -> tuple[str, ...]:
    """Sets which layers of `model` are trained; says what was frozen and unfrozen.

    A pattern that matches a model inside the model stands for all of its layers. What both
    `freeze` and `unfreeze` match is trained: the one makes exceptions of the other.

    Raises:
        ValueFault: nothing is left to train.
        NoMatchError: a pattern that matches no layer.
        UsageError: a pattern with a slot.
    """
    if not (settings.freeze or settings.unfreeze or settings.freeze_batchnorm):
        _check_trained(model, "every layer of the model is frozen: unfreeze those to train")
        return ()
    store = LiveStore(model)
    layers = [
        layer
        for layer in store.layers()
        if not (layer.is_operation or layer.class_name == "InputLayer")
    ]
    wanted = _wanted(store, layers, settings)
    own = [
        (variable, variable.trainable)
        for layer in layers
        if layer.is_container and (live := store.object_of(layer)) is not None
        for variable in keras_inside.own_trainable_variables(live)
    ]
    # A model that is frozen itself hides what is trained inside it, so all are set anew.
    model.trainable = True
    for layer, is_trained in wanted:
        store.object_of(layer).trainable = is_trained
    for variable, is_trained in own:
        variable.trainable = is_trained
    _check_trained(model, "nothing is left to train: freeze fewer layers, or unfreeze some")
    moved = [is_trained for layer, is_trained in wanted if is_trained != layer.trainable]
    counts = {"frozen": moved.count(False), "unfrozen": moved.count(True)}
    changed = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    numbers = sum(_size(v) for v in model.trainable_variables)
    return (f"layers: {changed or 'none frozen or unfrozen'}; {numbers:,} weights are trained",)


def _wanted(
    store: LiveStore, layers: Sequence[Layer], settings: Settings
) -> list[tuple[Layer, bool]]:
    """Each layer with weights of its own, and whether it is to be trained."""
    candidates = _candidates(store, layers)
    is_frozen = _chosen(settings.freeze, "freeze", candidates)
    is_unfrozen = _chosen(settings.unfreeze, "unfreeze", candidates)
    wanted = []
    for layer in layers:
        live = store.object_of(layer)
        if live is None or layer.is_container or not live.weights:
            continue
        is_trained = layer.trainable
        if settings.freeze_batchnorm and isinstance(live, keras.layers.BatchNormalization):
            is_trained = False
        elif is_unfrozen(layer.matched):
            is_trained = True
        elif is_frozen(layer.matched):
            is_trained = False
        wanted.append((layer, is_trained))
    return wanted


def _candidates(store: LiveStore, layers: Sequence[Layer]) -> dict[str, list[Candidate]]:
    """What patterns are held against, by the layer's path."""
    families: dict[str, list[str]] = {}
    for slot in survey(store).slots:
        families.setdefault(slot.layer.path, []).extend(slot.families)
    return {
        layer.path: [
            Candidate(layer.matched, layer.class_name, None, family, layer)
            for family in (families.get(layer.path) or (None,))
        ]
        for layer in layers
    }


def _check_trained(model: Any, message: str) -> None:
    if not model.trainable_variables:
        raise ValueFault(message)


@contextlib.contextmanager
def batchnorm_momentum(model: Any, momentum: float | None) -> Iterator[None]:
    """While active, the statistics of every BatchNormalization follow with this momentum.

    Few steps on other data than it was made for leave a pretrained network with statistics that
    belong to its old kernels, if they follow as slowly as in its first training.
    """
    layers = keras_inside.every_layer(model)
    norms = (layer for layer in layers if hasattr(layer, "moving_variance"))
    own = [] if momentum is None else [(layer, layer.momentum) for layer in norms]
    for layer, _ in own:
        layer.momentum = momentum
    try:
        yield
    finally:
        for layer, before in own:
            layer.momentum = before


def _size(variable: Any) -> int:
    size = 1
    for extent in variable.shape:
        size *= extent
    return size


def _chosen(patterns: Sequence[Any], word: str, candidates: dict[str, list[Candidate]]) -> Any:
    """Whether a layer, by its paths, is among those that the patterns match."""
    matched: set[str] = set()
    for pattern in map(parse, patterns):
        if pattern.slot is not None:
            raise UsageError(
                f"{word} {pattern.text!r}: a layer is trained as a whole; leave @{pattern.slot} out"
            )
        found = {
            path
            for each in candidates.values()
            for candidate in each
            if pattern.matches_layer(candidate)
            for path in candidate.paths
        }
        if not found:
            raise NoMatchError(_nothing(pattern, word, candidates))
        matched |= found

    def is_chosen(paths: Sequence[str]) -> bool:
        return any(p in matched or _within(p, matched) for p in paths)

    return is_chosen


def _within(path: str, matched: set[str]) -> bool:
    parts = path.split("/")
    return any("/".join(parts[:end]) in matched for end in range(1, len(parts)))


def _nothing(pattern: Pattern, word: str, candidates: dict[str, list[Candidate]]) -> str:
    every = [c for each in candidates.values() for c in each]
    close = nearest(
        pattern.text,
        [c.paths[0] for c in every],
        [c.class_name for c in every],
        {c.family for c in every if c.family},
    )
    return f"{word} {pattern.text!r} matches no layer; nearest: {', '.join(close)}"
