"""Broken and hostile model files, made from good ones; and what is demanded of every verb."""

from __future__ import annotations

import copy
import io
import json
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

import orthwrap
from orthwrap.report.terminal import console, render, render_compare

LONGEST = 10.0  # seconds of CPU time that any verb may take for a small file

# Whatever may stand where a config has something sensible.
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([1e308, -1e308, float("nan"), float("inf"), 0.5, 1e-320])
    | st.sampled_from(
        ["", "x", "same", "Dense", "Conv2D", "orthwrap>SO", "a/b", "\n", "\x1b[31m", "\ud800"]
    )
    | st.sampled_from(["[/red]", "..", ".", "/", "\0", "é" * 300, "{0}", "%s", "ab,bc->ac"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["class_name", "config", "layers", "layer", "name", "module", "factor", "layout"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
# The keys whose values the tools read most.
KEYS = (
    *("groups", "strides", "kernel_size", "equation", "name", "trainable", "dtype", "layers"),
    *("kernel_regularizer", "activity_regularizer", "shared_object_id", "class_name", "config"),
    *("inbound_nodes", "layer", "backward_layer", "cell", "cells", "module", "registered_name"),
    *("lora_rank", "quantization_config", "build_config", "compile_config"),
)


def ours(config: Any) -> dict[str, Any]:
    """A node that says it is orthwrap's."""
    return {
        "module": "orthwrap.regularizers",
        "class_name": "SO",
        "config": config,
        "registered_name": "orthwrap>SO",
    }


OURS = st.dictionaries(
    st.sampled_from(
        ["factor", "scale", "alpha", "layout", "on", "combined_with", "replaced", "every", "absent"]
    ),
    JUNK | st.just(0.1),
    max_size=6,
).map(ours)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in a tree."""
    found = [path] if path else []
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        found += places(item, (*path, key))
    return found


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@st.composite
def mutated(draw: st.DrawFn, seed: Any) -> Any:
    """A tree with up to four values replaced, removed, swapped, wrapped or repeated."""
    tree = copy.deepcopy(seed)
    for _ in range(draw(st.integers(1, 4))):
        here = places(tree)
        wanted = draw(st.sampled_from(KEYS))
        chosen = [p for p in here if p[-1] == wanted] or here
        if not chosen:
            return tree
        path = draw(st.sampled_from(chosen))
        holder = _at(tree, path[:-1])
        action = draw(
            st.sampled_from(["replace", "replace", "ours", "remove", "swap", "wrap", "repeat"])
        )
        if action == "replace":
            holder[path[-1]] = draw(JUNK)
        elif action == "ours":
            holder[path[-1]] = draw(OURS)
        elif action == "remove":
            del holder[path[-1]]
        elif action == "swap":
            holder[path[-1]] = copy.deepcopy(_at(tree, draw(st.sampled_from(here))))
        elif action == "wrap":
            for _ in range(draw(st.sampled_from([1, 20, 300]))):
                holder[path[-1]] = draw(
                    st.sampled_from(
                        [
                            [holder[path[-1]]],
                            {
                                "class_name": "TimeDistributed",
                                "config": {"layer": holder[path[-1]]},
                            },
                        ]
                    )
                )
        elif isinstance(holder, list):
            holder.extend(copy.deepcopy(holder[path[-1]]) for _ in range(5))
    return tree


def flipped(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    """The bytes with some of them replaced; positions wrap around."""
    out = bytearray(data)
    for position, value in changes:
        out[position % len(out)] = value
    return bytes(out)


@st.composite
def damaged(draw: st.DrawFn, data: bytes, tender: list[int]) -> bytes:
    """Bytes with flips, cuts, swaps or runs of one byte; mostly at the tender places."""
    near = st.sampled_from(tender).flatmap(lambda p: st.integers(p, p + 64))
    where = near | near | st.integers(0, len(data) - 1)
    kind = draw(st.sampled_from(["bytes", "bytes", "bits", "cut", "swap", "fill", "insert"]))
    if kind == "bytes":
        values = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
        return flipped(data, draw(st.lists(st.tuples(where, values), min_size=1, max_size=8)))
    if kind == "bits":
        spots = draw(st.lists(st.tuples(where, st.integers(0, 7)), min_size=1, max_size=4))
        return flipped(data, [(p, data[p % len(data)] ^ (1 << b)) for p, b in spots])
    at = draw(where) % len(data)
    if kind == "cut":
        return data[:at]
    size = draw(st.integers(1, 512))
    if kind == "insert":
        return data[:at] + data[at : at + size] + data[at:]
    if kind == "fill":
        filling = bytes([draw(st.sampled_from([0, 0xFF]))]) * size
        return (data[:at] + filling + data[at + size :])[: len(data)]
    other = draw(where) % len(data)
    first, second = sorted((at, other))
    size = min(size, second - first, len(data) - second)
    a, b = data[first : first + size], data[second : second + size]
    return data[:first] + b + data[first + size : second] + a + data[second + size :]


def tender_places(data: bytes) -> list[int]:
    """Where a file's structures begin: signatures of HDF5 and zip."""
    marks = (b"\x89HDF", b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"BTHD", b"FRHP", b"PK\1\2")
    found = {0}
    for mark in (*marks, b"PK\3\4", b"PK\5\6", b"model_config"):
        at = data.find(mark)
        while at >= 0:
            found.add(at)
            at = data.find(mark, at + 1)
    return sorted(found)


def write_h5(path: Path, source: Path, config: Any, version: str | None = None) -> None:
    """A copy of an `.h5` with another config."""
    path.write_bytes(source.read_bytes())
    text = config if isinstance(config, str) else json.dumps(config)
    with h5py.File(path, "r+") as f:
        f.attrs.create("model_config", text, dtype=h5py.string_dtype())
        if version is not None:
            f.attrs["keras_version"] = version


def write_keras(path: Path, source: Path, **members: Any) -> None:
    """A copy of a `.keras` with other members; `_` in a keyword stands for `.`."""
    with zipfile.ZipFile(source) as a, zipfile.ZipFile(path, "w") as b:
        for name in a.namelist():
            data = members.get(name.replace(".", "_"), a.read(name))
            text = data if isinstance(data, (bytes, str)) else json.dumps(data)
            # Half a character, too: a file may hold any bytes.
            raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
            b.writestr(name, raw)


def tell(call: Callable[[], object]) -> str:
    """What a call raises on purpose, a line a fault, "" where it succeeds; all else goes on."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call()
    except orthwrap.OrthwrapError as e:
        message = str(e)
        assert message, "an error without words"
        lines = e.args
        assert len(lines) <= 11, "an error longer than a screen"
        for line in lines:
            assert line.isprintable(), f"an error that does not print: {line!r}"
            assert len(line) <= 2000, "an error longer than a screen"
        return message
    return ""


def outcome(call: Callable[[], object]) -> str:
    """As `tell`, within the time that a small file may take."""
    start = time.process_time()
    try:
        return tell(call)
    finally:
        assert time.process_time() - start < LONGEST


def shown(report: Any, renderer: Callable[[Any, int], Any]) -> None:
    """The report as the command line would show it."""
    json.dumps(report.to_json(), allow_nan=False)
    screen = io.StringIO()
    console(screen).print(renderer(report, 80))
    screen.getvalue().encode("utf-8")
    assert "\x1b" not in screen.getvalue()


def check(path: Path) -> list[str]:
    """Every verb on a file: a success or one line, the file untouched, nothing beside OUT."""
    folder = path.parent / "out"
    folder.mkdir(exist_ok=True)
    before = path.read_bytes()
    there = sorted(p.name for p in path.parent.iterdir())
    out = folder / f"out{path.suffix}"

    def inspect() -> None:
        shown(orthwrap.inspect(path), render)

    def apply() -> None:
        shown(orthwrap.apply(path, out, target="*", force=True, scale="preserve").report, render)
        orthwrap.strip(out, folder / f"plain{path.suffix}", force=True)

    def strip() -> None:
        shown(orthwrap.strip(path, out, force=True).report, render)

    def compare() -> None:
        shown(orthwrap.compare(path, path), render_compare)

    def upgrade() -> None:
        shown(orthwrap.upgrade(path, out, force=True).report, render)

    said = [outcome(call) for call in (inspect, apply, strip, compare, upgrade)]
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == there
    left = {p.name for p in folder.iterdir()}
    assert left <= {out.name, f"plain{path.suffix}"}, left
    for p in folder.iterdir():
        p.unlink()
    return said


# Crafted files. Each maker writes one file and says in a word what the error line must contain, or
# None where the outcome may be a success.


def _weights_of(f: h5py.File) -> tuple[Any, str]:
    """(group, name) of a kernel in a small `.h5`."""
    group = f["model_weights/conv1"]
    name = next(n for n in group.attrs["weight_names"] if str(n).endswith("kernel"))
    return group, name


def _with_kernel(path: Path, source: Path, make: Callable[[Any, str, Path], None]) -> None:
    path.write_bytes(source.read_bytes())
    with h5py.File(path, "r+") as f:
        group, name = _weights_of(f)
        del group[name]
        make(group, name, path)


def secret_beside(path: Path) -> Path:
    """A file that nothing may read, outside the input."""
    folder = path.parent.parent / "secret"
    folder.mkdir(exist_ok=True)
    secret = folder / "secret.h5"
    if not secret.exists():
        with h5py.File(secret, "w") as f:
            f["k"] = np.full((3, 3, 1, 8), 7, "float32")
    return secret


def _soft(group: Any, name: str, path: Path) -> None:
    group[name] = h5py.SoftLink("/model_weights/conv2")


def _dangling(group: Any, name: str, path: Path) -> None:
    group[name] = h5py.SoftLink(f"{group.name}/{name}")


def _external(group: Any, name: str, path: Path) -> None:
    group[name] = h5py.ExternalLink(str(secret_beside(path)), "k")


def _virtual(group: Any, name: str, path: Path) -> None:
    layout = h5py.VirtualLayout((3, 3, 1, 8), "float32")
    layout[:] = h5py.VirtualSource(str(secret_beside(path)), "k", (3, 3, 1, 8))
    group.create_virtual_dataset(name, layout)


def _raw(group: Any, name: str, path: Path) -> None:
    storage = [(str(secret_beside(path)), 0, 288)]
    group.create_dataset(name, (3, 3, 1, 8), "float32", external=storage)


def _absurd(group: Any, name: str, path: Path) -> None:
    group.create_dataset(name, (3, 3, 10**6, 10**6), "float32", chunks=(1, 1, 1, 1024))


def _huge_chunk(group: Any, name: str, path: Path) -> None:
    group.create_dataset(
        name, (3, 3, 1, 8), "float32", chunks=(3, 3, 1000, 10000), maxshape=(3, 3, None, None)
    )


def _deflate_bomb(group: Any, name: str, path: Path) -> None:
    """A chunk that unpacks to far more than it declares."""
    found = group.create_dataset(
        name, (3, 3, 1, 8), "float32", chunks=(3, 3, 1, 8), compression="gzip"
    )
    packed = zlib.compress(bytes(1 << 20), 9)
    found.id.write_direct_chunk((0, 0, 0, 0), packed)


def _swollen(group: Any, name: str, path: Path) -> None:
    """Two hundred megabytes of zeros in a few bytes."""
    group.create_dataset(name, (3, 3, 1000, 6000), "float32", compression="gzip", fillvalue=0)


def _odd_filter(group: Any, name: str, path: Path) -> None:
    group.create_dataset(name, data=np.zeros((3, 3, 1, 8), "float32"), compression="lzf")


def _strings(group: Any, name: str, path: Path) -> None:
    group.create_dataset(name, (3, 3, 1, 8), h5py.string_dtype())


def _compound(group: Any, name: str, path: Path) -> None:
    group.create_dataset(name, (3, 3, 1, 8), np.dtype([("a", "f4"), ("b", "f4")]))


def _references(group: Any, name: str, path: Path) -> None:
    group.create_dataset(name, (3, 3, 1, 8), h5py.ref_dtype)


def _complex(group: Any, name: str, path: Path) -> None:
    group.create_dataset(name, data=np.zeros((3, 3, 1, 8), "complex64"))


def _empty(group: Any, name: str, path: Path) -> None:
    group[name] = h5py.Empty("f4")


def _group_instead(group: Any, name: str, path: Path) -> None:
    group.create_group(name)


def _not_finite(group: Any, name: str, path: Path) -> None:
    group[name] = np.full((3, 3, 1, 8), np.nan, "float32")


def _enormous_values(group: Any, name: str, path: Path) -> None:
    group[name] = np.full((3, 3, 1, 8), 1e200)


KERNELS: dict[str, tuple[Callable[[Any, str, Path], None], str | None]] = {
    "soft link": (_soft, "not followed"),
    "link to itself": (_dangling, "not followed"),
    "external link": (_external, "not followed"),
    "virtual": (_virtual, "another file"),
    "external storage": (_raw, "another file"),
    "absurd shape": (_absurd, "far more than"),
    "huge chunk": (_huge_chunk, "far more than"),
    "deflate bomb": (_deflate_bomb, "unpacks to other"),
    "swollen": (_swollen, "far more than"),
    "odd filter": (_odd_filter, "compressed in a way"),
    "strings": (_strings, "expected numbers"),
    "compound": (_compound, "expected numbers"),
    "references": (_references, "expected numbers"),
    "complex": (_complex, "expected numbers"),
    "empty": (_empty, "expected numbers"),
    "group": (_group_instead, None),
    "NaN": (_not_finite, None),
    "1e200": (_enormous_values, None),
}


def crafted_kernel(what: str, path: Path, source: Path) -> str | None:
    """A small `.h5` with one kernel put in its place; the word that the error must have."""
    make, word = KERNELS[what]
    _with_kernel(path, source, make)
    return word


def forged_text_length(path: Path, source: Path) -> None:
    """`model_config` that says it is gigabytes long, where nothing of it is there."""
    data = source.read_bytes()
    with h5py.File(source) as f:
        length = len(f.attrs["model_config"])
    packed = length.to_bytes(4, "little")
    at = data.find(packed)
    while at >= 0:
        data = data[:at] + (0xF0000000).to_bytes(4, "little") + data[at + 4 :]
        at = data.find(packed, at + 4)
    path.write_bytes(data)


def cyclic(path: Path, source: Path) -> None:
    """Groups that hold one another, by hard links."""
    path.write_bytes(source.read_bytes())
    with h5py.File(path, "r+") as f:
        weights = f["model_weights"]
        weights["conv1/round"] = weights
        weights["conv2/back"] = weights["conv1"]


def cyclic_store(source: Path) -> bytes:
    """The same in the weights of a `.keras`."""
    with zipfile.ZipFile(source) as z:
        held = io.BytesIO(z.read("model.weights.h5"))
    with h5py.File(held, "r+") as f:
        f["layers/round"] = f
        f["layers/conv2d/up"] = f["layers"]
    return held.getvalue()


def many_layers(count: int, name: Callable[[int], str] = "d{}".format) -> dict[str, Any]:
    """A Sequential of very many layers."""
    layers = [
        {"class_name": "Dense", "config": {"name": name(i), "units": 1, "trainable": True}}
        for i in range(count)
    ]
    return {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}


def nested_layers(depth: int, width: int = 1) -> dict[str, Any]:
    """Models within models."""
    inner: list[Any] = [{"class_name": "Dense", "config": {"name": "d", "trainable": True}}]
    for i in range(depth):
        model = {"class_name": "Sequential", "config": {"name": f"m{i}", "layers": inner}}
        inner = [model] * width
    return inner[0]  # type: ignore[no-any-return]  # a node
