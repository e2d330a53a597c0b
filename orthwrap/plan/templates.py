"""Regularizers that are not orthwrap's own, brought along by the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orthwrap.errors import Faults, ValueFault
from orthwrap.penalties.attachment import Attachment, check_reference, without_address
from orthwrap.penalties.template import numeric_factor, template
from orthwrap.plan.decision import Plan
from orthwrap.rules.rule import AUTO_SCALE, Rule

Shape = tuple[int, ...]


def templates_of(rules: Sequence[Rule]) -> tuple[list[Attachment | None], dict[str, Any]]:
    """Each rule's regularizer as an attachment; and the functions that references stand for."""
    faults = Faults()
    functions: dict[str, Any] = {}
    templates = [faults.of(_template_of, rule, functions) for rule in rules]
    faults.raise_all()
    return templates, functions


def _template_of(rule: Rule, functions: dict[str, Any]) -> Attachment | None:
    value = rule.regularizer
    if not rule.attaches:
        return None
    if isinstance(value, str):
        made = template(rule)
        if isinstance(made.foreign, str):
            from orthwrap.regularizers import import_reference

            import_reference(made.foreign)
        return made
    from orthwrap.regularizers import attachment_of

    if rule.options:
        raise ValueFault("options go with a regularizer's name; set them on the object")
    made = attachment_of(value, numeric_factor(rule))
    if made.is_penalty and rule.scale != AUTO_SCALE:
        made = replace(made, scale=rule.scale, alpha=1.0)
    if isinstance(made.foreign, str):
        functions[made.foreign] = value
    return made


def check_references(functions: Mapping[str, Any]) -> None:
    """ValueFault where a file could not refer to a function, before anything is done."""
    for reference in functions:
        check_reference(reference, f"got {without_address(reference)!r}")


def check_foreign(
    planned: Plan,
    functions: Mapping[str, Any] | None = None,
    outputs: Callable[[], Mapping[str, Sequence[Shape]]] = dict,
) -> None:
    """Calls each foreign regularizer once on each shape of kernels or outputs it is attached to.

    Args:
        functions: what references stand for.
        outputs: gives the shapes of layers' outputs, by path; asked where one is about outputs.
            Where they are not known, nothing is tried.

    Raises:
        ValueFault: it fails, or gives no scalar with a gradient.
    """
    checked = set()
    known: Mapping[str, Sequence[Shape]] | None = None
    for decision in planned.changes:
        attachment = decision.attachment
        if attachment is None or attachment.is_penalty or attachment.name in ("l1", "l2", "l1_l2"):
            continue
        from orthwrap.regularizers import check_callable
        from orthwrap.regularizers.known import regularizer_of

        given = (functions or {}).get(str(attachment.foreign))
        function = regularizer_of(attachment.foreign) if given is None else given
        what, path = "kernel", decision.slot.layer.path
        shapes: Sequence[Shape] = [
            k.weight.shape for k in decision.slot.kernels if k.weight is not None
        ]
        if attachment.on == "activity":
            known = outputs() if known is None else known
            what, shapes = "outputs", known.get(path, ())
        for shape in shapes:
            if (str(attachment.foreign), shape) not in checked:
                checked.add((str(attachment.foreign), shape))
                check_callable(function, shape, path, attachment.name, what)
