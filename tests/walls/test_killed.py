"""A run that is killed, at whatever moment, costs nothing: neither the input nor an old output.

`ORTHWRAP_KILLS=200` tries that many moments.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import orthwrap

KILLS = int(os.environ.get("ORTHWRAP_KILLS", "18"))
_SIDE = 1536
_LAYERS = 5  # of 9 MB each


def config(old: bool) -> dict[str, Any]:
    """A Sequential of Dense layers, written by an old Keras or a new one."""
    first = {"batch_input_shape" if old else "batch_shape": [None, _SIDE]}
    layers: list[dict[str, Any]] = [] if old else [{"class_name": "InputLayer", "config": first}]
    for i in range(_LAYERS):
        layer = {"name": f"d{i}", "trainable": True, "dtype": "float32", "units": _SIDE}
        layer |= {"activation": "relu", "use_bias": False, "kernel_regularizer": None}
        layers.append({"class_name": "Dense", "config": layer})
    if old:
        layers[0]["config"] |= first
    return {"class_name": "Sequential", "config": {"name": "large", "layers": layers}}


def write_h5(path: Path, old: bool) -> None:
    kernel = np.random.default_rng(0).normal(size=(_SIDE, _SIDE)).astype("float32")
    with h5py.File(path, "w") as f:
        f.attrs["model_config"] = json.dumps(config(old))
        f.attrs["keras_version"] = "2.4.0" if old else "3.9.0"
        f.attrs["backend"] = "tensorflow"
        weights = f.create_group("model_weights")
        weights.attrs["layer_names"] = [f"d{i}".encode() for i in range(_LAYERS)]
        for i in range(_LAYERS):
            group = weights.create_group(f"d{i}")
            group.attrs["weight_names"] = [b"kernel:0"]
            group["kernel:0"] = kernel


def write_keras(path: Path) -> None:
    kernel = np.random.default_rng(0).normal(size=(_SIDE, _SIDE)).astype("float32")
    weights = path.with_name("weights.h5")
    with h5py.File(weights, "w") as f:
        for i in range(_LAYERS):
            f[f"layers/dense{f'_{i}' if i else ''}/vars/0"] = kernel
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("config.json", json.dumps(config(False)))
        z.writestr("metadata.json", '{"keras_version": "3.9.0"}')
        z.write(weights, "model.weights.h5")
    weights.unlink()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("large")
    files = {name: folder / name for name in ("new.h5", "old.h5", "new.keras")}
    write_h5(files["new.h5"], old=False)
    write_h5(files["old.h5"], old=True)
    write_keras(files["new.keras"])
    return files


def digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# The system ends it, as SIGKILL would, when it has used so many seconds of CPU time.
RATIONED = """
import signal, sys
signal.signal(signal.SIGPROF, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_PROF, float(sys.argv.pop(1)))
from orthwrap_cli.main import main
main()
"""


def ran(source: Path, out: Path, scratch: Path, seconds: float = 0.0) -> tuple[int, bytes]:
    """The code that `apply` ends with, after so much CPU time at most, and what it said."""
    words = ["apply", source, "-o", out, "--force", "--quiet", "--no-measure"]
    done = subprocess.run(
        [sys.executable, "-c", RATIONED, str(seconds), *words],
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
        check=False,
    )
    return done.returncode, done.stderr


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("name", ["new.h5", "new.keras", "old.h5"])
def test_killed_at_random_moments(large: dict[str, Path], tmp_path: Path, name: str) -> None:
    source, seed = large[name], 0
    out = tmp_path / "out" / name
    scratch = tmp_path / "scratch"
    out.parent.mkdir()
    scratch.mkdir()
    before = digest(source)
    began = cpu_of_children()
    assert ran(source, out, scratch) == (0, b"")
    seconds = cpu_of_children() - began
    whole = digest(out)
    out.unlink()
    random_moments = random.Random(seed)
    finished = killed = leftovers = 0
    wanted = -(-KILLS // 3)
    while killed < wanted and finished < 4 * wanted:
        code, said = ran(source, out, scratch, random_moments.uniform(0.01, seconds))
        if code == -signal.SIGPROF:
            killed += 1
        else:
            assert (code, said) == (0, b"")
            finished += 1
        assert digest(source) == before
        left = sorted(p.name for p in (*out.parent.iterdir(), *scratch.iterdir()))
        if out.exists():
            assert digest(out) == whole
            out.unlink()
            left.remove(out.name)
        leftovers += bool(left)
        assert len(left) <= 2, left  # each run clears away what the one before it left
    assert killed
    print(f"{name}: {killed} killed, {finished} finished first, {leftovers} left something")
    assert ran(source, out, scratch) == (0, b"")
    assert digest(out) == whole
    assert [p.name for p in out.parent.iterdir()] == [name]
    assert list(scratch.iterdir()) == []


# It sends itself a signal while what it writes lies beside the old output.
SIGNALLED = """
import os, sys
number, event, source, out = int(sys.argv[1]), *sys.argv[2:]
watching = True

def hook(name, args):
    global watching
    if watching and name == event and ".tmp/" in str(args[0]):
        watching = False
        os.kill(os.getpid(), number)

sys.addaudithook(hook)
sys.argv[1:] = ["apply", source, "-o", out, "--force", "--quiet", "--no-measure"]
from orthwrap_cli.main import main
main()
"""


@pytest.mark.dear
@pytest.mark.parametrize("event", ["open", "os.chmod", "os.rename"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_interrupted_and_terminated(
    large: dict[str, Path], tmp_path: Path, number: int, code: int, event: str
) -> None:
    out = tmp_path / "out.h5"
    out.write_bytes(b"old")
    run = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number)), event, large["new.h5"], out],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert run.returncode == code, run.stderr
    assert b"Traceback" not in run.stderr
    assert out.read_bytes() == b"old"
    if number == signal.SIGINT:
        assert list(tmp_path.iterdir()) == [out]


# A crash inside the HDF5 library ends the process where it stands.

CRASH = """
import os, sys
from orthwrap.stores import hdf5
real, moment = hdf5.open_hdf5, sys.argv[1]
def crashing(source, mode="r"):
    file = real(source, mode)
    if mode == "r+":
        if moment == "writing":
            os.abort()
        if moment == "half-written":
            file.attrs["model_config"] = "half"
            file.flush()
            os.abort()
    elif moment == "reading":
        os.abort()
    return file
hdf5.open_hdf5 = crashing
import orthwrap
orthwrap.apply(sys.argv[2], sys.argv[3], force=True, measure=False)
"""


@pytest.mark.dear
@pytest.mark.parametrize("moment", ["reading", "writing", "half-written"])
def test_a_crash_within_hdf5(large: dict[str, Path], tmp_path: Path, moment: str) -> None:
    source, out = large["new.h5"], tmp_path / "out.h5"
    out.write_bytes(b"old")
    before = digest(source)
    run = subprocess.run(
        [sys.executable, "-c", CRASH, moment, source, out], capture_output=True, check=False
    )
    assert run.returncode == -signal.SIGABRT
    assert digest(source) == before
    assert out.read_bytes() == b"old"
    orthwrap.apply(source, out, force=True, measure=False)
    assert list(tmp_path.iterdir()) == [out]
    assert len(orthwrap.inspect(out, measure=False).layers) == _LAYERS


# The write made slow: the writer says where it is, and waits to be ended there.

SLOW = """
import os, sys
from orthwrap.stores import replacing

moment, say = sys.argv.pop(1), int(sys.argv.pop(1))

def waiting():
    os.write(say, b"here")
    while True:
        os.read(0, 1)  # of a pipe that nobody writes to

def whole(path):
    waiting()

def half(source, target, *rest):
    if hasattr(source, "read"):
        target.write(source.read(1000))
        target.flush() if hasattr(target, "flush") else None
    else:
        with open(source, "rb") as a, open(target, "wb") as b:
            b.write(a.read(1000))
    waiting()

if moment == "whole":
    replacing._to_disk = whole
else:
    import shutil
    shutil.copyfile = shutil.copyfileobj = half
from orthwrap_cli.main import main
main()
"""


def in_mid_write(folder: Path, moment: str, words: list[str], number: int) -> tuple[int, bytes]:
    """How a command ends that is sent a signal while it writes, and what it says."""
    reading, writing = os.pipe()
    run = subprocess.Popen(
        [sys.executable, "-c", SLOW, moment, str(writing), *words],
        cwd=folder,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[writing],
        env={**os.environ, "TMPDIR": str(folder / "scratch")},
    )
    os.close(writing)
    assert os.read(reading, 4) == b"here", run.communicate()
    os.close(reading)
    run.send_signal(number)
    run.wait()
    assert run.stdin is not None
    assert run.stderr is not None
    run.stdin.close()
    with run.stderr as said:
        return run.returncode, said.read()


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """A folder with small models, an output of an earlier run, and a temporary folder."""
    from tests.support.samples import small_file

    for suffix in (".h5", ".keras"):
        (tmp_path / f"m{suffix}").write_bytes(small_file(suffix).read_bytes())
        (tmp_path / f"out{suffix}").write_bytes(b"old")
    (tmp_path / "old.h5").write_bytes(small_file(".h5").read_bytes())
    with h5py.File(tmp_path / "old.h5", "r+") as f:
        f.attrs["keras_version"] = "2.4.0"
    (tmp_path / "r.json").write_text("")
    (tmp_path / "scratch").mkdir()
    return tmp_path


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment", "words"),
    [
        (signal.SIGINT, "half", "apply m.h5 -o out.h5 --force"),
        (signal.SIGTERM, "half", "apply m.h5 -o out.h5 --force"),
        (signal.SIGINT, "whole", "apply m.h5 -o out.h5 --force"),
        (signal.SIGINT, "half", "apply m.keras -o out.keras --force"),
        (signal.SIGINT, "whole", "strip m.keras -o out.keras --force"),
        (signal.SIGTERM, "whole", "strip m.keras -o out.keras --force"),
        (signal.SIGINT, "half", "upgrade m.h5 -o out.h5 --force"),
        (signal.SIGINT, "half", "apply old.h5 -o out.h5 --force"),  # in the temporary folder
        (signal.SIGTERM, "half", "apply old.h5 -o out.h5 --force"),
        (signal.SIGINT, "whole", "inspect m.h5 --json r.json"),
        (signal.SIGTERM, "whole", "inspect m.h5 --json r.json"),
    ],
)
def test_a_signal_in_mid_write(waiting: Path, number: int, moment: str, words: str) -> None:
    before = bytes_of(waiting)
    outcome = in_mid_write(waiting, moment, words.split(), number)
    assert bytes_of(waiting) == before
    folders = sorted(
        p.name for p in (*waiting.iterdir(), *(waiting / "scratch").iterdir()) if p.is_dir()
    )
    if number == signal.SIGINT:
        assert outcome == (130, b"interrupted: nothing was written\n")
        assert folders == ["scratch"]
    else:
        assert outcome == (-number, b"")
        assert len(folders) == 2  # which the next run removes:
    again = subprocess.run(
        [sys.executable, "-m", "orthwrap", *words.split(), "-q"],
        cwd=waiting,
        env={**os.environ, "TMPDIR": str(waiting / "scratch")},
        check=False,
    )
    assert again.returncode == 0
    assert [p.name for p in waiting.iterdir() if p.is_dir()] == ["scratch"]
    assert list((waiting / "scratch").iterdir()) == []
