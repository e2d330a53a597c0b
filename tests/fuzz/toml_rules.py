"""Rules files: TOML that is sound, that says something else, or that is none."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.values import Draw

PATTERNS = ("all", "all-conv", "all-dense", "conv*", "class:Dense", "re:conv.", "classes@kernel")
ODD_PATTERNS = (
    *(
        "all-depthwise",
        "re:(",
        "class:",
        "re:",
        "@",
        "conv1@x",
        "*@activity",
        "[",
        "[!",
        "",
        "all-",
    ),
    *("**", "re:(a+)+$", "\\", "*" * 50, "all@recurrent", "pool", "conv3"),
)
REGULARIZERS = (
    *("so", "dso", "mc", "srip", "lorth", "offdiag", "cosine", "frobenius"),
    *("spectral", "band", "l1", "l2", "l1_l2"),
)
# None is a reference such as `a:b`, which is the user's own word and is imported.
ODD_REGULARIZERS = ("", "nothing", "SO", "so ", "\0", "orthogonal_regularizer")
OPTIONS = ("estimate", "probes", "every", "steps", "seed", "across_channels", "x")


def value(d: Draw, depth: int = 2) -> Any:
    """What TOML can hold."""
    if depth and d.chance(0.2):
        return d.many(lambda: value(d, depth - 1), 3)
    if depth and d.chance(0.2):
        return {d.one((*OPTIONS, "a b", "")): value(d, depth - 1) for _ in range(d.count(0, 3))}
    return d.scalar()


def rule(d: Draw) -> dict[str, Any]:
    """Each word as it is meant; now and then one that is not, or another kind of value."""

    def of(good: Sequence[Any], odd: Sequence[Any]) -> Any:
        if not d.chance(d.rate):
            return d.one(good)
        return d.one(odd) if d.chance(0.6) else value(d)

    def pattern() -> Any:
        return of(PATTERNS, ODD_PATTERNS)

    words: dict[str, Any] = {
        "target": d.many(pattern, 3) or pattern(),
        "exclude": pattern(),
        "regularizer": of(REGULARIZERS, ODD_REGULARIZERS),
        "factor": of((0.1, 1e-3, 2), (0, -1, "auto", "1e-3", True)),
        "factor-for": of(({"conv1": 0.1}, {}), ({"conv1": "auto"}, {"re:(": 1}, {"*": -1})),
        "scale": of(("unit", "preserve"), ("x", "")),
        "on": of(("kernel", "kernel", "activity"), ("Kernel",)),
        "existing": of(("keep", "combine", "replace"), ("drop",)),
        "options": of(
            ({"every": 2}, {}), ({"probes": 3}, {"x": 1}, {"every": 10**9}, {"seed": ""})
        ),
        "schedule": of(("cosine",), ("0:1,5:0.1", "linear:1->0", "x", "")),
    }
    if isinstance(words["regularizer"], str):
        words["regularizer"] = words["regularizer"].replace(":", ";")  # see ODD_REGULARIZERS
    share = {"schedule": d.rate, "options": 0.1, "on": 0.1}
    made = {key: word for key, word in words.items() if d.chance(share.get(key, 0.35))}
    if d.chance(d.rate):
        made[d.one(("x", "data", "Target", "factor_for", "a b"))] = value(d)
    return made


def toml(found: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, float) and not math.isfinite(found):
        return str(found)
    if isinstance(found, list):
        return f"[{', '.join(map(toml, found))}]"
    if isinstance(found, dict):
        return f"{{{', '.join(f'{key(k)} = {toml(v)}' for k, v in found.items())}}}"
    return key(found) if isinstance(found, str) else repr(found)


def key(text: str) -> str:
    """A text in quotes; half a character is left out, since TOML has no way to write it."""
    return json.dumps(text.encode("utf-8", "ignore").decode(), ensure_ascii=False)


def write(d: Draw, folder: Path) -> Path:
    heads = ("[rule]", "[[rules]]", "")
    lines = []
    for _ in range(d.count(1, 3)):
        head = d.one(heads) if d.chance(d.rate / 2) else "[[rule]]"
        lines += [head, *(f"{key(k)} = {toml(v)}" for k, v in rule(d).items())]
    data = "\n".join(lines).encode("utf-8", "replace")
    if d.chance(d.rate):
        at = d.count(0, len(data))
        data = d.one((data[:at], data[:at] + b"\xff" + data[at:], data + b"\n" + b"[" * 5000))
    path = folder / "rules.toml"
    path.write_bytes(data)
    return path
