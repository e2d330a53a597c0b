"""The node of a whole model, which says in a `.keras`, and not everywhere, where its class is."""

from __future__ import annotations

from orthwrap import keras_inside
from orthwrap.model_config.tree import Node, class_of

MODELS = {"Sequential": "keras", "Functional": keras_inside.FUNCTIONAL_MODULE, "Model": "keras"}


def with_module(model: Node) -> Node:
    """The node as a `.keras` has it."""
    module = MODELS.get(class_of(model))
    if module is None or "module" in model:
        return model
    registered = "Functional" if class_of(model) == "Functional" else None
    return {"module": module, **model, "registered_name": registered}
