"""SavedModel folders: their Keras config and their arrays, and a `.keras` made from them.

Keras 2 wrote its config into the folder: TensorFlow 2.5 and later into `keras_metadata.pb`, those
before into the objects of `saved_model.pb`. The weights are a TensorFlow checkpoint. Both are read
as data and laid out as in a `.keras` of Keras 2: no class is built, TensorFlow is not imported,
and the graphs and functions in the folder, which may hold any operation, are not looked at.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from orthwrap.errors import FileFault
from orthwrap.stores import wire
from orthwrap.stores.tensor_bundle import Checkpoint, read_regular
from orthwrap.upgrades.keras_zip import CONFIG, METADATA, WEIGHTS, edit_weights
from orthwrap.upgrades.ledger import Config, Modernised, Upgrade
from orthwrap.upgrades.models.modules import MODELS
from orthwrap.upgrades.modernise import modernise_keras_config, readable_faults
from orthwrap.upgrades.rewriting import TARGET_VERSION, class_of, parse_version
from orthwrap.upgrades.saved_models.laid_out import Layout, lay_out

GRAPH = "saved_model.pb"
KERAS_METADATA = "keras_metadata.pb"
VARIABLES = "variables"
# Far above any description of a model.
_LONGEST = 256 << 20
# As in archives: a small file may unpack to this much, a larger one to some times its size.
_FLOOR = 64 << 20
_SWELLING = 20


def read_config(folder: str | Path) -> tuple[Config, str]:
    """The model's config in a SavedModel folder, and the version of Keras that wrote it."""
    config, version, _ = _read(Path(folder))
    return config, version


def _read(folder: Path) -> tuple[Config, str, bool]:
    """Config, version, and whether the folder says how the model was compiled."""
    from orthwrap.stores.config import parse_json

    with readable_faults(str(folder)):
        metadata = _metadata(folder)
        if metadata is None:
            raise FileFault(
                f"{folder}: a SavedModel without a Keras config (exported for serving); "
                "its layers cannot be told, use the model that it was exported from"
            )
        value = plain(parse_json(metadata, folder, len(metadata)))
        if not isinstance(value, dict):
            raise FileFault(f"{folder}: the Keras config is no object; the folder is broken")
        version = value.get("keras_version")
        version = version if isinstance(version, str) else "2"
        if parse_version(version) >= (3, 0):
            raise FileFault(
                f"{folder}: says it is of Keras {version:.20}, which writes no such folder"
            )
        config = value.get("model_config")
        inner = config.get("config") if isinstance(config, dict) else None
        if not isinstance(config, dict) or not isinstance(inner, dict) or "layers" not in inner:
            name = class_of(value) or class_of(config) or "?"
            raise FileFault(
                f"{folder}: model class {name!r} is written in Python and its code is not in the "
                "folder; save it as .h5 or .keras with its own Keras, built with the functional "
                "API or Sequential"
            )
        if class_of(config) == "Sequential" and isinstance(value.get("build_input_shape"), list):
            inner.setdefault("build_input_shape", value["build_input_shape"])
        return config, version, bool(value.get("training_config"))


def _metadata(folder: Path) -> str | None:
    """The root object's metadata."""
    beside = folder / KERAS_METADATA
    try:
        if beside.is_symlink() or beside.exists():
            for node in wire.messages(read_regular(beside, _LONGEST), 1):
                if wire.text(wire.first(node, 3)) == "root":
                    return wire.text(wire.first(node, 5)) or None
            return None
        message: memoryview | None = read_regular(folder / GRAPH, _LONGEST)
        # SavedModel.meta_graphs → object_graph_def → nodes[0] → user_object → metadata
        for number in (2, 7, 1, 4, 3):
            message = wire.first(message, number) if message is not None else None
        found = wire.text(message)
        return found if found.lstrip().startswith("{") else None
    except wire.WireError as err:
        raise FileFault(f"{folder}: expected a SavedModel, found a broken one ({err})") from err


def plain(value: Any) -> Any:
    """The config as other files have it: tuples and shapes are lists, and no numbers of objects."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            return plain(value["items"])
        return {key: plain(item) for key, item in value.items() if key != "shared_object_id"}
    return value


def upgrade_saved_model(folder: str | Path, target: str | Path) -> tuple[Upgrade, ...]:
    """Write the model of a SavedModel folder to `target`, a new `.keras`.

    Raises:
        FileFault: the folder holds no Keras model, is broken, or its config and its weights
            disagree; nothing is written then.
    """
    folder, target = Path(folder), Path(target)
    if target.suffix != ".keras":
        raise FileFault(f"{target}: expected a name that ends in .keras")
    config, version, compiled = _read(folder)
    name = config["config"].get("name")
    root = name if isinstance(name, str) else "model"
    with readable_faults(str(folder)):
        checkpoint = _checkpoint(folder)
        layout = lay_out(config, checkpoint.objects(), checkpoint.entries)
        _hold_size(checkpoint, layout)
        plan = modernise_keras_config(_with_module(config), {"keras_version": version})
    _write(target, plan, checkpoint, layout)
    left = (*layout.left, *(["training configuration"] if compiled else []))
    vintage = f"tf.keras {version}"
    found = [Upgrade("SavedModel", vintage, (root,))]
    if left:
        found.append(Upgrade("left behind", vintage, left))
    return (*found, *plan.upgrades)


def _checkpoint(folder: Path) -> Checkpoint:
    variables = folder / VARIABLES
    if variables.is_symlink() or not variables.is_dir():
        raise FileFault(f"{variables}: expected a folder with the model's weights, found none")
    return Checkpoint(variables / "variables")


def _hold_size(checkpoint: Checkpoint, layout: Layout) -> None:
    """One array may be named many times, and a file may hold less than it declares."""
    keys = [key for keys in layout.groups.values() for key in keys]
    total, held = sum(checkpoint.entries[key].size for key in keys), checkpoint.held()
    if total > max(_FLOOR, _SWELLING * held):
        raise FileFault(
            f"the weights take {total} bytes, and their files hold {held}: no real model"
        )


def _with_module(config: Config) -> Config:
    """A `.keras` says where the model's class is."""
    module = MODELS.get(class_of(config))
    if module is None or "module" in config:
        return config
    registered = "Functional" if class_of(config) == "Functional" else None
    return {"module": module, **config, "registered_name": registered}


def _write(target: Path, plan: Modernised, checkpoint: Checkpoint, layout: Layout) -> None:
    import h5py

    # Beside the target, where there is room for it.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".orthwrap-") as scratch:
        weights = Path(scratch) / WEIGHTS
        with h5py.File(weights, "w") as file:
            for group, keys in layout.groups.items():
                for number, key in enumerate(keys):
                    file[f"{group}/vars/{number}"] = checkpoint.array(key)
        edit_weights(weights, plan)
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr(CONFIG, json.dumps(plan.model_config))
            archive.writestr(METADATA, json.dumps({"keras_version": TARGET_VERSION}))
            archive.write(weights, WEIGHTS)
