"""Small files that are made to exhaust the machine: what they cost, in CPU time and memory.

Costs are those of a process of its own, as the system counts them: never the clock's.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import orthwrap
from orthwrap.data.arrays import find_arrays
from orthwrap.data.images import ImageRows, Pixels, _check_signatures
from orthwrap.data.ports import Port
from orthwrap.errors import FileFault
from orthwrap.stores.files import open_file
from orthwrap.stores.members import UnpackedFolder
from orthwrap.stores.regular import held, open_regular
from tests.conftest import REPOSITORY
from tests.support import bombs

CPU = 10.0  # seconds
MEMORY = 600  # MB, beside what the file holds


@dataclass(frozen=True)
class Cost:
    code: int
    seconds: float  # of CPU
    megabytes: float  # at most
    said: str


# A process counts the memory of whoever started it as its own: a small one comes between.
COSTS = """
import json, os, resource, subprocess, sys

def limited():
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))

process = subprocess.Popen(
    sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=limited
)
said = process.stderr.read().decode()
_, status, usage = os.wait4(process.pid, 0)
seconds = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss / 1024, said]))
"""


def cost(*words: object) -> Cost:
    """What a command costs; one that takes more than a minute of CPU is killed."""
    command = [sys.executable, "-m", "orthwrap", *map(str, words)]
    done = subprocess.run(
        [sys.executable, "-c", COSTS, *command],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    return Cost(*json.loads(done.stdout))


def check_cost(path: Path, *words: object, word: str | None = None) -> None:
    """A success or one line, within the budget."""
    found = cost(*(words or ("inspect", path, "--no-measure")))
    on_disk = held(path) if path.is_file() else sum(held(p) for p in path.iterdir())
    assert found.code == (0 if word is None else 1), found
    if word is not None:
        assert word in found.said
        assert found.said.count("\n") == 1
    assert found.seconds < CPU, found
    assert found.megabytes < MEMORY + on_disk / 2**20, found


pytestmark = pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not tell costs")


@pytest.fixture
def no_hang() -> Iterator[None]:
    """A wait for what never comes ends the test, not the run."""

    def give_up(*_: Any) -> None:
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# Kernels: what makes them, in how many layers, and what the error must say

MANY = "far more than"
KERNELS: dict[str, tuple[bombs.Fill, int, str | None]] = {
    "grid": (bombs.declared((1000, 1000), chunks=(1, 1)), 1, MANY),
    "larger grid": (bombs.declared((8000, 8000), "int8", chunks=(1, 1)), 1, MANY),
    "written grid": (bombs.written((120, 120), chunks=(1, 1)), 1, MANY),
    "packed grid": (
        bombs.declared((1000, 1000), chunks=(1, 1), compression="gzip"),
        1,
        MANY,
    ),
    "columns": (bombs.declared((8000, 8000), "int8", chunks=(8000, 1)), 1, None),
    "one packed chunk": (bombs.packed_zeros((8000, 8000), (8000, 8000)), 1, None),
    "packed columns": (bombs.packed_zeros((8000, 8000), (8000, 8)), 1, None),
    "chunks beyond the shape": (bombs.packed_zeros((4000, 1), (1, 1_000_000)), 1, MANY),
    "never written": (bombs.declared((8192, 2000)), 1, None),
    "one for all": (bombs.hard_linked((1875, 1875)), 18, None),
    "one packed for all": (
        bombs.hard_linked((1875, 1875), chunks=(125, 1875), compression="gzip"),
        18,
        None,
    ),
    "one for very many": (bombs.hard_linked((500, 500)), 3000, None),
    "very many": (bombs.declared((2, 2)), 3000, None),
    "very many, declared large": (bombs.declared((400, 400)), 3000, MANY),
    "rank 32": (bombs.declared((1,) * 31 + (2,)), 1, None),
    "attributes": (bombs.many_attributes(2000), 1, None),
    "groups": (bombs.many_groups(15_000), 1, None),
    "links": (bombs.many_links(15_000), 1, None),
    "datasets": (bombs.many_datasets(15_000), 1, None),
    "deep groups": (bombs.deep_groups(90), 1, None),
    "virtual": (bombs.virtual_of_itself((1000, 1000)), 1, "another file"),
}


@pytest.mark.dear
@pytest.mark.parametrize("what", KERNELS)
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_what_a_look_costs(tmp_path: Path, what: str, suffix: str) -> None:
    fill, count, word = KERNELS[what]
    path = tmp_path / f"m{suffix}"
    (bombs.write_h5 if suffix == ".h5" else bombs.write_keras)(path, fill, count)
    check_cost(path, word=word)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("fill", [bombs.many_groups, bombs.many_links, bombs.many_datasets])
def test_more_objects_than_any_model(tmp_path: Path, fill: Callable[[int], bombs.Fill]) -> None:
    """An `.h5` says what its weights are called; in a `.keras`, all groups are gone through."""
    path = tmp_path / "m.keras"
    bombs.write_keras(path, fill(50_001))
    check_cost(path, word="more groups, or deeper ones, than any model")


FIGURES = ("columns", "one packed chunk", "packed columns", "never written", "one for all")


@pytest.mark.dear
@pytest.mark.parametrize("what", FIGURES)
def test_what_figures_cost(tmp_path: Path, what: str) -> None:
    fill, count, _ = KERNELS[what]
    path = tmp_path / "m.h5"
    bombs.write_h5(path, fill, count)
    check_cost(path, "inspect", path)


def test_figures_of_what_was_never_written(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    bombs.write_h5(path, bombs.declared((700, 900)))
    (row,) = orthwrap.inspect(path).layers
    assert row.before is not None
    # Of a zero kernel: ‖0 − I‖_F = √r, over √r.
    assert (row.before.residual, row.before.scaled_residual, row.before.scale) == (1.0, 1.0, 1.0)
    assert (row.before.sigma_min, row.before.sigma_max) == (0.0, 0.0)
    assert (row.before.condition, row.before.coherence) == (None, None)


def test_figures_of_what_was_written_in_part(tmp_path: Path) -> None:
    """Blocks of nothing but zeros are passed over; the others are not."""

    def fill(group: Any, name: str, i: int) -> None:
        found = group.create_dataset(name, (20_000, 50), "float32")
        found[15_000:15_050] = 3 * np.eye(50)

    path = tmp_path / "m.h5"
    bombs.write_h5(path, fill)
    (row,) = orthwrap.inspect(path).layers
    assert row.before is not None
    assert row.before.residual == pytest.approx(8)
    assert row.before.sigma_min == pytest.approx(3)
    assert row.before.sigma_max == pytest.approx(3)
    assert row.before.condition == pytest.approx(1)


# Real files that happen to be chunked


@pytest.mark.parametrize(
    "how",
    [
        {"chunks": True},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (64, 1)},
        {"chunks": (7, 33), "compression": 9},
        {"maxshape": (None, None)},
    ],
    ids=str,
)
def test_chunked_kernels_are_read(tmp_path: Path, how: dict[str, Any]) -> None:
    values = np.random.default_rng(0).normal(size=(700, 300)).astype("float32")
    path = tmp_path / "m.h5"
    bombs.write_h5(path, lambda group, name, i: group.create_dataset(name, data=values, **how))
    (row,) = orthwrap.inspect(path).layers
    sigma = np.linalg.svd(values.astype(float), compute_uv=False)
    assert row.before is not None
    assert row.before.sigma_max == pytest.approx(sigma[0])
    assert row.before.sigma_min == pytest.approx(sigma[-1])
    assert row.before.residual == pytest.approx(np.sqrt(np.mean((sigma**2 - 1) ** 2)))


def test_a_large_kernel_may_have_many_chunks(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    bombs.write_h5(path, bombs.written((5000, 1024), chunks=(1, 1024), compression="gzip"))
    (row,) = orthwrap.inspect(path, measure=False).layers
    assert row.shape == (5000, 1024)


# One array with many names


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_one_kernel_of_many_layers_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"m{suffix}"
    fill = bombs.hard_linked((30, 20))
    (bombs.write_h5 if suffix == ".h5" else bombs.write_keras)(path, fill, 18)
    calls: list[str] = []
    for module, name in (
        ("orthwrap.report.make", "measure"),
        ("orthwrap.report.comparing", "relative_change"),
        ("orthwrap.survey", "scale_of"),
    ):
        real = getattr(importlib.import_module(module), name)

        def counted(*given: Any, real: Any = real, name: str = name, **words: Any) -> Any:
            calls.append(name)
            return real(*given, **words)

        monkeypatch.setattr(f"{module}.{name}", counted)
    report = orthwrap.inspect(path)
    assert calls == ["measure"]
    assert len({row.before for row in report.layers}) == 1
    assert len(report.layers) == 18
    calls.clear()
    found = orthwrap.compare(path, path)
    assert sorted(calls) == ["measure", "measure", "relative_change"]
    assert [row.status for row in found.layers] == ["same"] * 18
    calls.clear()
    orthwrap.apply(path, tmp_path / f"o{suffix}", scale="preserve", measure=False)
    assert calls == ["scale_of"]


def test_kernels_of_their_own_are_measured_each(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"

    def fill(group: Any, name: str, i: int) -> None:
        group.create_dataset(name, data=(i + 1) * np.eye(4, dtype="float32"))

    bombs.write_h5(path, fill, 3)
    rows = orthwrap.inspect(path).layers
    assert [row.before and row.before.sigma_max for row in rows] == pytest.approx([1, 2, 3])


def test_one_old_kernel_of_many_layers_is_not_written_many_times(tmp_path: Path) -> None:
    """An upgrade that changes arrays writes one for each layer."""
    layers = [
        {
            "class_name": "CuDNNGRU",
            "config": {"name": f"g{i}", "trainable": True, "units": 500, "go_backwards": False},
        }
        for i in range(200)
    ]
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as f:
        root = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
        f.attrs["model_config"] = json.dumps(root)
        f.attrs["keras_version"] = "2.2.4"
        weights = f.create_group("model_weights")
        weights.attrs["layer_names"] = [f"g{i}".encode() for i in range(200)]
        shared = {
            "kernel:0": np.zeros((500, 1500), "f4"),
            "recurrent_kernel:0": np.zeros((500, 1500), "f4"),
            "bias:0": np.zeros(3000, "f4"),
        }
        first = weights.create_group("g0")
        for name, array in shared.items():
            first[name] = array
        for i in range(200):
            group = weights.require_group(f"g{i}")
            group.attrs["weight_names"] = [name.encode() for name in shared]
            for name in shared if i else ():
                group[name] = first[name]
    with pytest.raises(FileFault, match="far more than the file holds"):
        orthwrap.inspect(path, measure=False)


# Holes


def _terabyte(path: Path) -> None:
    try:
        os.truncate(path, 1 << 40)
    except OSError:
        pytest.skip("the file system has no files of a terabyte")
    if held(path) > 1 << 30:
        pytest.skip("the file system does not tell of holes")


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.weights.h5", "config.json", "assets.txt"])
def test_a_hole_in_an_unpacked_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "m.keras"
    bombs.unpack(folder, bombs.stored(bombs.written((4, 4))))
    (folder / name).touch()
    _terabyte(folder / name)
    check_cost(folder, word="holes")
    check_cost(folder, "strip", folder, "-o", tmp_path / "o.keras", word="holes")


@pytest.mark.dear
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_hole_in_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    write = bombs.write_h5 if suffix == ".h5" else bombs.write_keras
    write(path, bombs.written((4, 4)))
    if suffix == ".keras":  # what follows an archive hides it; what comes before does not
        data = path.read_bytes()
        path.write_bytes(b"")
        _terabyte(path)
        with path.open("ab") as f:
            f.write(data)
        check_cost(path, word="")
    else:
        _terabyte(path)
        check_cost(path, word="holes")


def test_what_a_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 10_000)
    assert held(path) == 10_000
    os.truncate(path, 1 << 30)
    with path.open("ab") as f:
        f.write(b"y" * 10_000)
    assert 20_000 <= held(path) <= 1 << 20 or held(path) == path.stat().st_size


# What is no file


def _places(folder: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """Where something else than a file may lie, and what would open it."""
    unpacked = folder / "m.keras"
    bombs.unpack(unpacked, bombs.stored(bombs.written((4, 4))))
    listed = UnpackedFolder(unpacked)
    image, npz, model = folder / "a.png", folder / "d.npz", folder / "m.h5"
    port = Port("x", (1,))
    return {
        "model": (model, lambda: orthwrap.inspect(model)),
        "config": (unpacked / "config.json", lambda: orthwrap.inspect(unpacked)),
        "weights": (unpacked / "model.weights.h5", lambda: orthwrap.inspect(unpacked)),
        "asset": (unpacked / "a.txt", lambda: orthwrap.inspect(unpacked)),
        "weights, once listed": (
            unpacked / "model.weights.h5",
            lambda: listed.open("model.weights.h5"),
        ),
        "config, once listed": (unpacked / "config.json", lambda: listed.read("config.json")),
        "copied, once listed": (
            unpacked / "metadata.json",
            lambda: listed.copy_to(folder / "copy.keras", {}),
        ),
        "image": (image, lambda: _check_signatures([str(image)])),
        "data": (npz, lambda: find_arrays(npz, [port], [port], True)),
        "any": (folder / "any", lambda: open_regular(folder / "any")),
    }


PLACES = (
    *("model", "config", "weights", "asset", "weights, once listed", "config, once listed"),
    *("copied, once listed", "image", "data", "any"),
)


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", ["fifo", "device", "socket"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, place: str, what: str) -> None:
    path, use = _places(tmp_path)[place]
    path.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        import socket

        listening = socket.socket(socket.AF_UNIX)
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(path.parent)  # names of sockets are short
            listening.bind(path.name)
        listening.close()
    with pytest.raises((FileFault, OSError)) as caught:
        use()
    if place not in ("any", "config, once listed", "weights, once listed", "copied, once listed"):
        assert isinstance(caught.value, FileFault)


# Archives


@pytest.mark.slow
def test_many_shards(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    bombs.write_sharded(path, bombs.written((4, 4)), 200)
    check_cost(path, "compare", path, path)
    bombs.write_sharded(path, bombs.written((4, 4)), 201)
    check_cost(path, word="at most 200")


def test_very_many_members(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    one = io.BytesIO()
    with zipfile.ZipFile(one, "w") as z:
        z.writestr("a", b"")
    data = one.getvalue()
    entry = data[data.index(b"PK\1\2") : data.index(b"PK\5\6")]
    count = 400_000
    directory = entry * count
    tail = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(directory), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(directory + tail + locator + end)
    check_cost(path, word="lists its members in")


@pytest.mark.dear
@pytest.mark.parametrize("name", ["config.json", "metadata.json", "model.weights.json", "a.txt"])
def test_a_member_of_zeros(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.keras"
    given = bombs.members(bombs.stored(bombs.written((4, 4))))
    if name == "model.weights.json":
        del given["model.weights.h5"]
    given[name] = b'{"a": [' + b"[]," * 18_000_000 + b"1]}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for member, data in given.items():
            z.writestr(member, data)
    check_cost(path, word=None if name == "a.txt" else "")


@pytest.mark.dear
@pytest.mark.parametrize("offset", [2**62, 2**64 - 1])
def test_sizes_that_lie(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "m.keras"
    bombs.write_keras(path, bombs.written((4, 4)))
    with zipfile.ZipFile(path, "a") as z:
        z.getinfo("config.json").header_offset = offset
        z.writestr("more", b"")
    check_cost(path, word="")


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("what", ["words", "keys", "numbers"])
def test_long_configs(tmp_path: Path, what: str) -> None:
    item = {"words": '"ab"', "keys": '{"ab":1}', "numbers": "1234"}[what]
    path = tmp_path / "m.keras"
    given = bombs.members(bombs.stored(bombs.written((4, 4))))
    count = (15 << 20) // (len(item) + 1)
    text = json.dumps(bombs.config(1))
    given["config.json"] = (text[:-1] + ', "x": [' + ",".join([item] * count) + "]}").encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for member, data in given.items():
            z.writestr(member, data)
    found = cost("inspect", path, "--no-measure")
    assert found.code in (0, 1)
    assert found.seconds < CPU
    assert found.megabytes < MEMORY


# Names of weights


def test_a_list_of_names_that_all_layers_have(tmp_path: Path) -> None:
    """Groups are hard-linked too: 1,000 layers with one list of 5,000 names."""

    def fill(group: Any, name: str, i: int) -> None:
        parent = group.parent
        if i == 0:
            group.create_dataset(name, data=np.ones((2, 2), "float32"))
            names = np.array([f"x{n}/kernel:0".encode() for n in range(3000)])
            group.attrs["weight_names"] = names
        else:
            del parent[f"d{i}"]
            parent[f"d{i}"] = parent["d0"]

    path = tmp_path / "m.h5"
    bombs.write_h5(path, fill, 1000)
    check_cost(path, word="more weights than any model")


# Data


def _npz(path: Path, **given: Any) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for key, value in given.items():
            held = io.BytesIO()
            if isinstance(value, bytes):
                held.write(value)
            else:
                np.save(held, value, allow_pickle=True)
            z.writestr(f"{key}.npy", held.getvalue())


def _header(text: str, version: int = 1, data: bytes = b"\0" * 64) -> bytes:
    """A `.npy` with a header of our own."""
    packed = text.encode("latin-1") + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(packed))
    return b"\x93NUMPY" + bytes([version, 0]) + length + packed + data


def _shaped(shape: str, dtype: str = "'<f4'", fortran: str = "False") -> bytes:
    return _header(f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}, }}")


class Evil:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("evil",))


HOSTILE = {
    "objects": np.array([{}, 1], dtype=object),
    "a pickle": pickle.dumps(Evil()),
    "object header": _shaped("(2,)", "'|O'"),
    "negative": _shaped("(-4, 4)"),
    "huge": _shaped("(10**15, 4)".replace("10**15", "1" + "0" * 15)),
    "terabytes": _shaped("(100000000000, 4)"),
    "beyond": _shaped("(1000, 4)"),
    "overflowing": _shaped(f"({2**62}, 8)"),
    "beyond any integer": _shaped(f"({2**70}, 4)"),
    "empty items": _shaped(f"({2**40},)", "'|V0'"),
    "nested dtype": _shaped("(2,)", "[('a', '<f4', (1000000, 1000000))]"),
    "shape of text": _shaped("'abc'"),
    "shape of floats": _shaped("(1.5, 2)"),
    "code": _header("__import__('os').mkdir('evil')"),
    "deep": _header("(" * 3000),
    "long": _header(" " * 60_000 + "{}"),
    "very long": _header(" " * 2_000_000 + "{}", version=2),
    "no header": b"\x93NUMPY",
    "version": _header("{}", version=1).replace(b"NUMPY\x01", b"NUMPY\x09"),
    "not UTF-8": _header("{'descr': '\xff'}", version=3),
    "nothing": b"",
    "text": b"hello",
    "text dtype": np.array(["a", "b"]),
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "a record": np.zeros(3, [("a", "f4"), ("b", "f4")]),
}
PORT = Port("x", (4,))


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "d.npz"
    _npz(path, x=HOSTILE[what], y=np.zeros(2))
    with pytest.raises(orthwrap.OrthwrapError) as caught:
        find_arrays(path, [PORT], [Port("y", ())], True)
    assert "d.npz" in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_fortran_order(tmp_path: Path) -> None:
    x = np.asfortranarray(np.arange(8.0).reshape(2, 4))
    np.savez(tmp_path / "d.npz", x=x, y=np.zeros(2))
    found = find_arrays(tmp_path / "d.npz", [PORT], [Port("y", ())], True)
    assert found.x[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.slow
def test_an_array_file_that_swells(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z,
        z.open("x.npy", "w") as member,
    ):
        member.write(_shaped("(300000000, 4)"))
        for _ in range(1100):
            member.write(bytes(1 << 20))
    with pytest.raises(FileFault, match="would unpack to"):
        find_arrays(path, [PORT], [Port("y", ())], True)


@pytest.mark.parametrize("flag", ["encrypted", "method", "crc"])
def test_an_array_file_that_zip_cannot_read(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.ones((2, 4)), y=np.zeros(2))
    data = bytearray(path.read_bytes())
    for mark, flags, method in ((b"PK\1\2", 8, 10), (b"PK\3\4", 6, 8)):
        at = data.find(mark)
        while at >= 0:
            if flag == "encrypted":
                data[at + flags] |= 1
            elif flag == "method":
                data[at + method] = 99
            at = data.find(mark, at + 4)
    if flag == "crc":
        data[data.find(b"\x93NUMPY") + 130] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(FileFault, match=r"not a \.npz of plain arrays"):
        find_arrays(path, [PORT], [Port("y", ())], True)


# Pictures


def _png(width: int, height: int, data: bytes, *, color: int = 2, depth: int = 8) -> bytes:
    def part(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", header)
        + part(b"IDAT", zlib.compress(data))
        + part(b"IEND", b"")
    )


def _decoded(path: Path, channels: int = 3) -> Any:
    rows = ImageRows((str(path),), (4, 4, channels), False, Pixels())
    try:
        return np.asarray(next(iter(rows.batches(np.array([0]), 1))))[0]
    except Exception as e:
        raise rows.explain(e) or e from e


def test_16_bits_become_8(tmp_path: Path) -> None:
    values = [(i * 4096, i * 16) for i in range(16)]  # of 65,536 and of 256
    lines = [values[i : i + 4] for i in range(0, 16, 4)]
    data = b"".join(b"\0" + struct.pack(">4H", *(v for v, _ in line)) for line in lines)
    path = tmp_path / "a.png"
    path.write_bytes(_png(4, 4, data, color=0, depth=16))
    assert _decoded(path, 1)[..., 0].tolist() == [[v for _, v in line] for line in lines]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_animation_is_its_first_picture(tmp_path: Path, channels: int) -> None:
    image = pytest.importorskip("PIL.Image")
    frames = [image.new("L", (4, 4), color) for color in (200, 10, 90)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert np.unique(_decoded(path, channels)[..., 0]).tolist() == [200]


def test_cmyk(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "a.jpg"
    image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(path, quality=100)
    assert _decoded(path)[0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("what", ["declared", "cut", "garbage"])
def test_pictures_that_are_none(tmp_path: Path, what: str) -> None:
    good = _png(4, 4, (b"\0" + bytes(12)) * 4)
    path = tmp_path / "a.png"
    path.write_bytes(
        {
            "declared": _png(60_000, 60_000, bytes(100)),
            "cut": good[:-30],
            "garbage": good[:8] + bytes(100),
        }[what]
    )
    with pytest.raises(FileFault, match=r"a\.png cannot be decoded"):
        _decoded(path)


# Penalties


def test_a_kernel_of_very_many_taps(tmp_path: Path) -> None:
    """The value of `lorth` is that of a table of frequencies by taps: 10¹⁰ entries here."""
    path = tmp_path / "m.h5"
    layer = bombs.config(1)["config"]["layers"][0]
    layer["class_name"] = "Conv2D"
    layer["config"] |= {"strides": [1, 1], "groups": 1, "kernel_size": [400, 400], "filters": 1}
    bombs.write_h5(path, bombs.written((400, 400, 1, 1)))
    with h5py.File(path, "r+") as f:
        root = {"class_name": "Sequential", "config": {"name": "s", "layers": [layer]}}
        f.attrs.modify("model_config", json.dumps(root))
    result = orthwrap.apply(path, tmp_path / "o.h5", regularizer="lorth")
    (row,) = result.report.layers
    assert row.before is not None
    assert row.before.penalty is None
    store = open_file(tmp_path / "o.h5")
    store.close()
