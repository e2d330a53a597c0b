"""Private names of Keras: each is still there, and none stands outside of `keras_inside`."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from inspect import signature
from typing import Any, NamedTuple

import keras
import pytest
from keras import layers

from orthwrap import keras_inside
from tests.conftest import REPOSITORY, needs_keras

INSIDE = REPOSITORY / "orthwrap" / "keras_inside.py"
SOURCES = [p for folder in ("orthwrap", "cli") for p in (REPOSITORY / folder).rglob("*.py")]
OTHERS = [p for p in SOURCES if p != INSIDE]


class Name(NamedTuple):
    """A private name, as `package.module:name` or `Class._member`."""

    text: str
    since: str  # the version of Keras
    user: str  # the function or constant in keras_inside


def _names() -> Iterator[Name]:
    """As the docstrings of keras_inside give them."""
    body = ast.parse(INSIDE.read_text("utf-8")).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        user, text = "", ""
        if isinstance(node, ast.FunctionDef):
            user, text = node.name, ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign) and isinstance(after, ast.Expr):
            user, text = ast.unparse(node.targets[0]), str(ast.literal_eval(after.value))
        for since, names in re.findall(r"Keras ≥ ([\d.]+):\s+((?:`[^`]+`[,.;]?\s*)+)", text):
            for name in re.findall("`([^`]+)`", names):
                yield Name(name, since, user)


NAMES = list(_names())
MEMBERS = {n.text.partition(".")[2] for n in NAMES if ":" not in n.text}


# Each is still there


@cache
def thing(kind: str) -> Any:
    """An object of the class, with all that is set when it is used."""
    if kind == "Sequential":
        return keras.Sequential([layers.Input((4,)), layers.Dense(2)])
    if kind in ("MultiHeadAttention", "GroupQueryAttention"):
        attention = getattr(layers, kind)
        gate = {"use_gate": True} if "use_gate" in signature(attention).parameters else {}
        shape = (2, 4) if kind == "MultiHeadAttention" else (4, 2, 1)
        made = attention(*shape, **gate)
        made.build((None, 5, 8), (None, 5, 8))
        return made
    built: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "Layer": (layers.Dense(2), (None, 3)),
        "Dense": (layers.Dense(2), (None, 3)),
        "EinsumDense": (layers.EinsumDense("ab,bc->ac", 2), (None, 3)),
        "Conv2D": (layers.Conv2D(2, 3), (None, 8, 8, 3)),
        "Embedding": (layers.Embedding(5, 2), (None,)),
    }
    if kind in built:
        layer, shape = built[kind]
        layer.build(shape)
        return layer
    inputs = layers.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    model.compile(keras.optimizers.SGD(use_ema=True), "mse", metrics=["mae"])
    model.optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.optimizer.build(model.trainable_variables)
    return {
        "Model": model,
        "CompileMetrics": model._compile_metrics,
        "KerasTensor": inputs,
        "Metric": keras.metrics.MeanAbsoluteError(),
        "MeanMetricWrapper": keras.metrics.MeanAbsoluteError(),
        "Optimizer": model.optimizer,
    }[kind]


def moved(name: Name) -> str:
    """One line where the name is gone; else ""."""
    try:
        if ":" in name.text:
            pkgutil.resolve_name(name.text)
        else:
            kind, _, member = name.text.partition(".")
            getattr(thing(kind), member)
    except (ImportError, AttributeError):
        callers = sorted(
            str(p.relative_to(REPOSITORY))
            for p in OTHERS
            if f"keras_inside.{name.user}" in p.read_text("utf-8")
        )
        return (
            f"Keras {keras.__version__} has moved {name.text}, used by keras_inside.{name.user} "
            f"(for {', '.join(callers)})"
        )
    return ""


@pytest.mark.parametrize("name", NAMES, ids=lambda n: f"{n.user}-{n.text}")
def test_keras_has_the_name(name: Name) -> None:
    needs_keras(name.since, f"has {name.text}")
    if ".torch." in name.text:
        pytest.importorskip("torch")
    assert not moved(name), moved(name)


def test_a_name_that_is_gone_is_told_with_who_uses_it() -> None:
    gone = Name("Layer._no_such_member", "3.5", "held_layers")
    assert moved(gone) == (
        f"Keras {keras.__version__} has moved Layer._no_such_member, used by "
        "keras_inside.held_layers "
        "(for orthwrap/live/carried.py, orthwrap/live/kept.py, orthwrap/live/live_store.py)"
    )
    assert "has moved keras.src.nowhere:x" in moved(Name("keras.src.nowhere:x", "3.5", "unscaled"))


def test_every_private_name_in_the_file_is_listed() -> None:
    """So that the list is all there is; and everything in the file is used by somebody."""
    tree = ast.parse(INSIDE.read_text("utf-8"))
    listed = MEMBERS | {n.text.rpartition(":")[2] for n in NAMES}
    modules = {n.text.partition(":")[0] for n in NAMES if ":" in n.text}
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            assert node.attr in listed
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("keras.src"):
            assert node.module in modules
            assert {alias.name for alias in node.names} <= listed
        elif isinstance(node, ast.Constant) and id(node) not in docstrings:
            text = str(node.value)
            if text.startswith("keras."):
                assert any(m == text or m.startswith(text + ".") for m in modules)
            elif re.fullmatch("_[a-z]\\w*", text) and text != "_trainable":
                assert text in listed
    others = "\n".join(p.read_text("utf-8") for p in OTHERS)
    inside = INSIDE.read_text("utf-8")
    for name in {n.user for n in NAMES}:
        assert f"keras_inside.{name}" in others or inside.count(f"{name}(") > 1, name


# None stands anywhere else


@cache
def own_members() -> set[str]:
    """The private members of orthwrap's own classes, but for those that Keras has too."""
    found = {"_replace"}  # of every NamedTuple
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                found |= _members(node)
    return {name for name in found if name.startswith("_")} - MEMBERS


def _members(cls: ast.ClassDef) -> set[str]:
    found = set()
    for node in ast.walk(cls):
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


BACKENDS = "keras|tensorflow|jax|jaxlib|torch"
PRIVATE_MODULE = re.compile(
    rf"\b(keras\.src|tensorflow\.python|(?:{BACKENDS})(?:\.\w+)*\._[^_]\w*)\b"
)


# In files: an argument of layers of Keras 2, and the group of a model's metrics.
WORDS_OF_FILES = {"_jit_compile", "_metrics"}


def private_names(source: str) -> list[str]:
    """Line and name of all that is private and not orthwrap's own."""
    tree, own_anywhere = ast.parse(source), own_members()
    own_here = {m for n in ast.walk(tree) if isinstance(n, ast.ClassDef) for m in _members(n)}
    found = []
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.Import):
            name = " ".join(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = " ".join(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            is_private = re.match("_[^_]", node.attr) is not None and owner not in ("os", "sys")
            own = own_here | own_anywhere if owner in ("self", "cls") else own_anywhere
            if is_private and node.attr not in own:
                found.append(f"{node.lineno}: {name}")
                continue
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
            if name in MEMBERS and name.startswith("_") and name not in WORDS_OF_FILES:
                found.append(f"{node.lineno}: {name!r}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = ast.unparse(node.args[1])
            if re.match("f?['\"]_[^_]", name) and name.strip("'") not in own_anywhere:
                found.append(f"{node.lineno}: {name}")
        if PRIVATE_MODULE.search(name):
            found.append(f"{getattr(node, 'lineno', 0)}: {PRIVATE_MODULE.search(name)[0]}")  # type: ignore[index]
    return found


@pytest.mark.slow
def test_no_private_name_of_keras_stands_elsewhere() -> None:
    found = {str(p.relative_to(REPOSITORY)): private_names(p.read_text("utf-8")) for p in OTHERS}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import keras.src.ops",
        "from keras.src.saving.serialization_lib import ObjectSharingScope",
        "from keras import src; from keras.src import ops",
        "from torch import _C",
        "from torch._C import x",
        "import jax._src.core",
        "from tensorflow.python.ops import x",
        "keras.src.ops.add(1, 2)",
        "layer._tracker.unlock()",
        "model.optimizer._learning_rate",
        "self._process_id",
        "name = '_compile_config'",
        "vars(model)['_losses_override'] = []",
        "getattr(layer, f'_{key}', None)",
        "setattr(model, '_anything', 1)",
        "getattr(layer, '_anything')",
        "module = 'keras.src.models.functional'",
        "module = f'keras.src.ops.{name}'",
    ],
)
def test_a_private_name_is_seen(line: str) -> None:
    assert private_names(line)


def test_what_is_orthwraps_own_or_public_is_none() -> None:
    source = """
class Own:
    def __init__(self):
        self._seen = 1
    def use(self):
        return self._seen, self.__class__, type(self).__name__
ref._replace(a=1)
from orthwrap.regularizers import _Regularizer
import keras; keras.ops.add(1, 2)
name = key.removesuffix("_regularizer")
"""
    assert private_names(source) == []


def test_the_file_imports_no_keras() -> None:
    code = "import sys, orthwrap.keras_inside; print({'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# What some of them mean, beside being there


def test_layers_are_found_at_every_depth_once() -> None:
    shared = layers.Dense(3, name="shared")
    inner_in = layers.Input((3,))
    inner = keras.Model(inner_in, shared(inner_in), name="inner")
    inputs = layers.Input((3,))
    outputs = layers.TimeDistributed(layers.Dense(2, name="wrapped"))(
        layers.Reshape((1, 3))(inner(shared(inputs)))
    )
    model = keras.Model(inputs, outputs)
    named = [v.name for v in keras_inside.layers_within(model)]
    assert len(named) == len(set(named))
    assert {"shared", "inner", "wrapped"} <= set(named)
    assert keras_inside.every_layer(model)[0] is model
    assert keras_inside.layers_within(model) == keras_inside.every_layer(model)[1:]


def test_losses_that_are_given_stand_for_those_of_the_layers() -> None:
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2, kernel_regularizer="l2")])
    (own,) = model.losses
    given = [keras.ops.convert_to_tensor(7.0)]
    keras_inside.give_losses(model, given)
    assert model.losses is given
    assert keras_inside.given_losses(model) is given
    keras_inside.give_losses(model, [])
    assert float(model.losses[0]) == float(own)


def test_a_seed_generator_of_the_list_is_state_and_no_weight() -> None:
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2)])
    weights, states = len(model.get_weights()), len(model.non_trainable_variables)
    keras_inside.seed_generators(model).append(keras.random.SeedGenerator(1))
    assert (len(model.get_weights()), len(model.non_trainable_variables)) == (weights, states + 1)


def test_compile_arguments_are_those_that_a_file_keeps() -> None:
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2)])
    model.compile("sgd", "mse")
    keras_inside.compile_arguments(model)["optimizer"] = keras.optimizers.Adam(0.25)
    kept = model.get_compile_config()["optimizer"]
    assert (kept["class_name"], kept["config"]["learning_rate"]) == ("Adam", 0.25)
