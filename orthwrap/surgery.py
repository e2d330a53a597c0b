"""4. The one place that acts: a plan becomes a new file, or a new model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orthwrap.errors import OrthwrapError, RebuildError
from orthwrap.loading.loading import load_compiled
from orthwrap.loading.saving import save_model
from orthwrap.opening import Opened
from orthwrap.plan.decision import Decision, Plan
from orthwrap.stores.formats import new_suffix
from orthwrap.stores.outputs import format_of
from orthwrap.stores.replacing import replacing, scratch_folder
from orthwrap.stores.store import FileStore

_SAME_OUTPUTS = 1e-5  # the largest difference that arithmetic in another order may make


def changed_model(
    store: Any, planned: Plan, functions: Mapping[str, Any], *, in_place: bool
) -> tuple[Any, tuple[str, ...]]:
    """The model with the plan done: a checked copy, or the live one itself."""
    from orthwrap.live.compiled import forget_compiled_steps
    from orthwrap.live.rebuild import live_objects, rebuild
    from orthwrap.rules.references import known_objects

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
    notes = (*notes, *_set_live_only(model, live_only, functions))
    return model, (*notes, *_check_outputs(store.model, model))


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


def copied_model(store: Any) -> tuple[Any, tuple[str, ...]]:
    """A copy of a live model, as it is; and notes of what it lacks."""
    from orthwrap.live.rebuild import rebuild

    return rebuild(store, ())


def _set_live_only(
    model: Any, live_only: Sequence[Decision], functions: Mapping[str, Any]
) -> tuple[str, ...]:
    """Sets what has no place in the model's config, on the copy itself; a note of it."""
    from orthwrap.live.live_store import LiveStore

    if not live_only:
        return ()
    copy = LiveStore(model)
    copy.layers()
    for decision in live_only:
        _set_live(copy, decision, functions)
    return (
        f"{live_only[0].slot.layer.path} and {len(live_only) - 1} more are not in the model's "
        "config: their regularizers act now, but a saved file keeps them only if the class's "
        "get_config does",
    )


def _check_outputs(model: Any, copy: Any) -> tuple[str, ...]:
    """RebuildError where a copy gives other outputs; a note where they cannot be compared."""
    from orthwrap.live.same_outputs import output_difference

    difference = output_difference(model, copy)
    if difference is None:
        return (
            "outputs of original and copy were not compared: no inputs were found that it takes",
        )
    if not difference <= _SAME_OUTPUTS:
        raise RebuildError(
            f"model {model.name!r}: the copy made from its config gives other outputs (by "
            f"{difference:.3g}): use in_place=True, or mend the class's get_config"
        )
    return ()


def _set_live(store: Any, decision: Decision, functions: Mapping[str, Any]) -> None:
    from orthwrap.live.in_place import set_regularizer
    from orthwrap.live.live_store import variable_of

    live = store.object_of(decision.slot.layer)
    made = _regularizer_for(decision, functions)
    variables = [variable_of(live, k.spec) for k in decision.slot.kernels]
    set_regularizer(live, decision.slot.key, [v for v in variables if v is not None], made)


def _regularizer_for(decision: Decision, functions: Mapping[str, Any]) -> Any:
    """What a slot is to carry; None for nothing."""
    from orthwrap.regularizers import from_attachment
    from orthwrap.regularizers.known import regularizer_of

    attachment = decision.attachment
    if attachment is not None:
        return from_attachment(attachment, functions.get(str(attachment.foreign)))
    return regularizer_of(decision.value) if isinstance(decision.value, (str, Mapping)) else None


def write_changed(
    source: Opened,
    root: Any,
    target: Path,
    custom_objects: Mapping[str, Any],
    unsafe_lambda: bool,
) -> tuple[Any, tuple[str, ...]]:
    """The file with its config as in `root`, written to `target`, whole or not at all.

    Keras is needed for another format alone.

    Returns:
        The model that Keras loaded for that, else None; and notes of what it could not load.
    """
    if format_of(target) == source.store.format:
        _write_copy(source, root, target)
        return None, ()
    model, notes = load_changed(source, root, custom_objects, unsafe_lambda)
    save(model, target)
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
