"""What a file needs from others: its own classes, named by the user, and the code it keeps."""

from __future__ import annotations

import base64
import json
import marshal
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from orthwrap.errors import FileFault, ValueFault
from orthwrap.model_config.needs import code_in, unknown
from orthwrap.rules.custom_objects import custom_objects_of
from tests.support import saved_models
from tests.support.hostile import write_h5
from tests.support.samples import small_file

SUFFIXES = (".h5", ".keras")
OTHER = {".h5": ".keras", ".keras": ".h5"}

OWN = """
import keras
from keras import layers, ops
from keras.layers import Dense
from os.path import join

class Doubled(layers.Dense):
    def call(self, x):
        return 2 * super().call(x)

@keras.saving.register_keras_serializable("mine")
class Tripled(layers.Dense):
    def call(self, x):
        return 3 * super().call(x)

class Unrelated:
    pass

class _Hidden(layers.Dense):
    pass

def bent(x):
    return ops.tanh(x)

limit = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A user's module, `owncode`; forgotten by Python and Keras when the test ends."""
    (tmp_path / "owncode.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    import owncode  # type: ignore[import-not-found]  # written above

    yield owncode
    forget()


def forget() -> None:
    sys.modules.pop("owncode", None)
    known = keras.saving.get_custom_objects()
    for name in [n for n in known if n.startswith("mine>")]:
        del known[name]


def saved(model: Any, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is a legacy format; a lambda is unsafe
        model.save(path)
    return path


def own_model(own: ModuleType) -> Any:
    inner = keras.Sequential(
        [
            layers.Input((6,)),
            own.Doubled(6, name="own"),
            layers.Dense(6, activation=own.bent, name="bends"),
        ],
        name="inner",
    )
    return keras.Sequential(
        [
            layers.Input((6,)),
            inner,
            own.Tripled(6, name="third"),
            own.Doubled(5, name="last"),
            layers.Dense(3, name="head"),
        ]
    )


def output_of(model: Any) -> Any:
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    return np.asarray(model.predict(x, verbose=0))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_unknown_class_is_listed_with_its_layers(
    own: ModuleType, tmp_path: Path, suffix: str
) -> None:
    source, out = saved(own_model(own), tmp_path / f"m{suffix}"), tmp_path / f"o{OTHER[suffix]}"
    forget()
    with pytest.raises(FileFault) as caught:
        orthwrap.apply(source, out)
    assert str(caught.value) == (
        f"Keras cannot load {source}: it needs 'Doubled' (in inner/own, last); 'bent' (in "
        "inner/bends); 'mine>Tripled' (in third), which are not known here: give "
        "--custom-objects package.module:Name (custom_objects= in Python)"
    )
    assert not out.exists()


@pytest.mark.dear
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "given",
    [
        "owncode",
        ["owncode:Doubled", "owncode:bent", "owncode:Tripled"],
        ("owncode",),
        {"Doubled": "Doubled", "bent": "bent", "Tripled": "Tripled"},
    ],
    ids=["module", "names", "tuple", "mapping without packages"],
)
def test_custom_objects_let_keras_load(
    own: ModuleType, tmp_path: Path, suffix: str, given: Any
) -> None:
    model = own_model(own)
    source, out = saved(model, tmp_path / f"m{suffix}"), tmp_path / f"o{OTHER[suffix]}"
    if isinstance(given, dict):
        given = {name: getattr(own, value) for name, value in given.items()}
    forget()
    result = orthwrap.apply(source, out, custom_objects=given)
    np.testing.assert_allclose(output_of(result.model), output_of(model), atol=1e-6)
    loaded = orthwrap.load_model(out, given)
    assert [type(layer).__name__ for layer in loaded.layers][1:3] == ["Tripled", "Doubled"]
    plain = tmp_path / f"plain{suffix}"
    assert orthwrap.strip(out, plain, custom_objects=given).output == plain
    assert orthwrap.upgrade(plain, tmp_path / f"u{OTHER[suffix]}", custom_objects=given).output


def test_an_unknown_loss_is_named(own: ModuleType, tmp_path: Path) -> None:
    model = keras.Sequential([layers.Input((6,)), layers.Dense(3)])
    model.compile("adam", own.bent)
    source = saved(model, tmp_path / "m.h5")
    with pytest.raises(FileFault, match=r"needs 'bent' \(in \(the training configuration\)\)"):
        orthwrap.load_model(source)
    assert orthwrap.load_model(source, "owncode").compiled
    assert orthwrap.load_model(source, compile=False) is not None


@pytest.mark.dear
@pytest.mark.slow
def test_the_command_line_looks_in_the_current_folder(own: ModuleType, tmp_path, run) -> None:
    saved(own_model(own), tmp_path / "m.h5")
    words = ("apply", "m.h5", "-o", "o.keras", "-q")
    done = run(*words)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "'mine>Tripled' (in third)" in done.stderr
    done = run(*words, "--custom-objects", "owncode:Doubled", "--custom-objects", "owncode")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "o.keras").exists()


def test_what_a_module_gives(own: ModuleType) -> None:
    assert custom_objects_of("owncode") == {
        "Doubled": own.Doubled,
        "Tripled": own.Tripled,
        "mine>Tripled": own.Tripled,
        "bent": own.bent,
    }
    assert custom_objects_of(["owncode:_Hidden"]) == {"_Hidden": own._Hidden}
    assert custom_objects_of(None) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("owncod", "No module named 'owncod'; nearest: owncode"),
        ("owncode:Doubld", "no class or function 'Doubld' .*; nearest: Doubled"),
        ("owncode:limit", "'limit' of module 'owncode' is no class or function but of type int"),
        ("os.pth", "No module named 'os.pth'"),
        ("keras.layer", "No module named 'keras.layer'; nearest: keras.layers"),
        ("errno", "defines no class with a get_config and no function"),
        ("", "Empty module name"),
        ("faulty", "cannot import 'faulty' .*: broken"),
        ([3], "must be named package.module:Name"),
        (3, "must map names"),
        (layers.Dense, "must map names"),
    ],
)
def test_what_leads_nowhere(own: ModuleType, tmp_path: Path, given: Any, words: str) -> None:
    (tmp_path / "faulty.py").write_text("raise RuntimeError('broken\\nin two')")
    with pytest.raises(ValueFault, match=words) as caught:
        orthwrap.apply(small_file(".h5"), tmp_path / "o.h5", custom_objects=given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.h5").exists()


@pytest.mark.parametrize(("suffix", "name"), [(".h5", "saved"), (".keras", "m.h5")])
def test_load_model_goes_by_what_is_in_the_file(tmp_path: Path, suffix: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(small_file(suffix).read_bytes())
    assert orthwrap.load_model(path).count_params() == orthwrap.inspect(path).model.parameters


# Code that the file keeps


def with_lambda() -> Any:
    inner = keras.Sequential(
        [layers.Input((6,)), layers.Lambda(lambda x: 2 * x, name="twice")], name="inner"
    )
    return keras.Sequential([layers.Input((6,)), inner, layers.Dense(3, name="head")])


VERBS: dict[str, Callable[..., Any]] = {
    "apply": lambda source, out, **words: orthwrap.apply(source, out, **words).model,
    "strip": lambda source, out, **words: (
        orthwrap.strip(source, out, **words).model if words else orthwrap.strip(source, out)
    ),
    "upgrade": lambda source, out, **words: orthwrap.upgrade(source, out, **words).model,
    "load_model": lambda source, out, **words: orthwrap.load_model(source, **words),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_lambda_runs_only_where_it_is_asked_for(tmp_path: Path, suffix: str, verb: str) -> None:
    model = with_lambda()
    source, out = saved(model, tmp_path / f"m{suffix}"), tmp_path / f"o{OTHER[suffix]}"
    with pytest.raises(FileFault, match=r"\(a lambda\) in inner/twice, .* --unsafe-lambda"):
        VERBS[verb](source, out)
    assert not out.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = VERBS[verb](source, out, unsafe_lambda=True)
    np.testing.assert_allclose(output_of(got), output_of(model), atol=1e-6)


def test_safe_mode_is_keras_s_word_for_it(tmp_path: Path) -> None:
    source = saved(with_lambda(), tmp_path / "m.keras")
    with pytest.raises(FileFault, match="--unsafe-lambda"):
        orthwrap.load_model(source, safe_mode=True)
    assert orthwrap.load_model(source, safe_mode=False) is not None


@pytest.mark.dear
@pytest.mark.slow
def test_unsafe_lambda_on_the_command_line(tmp_path: Path, run: Any) -> None:
    saved(with_lambda(), tmp_path / "m.h5")
    done = run("apply", "m.h5", "-o", "o.keras", "-q")
    assert done.returncode == 1
    assert done.stderr.startswith("error: m.h5 keeps code of its own (a lambda) in inner/twice, ")
    done = run("apply", "m.h5", "-o", "o.keras", "-q", "--unsafe-lambda")
    assert (done.returncode, done.stderr) == (0, "")


MARK = "__import__('pathlib').Path({!r}).touch()"


def evil_code(mark: Path) -> str:
    """Bytecode of a function that leaves a mark, as Keras of any generation keeps it."""
    code = compile(f"lambda x: ({MARK.format(str(mark))}, x)[1]", "evil", "eval").co_consts[0]
    return base64.b64encode(marshal.dumps(code)).decode()


def keras2_lambda(mark: Path, **config: Any) -> dict[str, Any]:
    code = [evil_code(mark), None, None]
    own = {"name": "evil", "trainable": True, "function": code, "function_type": "lambda"}
    return {"class_name": "Lambda", "config": {**own, "module": "m", "arguments": {}, **config}}


def sequential(*inner: dict[str, Any]) -> dict[str, Any]:
    first = {"class_name": "InputLayer", "config": {"batch_shape": [None, 3], "name": "in"}}
    members = [first, *inner]
    return {"class_name": "Sequential", "config": {"name": "s", "layers": members}}


@pytest.mark.parametrize("version", ["2.2.4", "2.11.0", "3.9.0"])
@pytest.mark.parametrize("how", ["plain", "nested", "distributed", "output_shape"])
def test_bytecode_of_old_h5_files(tmp_path: Path, how: str, version: str) -> None:
    mark = tmp_path / "executed"
    node = keras2_lambda(mark)
    where = "evil"
    if how == "nested":
        node = sequential(node)
        node["config"]["name"], where = "inner", "inner/evil"
    elif how == "distributed":
        config = {"name": "td", "trainable": True, "layer": node}
        node, where = {"class_name": "TimeDistributed", "config": config}, "td/evil"
    elif how == "output_shape":
        config = {"function": "relu", "function_type": "function"}
        shape = {"output_shape": [evil_code(mark), None, None], "output_shape_type": "lambda"}
        node = keras2_lambda(mark, **config, **shape)
    path = tmp_path / "m.h5"
    write_h5(path, small_file(".h5"), sequential(node), version)
    with pytest.raises(FileFault, match=f"in {where}, .* --unsafe-lambda"):
        orthwrap.load_model(path)
    with pytest.raises(FileFault, match="--unsafe-lambda"):
        orthwrap.upgrade(path, tmp_path / "o.keras")
    assert not mark.exists()
    if how == "plain":
        # The mark is one that does show: with the flag, the code runs.
        with h5py.File(path, "r+") as f:
            f["model_weights"].attrs["layer_names"] = np.array([], "S1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orthwrap.load_model(path, unsafe_lambda=True)
        assert mark.exists()


def test_code_is_seen_wherever_it_stands() -> None:
    code = {"class_name": "__lambda__", "config": {"value": ["YQ==", None, None]}}
    dense = {
        "class_name": "Dense",
        "config": {"name": "d", "trainable": True, "kernel_initializer": code},
    }
    root = sequential(dense)
    root["compile_config"] = {"optimizer": "adam", "loss": code}
    assert code_in(root) == ("d", "(the training configuration)")
    named = {"class_name": "function", "config": "relu", "module": "builtins"}
    assert code_in(sequential(keras2_lambda(Path("x"), function=named))) == ()


@pytest.mark.parametrize("key", ["function", "output_shape", "mask"])
def test_bytecode_alone_is_code_too(key: str) -> None:
    """Keras 1 wrote a lambda's code as one text, which only its type tells from a name."""
    lambdas = {"name": "l", "trainable": True, key: "YQ=="}
    node: dict[str, Any] = {"class_name": "Lambda", "config": {**lambdas, f"{key}_type": "lambda"}}
    assert code_in(sequential(node)) == ("l",)
    node["config"][f"{key}_type"] = "function"
    assert code_in(sequential(node)) == ()


def test_a_saved_models_code_is_kept_named_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    code = {"class_name": "__tuple__", "items": [evil_code(mark), None, None]}
    evil = saved_models.node("Lambda", "evil", function=code, function_type="lambda")
    named = saved_models.node("Lambda", "named", function="relu", function_type="function")
    config = saved_models.sequential(evil, named, saved_models.dense("d"))
    arrays = {f"layer-2/{n[8:]}": a for n, a in saved_models.kernels((4, 3)).items()}
    folder = saved_models.write(tmp_path / "m", config, arrays, ["layer-0", "layer-1"])
    result = orthwrap.upgrade(folder, tmp_path / "o.keras")
    assert any(note.startswith("evil: code that the file keeps") for note in result.report.warnings)
    seen = orthwrap.inspect(tmp_path / "o.keras").warnings
    assert any(note.startswith("evil: code that the file keeps") for note in seen)
    with pytest.raises(FileFault, match=r"in evil, .* --unsafe-lambda"):
        orthwrap.load_model(tmp_path / "o.keras")
    with pytest.raises(FileFault, match=r"in evil, .* --unsafe-lambda"):
        orthwrap.upgrade(folder, tmp_path / "o.h5")
    assert not mark.exists()


def test_a_lambda_that_keras_cannot_read_back(tmp_path: Path) -> None:
    model = keras.Sequential(
        [layers.Input((6,)), layers.Dense(3, activation=lambda x: 2 * x, name="bends")]
    )
    source = saved(model, tmp_path / "m.keras")
    with zipfile.ZipFile(source) as z:
        kept = json.loads(z.read("config.json"))["config"]["layers"][1]["config"]["activation"]
    assert list(kept) == ["value"]  # as Keras writes it
    for words in ({}, {"unsafe_lambda": True}):
        with pytest.raises(FileFault, match="a lambda as activation of bends, in a form"):
            orthwrap.load_model(source, **words)


def test_a_lambda_s_named_function_is_a_custom_object(own: ModuleType, tmp_path: Path) -> None:
    model = keras.Sequential([layers.Input((6,)), layers.Lambda(own.bent, name="named")])
    for suffix in SUFFIXES:
        source = saved(model, tmp_path / f"m{suffix}")
        forget()
        with pytest.raises(FileFault, match=r"needs 'bent' \(in named\)"):
            orthwrap.load_model(source)
        assert orthwrap.load_model(source, "owncode") is not None


@pytest.mark.parametrize("compiled", [None, 3, 0.5, "x", [{}], {"loss": 3}, {"loss": [{}, None]}])
def test_a_training_configuration_of_any_form_is_looked_through(compiled: Any) -> None:
    root = {**sequential(), "compile_config": compiled}
    assert unknown(root, lambda need: "keras") == ()
    assert code_in(root) == ()
