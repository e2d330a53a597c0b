"""Writes schema.md, what the reports' JSON holds, from the published schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_suffix(".md")
SCHEMA = PAGE.parents[1] / "orthwrap" / "report.schema.json"

HEAD = """# The report's JSON

What every command writes with `--json`, and `report.save("report.json")` in Python. The package
ships it as a JSON Schema, `importlib.resources.files("orthwrap") / "report.schema.json"`; this page
is made from that. It only grows within `/1`: ignore what is not listed here. No number is NaN or
infinite. `orthwrap.Report.from_json` reads it back.
"""


def text() -> str:
    """The page."""
    definitions = json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]
    names = sorted(definitions, key=lambda name: (name not in ("report", "compare"), name))
    return "\n".join([HEAD, *(line for name in names for line in _table(name, definitions[name]))])


def _table(name: str, definition: dict[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    if "description" in definition:
        about = definition["description"]  # of reports: the commands that write them
        yield f"{about[0].upper()}{about[1:]}.\n"
    fields = definition.get("items", definition).get("properties", {})
    required = definition.get("items", definition).get("required", [])
    yield "| key | type | |\n|---|---|---|"
    for key, what in fields.items():
        about = what.get("description", "") + ("" if key in required else " (not always there)")
        yield f"| `{key}` | {_type(what)} | {about.strip()} |".replace("\\|", "|")
    yield ""


def _type(what: dict[str, Any]) -> str:
    """In words, with links to what is defined here."""
    if "$ref" in what:
        name = what["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    for several in ("anyOf", "oneOf"):
        if several in what:
            return " or ".join(_type(one) for one in what[several])
    if "const" in what or "enum" in what:
        return ", ".join(f"`{value}`" for value in what.get("enum", [what.get("const")]))
    kinds = what.get("type", "anything")
    names = [kinds] if isinstance(kinds, str) else list(kinds)
    if "items" in what and "array" in names:
        names[names.index("array")] = f"array of {_type(what['items'])}"
    return " or ".join(names)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
