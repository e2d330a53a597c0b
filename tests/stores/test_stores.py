"""Where models live: archives, folders, shards, odd files; and where outputs are written."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import struct
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import orthwrap
from orthwrap.errors import FileFault
from orthwrap.stores import hdf5
from orthwrap.stores import replacing as replacing_module
from orthwrap.stores.files import open_file
from orthwrap.stores.replacing import replacing, scratch_folder
from tests.conftest import needs_keras
from tests.support.samples import nested_file, small_file

FIGURES = ("residual", "scaled_residual", "scale", "sigma_min", "sigma_max")


def figures(path: Path) -> list[Any]:
    return [r.before for r in orthwrap.inspect(path).layers]


def config_of(path: Path) -> Any:
    store = open_file(path)
    store.close()
    return store.root


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as z:
        return {i.filename: z.read(i) for i in z.infolist()}


def pack(path: Path, held: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as z:
        for name, data in held.items():
            z.writestr(name, data)
    return path


def unpack(source: Path, folder: Path) -> Path:
    with zipfile.ZipFile(source) as z:
        z.extractall(folder)
    return folder


# Folders


@pytest.mark.parametrize("name", ["model", "model.keras", "a b é"])
def test_an_unpacked_folder_is_read_and_gives_an_archive(tmp_path: Path, name: str) -> None:
    needs_keras("3.11", "writes models within models that no upgrade concerns")
    folder = unpack(nested_file(".keras"), tmp_path / name)
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets" / "words é.txt").write_text("one\ntwo\n")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert figures(folder) == figures(nested_file(".keras"))
    result = orthwrap.apply(folder)
    assert result.output == tmp_path / f"{name.removesuffix('.keras')}-orth.keras"
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    held = members(result.output)
    assert held["assets/words é.txt"] == b"one\ntwo\n"
    assert held["model.weights.h5"] == before[folder / "model.weights.h5"]
    assert stat.S_IMODE(result.output.stat().st_mode) & 0o111 == 0
    plain = orthwrap.strip(result.output).output
    assert config_of(plain) == config_of(folder)
    assert orthwrap.upgrade(folder).output == tmp_path / (
        f"{name.removesuffix('.keras')}-keras3.keras"
    )


def test_keras_loads_what_came_from_a_folder(tmp_path: Path) -> None:
    folder = unpack(small_file(".keras"), tmp_path / "model")
    model = orthwrap.load_model(orthwrap.apply(folder).output)
    plain = orthwrap.load_model(small_file(".keras"))
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(plain(x), model(x))


def test_an_old_folder_is_modernised(tmp_path: Path) -> None:
    folder = unpack(small_file(".keras"), tmp_path / "model")
    (folder / "metadata.json").write_text('{"keras_version": "2.13.0"}')
    config = json.loads((folder / "config.json").read_text())
    conv = next(x for x in config["config"]["layers"] if x["class_name"] == "Conv2D")
    conv["config"]["kernel_initializer"]["config"]["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config))
    report = orthwrap.inspect(folder)
    assert report.upgrades
    assert [r.before for r in report.layers] == figures(small_file(".keras"))


@pytest.mark.parametrize("inside", ["config.json", "assets/x", "model.weights.h5"])
def test_a_link_in_a_folder_is_refused(tmp_path: Path, inside: str) -> None:
    folder = unpack(small_file(".keras"), tmp_path / "model")
    secret = tmp_path / "secret"
    place = folder / inside
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        place.rename(secret)
    else:
        secret.write_text("secret")
    place.symlink_to(secret)
    with pytest.raises(FileFault, match="is a link"):
        orthwrap.apply(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "secret"]


def test_other_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FileFault, match="is a folder"):
        orthwrap.inspect(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileFault, match=r"without metadata\.json"):
        orthwrap.inspect(tmp_path)


# Shards, and weights alone


def sharded(folder: Path) -> dict[str, bytes]:
    """Members of a `.keras` whose weights lie in several files, laid out as Keras does."""
    needs_keras("3.10", "writes shards")
    model = orthwrap.load_model(small_file(".keras"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_weights(folder / "model.weights.json", max_shard_size=2500 / 1024**3)
    held = members(small_file(".keras"))
    del held["model.weights.h5"]
    written = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert len(written) > 2  # the list, and more than one shard
    return {**held, **written}


def test_sharded_weights_are_found(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    held = sharded(parts)
    path = pack(tmp_path / "sharded.keras", held)
    assert figures(path) == figures(small_file(".keras"))
    out = orthwrap.apply(path).output
    assert {k: v for k, v in members(out).items() if k != "config.json"} == (
        {k: v for k, v in held.items() if k != "config.json"}
    )
    folder = unpack(path, tmp_path / "folder")
    assert figures(folder) == figures(small_file(".keras"))


@pytest.mark.parametrize("name", ["../parts/x.h5", "/etc/passwd", "gone.weights.h5", 3, ["x"]])
def test_shards_that_are_not_there(tmp_path: Path, name: Any) -> None:
    held = members(small_file(".keras"))
    del held["model.weights.h5"]
    held["model.weights.json"] = json.dumps({"weight_map": {"/layers/conv2d/vars": name}}).encode()
    with pytest.raises(FileFault, match=r"model\.weights\.json"):
        orthwrap.inspect(pack(tmp_path / "m.keras", held))


def test_lists_of_shards_and_weights_alone_are_explained(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    sharded(parts)
    for path in parts.iterdir():
        with pytest.raises(FileFault, match="weights only"):
            orthwrap.inspect(path)
    model = orthwrap.load_model(small_file(".keras"))
    weights = tmp_path / "small.weights.h5"
    model.save_weights(weights)
    with pytest.raises(FileFault, match="weights only"):
        orthwrap.apply(weights)


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    held = members(small_file(".keras"))
    del held["model.weights.h5"]
    held["model.weights.npz"] = b"\x80\x04."
    with pytest.raises(FileFault, match="pickles"):
        orthwrap.inspect(pack(tmp_path / "m.keras", held))


def test_a_model_without_weights_can_be_looked_at(tmp_path: Path) -> None:
    held = members(small_file(".keras"))
    del held["model.weights.h5"]
    report = orthwrap.inspect(pack(tmp_path / "m.keras", held))
    assert {r.decision for r in report.layers} == {"unsupported"}


def test_files_without_names_of_layers(tmp_path: Path) -> None:
    """Keras before 3.6 wrote no names beside the weights: their order decides."""
    held = members(nested_file(".keras"))
    weights = io.BytesIO(held["model.weights.h5"])
    with h5py.File(weights, "r+") as f:

        def forget(name: str, item: Any) -> None:
            if "name" in item.attrs:
                del item.attrs["name"]

        f.visititems(forget)
    held["model.weights.h5"] = weights.getvalue()
    path = pack(tmp_path / "m.keras", held)
    assert figures(path) == figures(nested_file(".keras"))


# Archives


@pytest.mark.parametrize("force_zip64", [False, True])
def test_large_file_headers(tmp_path: Path, force_zip64: bool) -> None:
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as z:
        for name, data in members(small_file(".keras")).items():
            with z.open(name, "w", force_zip64=force_zip64) as f:
                f.write(data)
    assert figures(path) == figures(small_file(".keras"))
    out = orthwrap.apply(path).output
    assert {k: v for k, v in members(out).items() if k != "config.json"} == (
        {k: v for k, v in members(path).items() if k != "config.json"}
    )


def test_bytes_before_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(b"#!/bin/sh\n" * 50 + small_file(".keras").read_bytes())
    assert figures(path) == figures(small_file(".keras"))


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil", "assets/../../x"]
)
def test_members_that_lead_out(tmp_path: Path, name: str) -> None:
    held = {**members(small_file(".keras")), name: b"evil"}
    inner = tmp_path / "inner"
    inner.mkdir()
    path = pack(inner / "m.keras", held)
    for verb in (orthwrap.inspect, orthwrap.apply, orthwrap.strip, orthwrap.upgrade):
        with pytest.raises(FileFault, match="leads out"):
            verb(path)
    assert [p.name for p in tmp_path.iterdir()] == ["inner"]
    assert [p.name for p in inner.iterdir()] == ["m.keras"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression(tmp_path: Path, method: int) -> None:
    path = pack(tmp_path / "m.keras", members(small_file(".keras")), method)
    with pytest.raises(FileFault, match="compressed by method"):
        orthwrap.inspect(path)


def edit_directory(path: Path, name: str, offset: int, value: bytes) -> None:
    """Overwrites a field of a member's entry in the archive's directory."""
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")
    while data[at + 46 : at + 46 + len(name)] != name.encode():
        at = data.find(b"PK\x01\x02", at + 1)
    data[at + offset : at + offset + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (8, b"\x01\x00", "encrypted"),
        (10, b"\x63\x00", "compressed by method 99"),
        (24, struct.pack("<I", 1 << 31), "exhaust memory"),
        (20, struct.pack("<I", 1 << 30), "exhaust memory"),
        (42, struct.pack("<I", 1 << 29), "broken"),
        (16, b"abcd", "damaged"),
    ],
)
def test_directories_that_lie(tmp_path: Path, offset: int, value: bytes, words: str) -> None:
    path = pack(tmp_path / "m.keras", members(small_file(".keras")))
    edit_directory(path, "model.weights.h5", offset, value)
    with pytest.raises(FileFault, match=words):
        orthwrap.apply(path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]


@pytest.mark.dear
@pytest.mark.parametrize("name", ["model.weights.h5", "config.json", "assets/vocabulary.txt"])
def test_bombs(tmp_path: Path, name: str) -> None:
    held = {**members(small_file(".keras")), name: bytes(100 << 20)}
    path = pack(tmp_path / "m.keras", held, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(FileFault, match="exhaust memory"):
        orthwrap.apply(path)


# HDF5


def with_kernel(path: Path, make: Callable[[Any, str, Any], None]) -> Path:
    """A small `.h5` whose first kernel is stored anew."""
    path.write_bytes(small_file(".h5").read_bytes())
    with h5py.File(path, "r+") as f:
        group = f["model_weights/conv1"]
        name = next(n for n in group.attrs["weight_names"] if str(n).endswith("kernel"))
        values = group[name][()]
        del group[name]
        make(group, name, values)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (3, 3, 1, 4)},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "gzip", "chunks": (2, 2, 1, 3)},
        {"maxshape": (None, None, None, None)},
        {"dtype": ">f8"},
    ],
    ids=str,
)
def test_kernels_stored_otherwise(tmp_path: Path, options: dict[str, Any]) -> None:
    path = with_kernel(
        tmp_path / "m.h5", lambda group, name, v: group.create_dataset(name, data=v, **options)
    )
    assert figures(path) == figures(small_file(".h5"))


def test_half_precision(tmp_path: Path) -> None:
    path = with_kernel(
        tmp_path / "m.h5", lambda group, name, v: group.create_dataset(name, data=v, dtype="f2")
    )
    found, exact = figures(path)[0], figures(small_file(".h5"))[0]
    assert found.sigma_max == pytest.approx(exact.sigma_max, rel=1e-3)


def test_bfloat16_weights(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, dtype="bfloat16")])
    path = tmp_path / "m.keras"
    model.save(path)
    (record,) = orthwrap.inspect(path).layers
    kernel = np.asarray(keras.ops.cast(model.layers[0].kernel, "float32"))
    assert record.before.sigma_max == pytest.approx(np.linalg.norm(kernel, 2), rel=1e-5)


def test_memory_of_one_call_is_limited() -> None:
    if hdf5._address_space() is None:
        pytest.skip("the system does not say how much memory a process has")
    with hdf5.limited_memory(16 << 20), pytest.raises(MemoryError):
        bytearray(1 << 30)
    assert len(bytearray(1 << 28)) == 1 << 28  # and no longer


# Outputs


def test_spaces_and_other_letters(tmp_path: Path) -> None:
    folder = tmp_path / "ein Ordner é 模型"
    folder.mkdir()
    source = folder / "mein modell ß.h5"
    source.write_bytes(small_file(".h5").read_bytes())
    assert orthwrap.apply(source).output == folder / "mein modell ß-orth.h5"


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    source = tmp_path / "m.h5"
    source.write_bytes(small_file(".h5").read_bytes())
    out = tmp_path / ("é" * 125 + "xx.h5")
    assert orthwrap.apply(source, out).output == out


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_another_file_system(tmp_path: Path) -> None:
    out = Path("/dev/shm") / f"orthwrap-test-{os.getpid()}.h5"
    try:
        orthwrap.apply(small_file(".h5"), out)
        assert open_file(out).format == "h5"
        assert not [p for p in out.parent.iterdir() if p.name.startswith(f".{out.name}")]
    finally:
        out.unlink(missing_ok=True)


def test_leftovers_of_killed_runs_are_cleared_away(tmp_path: Path) -> None:
    target = tmp_path / "out.h5"
    stale = tmp_path / ".out.h5.0123abcd.tmp"
    stale.mkdir()
    (stale / "out.h5").write_bytes(b"half")
    foreign = [".out.h5.tmp", ".out.h5.0123abcd.old", ".other.h5.0123abcd.tmp", ".out.h5.xyz.tmp"]
    for name in foreign:
        (tmp_path / name).mkdir()
    link = tmp_path / ".out.h5.fedcba98.tmp"
    link.symlink_to(tmp_path / ".out.h5.tmp")
    with replacing(target) as sibling:
        sibling.write_bytes(b"whole")
        assert not stale.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["out.h5", *foreign, link.name])


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "out.h5"
    with replacing(target) as first:
        first.write_bytes(b"first")
        with replacing(target) as second:
            assert first.exists()
            second.write_bytes(b"second")
        assert target.read_bytes() == b"second"
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]


def test_scratch_folders_are_cleared_away(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "orthwrap-scratch.0123abcd.tmp").mkdir()
    with scratch_folder() as outer, scratch_folder() as inner:
        assert sorted(tmp_path.iterdir()) == sorted([outer, inner])
    assert not list(tmp_path.iterdir())


def test_a_run_takes_what_it_made_for_a_leftover_of_its_own_again(tmp_path: Path) -> None:
    """Where another run clears a folder away before it is locked, a new one is made."""
    real = replacing_module._lock
    calls: list[Any] = []

    def lock(folder: Path) -> int | None:
        if not calls:
            calls.append(folder)
            folder.rmdir()
        return real(folder)

    replacing_module._lock = lock  # type: ignore[assignment]
    try:
        with replacing(tmp_path / "x") as sibling:
            sibling.write_bytes(b"x")
    finally:
        replacing_module._lock = real
    assert (tmp_path / "x").read_bytes() == b"x"


@pytest.mark.parametrize("after", ["mkdir", "lock"])
def test_an_interrupt_while_the_folder_is_made(
    tmp_path: Path, monkeypatch: Any, after: str
) -> None:
    """Ctrl-C between the steps that make a writer's folder leaves nothing behind either."""
    holder, name = {"mkdir": (Path, "mkdir"), "lock": (replacing_module, "_lock")}[after]
    real = getattr(holder, name)

    def interrupted(*args: Any, **words: Any) -> None:
        real(*args, **words)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(holder, name, interrupted)
        with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x"):
            pass
    assert not list(tmp_path.iterdir())


def test_many_writers_at_once(tmp_path: Path) -> None:
    source, out = small_file(".h5"), tmp_path / "out.h5"
    faults: list[BaseException] = []

    def write(factor: float) -> None:
        try:
            orthwrap.apply(source, out, factor=factor, force=True)
        except BaseException as e:
            faults.append(e)

    threads = [threading.Thread(target=write, args=(0.1 * (i + 1),)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not faults
    factors = {r.regularizer.factor for r in orthwrap.inspect(out).layers}
    assert len(factors) == 1
    assert list(tmp_path.iterdir()) == [out]


def test_two_processes_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out.keras"
    command = [sys.executable, "-m", "orthwrap", "apply", str(nested_file(".keras"))]
    command += ["-o", str(out), "--quiet", "--force", "--factor"]
    runs = [subprocess.Popen([*command, f"0.{i}"], stderr=subprocess.PIPE) for i in (1, 2)]
    assert [run.communicate()[1] for run in runs] == [b"", b""]
    chosen = [r.regularizer for r in orthwrap.inspect(out).layers]
    assert len({r.factor for r in chosen if r is not None}) == 1
    assert list(tmp_path.iterdir()) == [out]


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_full_disk_while_writing(tmp_path: Path, monkeypatch: Any, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    out.write_bytes(b"old")
    source = small_file(suffix)
    monkeypatch.setattr("shutil.copyfile", full_disk)
    monkeypatch.setattr("shutil.copyfileobj", full_disk)
    with pytest.raises(FileFault, match="No space left"):
        orthwrap.apply(source, out, force=True)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system with room for little, where the test may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("free", range(0, 90, 6))
def test_a_disk_that_really_is_full(small_disk: Path, suffix: str, free: int) -> None:
    (small_disk / "filler").write_bytes(bytes(90 - free << 10))
    out = small_disk / f"out{suffix}"
    try:
        orthwrap.apply(small_file(suffix), out)
    except FileFault as e:
        told = str(e)
        left = sorted(p.name for p in small_disk.iterdir())
        assert ("No space left" in told, left) == (True, ["filler"])
    else:
        assert len(orthwrap.inspect(out).layers) == 3


def test_an_unreadable_file(tmp_path: Path, monkeypatch: Any) -> None:
    source = tmp_path / "m.h5"
    source.write_bytes(small_file(".h5").read_bytes())

    opened = os.open

    def refused(path: Any, *more: Any, **named: Any) -> int:
        if Path(path) != source:
            return opened(path, *more, **named)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(FileFault, match="Permission denied"):
        orthwrap.inspect(source)


def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(FileFault, match="not a regular file"):
        orthwrap.inspect(tmp_path / "pipe.h5")


def test_an_archive_with_weights_where_a_user_block_would_end_is_an_archive(tmp_path: Path) -> None:
    held = members(small_file(".keras"))
    weights = held.pop("model.weights.h5")
    headers = sum(30 + len(name) + len(data) for name, data in held.items())
    place = next(512 << i for i in range(20) if 512 << i > headers + 200)
    padding = place - headers - 30 - len("padding") - 30 - len("model.weights.h5")
    path = pack(
        tmp_path / "m.keras", {**held, "padding": bytes(padding), "model.weights.h5": weights}
    )
    assert path.read_bytes()[place : place + 4] == weights[:4]
    assert figures(path) == figures(small_file(".keras"))
