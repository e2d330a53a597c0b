"""How a regularizer's factor moves over training: text ↔ a function of the position. Pure.

A schedule gives a **multiplier** of each regularizer's own factor at a position of the training,
counted in epochs or in steps.

==============================  =================================================================
`constant`                      1 throughout
`linear[:TO[:OVER]]`            from 1 to TO (default 0) over OVER epochs or steps (default: all)
`cosine[:TO[:OVER]]`            the same along half a cosine
`0:1, 20:1e-2, 120:0`           AT:MULTIPLIER, each held from AT until the next
`warmup:N`, `warmup:N, …`       a ramp from 0 over the first N, then what follows the comma
==============================  =================================================================
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from orthwrap.errors import ValueFault

_EXAMPLE = "write for example 'cosine:0.1', 'warmup:3, linear' or '0:1, 20:1e-2, 50:0'"
KINDS = ("constant", "linear", "cosine", "steps")


@dataclass(frozen=True)
class Schedule:
    """The multiplier of a factor as a function of the position.

    `Schedule.parse(text)` makes one from its text, and `str` gives the text back.

    Attributes:
        kind: `"constant"`, `"linear"`, `"cosine"`, or `"steps"` for AT:MULTIPLIER.
        to: where `linear` and `cosine` end, at least 0.
        over: how long they take, counted from the end of the warm-up; None takes all the rest of
            the training. After it, the multiplier stays at `to`.
        knots: of `steps`: (AT, MULTIPLIER), the first AT being 0. AT is a position of the
            training, the warm-up included.
        warmup: length of the ramp that comes first; it leads from 0 to the multiplier that
            stands where it ends.

    Raises:
        ValueFault: a value out of range.
    """

    kind: str = "constant"
    to: float = 0.0
    over: float | None = None
    knots: tuple[tuple[float, float], ...] = ()
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueFault(
                f"schedule kind {self.kind!r} is not known; choose one of: {', '.join(KINDS)}"
            )
        _check(self.to >= 0, "goes to", self.to, "at least 0")
        _check(self.over is None or self.over > 0, "goes over", self.over, "above 0")
        _check(self.warmup >= 0, "has a warm-up of", self.warmup, "at least 0")
        if (self.kind == "steps") != bool(self.knots):
            raise ValueFault(f"schedule: AT:MULTIPLIER and nothing else has knots; {_EXAMPLE}")
        for at, multiplier in self.knots:
            _check(multiplier >= 0, f"at {_number(at)} has the multiplier", multiplier, "0 or more")
        places = [at for at, _ in self.knots]
        if places and places[0] != 0:
            raise ValueFault(f"schedule starts at {_number(places[0])}, not at 0; {_EXAMPLE}")
        for before, after in itertools.pairwise(places):
            _check(after > before, f"after {_number(before)} goes on at", after, "a later place")

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """The schedule that a text describes (see this module's dialect).

        Raises:
            ValueFault: anything else than the dialect, in one line with an example.
        """
        if not isinstance(text, str) or not text.strip():
            raise ValueFault(f"a schedule is a text; got {text!r}; {_EXAMPLE}")
        parts = [part.strip() for part in text.split(",")]
        warmup = 0.0
        if parts[0].partition(":")[0].strip() == "warmup":
            words = _words(parts.pop(0))
            if len(words) != 2:
                raise ValueFault(f"schedule {text!r}: warmup takes one length; {_EXAMPLE}")
            warmup = _to_number(words[1], text)
            _check(warmup > 0, "has a warm-up of", warmup, "above 0")
        if not parts:
            return cls(warmup=warmup)
        words = _words(parts[0])
        if words[0] in ("constant", "linear", "cosine"):
            if len(parts) > 1:
                raise ValueFault(f"schedule {text!r}: nothing comes after {parts[0]!r}; {_EXAMPLE}")
            if len(words) > (1 if words[0] == "constant" else 3):
                raise ValueFault(f"schedule {text!r}: {parts[0]!r} has too many ':'; {_EXAMPLE}")
            to = _to_number(words[1], text) if len(words) > 1 else 0.0
            over = _to_number(words[2], text) if len(words) > 2 else None
            return cls(words[0], to, over, warmup=warmup)
        return cls("steps", knots=tuple(_knot(part, text) for part in parts), warmup=warmup)

    @property
    def needs_total(self) -> bool:
        """Whether the multiplier depends on how long the whole training is."""
        return self.kind in ("linear", "cosine") and self.over is None

    def at(self, position: float, total: float | None = None) -> float:
        """The multiplier at a position.

        Args:
            position: epochs or steps done, at least 0.
            total: of the whole training; only a `linear` or `cosine` without OVER asks for it.

        Raises:
            ValueFault: a position below 0, or the total is asked for and not given.
        """
        if not position >= 0:
            raise ValueFault(f"schedule is asked at {position!r}; positions count from 0 up")
        if self.needs_total and total is None:
            raise ValueFault(
                f"schedule '{self}' goes over the whole training, whose length is not known here: "
                f"say over how long, as in '{self.kind}:{_number(self.to)}:1000'"
            )
        if position < self.warmup:
            return self._after_warmup(self.warmup, total) * position / self.warmup
        return self._after_warmup(position, total)

    def _after_warmup(self, position: float, total: float | None) -> float:
        if self.kind == "constant":
            return 1.0
        if self.kind == "steps":
            return next(value for at, value in reversed(self.knots) if at <= position)
        elapsed = position - self.warmup
        over = self.over
        if over is None:
            assert total is not None  # `at` has asked for it
            over = total - self.warmup
        if elapsed <= 0:
            return 1.0
        if elapsed >= over:
            return self.to
        done = elapsed / over
        if self.kind == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return 1 + (self.to - 1) * done

    def __str__(self) -> str:
        parts = [f"warmup:{_number(self.warmup)}"] if self.warmup else []
        if self.kind == "steps":
            parts += [f"{_number(at)}:{_number(value)}" for at, value in self.knots]
        elif self.kind == "constant":
            parts += [] if self.warmup else ["constant"]
        elif self.over is not None:
            parts.append(f"{self.kind}:{_number(self.to)}:{_number(self.over)}")
        else:
            parts.append(f"{self.kind}:{_number(self.to)}" if self.to else self.kind)
        return ", ".join(parts)


def _check(holds: bool, what: str, value: float | None, expected: str) -> None:
    if not holds or (value is not None and not math.isfinite(value)):
        raise ValueFault(f"schedule {what} {value!r}; expected a number, {expected}; {_EXAMPLE}")


def _words(part: str) -> list[str]:
    return [word.strip() for word in part.split(":")]


def _to_number(word: str, text: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueFault(f"schedule {text!r}: {word!r} is not a number; {_EXAMPLE}") from None


def _knot(part: str, text: str) -> tuple[float, float]:
    words = _words(part)
    if len(words) != 2:
        raise ValueFault(
            f"schedule {text!r}: {part!r} is none of constant, linear, cosine, warmup:N and "
            f"AT:MULTIPLIER; {_EXAMPLE}"
        )
    return _to_number(words[0], text), _to_number(words[1], text)


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
