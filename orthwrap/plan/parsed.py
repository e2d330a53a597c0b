"""A rule with its patterns parsed, checked for contradictions."""

from __future__ import annotations

from dataclasses import dataclass, field

from orthwrap.errors import UsageError, ValueFault
from orthwrap.penalties.attachment import Attachment
from orthwrap.penalties.place import check_place
from orthwrap.rules.patterns import Pattern, parse
from orthwrap.rules.rule import Rule
from orthwrap.survey import Slot


@dataclass(frozen=True)
class ParsedRule:
    rule: Rule
    target: tuple[Pattern, ...]
    exclude: tuple[Pattern, ...]
    factor_for: tuple[tuple[Pattern, float | str], ...]
    template: Attachment | None  # of its regularizer, where it has one
    used: set[str] = field(default_factory=set)

    def place(self, pattern: Pattern) -> str:
        return "activity" if self.rule.on == "activity" or pattern.slot == "activity" else "kernel"

    def is_about(self, pattern: Pattern, slot: Slot) -> bool:
        """Whether the rule concerns such a slot: kernels or outputs; all where it takes out."""
        about = (self.place(pattern) == "activity") == (slot.name == "activity")
        return about or (self.rule.takes_out and pattern.slot is None)


def parse_rule(rule: Rule, attachment: Attachment | None) -> ParsedRule:
    parsed = ParsedRule(
        rule=rule,
        target=tuple(parse(t) for t in rule.target),
        exclude=tuple(parse(e) for e in rule.exclude),
        factor_for=tuple((parse(p), f) for p, f in rule.factor_for),
        template=attachment,
    )
    if not parsed.target:
        raise ValueFault("a rule needs at least one target pattern")
    for place in sorted({parsed.place(t) for t in parsed.target}):
        if attachment is not None:  # a rule with a constraint alone has none
            check_place(attachment, place)
        if place == "activity" and rule.constrain is not None:
            raise UsageError("constrain holds kernels: leave it out with on activity")
        if place == "activity" and rule.is_auto:
            raise UsageError("factor auto works on kernels: give a number with on activity")
    return parsed


def matching(pattern: Pattern, slot: Slot) -> bool:
    return any(pattern.matches(c) for c in slot.candidates())
