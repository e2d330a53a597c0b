"""Where classes live: files of Keras 2.12 to 2.15 and tf_keras name modules that are gone."""

from __future__ import annotations

from typing import Any

from orthwrap.errors import FileFault
from orthwrap.model_config.tree import class_of
from orthwrap.model_config.whole_model import MODELS
from orthwrap.upgrades.layers.arguments import ACCEPTED
from orthwrap.upgrades.rewriting import Rewriting

# Deeper than a model's layers may nest, for the structures inside their configs.
MOST_NESTED = 300


def present_module(node: dict[str, Any]) -> str | None:
    """The module of a serialized object in Keras 3, None where it is not Keras's own."""
    module, name = node.get("module"), class_of(node)
    if not isinstance(module, str):
        return None
    package, _, rest = module.partition(".")
    if package not in {"keras", "tf_keras"}:
        return None
    if name in MODELS:
        return MODELS[name]
    if name in ACCEPTED and (rest == "layers" or rest.startswith(("layers.", "src.layers"))):
        return "keras.layers"
    return "keras" + (f".{rest}" if rest else "")


def update_modules(tree: Any, run: Rewriting, depth: int = 0) -> None:
    """Correct every module in a config, in place."""
    if depth > MOST_NESTED:
        raise FileFault("model config: nested too deeply; the file is broken")
    if isinstance(tree, list):
        for item in tree:
            update_modules(item, run, depth + 1)
    if not isinstance(tree, dict):
        return
    new = present_module(tree) if "class_name" in tree else None
    if new is not None and new != tree["module"]:
        name = class_of(tree)
        run.ledger.note("module moved", "Keras 2.12-2.15", name, f"{tree['module']} is {new}")
        tree["module"] = new
        tree["registered_name"] = name if name == "Functional" else None
    elif new is not None and str(tree.get("registered_name")).startswith("Custom>"):
        tree["registered_name"] = None
        run.ledger.note("module moved", "Keras 2.12-2.15", class_of(tree))
    for value in tree.values():
        if isinstance(value, (dict, list)):
            update_modules(value, run, depth + 1)
