"""Why a pattern matches nothing, and what is near."""

from __future__ import annotations

from collections.abc import Sequence

from orthwrap.errors import NoMatchError
from orthwrap.model_config.layers import SLOT_KEYS
from orthwrap.model_config.tree import Layer
from orthwrap.plan.parsed import ParsedRule, matching
from orthwrap.rules.patterns import Candidate, Pattern, nearest
from orthwrap.rules.rule import Rule
from orthwrap.survey import Slot, Survey, other_slots
from orthwrap.text import listed, shortened


def check_targets(surveyed: Survey, parsed: Sequence[ParsedRule]) -> None:
    """Every target that was named must match something that can carry a regularizer."""
    for p in parsed:
        empty = []
        for pattern in p.target:
            slots = surveyed.activities if p.place(pattern) == "activity" else surveyed.slots
            if p.rule.takes_out:
                slots = (*surveyed.slots, *surveyed.activities, *other_slots(surveyed))
            if not any(matching(pattern, s) for s in slots):
                empty.append(pattern)
        # The default names two families; a model need not have both.
        is_default = p.rule.target == Rule().target
        if empty and (not is_default or len(empty) == len(p.target)):
            raise NoMatchError(why_no_match(surveyed, empty[0], p.place(empty[0])))


def why_no_match(surveyed: Survey, pattern: Pattern, place: str) -> str:
    leaves = [x for x in surveyed.layers if not x.is_operation]
    if not leaves and not surveyed.unseen:
        return (
            "the model's config holds no layers: a model that builds its own layers is changed in "
            "Python, with orthwrap.apply(model, …)"
        )
    matched = [
        layer
        for layer in leaves
        if pattern.matches_layer(Candidate(layer.matched, layer.class_name, None, None, layer))
    ]
    having = surveyed.activities if place == "activity" else surveyed.slots
    hidden = [u for u in surveyed.unseen if u.path in {x.path for x in matched}]
    if hidden and place != "activity":
        return f"target {pattern.text!r}: {hidden[0]}"
    if matched:
        return _why_no_kernel(pattern, matched, having)
    if not having and surveyed.unseen:
        return f"target {pattern.text!r} matches nothing: {surveyed.unseen[0]}"
    if not having:
        return f"target {pattern.text!r} matches nothing: no layer of this model has a kernel"
    is_slot = "@" in pattern.text and pattern.slot is None
    hint = f"; after @ stands a slot: {', '.join(SLOT_KEYS)}" if is_slot else ""
    return f"target {pattern.text!r} matches no layer; nearest: {_nearest(pattern, having)}{hint}"


def _why_no_kernel(pattern: Pattern, matched: Sequence[Layer], having: Sequence[Slot]) -> str:
    """Why layers that a pattern matches have nothing to attach to."""
    named = [f"{x.path} ({x.class_name})" for x in matched]
    slots = list(dict.fromkeys(s.name for s in having if s.layer in matched))
    if slots:
        return (
            f"target {pattern.text!r}: {named[0]} has no slot {pattern.slot!r}; it has "
            f"{', '.join(slots)}"
        )
    around = tuple(f"{layer.path}/" for layer in matched)
    inside = [s.layer.path for s in having if s.layer.path.startswith(around)]
    if inside:
        return (
            f"target {pattern.text!r} matches {named[0]}, whose kernels are those of layers "
            f"within: {shortened(list(dict.fromkeys(inside)), 3)}; write "
            f"{matched[0].path + '/*'!r}"
        )
    what = f"slot {pattern.slot!r}" if pattern.slot else "kernel"
    paths = list(dict.fromkeys(s.layer.path for s in having))
    return (
        f"target {pattern.text!r} matches only layers without a {what}: {listed(named)}; "
        f"layers with kernels are: {shortened(paths, 3) or 'none'}"
    )


def _nearest(pattern: Pattern, slots: Sequence[Slot]) -> str:
    close = nearest(
        pattern.text,
        [s.layer.path for s in slots],
        [s.layer.class_name for s in slots],
        {f for s in slots for f in s.families},
    )
    return ", ".join(close)


def warnings_of(surveyed: Survey, parsed: Sequence[ParsedRule]) -> tuple[str, ...]:
    found = []
    for p in parsed:
        found += [excludes_nothing(surveyed, x) for x in p.exclude if x.text not in p.used]
        found += [
            f"factor-for {pattern.text!r} matches nothing that was chosen"
            for pattern, _ in p.factor_for
            if pattern.text not in p.used
        ]
    return tuple(dict.fromkeys(found))


def excludes_nothing(surveyed: Survey, pattern: Pattern) -> str:
    message = f"exclude {pattern.text!r} excludes nothing"
    if any(matching(pattern, s) for s in (*surveyed.slots, *surveyed.activities)):
        return f"{message} that a target matches"
    return f"{message}; nearest: {_nearest(pattern, surveyed.slots)}"
