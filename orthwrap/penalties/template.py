"""A regularizer by name: a rule's words → an attachment without what each kernel adds."""

from __future__ import annotations

import difflib

from orthwrap.errors import ValueFault
from orthwrap.penalties.attachment import Attachment
from orthwrap.penalties.of_keras import KERAS_FACTOR, KERAS_NAMES, keras_node
from orthwrap.penalties.options import checked
from orthwrap.penalties.table import PENALTIES
from orthwrap.rules.rule import AUTO_SCALE, Rule


def template(rule: Rule) -> Attachment:
    """A rule's regularizer by name, without layout and α.

    Raises:
        ValueFault: an unknown name (the nearest is named), or a word it does not take.
    """
    name = rule.regularizer
    if not isinstance(name, str):
        raise ValueFault(f"regularizer {name!r} is neither a name nor a reference")
    if name in PENALTIES:
        penalty = PENALTIES[name]
        options = checked(name, penalty.options, rule.options)
        factor = _factor_of(rule, penalty.default_factor)
        scale = "unit" if rule.scale == AUTO_SCALE else rule.scale
        return Attachment(name, factor, scale, options=options)
    if name in KERAS_NAMES:
        _check_plain(rule, name)
        return Attachment(name, _factor_of(rule, KERAS_FACTOR), foreign=keras_node(name))
    if ":" not in name:
        known = [*PENALTIES, *KERAS_NAMES]
        close = difflib.get_close_matches(name.lower(), known, 1, 0.0)
        raise ValueFault(
            f"unknown regularizer {name!r}; did you mean {close[0]!r}? "
            f"There are: {', '.join(known)}, or package.module:function"
        )
    _check_plain(rule, name)
    # One brought along has its own coefficient: it is taken as it is.
    return Attachment(name, _factor_of(rule, 1.0), foreign=name)


def _factor_of(rule: Rule, default: float) -> float:
    number = numeric_factor(rule)
    return default if number is None else number


def numeric_factor(rule: Rule) -> float | None:
    """The rule's factor; None where it takes the default, for good or until training."""
    return rule.factor if isinstance(rule.factor, float) else None


def _check_plain(rule: Rule, name: str) -> None:
    if rule.options:
        raise ValueFault(f"regularizer {name!r} takes no options; got {', '.join(rule.options)}")
    if rule.scale not in ("unit", AUTO_SCALE):
        raise ValueFault(f"regularizer {name!r} knows no scale={rule.scale!r}; leave scale out")
