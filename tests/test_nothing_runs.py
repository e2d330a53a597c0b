"""Nothing in a file is run, imported, unpickled or opened beside it: watched from within Python.

An audit hook sees every import, compilation, `exec`, unmarshalling, unpickling, process, socket and
file that Python opens. Each verb runs once on a good file first, so that what orthwrap itself
imports is there; on a stranger's file nothing more may happen.
"""

from __future__ import annotations

import base64
import json
import marshal
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.hostile import ours, write_h5
from tests.samples import small_file

WATCH = """
import json, os, sys, tempfile
import orthwrap
from orthwrap.render.terminal import console, render, render_compare

good, bad, evil, folder = sys.argv[1:5]
suffix = os.path.splitext(good)[1]
sys.path.insert(0, evil)

def run(path):
    out, plain = os.path.join(folder, "out" + suffix), os.path.join(folder, "plain" + suffix)
    said = []
    for call in (
        lambda: render(orthwrap.inspect(path), 80),
        lambda: render(orthwrap.apply(path, out, target="*", force=True).report, 80),
        lambda: render(orthwrap.strip(path, plain, force=True).report, 80),
        lambda: render_compare(orthwrap.compare(path, path), 80),
        lambda: render(orthwrap.upgrade(path, plain, force=True).report, 80),
    ):
        try:
            console(open(os.devnull, "w")).print(call())
            said.append("")
        except orthwrap.OrthwrapError as e:
            said.append(str(e))
    return said

run(good)
seen, watching = [], True
FORBIDDEN = (
    "marshal.", "pickle.", "exec", "compile", "import", "ctypes.", "socket.", "subprocess.",
    "os.system", "os.exec", "os.spawn", "os.fork", "os.posix_spawn", "urllib.", "shutil.unpack",
    "code.__new__", "function.__new__",
)
PLACES = tuple(os.path.realpath(p) for p in (bad, folder, tempfile.gettempdir() + "/orthwrap-"))

def hook(event, args):
    if not watching:
        return
    if event.startswith(FORBIDDEN):
        seen.append((event, repr(args)[:200]))
    elif event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(args[0]))
        if not path.startswith(PLACES) and path not in (os.devnull, f"/proc/{os.getpid()}/statm"):
            seen.append((event, path))
    elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.chmod"):
        if isinstance(args[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(args[0]))
            inside = os.path.isabs(os.fsdecode(args[0]))
            if inside and not path.startswith(PLACES):
                seen.append((event, path))

sys.addaudithook(hook)
said = run(bad)
watching = False
for name in ("keras", "tensorflow", "evil_module"):
    if name in sys.modules:
        seen.append(("imported", name))
print(json.dumps([said, seen]))
"""

EVIL = "import pathlib\npathlib.Path(__file__).with_name('executed').touch()\n"


class Evil:
    def __reduce__(self) -> Any:
        return (exec, (EVIL,))


def evil_config() -> dict[str, Any]:
    """Every way in which a config can ask for code."""
    code = marshal.dumps(compile(EVIL, "evil", "exec"))
    bytecode = base64.b64encode(code).decode()
    thing = {
        "module": "evil_module",
        "class_name": "Evil",
        "config": {},
        "registered_name": "evil_module>Evil",
    }
    function = {"class_name": "__lambda__", "config": {"code": bytecode, "defaults": None}}
    attached = {
        **ours({"factor": 0.1, "name": "evil_module:f", "regularizer": "evil_module:f"}),
        "class_name": "Attached",
        "registered_name": "orthwrap>Attached",
    }

    def layer(class_name: str, name: str, **config: Any) -> dict[str, Any]:
        return {
            "module": "evil_module",
            "class_name": class_name,
            "config": {"name": name, "trainable": True, **config},
            "registered_name": f"evil_module>{class_name}",
        }

    return {
        "class_name": "Sequential",
        "module": "keras",
        "config": {
            "name": "s",
            "layers": [
                layer("Lambda", "a", function=[bytecode, None, None], function_type="lambda"),
                layer("Lambda", "b", function=function, module="evil_module"),
                layer("Evil", "c", kernel_regularizer=thing, activation="evil_module>f"),
                layer("Dense", "classes", kernel_regularizer=attached, units=10),
                layer("Conv2D", "conv1", kernel_regularizer=thing, kernel_initializer=thing),
                layer("TFOpLambda", "d", function="os.system"),
                layer("TimeDistributed", "e", layer=layer("Evil", "f", dtype=thing)),
            ],
        },
        "compile_config": {"optimizer": thing, "loss": function, "metrics": [thing]},
    }


@pytest.mark.parametrize("version", ["3.9.0", "2.9.0"])
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_nothing_in_a_file_is_run(tmp_path: Path, suffix: str, version: str) -> None:
    evil, folder = tmp_path / "evil", tmp_path / "out"
    evil.mkdir()
    folder.mkdir()
    (evil / "evil_module.py").write_text(EVIL)
    bad = tmp_path / f"bad{suffix}"
    if suffix == ".h5":
        write_h5(bad, small_file(".h5"), evil_config(), version)
        with h5py.File(bad, "r+") as f:
            f.attrs["training_config"] = json.dumps(evil_config()["compile_config"])
    else:
        with zipfile.ZipFile(small_file(".keras")) as a, zipfile.ZipFile(bad, "w") as b:
            b.writestr("config.json", json.dumps(evil_config()))
            b.writestr("metadata.json", json.dumps({"keras_version": version}))
            b.writestr("model.weights.h5", a.read("model.weights.h5"))
            b.writestr("assets/vocabulary.pkl", pickle.dumps(Evil()))
    run = subprocess.run(
        [sys.executable, "-c", WATCH, small_file(suffix), bad, evil, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said, seen = json.loads(run.stdout)
    assert seen == []
    assert not (evil / "executed").exists()
    assert said[0] == "" or version == "2.9.0", said
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["evil", "out", bad.name])
    # The hook is awake: the same watcher sees an import.
    probe = WATCH.replace("said = run(bad)", "said = run(bad); import evil_module")
    run = subprocess.run(
        [sys.executable, "-c", probe, small_file(suffix), bad, evil, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "evil_module" in json.dumps(json.loads(run.stdout)[1])
