"""What bringing a stored model to Keras 3 asks of its copy, by the format that it is stored in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from orthwrap.model_config.whole_model import with_module
from orthwrap.stores.edits import Described
from orthwrap.upgrades.ledger import Modernised, Upgrade
from orthwrap.upgrades.modernise import modernise
from orthwrap.upgrades.rewriting import parse_version
from orthwrap.upgrades.saved_models.whole_folder import modernise_saved_model

# Keras 3 has other variables in its optimizers, and where an `.h5` holds a state of any kind, it
# builds the optimizer without the model's variables: training then ends with "Unknown variable"
# (3.15, `load_model_from_hdf5`). The old state stays in the file, under a name it does not read.
STATE = "optimizer_weights"
STATE_ASIDE = "optimizer_weights_keras2"


def modernised(old: Described) -> Modernised:
    """What a copy of a stored model must have otherwise; nothing for a format of Keras 3 alone.

    Raises:
        FileFault: it is broken, or holds what Keras 3 cannot have.
    """
    by_format = _BY_FORMAT.get(old.format)
    return Modernised(old.config) if by_format is None else by_format(old)


def _h5(old: Described) -> Modernised:
    inside = old.config.get("keras_version")  # Keras 1.0 said it there alone
    version = old.keras_version or (inside if isinstance(inside, str) else "")
    if old.training_fault is not None and parse_version(version) < (3, 0):
        raise old.training_fault
    done = modernise(
        old.config,
        training_config=old.training_config,
        keras_version=version,
        backend=old.backend,
        weights=old.weights,
    )
    if old.training_fault is not None and done.upgrades:
        lost = Upgrade("training config", "Keras 3", ("training",), "not readable, left out")
        return replace(done, upgrades=(*done.upgrades, lost))
    if STATE not in old.groups or STATE_ASIDE in old.groups or parse_version(version) >= (3, 0):
        return done
    aside = Upgrade("optimizer state", "Keras 1.0-2.15", ("training",), f"now {STATE_ASIDE}")
    return replace(done, upgrades=(*done.upgrades, aside), set_aside={STATE: STATE_ASIDE})


def _keras(old: Described) -> Modernised:
    config = with_module(old.config)
    return modernise(config, keras_version=old.keras_version or "2")  # none is older


_BY_FORMAT: dict[str, Callable[[Described], Modernised]] = {
    "h5": _h5,
    "keras": _keras,
    "saved_model": modernise_saved_model,
}
