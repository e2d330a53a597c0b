"""A config's JSON → its tree, of a size that a model can have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orthwrap.errors import FileFault
from orthwrap.model_config.tree import Node
from orthwrap.text import first_line

MAX_NESTING = 200
MAX_NODES = 60_000  # layers, initializers, policies: everything that has a class
MAX_VALUES = 1_000_000  # lists and objects; the smallest takes 60 bytes of memory
MAX_ITEMS = 4_000_000  # of all of them together, words of a vocabulary included
_FLOOR = 16 << 20  # bytes that any config may have
_SHARE = 2  # how many times the file's size a longer one may have


def parse_config(text: str | bytes, path: Path, size: int) -> Node:
    """The config tree of a file of `size` bytes; FileFault where it is none."""
    root = _parsed(text, path, size)
    if not isinstance(root, dict) or "class_name" not in root or "config" not in root:
        raise FileFault(f"{path} holds a config without class_name and config: no Keras model")
    _check_size(root, path)
    return root


def parse_json(text: str | bytes, path: Path, size: int) -> Any:
    """What a config's text says; FileFault where it is no JSON, or too large for a model."""
    root = _parsed(text, path, size)
    if isinstance(root, (dict, list)):
        _check_size(root, path)
    return root


def _parsed(text: str | bytes, path: Path, size: int) -> Any:
    check_length(text, path, size)
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as e:
        raise FileFault(
            f"{path} holds a config that is not JSON ({first_line(e)}): copy it again"
        ) from e


def check_length(text: str | bytes, path: Path, size: int) -> None:
    """FileFault for JSON in a file of `size` bytes that would take far more memory than that."""

    def count(mark: str) -> int:
        return text.count(mark.encode()) if isinstance(text, bytes) else text.count(mark)

    parts, items = count("{") + count("["), count(",")
    if len(text) > max(_FLOOR, _SHARE * size) or parts > MAX_VALUES or items > MAX_ITEMS:
        raise FileFault(
            f"{path} holds a config of {len(text)} characters, {parts} parts and {items} items, "
            "more than any model needs: it is broken or made to exhaust memory"
        )


def _check_size(root: Any, path: Path) -> None:
    """FileFault for a config that is deeper, or has more layers, than any model's."""
    level: list[Any] = [root]
    nodes = 0
    for _ in range(MAX_NESTING):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                nodes += "class_name" in value
                inner.extend(v for v in value.values() if isinstance(v, (dict, list)))
            else:
                inner.extend(v for v in value if isinstance(v, (dict, list)))
        if nodes > MAX_NODES:
            raise FileFault(f"{path} holds a config of more than {MAX_NODES} parts: no real model")
        if not inner:
            return
        level = inner
    raise FileFault(f"{path} holds a config nested deeper than {MAX_NESTING}: no real model")


def same_json(text: str | None, root: Any) -> bool:
    """Whether a text is the JSON of a tree; compared as text, since NaN equals nothing."""
    return text is not None and json.dumps(json.loads(text)) == json.dumps(root)
