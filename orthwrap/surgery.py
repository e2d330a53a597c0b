"""4. The one place that acts: a plan becomes a new file, or a new model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orthwrap.errors import RebuildError
from orthwrap.opening import Opened
from orthwrap.plan.decision import Decision, Plan
from orthwrap.stores.files import FileStore
from orthwrap.stores.outputs import DEFAULT_SUFFIX
from orthwrap.stores.replacing import replacing, scratch_folder

_SAME_OUTPUTS = 1e-5  # the largest difference that arithmetic in another order may make


def changed_model(
    store: Any, planned: Plan, functions: Mapping[str, Any], *, in_place: bool
) -> tuple[Any, tuple[str, ...]]:
    """The model with the plan done: a checked copy, or the live one itself."""
    from orthwrap.live.compiled import forget_compiled_steps
    from orthwrap.live.rebuild import live_objects, rebuild
    from orthwrap.live.same_outputs import output_difference
    from orthwrap.live.store import LiveStore
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
    from orthwrap.live.in_place import set_regularizer
    from orthwrap.live.store import variable_of

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
