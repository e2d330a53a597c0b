"""4. The one place that acts: a plan becomes a new file, or a new model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthwrap.errors import OrthwrapError, RebuildError
from orthwrap.loading.loading import load_compiled
from orthwrap.loading.saving import save_model
from orthwrap.opening import Opened
from orthwrap.plan.as_kept import as_kept, carrying, place_of
from orthwrap.plan.decision import Decision, Plan
from orthwrap.stores.formats import new_suffix
from orthwrap.stores.outputs import format_of
from orthwrap.stores.replacing import replacing, scratch_folder
from orthwrap.stores.store import FileStore
from orthwrap.text import error_summary, listed

if TYPE_CHECKING:
    from orthwrap.live.kept import ToCarry


def changed_model(
    store: Any,
    planned: Plan,
    functions: Mapping[str, Any],
    *,
    in_place: bool,
    saved: bool = False,
) -> tuple[Any, Plan, tuple[str, ...]]:
    """The model with the plan done: a checked copy, or the live one itself.

    Args:
        saved: it is to be written to a file: what that would not keep is not attached.

    Returns:
        The model; the plan, with what was found of a file; and notes.

    Raises:
        RebuildError: the config does not rebuild the model; or a file would keep nothing.
    """
    from orthwrap.live.compiled import forget_compiled_steps
    from orthwrap.live.rebuild import live_objects, rebuild
    from orthwrap.rules.references import known_objects

    notes: tuple[str, ...] = ()
    # The caller's own classes, and functions that have no importable name, are in memory.
    with known_objects({**live_objects(store), **functions}):
        for decision in planned.changes:
            _regularizer_for(decision, functions)  # all can be made, before any is set
            _constraint_for(decision)
        if in_place:
            for decision in planned.changes:
                _set_live(store, decision, functions)
            model = store.model
        else:
            model, notes = rebuild(store, planned.edits)
            _set_missing(model, planned, functions)
        found, more = _as_kept(model, planned, functions, saved=saved)
        forget_compiled_steps(model)
    return model, found, (*notes, *more)


def output_shapes(model: Any) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of a live model's layers' outputs for two samples, by path, where all is known."""
    from orthwrap import keras_inside
    from orthwrap.live.live_store import LiveStore

    store = LiveStore(model)
    found = {}
    for layer in store.layers():
        live = store.object_of(layer)
        if live is None:
            continue
        shapes = (shape[1:] for shape in keras_inside.output_shapes(live))
        known = [(2, *(n for n in shape if n is not None)) for shape in shapes if None not in shape]
        found[layer.path] = list(dict.fromkeys(known))
    return found


def output_shapes_in(
    source: Opened, custom_objects: Mapping[str, Any], unsafe_lambda: bool
) -> dict[str, list[tuple[int, ...]]]:
    """The same of a file's model; nothing is known where Keras cannot load it."""
    try:
        model, _ = load_changed(source, source.store.root, custom_objects, unsafe_lambda)
    except OrthwrapError:
        return {}
    return output_shapes(model)


def copied_model(
    store: Any, planned: Plan, functions: Mapping[str, Any], *, saved: bool
) -> tuple[Any, Plan, tuple[str, ...]]:
    """A copy of a live model with all that it carries."""
    from orthwrap.live.rebuild import rebuild

    model, notes = rebuild(store, ())
    _set_missing(model, planned, functions)
    found, more = _as_kept(model, planned, functions, saved=saved)
    return model, found, (*notes, *more)


def _set_missing(model: Any, planned: Plan, functions: Mapping[str, Any]) -> None:
    """Sets on a copy what its class did not make from the config."""
    from orthwrap.live.kept import acts_on, holds
    from orthwrap.live.live_store import LiveStore

    copy = LiveStore(model)
    for decision in (*planned.changes, *carrying(planned)):
        slot = decision.slot
        live = copy.object_of(slot.layer)
        wanted = (decision.attachment is not None, decision.constraint is not None)
        if live is None or (acts_on(live, slot), holds(live, slot)) != wanted:
            _set_live(copy, decision, functions)


def is_in_doubt(model: Any, planned: Plan) -> bool:
    """Whether a file of a live model may not keep what the plan attaches."""
    from orthwrap.live import kept

    carried = carrying(planned)
    is_held = all(d.slot.layer.pointers for d in carried)
    return bool(carried) and not (is_held and not kept.is_in_doubt(model))


def _as_kept(
    model: Any, planned: Plan, functions: Mapping[str, Any], *, saved: bool
) -> tuple[Plan, tuple[str, ...]]:
    """The plan with what a file of the model keeps, and notes; tried where there is any doubt."""
    from orthwrap.live.kept import lost_in_file, maker_of
    from orthwrap.live.live_store import LiveStore

    if not is_in_doubt(model, planned):
        return planned, ()
    carried = carrying(planned)
    store = LiveStore(model)
    first = carried[0].slot.layer.path
    try:
        slots = lost_in_file(store, [_wanted(d) for d in carried])
    except Exception as e:  # the user's classes may raise anything
        why = store.no_config or error_summary(e)
        return planned, (f"whether a saved file keeps what {first} carries was not found ({why})",)
    if not slots:
        return planned, ()
    lost = {place_of(slot): maker_of(store, slot) for slot in slots}
    found = as_kept(planned, lost, saved=saved)
    named = listed([slot.layer.path for slot in slots])
    if not saved:
        return found, (f"not in the model's config: {named}; a saved file loses what they carry",)
    if len(lost) == len(carried):
        raise RebuildError(_nothing_kept(*lost.values()))
    for decision in carried:
        slot = decision.slot
        if place_of(slot) in lost and decision in planned.changes:
            before = replace(decision, attachment=None, constraint=None, value=slot.existing)
            _set_live(store, replace(before, constraint_value=slot.constraint), {})
    return found, (f"not in the model's config: {named}; a file would lose what they carry",)


def check_kept(planned: Plan) -> None:
    """RebuildError where nothing that was to carry a regularizer does so, once Keras loaded it."""
    lost = [d for d in planned.decisions if d.lost_to]
    if lost and not carrying(planned):
        raise RebuildError(_nothing_kept(str(lost[0].lost_to)))


def _nothing_kept(*makers: str) -> str:
    return (
        f"class {makers[0]} makes its layers anew, not from a config, so that a file would carry "
        "no regularizer: leave the output out and train the model in memory, or let the class's "
        "get_config and from_config keep its layers"
    )


def _wanted(decision: Decision) -> ToCarry:
    from orthwrap.live.kept import ToCarry

    has = (decision.attachment is not None, decision.constraint is not None)
    return ToCarry(decision.slot, *has)


def _set_live(store: Any, decision: Decision, functions: Mapping[str, Any]) -> None:
    from orthwrap.live.in_place import carrying, set_constraint, set_regularizer
    from orthwrap.live.live_store import variable_of

    slot = decision.slot
    live = store.object_of(slot.layer)
    kernels = [variable_of(live, k.spec) for k in slot.kernels]
    variables = [v for v in kernels if v is not None]
    if decision.changes_regularizer or decision.attachment is not None:
        made = _regularizer_for(decision, functions)
        set_regularizer(live, slot.key, variables or carrying(live, slot.key), made)
    if decision.changes_constraint or decision.constraint is not None:
        set_constraint(live, slot.constraint_key, variables, _constraint_for(decision))


def _regularizer_for(decision: Decision, functions: Mapping[str, Any]) -> Any:
    """What a slot is to carry; None for nothing."""
    from orthwrap.regularizers import from_attachment
    from orthwrap.regularizers.known import regularizer_of

    attachment = decision.attachment
    if attachment is not None:
        return from_attachment(attachment, functions.get(str(attachment.foreign)))
    return regularizer_of(decision.value) if isinstance(decision.value, (str, Mapping)) else None


def _constraint_for(decision: Decision) -> Any:
    """The constraint that a slot is to have; None for none."""
    from orthwrap.constraints import OrthogonalityConstraint
    from orthwrap.regularizers.known import constraint_of

    if decision.constraint is not None:
        return OrthogonalityConstraint(**decision.constraint.to_config())
    value = decision.constraint_value
    return constraint_of(value) if isinstance(value, (str, Mapping)) else None


def is_same_format(source: Opened, target: Path) -> bool:
    """Whether a file is written as it was read: without Keras."""
    return bool(format_of(target) == source.store.format)


def write_made(source: Opened, root: Any, model: Any, target: Path) -> None:
    """The file with its config as in `root`, whole or not at all.

    Args:
        model: what Keras loaded for another format; None where the format stays.
    """
    if model is None:
        _write_copy(source, root, target)
    else:
        save(model, target)


def write_changed(
    source: Opened,
    root: Any,
    target: Path,
    custom_objects: Mapping[str, Any],
    unsafe_lambda: bool,
) -> tuple[Any, tuple[str, ...]]:
    """The file with its config as in `root`, written to `target`.

    Keras is needed for another format alone.

    Returns:
        The model that Keras loaded for that, else None; and notes of what it could not load.
    """
    model = None
    notes: tuple[str, ...] = ()
    if not is_same_format(source, target):
        model, notes = load_changed(source, root, custom_objects, unsafe_lambda)
    write_made(source, root, model, target)
    return model, notes


def load_changed(
    source: Opened, root: Any, custom_objects: Mapping[str, Any], unsafe_lambda: bool
) -> tuple[Any, tuple[str, ...]]:
    """The model of a file with its config as in `root`; and notes of what was not loaded."""
    store: FileStore = source.store
    with scratch_folder() as folder:
        copy = folder / f"model{new_suffix(store.format)}"
        store.write(copy, root)
        source.check_unchanged()
        return load_compiled(copy, custom_objects, unsafe_lambda=unsafe_lambda, shown=source.path)


def load_planned(
    source: Opened,
    planned: Plan,
    root: Any,
    custom_objects: Mapping[str, Any],
    unsafe_lambda: bool,
) -> tuple[Any, Plan, tuple[str, ...]]:
    """The model of a file with its config as in `root`; the plan, with what came of it; and notes.

    What a class does not make from its config carries nothing, in the model as in a file of it.
    """
    from orthwrap.live.kept import acting, maker_of
    from orthwrap.live.live_store import LiveStore

    model, notes = load_changed(source, root, custom_objects, unsafe_lambda)
    if not model.built or not model.weights:
        return model, planned, notes
    store = LiveStore(model)
    carried = carrying(planned)
    objects = [(d, store.object_of(d.slot.layer)) for d in carried]
    if acting(model) >= sum(len(d.slot.kernels) for d in carried):
        objects = []  # all are there, under whatever names
    lost = {
        place_of(decision.slot): maker_of(store, decision.slot)
        for decision, live in objects
        if not _wanted(decision).is_on(live)
    }
    found = as_kept(planned, lost, saved=True)
    found, more = _as_kept(model, found, {}, saved=True)
    return model, found, (*notes, *more)


def save(model: Any, target: Path | None) -> None:
    """A changed model as a file; None writes none."""
    if target is not None:
        save_model(model, target)


def _write_copy(source: Opened, root: Any, target: Path) -> None:
    """The file with an edited config, read back before it counts."""
    store: FileStore = source.store
    with replacing(target, like=source.path) as sibling:
        if root is store.root and not store.path.is_dir():  # not edited: byte for byte
            shutil.copyfile(store.path, sibling)
        else:
            store.write(sibling, root)
            store.check_copy(sibling, json.loads(json.dumps(root)))
        source.check_unchanged()
