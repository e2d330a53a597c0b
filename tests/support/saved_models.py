"""SavedModel folders as Keras 2 lays them out, their checkpoint written by TensorFlow itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

VARIABLE = "/.ATTRIBUTES/VARIABLE_VALUE"
Arrays = dict[str, Any]


def dense(name: str, units: int = 3, **config: Any) -> dict[str, Any]:
    """A Dense layer's node."""
    return node("Dense", name, units=units, **config)


def node(class_name: str, name: str, **config: Any) -> dict[str, Any]:
    """Any layer's node."""
    return {"class_name": class_name, "config": {"name": name, "trainable": True, **config}}


def sequential(*layers: dict[str, Any], width: int = 4) -> dict[str, Any]:
    """A Sequential as Keras 2.3 to 2.15 wrote it."""
    first = {"batch_input_shape": [None, width], "name": "input", "dtype": "float32"}
    inputs = {"class_name": "InputLayer", "config": first}
    return {"class_name": "Sequential", "config": {"name": "s", "layers": [inputs, *layers]}}


def kernels(*shapes: tuple[int, ...]) -> Arrays:
    """Kernel and bias of one Dense layer after another."""
    rng = np.random.default_rng(0)
    found: Arrays = {}
    for index, shape in enumerate(shapes):
        found[f"layer-{index}/kernel"] = rng.normal(size=shape).astype("float32")
        found[f"layer-{index}/bias"] = rng.normal(size=shape[-1:]).astype("float32")
    return found


def field(number: int, data: bytes) -> bytes:
    """A field of a protocol buffer that has a length."""
    size, length = len(data), b""
    while True:
        size, low = size >> 7, size & 127
        length += bytes([low | (128 if size else 0)])
        if not size:
            return bytes([number << 3 | 2]) + length + data


def write_config(folder: Path, config: Any, version: str = "2.9.0", **more: Any) -> Path:
    """A folder with the config alone."""
    folder.mkdir()
    (folder / "variables").mkdir()
    (folder / "saved_model.pb").touch()
    text = json.dumps({"model_config": config, "keras_version": version, **more}).encode()
    (folder / "keras_metadata.pb").write_bytes(field(1, field(3, b"root") + field(5, text)))
    return folder


def graph_of(paths: list[str], keep: Arrays | None = None) -> bytes:
    """A graph of objects, each path's last part a variable."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2 as proto

    graph = proto.TrackableObjectGraph()
    graph.nodes.add()
    places = {"": 0}
    for path in paths:
        for end in [i for i, c in enumerate(path) if c == "/"] + [len(path)]:
            inner = path[:end]
            if inner in places:
                continue
            places[inner] = len(graph.nodes)
            graph.nodes.add()
            parent, _, name = inner.rpartition("/")
            child = graph.nodes[places[parent]].children.add()
            child.node_id, child.local_name = places[inner], name
        if keep is None or path in keep:
            attribute = graph.nodes[places[path]].attributes.add()
            attribute.name, attribute.checkpoint_key = "VARIABLE_VALUE", path + VARIABLE
            attribute.full_name = path
    return bytes(graph.SerializeToString())


def write(
    folder: Path, config: Any, arrays: Arrays, objects: list[str] | None = None, **more: Any
) -> Path:
    """A whole folder.

    Args:
        arrays: by the path of attributes from the model, `layer-0/kernel`.
        objects: further paths of objects without arrays.
        more: what stands beside the config.
    """
    import tensorflow as tf

    write_config(folder, config, **more)
    graph = graph_of([*(objects or []), *arrays], arrays)
    names = [*(key + VARIABLE for key in arrays), "_CHECKPOINTABLE_OBJECT_GRAPH"]
    tf.raw_ops.SaveV2(
        prefix=str(folder / "variables/variables"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[*(tf.constant(a) for a in arrays.values()), tf.constant(graph)],
    )
    return folder
