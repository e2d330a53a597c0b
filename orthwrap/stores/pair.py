"""The classic pair, `model.json` and a file of weights, as one file of a format that is read.

What `model.to_json()` gave and `model.save_weights()` wrote, of any Keras. Both are data: nothing
in either is run.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orthwrap.errors import FileFault
from orthwrap.model_config.tree import Node
from orthwrap.model_config.whole_model import with_module
from orthwrap.stores import hdf5
from orthwrap.stores.config import parse_config, parse_json
from orthwrap.stores.h5 import is_hdf5
from orthwrap.stores.h5_edit import into_model_weights, write_text
from orthwrap.stores.heaps import check_heaps
from orthwrap.stores.keras_zip import CONFIG, METADATA, WEIGHTS
from orthwrap.stores.regular import check_holes, held, open_regular
from orthwrap.text import first_line, listed

SUFFIX = ".json"
_LONGEST = 256 << 20  # bytes; far above any description of a model
_BLANK = b" \t\r\n\xef\xbb\xbf"  # and a byte order mark


def is_architecture(path: Path) -> bool:
    """Whether a file begins as JSON does that could describe a model."""
    if not path.is_file():
        return False
    with open_regular(path) as file:
        return file.read(200).lstrip(_BLANK)[:1] in (b"{", b'"')


def joined(architecture: Path, weights: Path, folder: Path) -> Path:
    """One file of the two, in `folder`: an `.h5` or a `.keras`, by what the weights are.

    Raises:
        FileFault: one of them is not what it should be, or they are not of one model.
    """
    described = _read(architecture)
    if not is_hdf5(weights):
        raise FileFault(_why_no_weights(weights))
    check_holes(weights, weights.stat().st_size, held(weights))
    try:
        check_heaps(weights)
        with hdf5.open_hdf5(weights) as file:
            by_layer = _by_layer(file)
            if by_layer is None and not len(file):
                raise FileFault(f"{weights} holds no weights: give what model.save_weights() wrote")
            if by_layer is not None:
                _check_names(described.root, by_layer, architecture, weights)
            backend = hdf5.text(file, "backend")
            version = described.version or hdf5.text(file, "keras_version") or ""
    except OSError as e:
        raise FileFault(
            f"{weights} is a broken HDF5 file ({first_line(e)}): copy or save it again"
        ) from e
    if by_layer is None:
        return _as_keras(described.root, version, weights, folder)
    return _as_h5(described.root, version, backend or described.backend, weights, folder)


@dataclass(frozen=True)
class _Architecture:
    root: Node
    version: str
    backend: str


def _read(path: Path) -> _Architecture:
    size = path.stat().st_size
    if size > _LONGEST:
        raise FileFault(f"{path} has {size} bytes, more than any description of a model")
    with open_regular(path) as file:
        text = file.read(_LONGEST).lstrip(_BLANK)
    root = parse_json(text, path, size)
    if isinstance(root, str):  # json.dump(model.to_json(), file) wraps the text once more
        root = parse_json(root, path, size)
    if isinstance(root, dict) and "modelTopology" in root:
        raise FileFault(
            f"{path} is of TensorFlow.js, which keeps its weights in files of its own: make a "
            "Keras file of it with tensorflowjs_converter --output_format keras"
        )
    root = parse_config(json.dumps(root), path, max(size, 1))
    said = {key: root.pop(key, None) for key in ("keras_version", "backend")}
    version, backend = (v if isinstance(v, str) else "" for v in said.values())
    if not version and "module" in root:
        version = "3.0.0"  # Keras 3 says where the model's class is, and not its own version
    return _Architecture(root, version, backend)


def _why_no_weights(path: Path) -> str:
    if zipfile.is_zipfile(path):
        return f"{path} is an archive, and no file of weights: a .keras is a whole model by itself"
    if path.is_dir() or not path.exists():
        return f"{path} is no file: give the weights that model.save_weights() wrote, as .h5"
    return (
        f"{path} is no HDF5 file: weights are read as model.save_weights('weights.h5') writes "
        "them; load others with the Keras that wrote them and save them so"
    )


def _by_layer(file: Any) -> dict[str, bool] | None:
    """Layers of a file that keeps weights by layer, and whether each has any; else None."""
    group = hdf5.child_group(file, "model_weights")
    group = file if group is None else group
    if "layer_names" not in group.attrs and "layer_names0" not in group.attrs:
        return None
    found = {}
    for name in hdf5.names(group, "layer_names"):
        own = hdf5.child_group(group, name)
        found[name] = own is not None and bool(hdf5.names(own, "weight_names"))
    return found


def _check_names(root: Node, by_layer: dict[str, bool], model: Path, weights: Path) -> None:
    """FileFault where weights are of a layer that the model has not."""
    config = root["config"]
    layers = config.get("layers") if isinstance(config, dict) else config
    if not isinstance(layers, list):
        return
    named = {name for node in layers if isinstance(node, dict) for name in _names(node)}
    strange = [name for name, has_any in by_layer.items() if has_any and name not in named]
    if strange and len(named) == len(layers):
        raise FileFault(
            f"{weights} has weights of {listed(strange, 3)}, and {model} no layer of that name: "
            "give the weights that were saved of this model"
        )


def _names(node: Node) -> list[str]:
    inner = node.get("config")
    found = [node.get("name"), inner.get("name") if isinstance(inner, dict) else None]
    return [name for name in dict.fromkeys(found) if isinstance(name, str)]


def _as_h5(root: Node, version: str, backend: str, weights: Path, folder: Path) -> Path:
    target = folder / "model.h5"
    shutil.copyfile(weights, target)
    with hdf5.open_hdf5(target, "r+") as file:
        group = hdf5.child_group(file, "model_weights")
        if group is None:
            group = into_model_weights(file)
        write_text(file, "model_config", json.dumps(root))
        for name, value in (("keras_version", version), ("backend", backend)):
            for holder in (file, group) if value else ():
                write_text(holder, name, value)
    return target


def _as_keras(root: Node, version: str, weights: Path, folder: Path) -> Path:
    target = folder / "model.keras"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(CONFIG, json.dumps(with_module(root)))
        archive.writestr(METADATA, json.dumps({"keras_version": version} if version else {}))
        archive.write(weights, WEIGHTS)
    return target
