"""Layer names that Keras 3 refuses: it splits paths of variables at '/'."""

from __future__ import annotations

from typing import Any

from orthwrap.upgrades.ledger import Config
from orthwrap.upgrades.rewriting import Rewriting, is_layer_node


def name_of(node: Config) -> str | None:
    """A layer's name, from its node in a graph or from its config."""
    for holder in (node, node.get("config")):
        name = holder.get("name") if isinstance(holder, dict) else None
        if isinstance(name, str):
            return name
    return None


def rename(node: Config, name: str) -> None:
    """Set a layer's name wherever its node gives one."""
    if isinstance(node.get("name"), str):
        node["name"] = name
    if isinstance(node.get("config"), dict):
        node["config"]["name"] = name


def without_slash(name: str, taken: set[str]) -> str:
    """The name with '_' for '/', told apart from the names that are taken."""
    plain = name.replace("/", "_") or "layer"
    new, count = plain, 1
    while new in taken:
        new, count = f"{plain}_{count}", count + 1
    return new


def rename_layers(layers: list[Any], parent: str, run: Rewriting) -> dict[str, str]:
    """Rename the layers of one model; old name → new name."""
    nodes = [node for node in layers if is_layer_node(node)]
    taken = {name for node in nodes if (name := name_of(node)) and "/" not in name}
    changes: dict[str, str] = {}
    for node in nodes:
        name = name_of(node)
        if name is None or "/" not in name:
            continue
        new = without_slash(name, taken)
        taken.add(new)
        changes[name] = new
        rename(node, new)
        run.renamed[f"{parent}{name}"] = f"{parent}{new}"
        run.ledger.note("slash in name", "Keras 1.0-2.15", f"{parent}{name}")
    return changes


def rename_root(model: Config, run: Rewriting) -> None:
    """The whole model's own name, which no path holds."""
    config = model.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    if isinstance(config, dict) and isinstance(name, str) and "/" in name:
        config["name"] = without_slash(name, set())
        run.ledger.note("slash in name", "Keras 1.0-2.15", name)
