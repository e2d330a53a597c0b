"""A rules file: `[[rule]]` tables whose keys are the long options."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orthwrap.errors import FileFault, ValueFault
from orthwrap.records import Rule

_KEYS = (
    "target",
    "exclude",
    "regularizer",
    "factor",
    "factor_for",
    "scale",
    "on",
    "existing",
    "options",
    "schedule",
)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a TOML file, in its order.

    Raises:
        FileFault: the file is missing or no TOML.
        ValueFault: a table or a key that is none of ours, or a value that does not fit.
    """
    try:
        with path.open("rb") as f:
            document = tomllib.load(f)
    except OSError as e:
        raise FileFault(f"rules file {path} cannot be read: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise FileFault(f"rules file {path} is no TOML: {e}") from e
    tables = document.get("rule")
    if set(document) != {"rule"} or not isinstance(tables, list) or not tables:
        raise ValueFault(f"rules file {path} must hold [[rule]] tables and nothing else")
    return tuple(_rule(table, f"{path}, rule {i}") for i, table in enumerate(tables, 1))


def _rule(table: Any, where: str) -> Rule:
    if not isinstance(table, Mapping):
        raise ValueFault(f"{where} is no table: write [[rule]]")
    words = {key.replace("-", "_"): value for key, value in table.items()}
    unknown = [key for key in words if key not in _KEYS]
    if unknown:
        raise ValueFault(
            f"{where} has an unknown key {unknown[0]!r}; there are: {', '.join(_KEYS)}"
        )
    for key in ("target", "exclude"):
        value = words.get(key, [])
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise ValueFault(f"{where}: {key} must be a list of patterns; got {value!r}")
        if key in words:
            words[key] = tuple(value)
    for key in ("options", "factor_for"):
        if not isinstance(words.get(key, {}), Mapping):
            raise ValueFault(f"{where}: {key} must be a table; got {words[key]!r}")
    if "factor_for" in words:
        words["factor_for"] = tuple(words["factor_for"].items())
    if not isinstance(words.get("regularizer", ""), str):
        raise ValueFault(f"{where}: regularizer must be a name; got {words['regularizer']!r}")
    if not isinstance(words.get("schedule", ""), str):
        raise ValueFault(f"{where}: schedule must be a text; got {words['schedule']!r}")
    if isinstance(words.get("factor"), bool):
        raise ValueFault(f"{where}: factor must be a number; got {words['factor']!r}")
    return Rule(**words)
