"""Checkpoints are data from outside: what is broken in one is said, and nothing is lost."""

from __future__ import annotations

import copy
import io
import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import orthwrap
from orthwrap.stores import replacing
from orthwrap.training.loop import checkpoint_file
from orthwrap.training.loop.checkpoints import CheckpointFolder, State
from tests.support.hostile import places
from tests.support.models import dense
from tests.support.run_helpers import classes

STATE = State(
    2,
    3,
    7,
    {"model": "m", "samples": None, "rho": [1.0, "kernel"]},
    {"loss": [1.0, float("nan")], "val_loss": [2.0]},
    [{"factor": 0.1, "seed": 5, "count": 9}, {"factor": 0.0}],
    (1, 0.25),
)
ARRAYS = {
    "model": [np.arange(6, dtype="float32").reshape(2, 3), np.asarray(3, "int64")],
    "optimizer": [np.zeros((0, 4), "float16"), np.asfortranarray(np.ones((2, 3)))],
    "metrics": [np.asarray([True, False])],
}
LAST, BEST = "checkpoint-00000001.npz", "best-00000001.npz"

JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 2**31, 2**32, 2**70, 0.5, -0.5, float("nan"), float("inf"), 1e308),
    *("", "x", "../../../x", "1", "object", "float64", "\x1b[31m\n", "\ud800"),
    *([], {}, [[]], ["../../../x", 1], [1, "x"], [2**40, 1.0], [1, 2, 3], {"factor": -1.0}),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the checkpoint of a run whose first epoch was the best."""
    path = tmp_path / "c"
    with CheckpointFolder(path) as made:
        made.open(resume=False)
        made.write(STATE, ARRAYS, ARRAYS)
    assert sorted(p.name for p in path.iterdir()) == [BEST, LAST]
    return path


def members_of(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as z:
        return {name: z.read(name) for name in z.namelist()}


def write_members(file: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", method) as z:
        for name, content in members.items():
            z.writestr(name, content)


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def about_of(file: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(str(np.load(io.BytesIO(members_of(file)["about.npy"]))))
    return about


def with_about(file: Path, about: Any) -> None:
    members = members_of(file)
    members["about.npy"] = npy(np.array(about if isinstance(about, str) else json.dumps(about)))
    write_members(file, members)


def tampered(about: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each value in the text, taken out, and replaced by everything that it should not be."""
    for path in places(about):
        for junk in ("(removed)", *JUNK):
            changed = copy.deepcopy(about)
            holder: Any = changed
            for key in path[:-1]:
                holder = holder[key]
            if junk == "(removed)":
                del holder[path[-1]]
            else:
                holder[path[-1]] = junk
            yield f"{path} = {junk!r}", changed
    for key in ("unknown", "__class__", "path"):
        yield f"with {key}", {**about, "state": {**about["state"], key: 1}}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def read_all(folder: Path) -> State:
    """All that `--resume` reads."""
    with CheckpointFolder(folder) as opened:
        state = opened.open(resume=True)
        assert state is not None
        opened.read()
        if state.best is not None:
            opened.read_best(state.best[0])
        return state


def gone_on_with(folder: Path) -> State | None:
    """None where it was refused, in one line that names the folder and what is wrong."""
    try:
        return read_all(folder)
    except orthwrap.FileFault as e:
        said = str(e)
        assert "\n" not in said
        assert "\x1b" not in said
        assert str(folder) in said
        assert "Error" not in said
        return None


@pytest.mark.slow
def test_every_field_of_the_text_is_held_against_what_it_can_be(folder: Path) -> None:
    outside = folder.parent / "x.npz"
    outside.write_text("precious")
    about, count, sound = about_of(folder / LAST), 0, []
    for said, changed in tampered(about):
        with_about(folder / LAST, changed)
        before = contents(folder.parent)
        state = gone_on_with(folder)
        assert contents(folder.parent) == before, said
        count += 1
        if state is not None:
            sound.append(said)
            assert 0 <= state.step < 2**32, said
            assert state.best is None or 1 <= state.best[0] <= state.epoch, said
            assert all(r["factor"] >= 0 for r in state.regularizers), said
    assert count > 500
    # What is left is another value that a run may have; `run` itself is held against the run.
    assert all(said.startswith("('state', '") or said == "('types',) = {}" for said in sound)
    assert not [said for said in sound if "../" in said and "'run'" not in said]
    assert len(sound) < count / 2


@pytest.mark.parametrize(
    "field", ["epoch", "step", "seed", "run", "history", "regularizers", "best"]
)
def test_missing_field_is_named(folder: Path, field: str) -> None:
    about = about_of(folder / LAST)
    del about["state"][field]
    with_about(folder / LAST, about)
    with pytest.raises(orthwrap.FileFault, match=f"its state lacks '{field}'"):
        CheckpointFolder(folder).open(resume=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 1_000_001, "more than 1000000 parts"),
        ("[]", "its format is 'list'"),
        ('{"format": "orthwrap.checkpoint/1", "state": {}, "types": {}}', "tells nothing"),
        ('{"format": "orthwrap.checkpoint/1", "types": {}}', "its state is None"),
        ('{"format": "orthwrap.checkpoint/1", "state": {}}', "its types are None"),
        ('{"format": ' + "9" * 5000 + "}", "digits"),
    ],
)
def test_text_that_is_none(folder: Path, text: str, said: str) -> None:
    with_about(folder / LAST, text)
    with pytest.raises(orthwrap.FileFault, match=said) as caught:
        CheckpointFolder(folder).open(resume=True)
    assert "\n" not in str(caught.value)


# The arrays


def declared(shape: Any, descr: str = "<f4", content: bytes = b"\0" * 24) -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


MEMBERS: dict[str, tuple[str, bytes | None, str]] = {
    "no text": ("about", None, "it lacks 'about'"),
    "text of many": ("about", npy(np.array(["a", "b"])), "has the shape"),
    "text of bytes": ("about", npy(np.array(b"{}")), "has the type"),
    "a pickled text": ("about", npy(np.array({"a": 1}, object)), "has the type object"),
    "an array less": ("model.0", None, "lacks arrays of 'model'"),
    "a pickled array": ("model.0", npy(np.array([print], object)), "has the type object"),
    "strings": ("model.0", npy(np.array(["a"])), "has the type"),
    "records": ("model.0", npy(np.zeros(2, "f4,i4")), "has the type"),
    "times": ("model.0", npy(np.zeros(2, "M8[s]")), "has the type"),
    "no array": ("model.0", b"abc", "cannot be read"),
    "nothing": ("model.0", b"", "cannot be read"),
    "a terabyte": ("model.0", declared((10**12,)), "declares 4000000000000 bytes and holds 24"),
    "beyond all": ("model.0", declared((2**62, 2**62)), "and holds 24"),
    "too little": ("model.0", declared((2, 4)), "declares 32 bytes and holds 24"),
    "too much": ("model.0", declared((2, 2)), "declares 16 bytes and holds 24"),
    "negative": ("model.0", declared((-2, -3)), "declares 24 bytes and holds 24"),
    "a shape of words": ("model.0", declared(("a",)), "cannot be read"),
    "a program for a header": ("model.0", declared("__import__('os')"), "cannot be read"),
    "an unknown part": ("evil.0", npy(np.zeros(1)), "holds 'evil.0', which is no part"),
    "a path": ("../../evil", npy(np.zeros(1)), "which is no part"),
    "a large number": ("model.99999999999", npy(np.zeros(1)), "which is no part"),
    "a gap": ("model.7", npy(np.zeros(1)), "lacks arrays of 'model'"),
    "a number with zeros": ("model.01", npy(np.zeros(1)), "which is no part"),
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_each_array_is_held_against_the_file(folder: Path, kind: str) -> None:
    name, content, said = MEMBERS[kind]
    members = members_of(folder / LAST)
    members.pop(f"{name}.npy", None)
    if content is not None:
        members[f"{name}.npy"] = content
    write_members(folder / LAST, members)
    before = contents(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(orthwrap.FileFault, match=said) as caught:
        read_all(folder)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000  # KB
    assert contents(folder) == before


def test_compressed_and_repeated_members_are_none_of_ours(folder: Path) -> None:
    members = members_of(folder / LAST)
    write_members(folder / LAST, {**members, "model.0.npy": b"\0" * 10**7}, zipfile.ZIP_DEFLATED)
    with pytest.raises(orthwrap.FileFault, match="is compressed"):
        CheckpointFolder(folder).open(resume=True)
    write_members(folder / LAST, {**members, "about": members["about.npy"]})
    with pytest.raises(orthwrap.FileFault, match="holds 'about' twice"):
        CheckpointFolder(folder).open(resume=True)


@pytest.mark.parametrize("kind", ["object", "O", "float64", "evil", "bfloat16"])
def test_types_are_a_few_names(folder: Path, kind: str) -> None:
    about = about_of(folder / LAST)
    about["types"] = {"model.0": kind}
    with_about(folder / LAST, about)
    assert gone_on_with(folder) is None


def test_any_broken_byte_is_one_line_or_none(folder: Path) -> None:
    rng = np.random.default_rng(0)
    good = (folder / LAST).read_bytes()
    for _ in range(300):
        broken = bytearray(good)
        for at in rng.integers(0, len(good), rng.integers(1, 4)):
            broken[at] = rng.integers(0, 256)
        (folder / LAST).write_bytes(broken[: rng.choice([len(good), rng.integers(len(good))])])
        before = contents(folder)
        gone_on_with(folder)
        assert contents(folder) == before


# What is in the folder


def test_what_is_no_file_is_not_opened(folder: Path) -> None:
    (folder / LAST).unlink()
    os.mkfifo(folder / LAST)
    with pytest.raises(orthwrap.FileFault, match="it is no regular file"):
        CheckpointFolder(folder).open(resume=True)  # and does not wait for somebody to write to it
    (folder / LAST).unlink()
    (folder / LAST).mkdir()
    with pytest.raises(orthwrap.FileFault, match="it is no regular file"):
        CheckpointFolder(folder).open(resume=True)


def test_nothing_but_our_own_files_is_written_or_removed(folder: Path) -> None:
    precious = folder.parent / "precious.npz"
    mine = ["best-model.npz", "best-1.npz", "checkpoint-1.npz", "checkpoint-١٢٣٤٥٦٧٨.npz", "a.npz"]
    for path in (precious, *(folder / name for name in mine)):
        path.write_text("mine")
    (folder / "best-00000002.npz").symlink_to(precious)
    with CheckpointFolder(folder) as opened:
        opened.open(resume=True)
        opened.write(State(2, 0, 7, {}, best=(2, 0.5)), ARRAYS, ARRAYS)
        opened.read_best(2)
    assert {p.read_text() for p in (precious, *(folder / name for name in mine))} == {"mine"}
    names = {p.name for p in folder.iterdir()}
    assert names - set(mine) == {"checkpoint-00000002.npz", "best-00000002.npz"}


def test_numbers_do_not_run_out(folder: Path) -> None:
    (folder / LAST).rename(folder / "checkpoint-99999999.npz")
    for count in range(2):
        with CheckpointFolder(folder) as opened:
            assert opened.open(resume=True) is not None
            opened.write(STATE, ARRAYS)
            opened.read()
        assert (folder / f"checkpoint-{100_000_000 + count}.npz").exists()


@pytest.mark.parametrize(
    "change",
    [{"epoch": -1}, {"epoch": 2**40}, {"step": -1}, {"best": (0, 1.0)}, {"best": (3, 1.0)}],
)
def test_state_out_of_range_replaces_nothing(folder: Path, change: dict[str, Any]) -> None:
    before = contents(folder)
    with CheckpointFolder(folder) as opened:
        opened.open(resume=True)
        with pytest.raises(orthwrap.FileFault, match="could not be read again"):
            opened.write(State(**{**vars(STATE), **change}), ARRAYS)
    assert contents(folder) == before


# One run at a time


def test_second_run_is_kept_out(folder: Path) -> None:
    with CheckpointFolder(folder) as first:
        first.open(resume=True)
        assert first.is_locked
        for resume in (True, False):
            with pytest.raises(orthwrap.FileFault, match="another run is writing") as caught:
                CheckpointFolder(folder).open(resume=resume)
            assert "\n" not in str(caught.value)
        first.write(STATE, ARRAYS)
    # A run that is refused lets go as well.
    with pytest.raises(orthwrap.FileFault, match="--resume"):
        CheckpointFolder(folder).open(resume=False)
    link = folder.parent / "link"
    link.symlink_to(folder)
    with CheckpointFolder(link) as second:
        second.open(resume=True)
        with pytest.raises(orthwrap.FileFault, match="another run is writing"):
            CheckpointFolder(folder).open(resume=True)


HOLD = """
import sys
from pathlib import Path
from orthwrap.training.loop.checkpoints import CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]))
folder.open(resume=True)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_lock_dies_with_its_process(folder: Path, number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(orthwrap.FileFault, match="another run is writing"):
            CheckpointFolder(folder).open(resume=True)
        process.send_signal(number)
        process.wait()
    assert gone_on_with(folder) is not None


def test_where_there_are_no_locks_it_goes_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "fcntl", None)
    with CheckpointFolder(folder) as first, CheckpointFolder(folder) as second:
        for opened in (first, second):
            assert opened.open(resume=True) is not None
            assert not opened.is_locked


# A whole run


def train(folder: Path, **words: Any) -> Any:
    words = {"epochs": 2, "batch_size": 20, "seed": 1, "measure": False, **words}
    words["validation_split"] = 0.5
    return orthwrap.apply(dense(), data=classes(40), checkpoint_dir=folder, **words)


def change_arrays(**arrays: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    def change(members: dict[str, bytes], about: dict[str, Any]) -> None:
        for name, value in arrays.items():
            key = f"{name.replace('_', '.')}.npy"
            if value is None:
                del members[key]
            else:
                members[key] = npy(value)

    return change


def change_state(**fields: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    return lambda members, about: about["state"].update(fields)


RUNS: dict[str, tuple[Callable[[dict[str, bytes], dict[str, Any]], None], str]] = {
    "shape": (change_arrays(model_0=np.zeros((9, 6), "float32")), "are not those of this model"),
    "type": (change_arrays(model_0=np.zeros((6, 9), "float64")), "are not those of this model"),
    "one more": (change_arrays(model_4=np.zeros(3, "float32")), "are not those of this model"),
    "one less": (change_arrays(model_3=None), "are not those of this model"),
    "no optimizer": (
        lambda m, a: [m.pop(k) for k in list(m) if k.startswith("optimizer")] and None,
        "are not those of this model",
    ),
    "fewer regularizers": (change_state(regularizers=[]), "are not those of this model"),
    "other regularizers": (
        change_state(regularizers=[{"factor": 0.1}] * 2),
        "are not those of this model",
    ),
    "a step beyond": (change_state(step=7), "is of step 7 of an epoch, which has 1"),
    "another seed": (change_state(run={}), "a run with model None"),
    "best elsewhere": (change_state(best=["../../../x", 1]), r"its best is \['../../../x', 1\]"),
    "best that is not there": (change_state(epoch=5, best=[4, 0.5]), "it is missing"),
    "epoch out of range": (change_state(epoch=10**12), "its epoch is 1000000000000"),
}


@pytest.mark.dear
@pytest.mark.slow
def test_run_refuses_what_does_not_fit_it_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    train(folder, epochs=1)
    (file,) = folder.glob("checkpoint-*.npz")
    members, about = members_of(file), about_of(file)
    for kind, (change, said) in RUNS.items():
        changed, told = dict(members), copy.deepcopy(about)
        change(changed, told)
        changed["about.npy"] = npy(np.array(json.dumps(told)))
        write_members(file, changed)
        before = contents(folder)
        with pytest.raises(orthwrap.OrthwrapError, match=said) as caught:
            train(folder, resume=True)
        assert "\n" not in str(caught.value), kind
        assert contents(folder) == before, kind
    write_members(file, members)
    with CheckpointFolder(folder) as other:
        other.open(resume=True)
        with pytest.raises(orthwrap.FileFault, match="another run is writing"):
            train(folder, resume=True)
    assert train(folder, resume=True).report.training.epochs == 2
    assert checkpoint_file.read(next(folder.glob("checkpoint-*.npz")), with_arrays=True)[0]
