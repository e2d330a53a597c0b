"""The one dialect that chooses layers, in every command, rules file and Python call.

=================  ================================================================
`all-conv` …       a shorthand: a family of layers (see `SHORTHANDS`)
`class:Conv2D`     the config's class name (after the last `>`), exactly
`re:REGEX`         `re.fullmatch` on the path
anything else      a shell glob on the path, or on a tail of it that begins after a `/`
`PATTERN@SLOT`     one slot of what PATTERN matches
=================  ================================================================
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from orthwrap.errors import Faults, ValueFault
from orthwrap.model_config.layers import FAMILIES, SLOT_KEYS
from orthwrap.text import error_summary

SHORTHANDS = {**{f"all-{f}": frozenset({f}) for f in FAMILIES}, "all": frozenset(FAMILIES)}


@dataclass(frozen=True)
class Candidate:
    """What a pattern is held against: one slot of one layer.

    Attributes:
        paths: every place of the layer; the first is its path.
        class_name: the config's class name, without a `package>` prefix.
        slot: the slot, or None for a layer that has none.
        family: one of `FAMILIES`, or None.
        layer: what a callable pattern is given.
    """

    paths: tuple[str, ...]
    class_name: str
    slot: str | None
    family: str | None
    layer: Any = None


@dataclass(frozen=True)
class Pattern:
    """One parsed pattern.

    Attributes:
        text: as the user wrote it.
        slot: the one slot it chooses, or None for all.
    """

    text: str
    slot: str | None
    _matches: Callable[[Candidate], bool]

    def matches(self, candidate: Candidate) -> bool:
        """True where the layer matches, and the slot too if the pattern names one."""
        return self.matches_layer(candidate) and self.slot in (None, candidate.slot)

    def matches_layer(self, candidate: Candidate) -> bool:
        """True where the layer matches, whatever the slot."""
        return self._matches(candidate)


def parse(pattern: str | Callable[[Any], bool]) -> Pattern:
    """A pattern from its text, or from a callable of the layer's record.

    Raises:
        ValueFault: an empty pattern, a regular expression that does not compile, or a layer
            itself. Later: a callable that fails, or gives neither True nor False.
    """
    if isinstance(pattern, type):
        raise ValueFault(f"a class is no pattern: write 'class:{pattern.__name__}'")
    if callable(pattern) and hasattr(pattern, "get_config"):  # a layer or a model can be called
        name = getattr(pattern, "name", "conv1")
        raise ValueFault(f"a layer is no pattern: give its path, such as {str(name)!r}")
    if callable(pattern):
        return Pattern(getattr(pattern, "__name__", "callable"), None, _asking(pattern))
    if not isinstance(pattern, str) or not pattern:
        raise ValueFault(f"a pattern is a non-empty string or a callable; got {pattern!r}")
    body, slot = _split_slot(pattern)
    return Pattern(pattern, slot, _matcher(body))


def several(value: Any) -> tuple[Any, ...]:
    """One pattern or several, as several; None is no pattern."""
    if value is None:
        return ()
    if isinstance(value, str) or callable(value):
        return (value,)
    return tuple(value) if isinstance(value, Iterable) else (value,)


def patterns_of(value: Any) -> tuple[Pattern, ...]:
    """One pattern or several, parsed.

    Raises:
        ValueFault: some are none; one line for each.
    """
    faults = Faults()
    found = [faults.of(parse, pattern) for pattern in several(value)]
    faults.raise_all()
    return tuple(pattern for pattern in found if pattern is not None)


def chosen_by(target: Any, exclude: Any) -> tuple[tuple[Any, ...] | None, tuple[Any, ...]]:
    """What `target` and `exclude` were given, as several each; None for no target.

    Raises:
        ValueFault: some are no patterns; one line for each.
    """
    chosen = (None if target is None else several(target), several(exclude))
    patterns_of((*(chosen[0] or ()), *chosen[1]))
    return chosen


def _asking(function: Callable[[Any], bool]) -> Callable[[Candidate], bool]:
    """Whether a function of the user's own says True of a layer's record."""
    name = getattr(function, "__name__", type(function).__name__)

    def matches(candidate: Candidate) -> bool:
        at = f"pattern function {name} at layer {candidate.paths[0]!r}"
        try:
            found: Any = function(candidate.layer)
        except Exception as e:  # the user's own code
            raise ValueFault(f"{at} failed: {error_summary(e)}") from e
        if not isinstance(found, (bool, np.bool_)):
            raise ValueFault(f"{at} returned {found!r}: it must return True or False")
        return bool(found)

    return matches


def _split_slot(pattern: str) -> tuple[str, str | None]:
    body, at, slot = pattern.rpartition("@")
    if at and slot in SLOT_KEYS and body:
        return body, slot
    return pattern, None


def _matcher(body: str) -> Callable[[Candidate], bool]:
    if body in SHORTHANDS:
        families = SHORTHANDS[body]
        return lambda c: c.family in families
    if body.startswith("class:"):
        wanted = body.removeprefix("class:")
        return lambda c: c.class_name == wanted
    if body.startswith("re:"):
        try:
            regex = re.compile(body.removeprefix("re:"))
        except re.error as e:
            raise ValueFault(f"pattern {body!r} is not a regular expression: {e}") from None
        return lambda c: any(regex.fullmatch(path) for path in c.paths)
    return lambda c: any(_glob(path, body) for path in c.paths)


def _glob(path: str, pattern: str) -> bool:
    """The glob on the path, or on a tail of it that begins after a `/`."""
    parts = path.split("/")
    return any(fnmatch.fnmatchcase("/".join(parts[start:]), pattern) for start in range(len(parts)))


def nearest(
    pattern: str,
    paths: Sequence[str],
    classes: Sequence[str],
    families: AbstractSet[str] = frozenset(),
    limit: int = 3,
) -> list[str]:
    """What the user may have meant: up to `limit` patterns, each of which matches something.

    Args:
        pattern: what matched nothing.
        paths, classes: of the layers it could have matched.
        families: of their kernels.
    """
    body, _ = _split_slot(pattern)
    if body.startswith("class:"):
        choices = [f"class:{name}" for name in sorted(set(classes))]
    else:
        choices = [*dict.fromkeys(paths)]
        choices += [name for name, members in SHORTHANDS.items() if members & families]
    wanted = body.removeprefix("re:").strip("*").lower()

    def likeness(choice: str) -> float:
        # A path is compared whole and by its last part, as a glob would be.
        tails = {choice.lower(), choice.lower().rpartition("/")[2]}
        return max(difflib.SequenceMatcher(None, wanted, tail[-200:]).ratio() for tail in tails)

    return sorted(choices, key=likeness, reverse=True)[:limit]
