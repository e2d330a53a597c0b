"""Figures on validation data in which no penalty is an estimate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from orthwrap.live.compiled import EXACT_STEP
from orthwrap.live.live_store import regularizers_of
from orthwrap.regularizers import OrthogonalityRegularizer
from orthwrap.regularizers.base import is_lora_factor
from orthwrap.report.measure import is_estimated, measure
from orthwrap.stores.store import as_float
from orthwrap.training.loop.losses import PENALTY, adds_losses_up


@contextmanager
def exact_penalties(model: Any) -> Iterator[dict[str, float]]:
    """Evaluations within have no penalty of kernels that would be estimated.

    Keras calls a regularizer in training and evaluation alike, so that one of `every=k` and one
    that draws would be chance there. Such a kernel's penalty is measured once instead, from its
    weights as the report does. A penalty of outputs is taken of each batch, without chance.

    A model whose `compute_loss` is its own may take losses as it likes, so the penalties of its
    kernels are left as they are; so are kernels and outputs that are too large to be measured.

    Yields:
        What is to be added to `loss` and `penalty`; empty for nothing.
    """
    kernels = _estimated(model)
    aside = list({id(r): r for _, r in kernels}.values())
    on_outputs = _at_times(model)
    if not aside and not on_outputs:
        yield {}
        return
    held, step = vars(model), getattr(model, "test_function", None)
    for regularizer in aside:
        regularizer.is_aside = True
    for regularizer in on_outputs:
        regularizer.is_at_each_call = True
    try:
        # A step of its own: whoever else evaluates the model gets what its regularizers give.
        model.test_function = held.get(EXACT_STEP)
        measured = sum(_penalty(variable, r) for variable, r in kernels)
        yield {"loss": measured, PENALTY: measured}
        held[EXACT_STEP] = model.test_function
    finally:
        model.test_function = step
        for regularizer in aside:
            regularizer.is_aside = False
        for regularizer in on_outputs:
            regularizer.is_at_each_call = False


def with_exact(figures: Mapping[str, float], added: Mapping[str, float]) -> dict[str, float]:
    """Figures of an evaluation, and what was left out of it."""
    return {name: value + added.get(name, 0.0) for name, value in figures.items()}


def _estimated(model: Any) -> list[tuple[Any, OrthogonalityRegularizer]]:
    """The trained kernels whose penalty chance has a part in, each with its regularizer."""
    if not adds_losses_up(model):
        return []
    found, too_large = [], set()
    for variable in model.trainable_variables:
        regularizer = getattr(variable, "regularizer", None)
        if not isinstance(regularizer, OrthogonalityRegularizer) or is_lora_factor(variable):
            continue
        if regularizer.has_chance and not regularizer.is_pulled:
            found.append((variable, regularizer))
            shape = tuple(variable.shape)
            if is_estimated(shape, regularizer.layout_for(shape)):
                too_large.add(id(regularizer))
    return [(variable, r) for variable, r in found if id(r) not in too_large]


def _at_times(model: Any) -> list[OrthogonalityRegularizer]:
    """Regularizers of outputs that are not paid for at each call."""
    held = (r for _, r in regularizers_of(model) if isinstance(r, OrthogonalityRegularizer))
    return [r for r in held if r.has_chance and r.attachment.on == "activity"]


def _penalty(variable: Any, regularizer: OrthogonalityRegularizer) -> float:
    """factor × penalty, at the factor of this moment; NaN where there is no number."""
    attachment = regularizer.attachment
    kernel = as_float(keras.ops.convert_to_numpy(variable))
    layout = regularizer.layout_for(kernel.shape)
    value = measure(kernel, layout, attachment.measured, with_sigmas=False).penalty
    return math.nan if value is None else attachment.factor * value
