"""Small model files that are made to cost much: time, memory, or a wait that never ends."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Fill = Callable[[Any, str, int], None]  # (group, name, number of the layer) → makes its kernel


def config(count: int) -> dict[str, Any]:
    """A Sequential of Dense layers `d0, d1, …`."""
    layers = [
        {
            "class_name": "Dense",
            "config": {"name": f"d{i}", "trainable": True, "units": 1, "kernel_regularizer": None},
        }
        for i in range(count)
    ]
    return {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}


def write_h5(path: Path, fill: Fill, count: int = 1) -> None:
    """An `.h5` whose kernels `fill` makes."""
    with h5py.File(path, "w") as f:
        f.attrs.create("model_config", json.dumps(config(count)), dtype=h5py.string_dtype())
        f.attrs["keras_version"] = "3.9.0"
        weights = f.create_group("model_weights")
        names = np.array([f"d{i}" for i in range(count)], dtype="S")
        for start in range(0, count, 5000):
            part = f"layer_names{start // 5000}" if count > 5000 else "layer_names"
            weights.attrs[part] = names[start : start + 5000]
        for i in range(count):
            group = weights.create_group(f"d{i}")
            group.attrs["weight_names"] = np.array([b"kernel:0"])
            fill(group, "kernel:0", i)


def stored(fill: Fill, count: int = 1) -> bytes:
    """The weights of a `.keras` whose kernels `fill` makes."""
    held = io.BytesIO()
    with h5py.File(held, "w") as f:
        for i in range(count):
            fill(f.create_group(f"layers/dense_{i}/vars" if i else "layers/dense/vars"), "0", i)
    return held.getvalue()


def members(weights: bytes, count: int = 1) -> dict[str, bytes]:
    """The members of a `.keras`."""
    return {
        "config.json": json.dumps(config(count)).encode(),
        "metadata.json": b'{"keras_version": "3.9.0"}',
        "model.weights.h5": weights,
    }


def write_keras(path: Path, fill: Fill, count: int = 1) -> None:
    """A `.keras` whose kernels `fill` makes."""
    with zipfile.ZipFile(path, "w") as z:
        for name, data in members(stored(fill, count), count).items():
            z.writestr(name, data)


def write_sharded(path: Path, fill: Fill, shards: int) -> None:
    """A `.keras` of very many files of weights, each with the same kernel."""
    data = stored(fill)
    names = [f"model_{i:05}.weights.h5" for i in range(shards)]
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("config.json", json.dumps(config(1)))
        z.writestr("metadata.json", b'{"keras_version": "3.9.0"}')
        places = {f"/layers/dense/vars{i}": name for i, name in enumerate(names)}
        z.writestr("model.weights.json", json.dumps({"metadata": {}, "weight_map": places}))
        for name in names:
            z.writestr(name, data)


def unpack(folder: Path, weights: bytes, count: int = 1) -> None:
    """A `.keras` that lies unpacked in a folder."""
    folder.mkdir()
    for name, data in members(weights, count).items():
        (folder / name).write_bytes(data)


# Kernels


def declared(shape: tuple[int, ...], dtype: str = "float32", **how: Any) -> Fill:
    """A dataset into which nothing is ever written."""

    def fill(group: Any, name: str, i: int) -> None:
        group.create_dataset(name, shape, dtype, **how)

    return fill


def written(shape: tuple[int, ...], dtype: str = "float32", **how: Any) -> Fill:
    """A dataset that is there."""

    def fill(group: Any, name: str, i: int) -> None:
        values = np.arange(np.prod(shape)).reshape(shape) % 251
        group.create_dataset(name, data=values.astype(dtype), **how)

    return fill


def hard_linked(shape: tuple[int, ...], **how: Any) -> Fill:
    """One dataset, which all layers have."""
    first: list[Any] = []

    def fill(group: Any, name: str, i: int) -> None:
        if i == 0:
            first[:] = [group.create_dataset(name, data=np.ones(shape, "float32"), **how)]
        else:
            group[name] = first[0]

    return fill


def packed_zeros(shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str = "int8") -> Fill:
    """All chunks there, each of them a few bytes that unpack to many zeros."""

    def fill(group: Any, name: str, i: int) -> None:
        found = group.create_dataset(
            name, shape, dtype, chunks=chunks, maxshape=(None,) * len(shape), compression="gzip"
        )
        packed = zlib.compress(bytes(int(np.prod(chunks)) * np.dtype(dtype).itemsize), 9)
        for place in np.ndindex(*(-(-d // c) for d, c in zip(shape, chunks, strict=True))):
            start = tuple(p * c for p, c in zip(place, chunks, strict=True))
            found.id.write_direct_chunk(start, packed)

    return fill


def many_groups(groups: int) -> Fill:
    def fill(group: Any, name: str, i: int) -> None:
        group.create_dataset(name, data=np.ones((2, 2), "float32"))
        for n in range(groups):
            h5py.h5g.create(group.file.id, f"g{n}".encode())

    return fill


def many_links(links: int) -> Fill:
    def fill(group: Any, name: str, i: int) -> None:
        group.create_dataset(name, data=np.ones((2, 2), "float32"))
        for n in range(links):
            group.id.links.create_soft(f"s{n}".encode(), b"/nowhere")

    return fill


def many_datasets(count: int) -> Fill:
    def fill(group: Any, name: str, i: int) -> None:
        group.create_dataset(name, data=np.ones((2, 2), "float32"))
        space = h5py.h5s.create_simple((4000, 4000))
        for n in range(count):
            h5py.h5d.create(group.id, f"w{n}".encode(), h5py.h5t.IEEE_F32LE, space)

    return fill


def deep_groups(depth: int) -> Fill:
    def fill(group: Any, name: str, i: int) -> None:
        group.create_dataset(name, data=np.ones((2, 2), "float32"))
        for _ in range(depth):
            group = group.create_group("x")

    return fill


def many_attributes(count: int) -> Fill:
    def fill(group: Any, name: str, i: int) -> None:
        found = group.create_dataset(name, data=np.ones((2, 2), "float32"))
        for n in range(count):
            found.attrs[f"a{n}"] = n
            group.attrs[f"a{n}"] = n

    return fill


def virtual_of_itself(shape: tuple[int, ...]) -> Fill:
    def fill(group: Any, name: str, i: int) -> None:
        group.create_dataset("real", data=np.ones((10, 10), "float32"))
        layout = h5py.VirtualLayout(shape, "float32")
        for n in range(min(shape[0], 500)):
            source = h5py.VirtualSource(".", f"{group.name}/real", (10, 10))
            layout[n, :10] = source[0, :]
        group.create_virtual_dataset(name, layout)

    return fill
