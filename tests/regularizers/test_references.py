"""What a file may call by a name: nothing but what the user named, or what Keras has registered."""

from __future__ import annotations

import base64
import copy
import json
import marshal
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from orthwrap.live.live_store import LiveStore
from orthwrap.live.rebuild import live_objects
from orthwrap.regularizers.known import regularizer_of
from orthwrap.rules import references

SUFFIXES = (".h5", ".keras")


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own."""
    monkeypatch.setattr(references, "NAMED", {})


class Trap(keras.regularizers.Regularizer):  # type: ignore[misc]  # Keras is untyped
    """In a module that is imported, as any test's is; nobody named it."""

    made = 0

    def __init__(self) -> None:
        Trap.made += 1

    def __call__(self, w: Any) -> Any:
        return ops.sum(w)

    def get_config(self) -> dict[str, Any]:
        return {}


def attached(reference: Any, name: str = "l2", **config: Any) -> dict[str, Any]:
    return {
        "module": "orthwrap.regularizers",
        "class_name": "Attached",
        "config": {"regularizer": reference, "factor": 1.0, "name": name, **config},
        "registered_name": "orthwrap>Attached",
    }


def so(**config: Any) -> dict[str, Any]:
    return {
        "module": "orthwrap.regularizers",
        "class_name": "SO",
        "config": {"factor": 1.0, **config},
        "registered_name": "orthwrap>SO",
    }


def program(mark: Path) -> np.ndarray[Any, Any]:
    """A program that leaves a mark, in the bytes of float32 numbers."""
    text = f"open({str(mark)!r}, 'w').close()\n".encode()
    return np.frombuffer(text + b" " * (-len(text) % 4), "float32")


def small_model(bias: np.ndarray[Any, Any]) -> Any:
    """Whose outputs are the bias, bit for bit."""
    inner = keras.Sequential([layers.Input((2,)), layers.Dense(2, name="deep")], name="inner")
    model = keras.Sequential(
        [layers.Input((2,)), inner, layers.Dense(len(bias), name="out")], name="outer"
    )
    model.compile("sgd", "mse", run_eagerly=True)
    model.get_layer("out").set_weights([np.zeros((2, len(bias)), "float32"), bias])
    return model


def saved(model: Any, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is a legacy format
        model.save(path)
    return path


def edited(path: Path, edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """The file after `edit(config, training config)`."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as f:
            config, training = (json.loads(f.attrs[f"{n}_config"]) for n in ("model", "training"))
            edit(config, training)
            f.attrs["model_config"] = json.dumps(config)
            f.attrs["training_config"] = json.dumps(training)
        return path
    with zipfile.ZipFile(path) as z:
        members = {name: z.read(name) for name in z.namelist()}
    config = json.loads(members["config.json"])
    edit(config, config["compile_config"])
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as z:
        for name, content in members.items():
            z.writestr(name, content)
    return path


def layer_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    for node in config["config"]["layers"]:
        if node["config"]["name"] == name:
            return dict.__getitem__(node, "config")
        if "layers" in node["config"]:
            found = layer_of(node, name)
            if found:
                return found
    return {}


def carrying(node: Any, slot: str = "kernel", layer: str = "out") -> Callable[..., None]:
    def edit(config: dict[str, Any], training: dict[str, Any]) -> None:
        layer_of(config, layer)[f"{slot}_regularizer"] = copy.deepcopy(node)

    return edit


def data(width: int) -> tuple[Any, Any]:
    return np.zeros((4, 2), "float32"), np.zeros((4, width), "float32")


# The attack, on every verb


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_verb_runs_the_program_in_a_bias(tmp_path: Path, suffix: str) -> None:
    mark = tmp_path / "mark"
    bias = program(mark)
    exec(bias)  # the program is one that shows
    assert mark.exists()
    mark.unlink()
    path = saved(small_model(bias), tmp_path / f"m{suffix}")
    edited(path, carrying(attached("builtins:exec", on="activity"), "activity"))
    other = tmp_path / f"other{'.keras' if suffix == '.h5' else '.h5'}"
    pairs = data(len(bias))
    words: dict[str, Any] = {"epochs": 1, "measure": False, "force": True}

    loading: dict[str, Callable[[], Any]] = {
        "load": lambda: orthwrap.load_model(path).predict(pairs[0], verbose=0),
        "uncompiled": lambda: orthwrap.load_model(path, compile=False)(pairs[0]),
        "apply": lambda: orthwrap.apply(path, tmp_path / f"a{suffix}", data=pairs, **words),
        "finetune": lambda: orthwrap.finetune(path, pairs, tmp_path / f"f{suffix}", **words),
        "apply, converted": lambda: orthwrap.apply(path, other),
        "upgrade, converted": lambda: orthwrap.upgrade(path, other),
    }
    for verb, call in loading.items():
        with pytest.raises(orthwrap.OrthwrapError) as caught:
            call()
        said = str(caught.value)
        assert "'builtins:exec'" in said, verb
        assert "--custom-objects" in said, verb
        assert "\n" not in said, verb
        assert not mark.exists(), verb
    with pytest.raises((TypeError, ValueError), match="'builtins:exec' is not known here"):
        keras.models.load_model(path)
    assert not mark.exists()
    for call in (
        lambda: orthwrap.inspect(path),
        lambda: orthwrap.compare(path, path),
        lambda: orthwrap.apply(path, tmp_path / f"b{suffix}"),
        lambda: orthwrap.upgrade(path, tmp_path / f"u{suffix}"),
        lambda: orthwrap.strip(path, tmp_path / f"p{suffix}"),
        lambda: orthwrap.strip(path, other),  # without it, there is nothing to refuse
    ):
        call()
        assert not mark.exists()
    assert other.exists()


def test_inspect_names_what_a_file_refers_to(tmp_path: Path) -> None:
    path = saved(small_model(np.ones(3, "float32")), tmp_path / "m.keras")
    edited(path, carrying(attached("os:system"), layer="deep"))
    edited(path, carrying(so(combined_with="subprocess:run")))
    report = orthwrap.inspect(path)
    assert [w.partition(" is a function")[0] for w in report.warnings] == [
        "'os:system' (in inner/deep)",
        "'subprocess:run' (in out)",
    ]
    deep, out = report.layers
    assert deep.regularizer is not None
    assert deep.regularizer.name == "l2 (os:system)"  # a name of the file's does not hide it
    assert "l2 (os:system)" in deep.reason
    assert "subprocess:run" in out.reason
    assert orthwrap.inspect(orthwrap.strip(path).output).warnings == ()


# Its siblings


def bytecode(mark: Path) -> str:
    code = compile(f"lambda w: open({str(mark)!r}, 'w').close()", "evil", "eval")
    return base64.b64encode(marshal.dumps(code.co_consts[0])).decode()


def in_training(key: str, value: Any) -> Callable[..., None]:
    def edit(config: dict[str, Any], training: dict[str, Any]) -> None:
        training[key] = value

    return edit


def in_schedule(config: dict[str, Any], training: dict[str, Any]) -> None:
    name = "optimizer" if "optimizer" in training else "optimizer_config"
    training[name]["config"]["learning_rate"] = attached("os:system")


TRAP = {
    "module": __name__,
    "class_name": "Trap",
    "config": {},
    "registered_name": "Trap",
}


def function(module: str, name: str) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


PLACES: dict[str, tuple[Callable[..., None], str]] = {
    **{
        reference: (carrying(attached(reference)), reference)
        for reference in (
            *("builtins:exec", "os:system", "subprocess:run", "numpy:load", "builtins:eval"),
            *("os:path.join", "builtins:str.format", "importlib:import_module", "keras:ops.sum"),
            *(f"{__name__}:Trap", ":exec", "exec:", "__main__:", "tensorflow:io.write_file"),
        )
    },
    "on activity": (carrying(attached("os:system", on="activity"), "activity"), "os:system"),
    "in an inner model": (carrying(attached("os:system"), layer="deep"), "os:system"),
    "beside ours": (carrying(so(combined_with="os:system")), "os:system"),
    "a node beside ours": (carrying(so(combined_with=attached("os:system"))), "os:system"),
    "deep beside ours": (
        carrying(so(combined_with=so(combined_with=attached(so(combined_with="os:system"))))),
        "os:system",
    ),
    "a function's node": (carrying(attached(function("os", "system"))), "system"),
    "a function's node beside ours": (
        carrying(so(combined_with=function("builtins", "exec"))),
        "exec",
    ),
    "a class": (carrying(attached(TRAP)), "Trap"),
    "a class beside ours": (carrying(so(combined_with=TRAP)), "Trap"),
    "another module's L2": (carrying(attached({**TRAP, "class_name": "L2"})), "Trap"),
    "builtin class": (
        carrying(attached({"module": "builtins", "class_name": "open", "config": {"file": "x"}})),
        "open",
    ),
    "as a loss": (in_training("loss", attached("os:system")), "os:system"),
    "as a metric": (in_training("metrics", [attached("os:system")]), "os:system"),
    "as a schedule": (in_schedule, "os:system"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("place", PLACES)
def test_reference_is_refused_wherever_it_stands(place: str, suffix: str, tmp_path: Path) -> None:
    edit, named = PLACES[place]
    Trap.made = 0
    path = edited(saved(small_model(np.ones(3, "float32")), tmp_path / f"m{suffix}"), edit)
    with pytest.raises(orthwrap.OrthwrapError) as caught:
        orthwrap.load_model(path)
    assert repr(named) in str(caught.value)
    assert "custom" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises((ValueError, TypeError)):  # Keras alone, with our classes registered
        keras.models.load_model(path)
    assert Trap.made == 0


CODE: dict[str, Callable[[str], Any]] = {
    "plain": lambda code: {"class_name": "__lambda__", "config": {"value": [code, None, None]}},
    # Keras hands on, as it stands, a node that has the name of something registered.
    "in disguise": lambda code: {
        "class_name": "__lambda__",
        "config": {"value": [code, None, None]},
        "registered_name": "orthwrap>SO",
    },
}


@pytest.mark.parametrize("kind", CODE)
def test_code_in_place_of_a_regularizer_is_not_run(kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    node = CODE[kind](bytecode(mark))
    for attachment in (attached(node), so(combined_with=node), so(replaced=node)):
        path = saved(small_model(np.ones(3, "float32")), tmp_path / "m.keras")
        edited(path, carrying(attachment))
        with pytest.raises(orthwrap.FileFault, match="keeps code of its own"):
            orthwrap.load_model(path)
        # Even where the user lets the file's code run, a regularizer of ours does not take it.
        for verb in (orthwrap.strip, lambda m: orthwrap.apply(m, measure=False)):
            for in_place in (False, True):
                try:
                    model = keras.models.load_model(path)
                    if verb is orthwrap.strip:
                        verb(model, in_place=in_place)
                    else:
                        orthwrap.apply(model, measure=False, in_place=in_place)
                except (ValueError, TypeError, orthwrap.OrthwrapError):
                    pass
                assert not mark.exists()


def test_live_model_s_strings_are_no_authority(tmp_path: Path) -> None:
    path = saved(small_model(np.ones(3, "float32")), tmp_path / "m.keras")
    nodes = [function("os", "system"), {**TRAP, "registered_name": "a>b"}]
    edited(path, carrying(so(replaced=nodes[0])))
    edited(path, carrying(so(replaced=nodes[1]), layer="deep"))
    model = keras.models.load_model(path)
    kept = json.dumps(keras.saving.serialize_keras_object(model))
    assert '"system"' in kept  # so that it can be given back
    assert '"Trap"' in kept
    found = live_objects(LiveStore(model))
    assert not {"system", "Trap", "a>b"} & set(found)
    Trap.made = 0
    for in_place in (False, True):
        with pytest.raises(orthwrap.OrthwrapError) as caught:
            orthwrap.strip(model, in_place=in_place)
        assert "\n" not in str(caught.value)
    assert Trap.made == 0


# What goes on to work


OWN = """
import keras
from keras import ops

def halved(w):
    return 0.5 * ops.sum(ops.square(w))

class Inside:
    @staticmethod
    def doubled(w):
        return 2 * ops.sum(ops.square(w))

class Own(keras.regularizers.Regularizer):
    def __init__(self, strength):
        self.strength = strength
    def __call__(self, w):
        return self.strength * ops.sum(ops.square(w))
    def get_config(self):
        return {"strength": self.strength}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A user's module, imported."""
    (tmp_path / "ownpenalty.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ownpenalty", raising=False)
    import ownpenalty  # type: ignore[import-not-found]  # written above

    return ownpenalty


def squares(model: Any) -> float:
    return float(ops.sum(ops.square(model.get_layer("out").kernel)))


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_the_user_names_is_found(
    own: ModuleType, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(np.ones(3, "float32"))
    model.get_layer("out").kernel.assign(np.full((2, 3), 0.5))
    source, carried = saved(model, tmp_path / f"m{suffix}"), tmp_path / f"c{suffix}"
    reference = "ownpenalty:halved"
    orthwrap.apply(source, carried, target="out", regularizer=reference)

    def check(loaded: Any) -> None:
        assert float(loaded.losses[0]) == pytest.approx(0.5 * squares(loaded), rel=1e-6)

    def forget() -> None:
        monkeypatch.setattr(references, "NAMED", {})
        with pytest.raises(orthwrap.FileFault, match=f"it needs '{reference}'"):
            orthwrap.load_model(carried)

    check(orthwrap.load_model(carried))  # --regularizer, in this process
    forget()
    for given in ("ownpenalty:halved", "ownpenalty", {"halved": own.halved}):
        check(orthwrap.load_model(carried, given))
    forget()
    with keras.saving.custom_object_scope({"halved": own.halved}):
        check(orthwrap.load_model(carried))
    forget()
    orthwrap.regularizer(reference)
    check(orthwrap.load_model(carried))
    forget()
    result = orthwrap.apply(model, target="out", regularizer=own.halved)  # handed over
    check(result.model)
    check(keras.models.clone_model(result.model))
    check(orthwrap.load_model(carried))
    forget()
    done = orthwrap.finetune(
        carried,
        data(3),
        tmp_path / f"t{suffix}",
        epochs=1,
        measure=False,
        custom_objects="ownpenalty:halved",
    )
    check(done.model)
    copied = orthwrap.apply(done.model, target="deep").model  # a live model has it already
    assert len(copied.losses) == 2


def test_what_is_registered_is_found(own: ModuleType) -> None:
    known = keras.saving.get_custom_objects()
    with pytest.raises(orthwrap.ValueFault, match="is not known here"):
        regularizer_of("ownpenalty:halved")
    try:
        keras.saving.register_keras_serializable("mine")(own.halved)
        keras.saving.register_keras_serializable("mine")(own.Own)
        assert regularizer_of("ownpenalty:halved") is own.halved
        node = keras.saving.serialize_keras_object(own.Own(3.0))
        made: Any = regularizer_of(node)
        assert made.strength == 3.0
        with pytest.raises(orthwrap.ValueFault, match=r"cannot be made from its config: .*weight"):
            regularizer_of({**node, "config": {"weight": 1}})
        with pytest.raises(orthwrap.ValueFault, match="is not known here"):
            regularizer_of("ownpenalty:Own")  # a class is no function
    finally:
        for name in [n for n in known if n.startswith("mine>")]:
            del known[name]


def test_names_may_be_dotted(own: ModuleType) -> None:
    made = orthwrap.regularizer("ownpenalty:Inside.doubled")
    assert float(made(np.ones((2, 2), "float32"))) == pytest.approx(8.0)
    with pytest.raises(orthwrap.ValueFault, match=r"has no function 'halfed' .*; nearest: halved"):
        orthwrap.regularizer("ownpenalty:halfed")


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("existing", ["combine", "replace"])
def test_live_model_s_own_classes_are_its_own(
    own: ModuleType, existing: str, in_place: bool
) -> None:
    """Nobody registered the class of the regularizer that is there; it is in memory."""
    model = keras.Sequential(
        [layers.Input((2,)), layers.Dense(3, kernel_regularizer=own.Own(3.0), name="out")]
    )
    alone = 3.0 * squares(model)
    assert float(model.losses[0]) == pytest.approx(alone, rel=1e-5)
    applied = orthwrap.apply(model, existing=existing, factor=0.0, in_place=in_place).model
    expected = alone if existing == "combine" else 0.0
    assert float(applied.losses[0]) == pytest.approx(expected, rel=1e-5)
    if existing == "replace":  # only its words are kept
        with pytest.raises(orthwrap.OrthwrapError, match="Own"):
            orthwrap.strip(applied, in_place=in_place)
        given = {"Own": own.Own}
        stripped = orthwrap.strip(applied, in_place=in_place, custom_objects=given).model
    else:
        stripped = orthwrap.strip(applied, in_place=in_place).model
    assert isinstance(stripped.get_layer("out").kernel_regularizer, own.Own)
    assert float(stripped.losses[0]) == pytest.approx(alone, rel=1e-5)


def test_keras_s_own_are_found_by_every_name_they_have() -> None:
    for given, cls in (
        ("l1", "L1"),
        ("L2", "L2"),
        ("l1_l2", "L1L2"),
        ({"class_name": "L2", "config": {"l2": 0.5}}, "L2"),
        ({"module": None, "class_name": "L1", "config": {"l1": 0.5}}, "L1"),
        (keras.regularizers.serialize(keras.regularizers.OrthogonalRegularizer()), None),
    ):
        made = regularizer_of(given)
        assert type(made).__name__ == (cls or "OrthogonalRegularizer")
    trap = {"class_name": "L2", "config": {"l2": {"class_name": "Trap"}}}
    wrong: tuple[Any, ...] = (trap, {}, "", 3, [])
    for broken in wrong:
        with pytest.raises(orthwrap.ValueFault) as caught:
            regularizer_of(broken)
        assert "\n" not in str(caught.value)
