"""A live model's inputs and outputs, as data is checked against them."""

from __future__ import annotations

from typing import Any

from orthwrap.data import Data, Port, load
from orthwrap.errors import ValueFault
from orthwrap.training.settings import Settings


def ports(model: Any) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a model, by name and shape without the batch.

    Raises:
        ValueFault: a model that does not know its inputs.
    """
    graph = getattr(model, "_functional", None) or model
    inputs, outputs = getattr(graph, "inputs", None), getattr(graph, "outputs", None)
    if not inputs or not outputs:
        raise ValueFault(
            f"model {model.name!r} does not know its inputs and outputs: fine-tune it in Python "
            "with its own fit"
        )
    names = list(getattr(graph, "output_names", [])) or [t.name for t in outputs]
    return (
        [Port(t.name, tuple(t.shape[1:])) for t in inputs],
        [Port(n, tuple(t.shape[1:])) for n, t in zip(names, outputs, strict=True)],
    )


def read_data(model: Any, source: Any, settings: Settings, seed: int) -> Data:
    """The data, checked against the model's inputs and outputs."""
    inputs, outputs = ports(model)
    data = load(
        source,
        inputs,
        outputs,
        validation=settings.validation,
        validation_split=settings.validation_split,
        seed=seed,
        rescale=settings.rescale,
        preprocessing=settings.preprocessing,
        image_size=settings.image_size,
        labelled=not settings.distill,
    )
    return data if settings.devices is None else data.shared_by(settings.devices)
