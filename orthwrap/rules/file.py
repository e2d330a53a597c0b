"""A rules file: `[[rule]]` tables whose keys are the long options."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orthwrap.errors import Faults, FileFault, UsageError, ValueFault
from orthwrap.rules.rule import Rule, RuleWords
from orthwrap.rules.words import words_of

_LONGEST = 1 << 20  # bytes


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a TOML file, in its order.

    Raises:
        FileFault: the file is missing, no TOML, or longer than 1 MB.
        ValueFault: tables or keys that are none of ours, or values that do not fit.
        UsageError: words of a rule that contradict each other.
    """
    try:
        with path.open("rb") as f:
            text = f.read(_LONGEST + 1)
        if len(text) > _LONGEST:
            raise FileFault(
                f"rules file {path} is longer than 1 MB: name the file of [[rule]] tables"
            )
        document = tomllib.loads(text.decode())
    except OSError as e:
        raise FileFault(f"rules file {path} cannot be read: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise FileFault(f"rules file {path} is no TOML: {e}") from e
    except RecursionError as e:
        raise FileFault(f"rules file {path} is nested deeper than Python reads") from e
    tables = document.get("rule")
    if set(document) != {"rule"} or not isinstance(tables, list) or not tables:
        raise ValueFault(f"rules file {path} must hold [[rule]] tables and nothing else")
    faults = Faults()
    rules = [faults.of(_rule, table, f"{path}, rule {i}") for i, table in enumerate(tables, 1)]
    faults.raise_all()
    return tuple(rule for rule in rules if rule is not None)


def _rule(table: Any, where: str) -> Rule:
    if not isinstance(table, Mapping):
        raise ValueFault(f"{where} is no table: write [[rule]]")
    given = {key.replace("-", "_"): value for key, value in table.items()}
    faults = Faults()
    fitting = {k: v for k, v in given.items() if faults.of(_fits, k, v, where)}
    try:
        rule = Rule(**fitting)
    except (ValueFault, UsageError) as e:
        faults.add(type(e)(*(f"{where}: {line}" for line in e.args)))
    faults.raise_all()
    return rule


def _fits(key: str, value: Any, where: str) -> bool:
    """True; ValueFault for a key that there is not, or a value of another type."""
    words = words_of(RuleWords)
    if key not in words:
        raise ValueFault(f"{where} has an unknown key {key!r}; there are: {', '.join(words)}")
    what, types = words[key].kind.in_file
    inner = value if isinstance(value, list) else ()
    is_such = isinstance(value, types) and not isinstance(value, bool)
    if not is_such or not all(isinstance(v, str) for v in inner):
        raise ValueFault(f"{where}: {key} must be {what}; got {value!r}")
    return True
