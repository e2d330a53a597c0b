"""SavedModel folders, whose config and arrays are laid out as in a `.keras` of Keras 2.

Their weights are a TensorFlow checkpoint. No class is built, and the graphs and functions in the
folder, which may hold any operation, are not looked at.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from orthwrap.errors import FileFault
from orthwrap.model_config.tfmot import told_of
from orthwrap.model_config.tree import class_of, walk
from orthwrap.model_config.whole_model import with_module
from orthwrap.stores.edits import Described
from orthwrap.upgrades.ledger import Config, Modernised, Upgrade
from orthwrap.upgrades.modernise import modernise, readable_faults
from orthwrap.upgrades.rewriting import parse_version
from orthwrap.upgrades.saved_models.laid_out import lay_out


def modernise_saved_model(old: Described) -> Modernised:
    """Bring the model of a SavedModel folder to Keras 3, as a `.keras`.

    Raises:
        FileFault: the folder holds no Keras model, or its config and its weights disagree.
    """
    if parse_version(old.keras_version) >= (3, 0):
        raise FileFault(f"says it is of Keras {old.keras_version:.20}, which writes no such folder")
    assert old.checkpoint is not None  # of every such folder
    with readable_faults("SavedModel"):
        metadata = plain_config(old.config)
        config = model_config(metadata)
        try:
            layout = lay_out(config, old.checkpoint.objects(), old.checkpoint.shapes())
        except FileFault as err:  # what tfmot keeps beside a kernel is none of Keras's arrays
            raise _because_of_wrappers(config) or err from None
        done = modernise(with_module(config), keras_version=old.keras_version)
    name, vintage = config["config"].get("name"), f"tf.keras {old.keras_version}"
    found = [Upgrade("SavedModel", vintage, (name if isinstance(name, str) else "model",))]
    left = (*layout.left, *(["training configuration"] if metadata.get("training_config") else []))
    if left:
        found.append(Upgrade("left behind", vintage, left))
    return replace(done, upgrades=(*found, *done.upgrades), placed=layout.groups)


def _because_of_wrappers(config: Config) -> FileFault | None:
    """The fault that tfmot's wrappers are, if there are any."""
    with contextlib.suppress(FileFault):  # of what is no real model
        for why in told_of(walk(config)):
            return FileFault(why)
    return None


def model_config(metadata: Config) -> Config:
    """The model's config, from what stands around it in the folder."""
    config = metadata.get("model_config")
    inner = config.get("config") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(inner, dict) or "layers" not in inner:
        name = class_of(metadata) or class_of(config) or "?"
        raise FileFault(
            f"model class {name!r} is written in Python and its code is not in the folder; save it "
            "as .h5 or .keras with its own Keras, built with the functional API or Sequential"
        )
    if class_of(config) == "Sequential" and isinstance(metadata.get("build_input_shape"), list):
        inner.setdefault("build_input_shape", metadata["build_input_shape"])
    return config


def plain_config(value: Any) -> Any:
    """A config as other files have it: tuples and shapes are lists, and no numbers of objects."""
    if isinstance(value, list):
        return [plain_config(item) for item in value]
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            return plain_config(value["items"])
        return {key: plain_config(item) for key, item in value.items() if key != "shared_object_id"}
    return value
