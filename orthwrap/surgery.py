"""The one place that acts: a plan becomes a new file, or a new model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orthwrap.errors import RebuildError, ValueFault
from orthwrap.opening import Opened
from orthwrap.outputs import DEFAULT_SUFFIX
from orthwrap.penalties.attachment import Attachment, check_reference, without_address
from orthwrap.penalties.template import numeric_factor, template
from orthwrap.plan import Decision, Plan
from orthwrap.rule import Rule
from orthwrap.stores.files import FileStore
from orthwrap.stores.replacing import replacing, scratch_folder

_SAME_OUTPUTS = 1e-5  # the largest difference that arithmetic in another order may make


def templates_of(rules: Sequence[Rule]) -> tuple[list[Attachment], dict[str, Any]]:
    """Each rule's regularizer as an attachment; and the functions that references stand for."""
    templates, functions = [], {}
    for rule in rules:
        value = rule.regularizer
        if isinstance(value, str):
            made = template(rule)
            if isinstance(made.foreign, str):
                from orthwrap.regularizers import import_reference

                import_reference(made.foreign)
        else:
            from orthwrap.regularizers import attachment_of

            if rule.options:
                raise ValueFault("options go with a regularizer's name; set them on the object")
            made = attachment_of(value, numeric_factor(rule))
            if made.is_penalty and rule.scale != "unit":
                made = replace(made, scale=rule.scale)
            if isinstance(made.foreign, str):
                functions[made.foreign] = value
        templates.append(made)
    return templates, functions


def check_references(functions: Mapping[str, Any]) -> None:
    """ValueFault where a file could not refer to a function, before anything is done."""
    for reference in functions:
        check_reference(reference, f"got {without_address(reference)!r}")


def check_foreign(planned: Plan, functions: Mapping[str, Any] | None = None) -> None:
    """Calls each foreign regularizer once on each kernel shape it is attached to."""
    checked = set()
    for decision in planned.changes:
        attachment = decision.attachment
        if attachment is None or attachment.is_penalty or attachment.name in ("l1", "l2", "l1_l2"):
            continue
        from orthwrap.references import regularizer_of
        from orthwrap.regularizers import check_callable

        given = (functions or {}).get(str(attachment.foreign))
        function = regularizer_of(attachment.foreign) if given is None else given
        shapes = [k.weight.shape for k in decision.slot.kernels if k.weight is not None] or [(8, 4)]
        for shape in shapes:
            if (str(attachment.foreign), shape) not in checked:
                checked.add((str(attachment.foreign), shape))
                check_callable(function, shape, decision.slot.layer.path, attachment.name)


def changed_model(
    store: Any, planned: Plan, functions: Mapping[str, Any], *, in_place: bool
) -> tuple[Any, tuple[str, ...]]:
    """The model with the plan done: a checked copy, or the live one itself."""
    from orthwrap.references import known_objects
    from orthwrap.stores.compiled import forget_compiled_steps
    from orthwrap.stores.live import (
        LiveStore,
        live_objects,
        output_difference,
        rebuild,
    )

    # The caller's own classes, and functions that have no importable name, are in memory.
    with known_objects({**live_objects(store), **functions}):
        for decision in planned.changes:
            _regularizer_for(decision, functions)  # all can be made, before any is set
        if in_place:
            for decision in planned.changes:
                _set_live(store, decision, functions)
            forget_compiled_steps(store.model)
            return store.model, ()
        model, notes = rebuild(store, planned.edits)
    live_only = [d for d in planned.changes if not d.slot.layer.pointers]
    if live_only:
        copy = LiveStore(model)
        copy.layers()
        for decision in live_only:
            _set_live(copy, decision, functions)
        notes = (
            *notes,
            f"{live_only[0].slot.layer.path} and {len(live_only) - 1} more are not in the model's "
            "config: their regularizers act now, but a saved file keeps them only if the class's "
            "get_config does",
        )
    difference = output_difference(store.model, model)
    if difference is None:
        notes = (
            *notes,
            "outputs of original and copy were not compared: no inputs were found that it takes",
        )
    elif not difference <= _SAME_OUTPUTS:
        raise RebuildError(
            f"model {store.model.name!r}: the copy made from its config gives other outputs (by "
            f"{difference:.3g}): use in_place=True, or mend the class's get_config"
        )
    return model, notes


def _set_live(store: Any, decision: Decision, functions: Mapping[str, Any]) -> None:
    from orthwrap.stores.live import set_regularizer, variable_of

    live = store.object_of(decision.slot.layer)
    made = _regularizer_for(decision, functions)
    variables = [variable_of(live, k.spec) for k in decision.slot.kernels]
    set_regularizer(live, decision.slot.key, [v for v in variables if v is not None], made)


def _regularizer_for(decision: Decision, functions: Mapping[str, Any]) -> Any:
    """What a slot is to carry; None for nothing."""
    from orthwrap.references import regularizer_of
    from orthwrap.regularizers import from_attachment

    attachment = decision.attachment
    if attachment is not None:
        return from_attachment(attachment, functions.get(str(attachment.foreign)))
    return regularizer_of(decision.value) if isinstance(decision.value, (str, Mapping)) else None


def write_copy(source: Opened, root: Any, target: Path, like: Path) -> None:
    """The file with an edited config, whole or not at all, read back before it counts."""
    store: FileStore = source.store
    with replacing(target, like=like) as sibling:
        store.write(sibling, root)
        store.check_copy(sibling, json.loads(json.dumps(root)))
        source.check_unchanged()


@contextlib.contextmanager
def temporary_copy(source: Opened, root: Any) -> Iterator[Path]:
    """The file with an edited config in a folder of its own, for Keras to load."""
    store: FileStore = source.store
    with scratch_folder() as folder:
        path = folder / f"model{DEFAULT_SUFFIX[store.format]}"
        store.write(path, root)
        source.check_unchanged()
        yield path
