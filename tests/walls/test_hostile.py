"""Model files from strangers: whatever is in them, the outcome is a success or one line.

`ORTHWRAP_FUZZ=20` multiplies how many files are tried.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orthwrap.stores.files import open_file
from tests.conftest import REPOSITORY
from tests.support.hostile import (
    KERNELS,
    check,
    crafted_kernel,
    cyclic,
    cyclic_store,
    damaged,
    forged_text_length,
    many_layers,
    mutated,
    nested_layers,
    ours,
    tender_places,
    write_h5,
    write_keras,
)
from tests.support.samples import nested_file, small_file

TIMES = int(os.environ.get("ORTHWRAP_FUZZ", "1"))


def fuzz(examples: int) -> Any:
    return settings(
        max_examples=examples * TIMES,
        deadline=None,
        derandomize=TIMES == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


def config_of(path: Path) -> Any:
    store = open_file(path)
    store.close()
    return store.root


@pytest.mark.dear
@pytest.mark.slow
@fuzz(60)
@given(data=st.data(), suffix=st.sampled_from([".h5", ".keras"]), nested=st.booleans())
def test_mutated_configs(folder: Path, data: st.DataObject, suffix: str, nested: bool) -> None:
    source = nested_file(suffix) if nested else small_file(suffix)
    config = data.draw(mutated(config_of(source)))
    path = folder / f"config{suffix}"
    if suffix == ".h5":
        version = data.draw(st.sampled_from([None, None, "2.15.0", "1.2.2", "", "x"]))
        write_h5(path, source, config, version)
    else:
        told = data.draw(st.sampled_from(["3.9.0", "3.9.0", "2.13.0", 3, None]))
        write_keras(path, source, config_json=config, metadata_json={"keras_version": told})
    check(path)


@fuzz(60)
@given(data=st.data(), suffix=st.sampled_from([".h5", ".keras"]))
def test_damaged_files(folder: Path, data: st.DataObject, suffix: str) -> None:
    good = small_file(suffix).read_bytes()
    path = folder / f"damaged{suffix}"
    path.write_bytes(data.draw(damaged(good, tender_places(good))))
    check(path)


@fuzz(40)
@given(data=st.data())
def test_damaged_weights_in_a_good_archive(folder: Path, data: st.DataObject) -> None:
    with zipfile.ZipFile(small_file(".keras")) as z:
        good = z.read("model.weights.h5")
    path = folder / "weights.keras"
    bad = data.draw(damaged(good, tender_places(good)))
    write_keras(path, small_file(".keras"), model_weights_h5=bad)
    check(path)


@fuzz(20)
@given(junk=st.binary(max_size=300))
def test_noise(folder: Path, junk: bytes) -> None:
    path = folder / "noise.h5"
    path.write_bytes(junk)
    check(path)


def test_a_good_file_passes_every_check(folder: Path) -> None:
    for suffix in (".h5", ".keras"):
        path = folder / f"good{suffix}"
        path.write_bytes(nested_file(suffix).read_bytes())
        assert check(path) == [""] * 5


# Crafted files


@pytest.mark.parametrize("what", KERNELS)
def test_a_kernel_that_is_no_kernel(folder: Path, what: str) -> None:
    path = folder / "kernel.h5"
    word = crafted_kernel(what, path, small_file(".h5"))
    for message in check(path):
        assert word is None or word in message


def test_forged_lengths(folder: Path) -> None:
    path = folder / "forged.h5"
    forged_text_length(path, small_file(".h5"))
    assert all("broken" in message for message in check(path))


def test_cycles(folder: Path) -> None:
    path = folder / "cyclic.h5"
    cyclic(path, small_file(".h5"))
    assert check(path)[0] == ""
    path = folder / "cyclic.keras"
    write_keras(path, small_file(".keras"), model_weights_h5=cyclic_store(small_file(".keras")))
    assert check(path)[0] == ""


@cache
def odd_configs() -> dict[str, tuple[Any, str | None]]:
    """What is in the config, and what the error must say; None where it may succeed."""
    small = many_layers(1)
    layer = small["config"]["layers"][0]
    return {
        "text": ('{"class_name": "Sequential", "config": "x"}', None),
        "brackets": ("[" * 100_000, "not JSON"),
        "deep lists": ('{"class_name": "a", "config": ' + "[" * 900 + "]" * 900 + "}", "nested"),
        "deep objects": ('{"a":' * 900 + "1" + "}" * 900, "no Keras model"),
        "empty lists": ('{"class_name": "a", "config": [' + "[]," * 1_100_000 + "1]}", "parts"),
        "long digits": ('{"class_name": "a", "config": ' + "9" * 5000 + "}", "not JSON"),
        "many layers": (many_layers(2000), None),
        "too many layers": (many_layers(110_000), "no real model"),
        "one name": (many_layers(2000, lambda i: "same"), None),
        "long names": (many_layers(20, lambda i: f"{i}" + "x" * 100_000), "no real"),
        "slashes": (many_layers(20, lambda i: f"{i}" + "/" * 5000), "no real"),
        "deep models": (nested_layers(40), None),
        "deeper models": (nested_layers(90), "nested"),
        "wide models": (nested_layers(13, 2), "no real"),
        "shared id": ({**small, "config": {"layers": [{**layer, "shared_object_id": [{}]}]}}, None),
        "shared with a list": (
            {
                "class_name": "Sequential",
                "config": {
                    "layers": [
                        {**layer, "shared_object_id": 1},
                        {**layer, "config": [], "shared_object_id": 1},
                        {"class_name": "Conv2D", "name": "conv1", "config": [3]},
                    ]
                },
            },
            None,
        ),
        "regularizer of text": (
            {
                "class_name": "Sequential",
                "config": {
                    "layers": [
                        {
                            "class_name": "Dense",
                            "config": {
                                "name": "classes",
                                "units": 10,
                                "trainable": True,
                                "kernel_regularizer": ours("x"),
                            },
                        }
                    ]
                },
            },
            None,
        ),
        "no name": (
            {"class_name": "Sequential", "config": {"layers": [{}, None, 3, [layer]]}},
            None,
        ),
        "surrogate": (many_layers(3, lambda i: "\ud800" * (i + 1)), None),
        "escapes": (many_layers(3, lambda i: f"\x1b[31m{i}\r\n\x00\u202e[/red]"), None),
    }


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("what", odd_configs())
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("version", ["3.9.0", "2.10.0"])
def test_odd_configs(folder: Path, what: str, suffix: str, version: str) -> None:
    config, word = odd_configs()[what]
    path = folder / f"odd{suffix}"
    if suffix == ".h5":
        write_h5(path, small_file(".h5"), config, version)
    else:
        metadata = {"keras_version": version}
        write_keras(path, small_file(".keras"), config_json=config, metadata_json=metadata)
    for message in check(path):
        assert word is None or word in message


# Memory: of a process of its own, which does nothing else.

MEMORY = """
import sys
from pathlib import Path
from tests.support.hostile import KERNELS, check, crafted_kernel, cyclic, forged_text_length
from tests.support.hostile import write_h5, write_keras
from tests.walls.test_hostile import odd_configs
h5, keras, folder = map(Path, sys.argv[1:])
path = folder / "m.h5"
for what in KERNELS:
    crafted_kernel(what, path, h5)
    check(path)
for make in (forged_text_length, cyclic):
    make(path, h5)
    check(path)
for config, _ in odd_configs().values():
    write_h5(path, h5, config, "3.9.0")
    check(path)
    write_keras(folder / "m.keras", keras, config_json=config)
    check(folder / "m.keras")
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_memory_stays_below_a_gigabyte(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, small_file(".h5"), small_file(".keras"), folder],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.splitlines()[-1]) < 1024


@pytest.mark.dear
@pytest.mark.parametrize("what", ["external link", "deflate bomb", "absurd shape", "1e200"])
def test_the_command_line_says_one_line(tmp_path: Path, run: Any, what: str) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    word = crafted_kernel(what, folder / "m.h5", small_file(".h5"))
    done = run("inspect", folder / "m.h5")
    assert done.returncode == (0 if word is None else 1)
    if word is not None:
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert word in done.stderr
    assert [p.name for p in folder.iterdir()] == ["m.h5"]
