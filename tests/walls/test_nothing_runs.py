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

from tests.support.hostile import ours, write_h5
from tests.support.samples import small_file
from tests.support.saved_models import dense, kernels, node, sequential, write

WATCH = """
import json, os, sys, tempfile
import orthwrap
from orthwrap.report.terminal import console, render, render_compare

good, bad, evil, folder = sys.argv[1:5]
suffix = os.path.splitext(good)[1] or ".keras"
bads = bad.split(os.pathsep)
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
PLACES = tuple(os.path.realpath(p) for p in (*bads, folder, tempfile.gettempdir() + "/orthwrap-"))

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
said = [line for each in bads for line in run(each)]
watching = False
for name in ("keras", "tensorflow", "tf_keras", "evil_module"):
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


def watched(code: str, *words: Any) -> tuple[list[Any], list[Any]]:
    """What another Python said while it did `code`, and what the hook saw of it."""
    run = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    said, seen = json.loads(run.stdout)
    return said, seen


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
    said, seen = watched(WATCH, small_file(suffix), bad, evil, folder)
    assert seen == []
    assert not (evil / "executed").exists()
    assert said[0] == "" or version == "2.9.0", said
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["evil", "out", bad.name])
    # The hook is awake: the same watcher sees an import.
    probe = WATCH.replace("watching = False", "import evil_module; watching = False", 1)
    _, seen = watched(probe, small_file(suffix), bad, evil, folder)
    assert "evil_module" in json.dumps(seen)


def evil_layers(mark: Path, tree: Path) -> dict[str, tuple[Any, dict[str, Any], str]]:
    """Every way in which a SavedModel's config can ask for code: config, arrays, what is said."""
    bytecode = base64.b64encode(marshal.dumps(compile(EVIL, "evil", "exec"))).decode()
    thing = {"module": "evil_module", "class_name": "Evil", "config": {"name": "e"}}
    named = {**thing, "registered_name": "evil_module>Evil", "shared_object_id": 1}
    code = {"class_name": "__lambda__", "config": {"code": bytecode, "defaults": None}}
    function = {"class_name": "function", "config": "system", "module": "os"}
    tensor = {"class_name": "__tensor__", "config": {"value": [1.0], "dtype": thing}}
    attached = {
        **ours({"factor": 0.1, "name": "evil_module:f", "regularizer": "evil_module:f"}),
        "class_name": "Attached",
        "registered_name": "orthwrap>Attached",
    }
    last = {f"layer-1/{name.partition('/')[2]}": a for name, a in kernels((4, 3)).items()}
    inner = {f"layer-0/layer/{name.partition('/')[2]}": a for name, a in kernels((4, 4)).items()}
    as_tuple = {"class_name": "__tuple__", "items": [bytecode, None, None]}

    def beside(*layers: Any, said: str = "", **arrays: Any) -> tuple[Any, dict[str, Any], str]:
        """Before a Dense layer, which has a kernel to attach to."""
        return sequential(*layers, dense("last")), {**last, **arrays}, said

    def layer(class_name: str, **config: Any) -> tuple[Any, dict[str, Any], str]:
        return beside(node(class_name, "x", **config))

    def fields(*values: Any) -> tuple[Any, dict[str, Any], str]:
        """One of the values in every field of a Dense layer that may hold an object."""
        names = [
            *("kernel_initializer", "bias_regularizer", "kernel_constraint", "activation"),
            *("activity_regularizer", "dtype"),
        ]
        layers = [dense(f"d{i}", 4, **dict.fromkeys(names, v)) for i, v in enumerate(values)]
        layers = [n | {"module": "keras.layers", "registered_name": None} for n in layers]
        return sequential(*layers), kernels(*[(4, 4)] * len(values)), ""

    def call(class_name: str, *inputs: Any, **config: Any) -> tuple[Any, dict[str, Any], str]:
        first = sequential()["config"]["layers"][0]
        first |= {"name": "input", "inbound_nodes": []}
        op = {**node(class_name, "x", **config), "name": "x", "inbound_nodes": list(inputs)}
        graph = {"name": "f", "layers": [first, op], "output_layers": [["x", 0, 0]]}
        graph["input_layers"] = [["input", 0, 0]]
        return {"class_name": "Functional", "config": graph}, {}, "x"

    def operation(name: str, path: Path) -> tuple[Any, dict[str, Any], str]:
        inputs = ["_CONSTANT_VALUE", -1, str(path), {"contents": "x"}]
        config, arrays, _ = call("TFOpLambda", inputs, function=name)
        return config, arrays, name

    root = sequential(dense("x"))
    one = kernels((4, 3))
    definition = {"name": "x", "op": "WriteFile", "input": ["input", "x/contents"]}
    config, arrays, _ = call(
        "TensorFlowOpLayer",
        [["input", 0, 0, {}]],
        node_def=definition,
        constants={"1": str(mark)},
    )
    graph_node = (config, arrays, "WriteFile")
    return {
        "lambda": layer("Lambda", function=as_tuple, function_type="lambda", module="evil_module"),
        "bytecode": layer("Lambda", function=bytecode, function_type="lambda"),
        "raw": layer("Lambda", function=code, output_shape=code, arguments=thing),
        "function": layer("Lambda", function="evil_module.f", module="evil_module"),
        "custom": beside({**named, "config": {"name": "x", "trainable": True}}),
        "registered": layer("evil_module>Evil", value=thing),
        "size": beside(node("Embedding", "x", input_dim=thing, output_dim=2), said="size"),
        "things": fields(thing, named, code, function, attached, tensor, "evil_module.f"),
        "argument": beside(dense("x", 4, anything=thing), said="disagree"),
        "wrapped": beside(node("TimeDistributed", "x", layer=thing), said="no 'layer'"),
        "around": beside(node("TimeDistributed", "x", layer=dense("d", 4), dtype=thing), **inner),
        "root": ({**root, **{k: v for k, v in named.items() if k != "config"}}, one, ""),
        "write_file": operation("io.write_file", mark),
        "rmtree": operation("io.gfile.rmtree", tree),
        "load_op_library": operation("load_op_library", mark),
        "dunder": operation("__class__.__base__", mark),
        "python": operation("python.platform.gfile.DeleteRecursively", tree),
        "slicing": call("SlicingOpLambda", ["input", 0, 0, {"slice_spec": thing}], function=thing),
        "graph": graph_node,
        "class method": call("ClassMethod", ["input", 0, 0, {}], cls_ref="os", function="system"),
    }


@pytest.mark.slow
def test_nothing_in_a_saved_model_is_run(tmp_path: Path) -> None:
    evil, folder, tree = tmp_path / "evil", tmp_path / "out", tmp_path / "tree"
    for place in (evil, folder, tree):
        place.mkdir()
    (evil / "evil_module.py").write_text(EVIL)
    (tree / "kept").touch()
    good = write(tmp_path / "good", sequential(dense("x")), kernels((4, 3)))
    cases = evil_layers(evil / "executed", tree)
    bads = []
    for name, (config, arrays, _) in cases.items():
        layers = config["config"]["layers"]
        first = int("input_layers" not in config["config"])
        objects = [f"layer-{i}" for i in range(len(layers) - first)]
        training = {"optimizer_config": config, "loss": "evil_module.f", "metrics": [config]}
        place = tmp_path / f"bad {name}"
        bads.append(write(place, config, arrays, objects, training_config=training))
    there = sorted(path.name for path in tmp_path.iterdir())
    said, seen = watched(WATCH, good, ":".join(map(str, bads)), evil, folder)
    assert seen == []
    assert sorted(path.name for path in tmp_path.iterdir()) == there
    assert [path.name for path in tree.iterdir()] == ["kept"]
    assert sorted(path.name for path in evil.iterdir()) == ["evil_module.py"]
    assert len(said) == 5 * len(cases)
    for index, (name, (_, _, expected)) in enumerate(cases.items()):
        inspected = said[5 * index]
        assert "\n" not in inspected, name
        assert expected in inspected, (name, inspected)
        assert bool(expected) == bool(inspected), (name, inspected)
