"""A live model written to a file, whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orthwrap import keras_inside
from orthwrap.errors import FileFault
from orthwrap.loading.loading import _keras_reason, _quiet_keras
from orthwrap.opening import opened
from orthwrap.penalties.attachment import check_reference
from orthwrap.stores.replacing import replacing


def save_model(model: Any, target: Path, like: Path | None = None) -> None:
    """Saves a live model, whole or not at all, in the format of the suffix.

    `like` is the path whose suffix says the format, where the target's own does not.

    Raises:
        ValueFault: a kernel carries a function that a file cannot refer to.
        FileFault: Keras cannot save it.
    """
    from orthwrap.live.live_store import regularizers_of

    for where, regularizer in regularizers_of(model):
        attachment = getattr(regularizer, "attachment", None)
        if attachment is not None:
            check_reference(attachment.foreign, f"{where} has {attachment.name!r}")
    with replacing(target) as sibling, _quiet_keras(), _compiled_as_it_is(model):
        written = sibling if like is None else sibling.with_name(f"model{like.suffix}")
        try:
            model.save(written)
            if written.suffix != ".keras":
                _make_readable(written)
            written.replace(sibling)
        except OSError:
            raise
        except Exception as e:  # a user's get_config may raise anything
            raise FileFault(
                f"Keras cannot save the model as {target.name}: {_keras_reason(e)}"
            ) from e


@contextlib.contextmanager
def _compiled_as_it_is(model: Any) -> Iterator[None]:
    """Writing an `.h5`, Keras takes the optimizer out of what the model was compiled with.

    A `.keras` file that is written later would have Keras's default in its place.
    """
    arguments = keras_inside.compile_arguments(model) if model.compiled else {}
    before = dict(arguments)
    try:
        yield
    finally:
        arguments.update(before)


def _make_readable(written: Path) -> None:
    """Keras writes some `.h5` in words that it does not read: those are set right."""
    # What orthwrap cannot read stays as Keras wrote it.
    with contextlib.suppress(FileFault), opened(written) as found:
        if found.upgrades:
            shutil.copyfile(found.store.path, written)
