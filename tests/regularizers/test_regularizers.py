"""The Keras classes: files and processes, values and gradients, step counts, outputs, faults."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from orthwrap.model_config.layout import Layout
from orthwrap.regularizers import CLASSES, Attached
from orthwrap.rules import references
from tests.conftest import PATIENCE_S, REPOSITORY
from tests.support import models
from tests.support.backend import value_and_grad

Array = np.ndarray[Any, np.dtype[Any]]


def numpy(tensor: Any) -> Array:
    return np.array(ops.convert_to_numpy(tensor))


def orthogonal(rows: int, columns: int, seed: int = 0) -> Array:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(rows, columns)))
    return q.astype("float32")


def so(w: Array) -> float:
    gram = w.T @ w if w.shape[1] <= w.shape[0] else w @ w.T
    return float(np.sum((gram - np.eye(len(gram))) ** 2))


# Files and processes


def squares(w: Any) -> Any:
    return ops.sum(ops.square(w))


def variants() -> dict[str, Any]:
    """Every registered class, plain and with each of its words, by a name."""
    found: dict[str, Any] = {name: cls() for name, cls in CLASSES.items()}
    for name, cls in CLASSES.items():
        found[f"{name}_words"] = cls(
            0.02,
            scale="preserve",
            alpha=0.7,
            layout=Layout("dense", (0,), (1,)),
            combined_with=keras.regularizers.L2(0.3),
            every=2,
        )
    found["sketch"] = orthwrap.SO(estimate="sketch", probes=5, seed=3)
    found["sketch_lorth"] = orthwrap.LOrth(estimate="sketch", seed=4)
    found["steps"] = orthwrap.SRIP(steps=7, seed=5)
    found["replacing"] = orthwrap.MC(replaced=keras.regularizers.L1(0.5), absent=True)
    found["flipped"] = orthwrap.OffDiag(layout=Layout("dense", (1,), (0,)))
    found["attached_l2"] = Attached("l2", 0.4)
    found["attached_object"] = Attached(
        keras.regularizers.OrthogonalRegularizer(0.1, mode="columns"), 0.4, combined_with="l1"
    )
    return found


def carrying() -> Any:
    """One Dense layer for each variant."""
    names = list(variants())
    inputs = layers.Input((4,), name="x")
    outputs = [
        layers.Dense(3, name=name, kernel_regularizer=regularizer)(inputs)
        for name, regularizer in variants().items()
    ]
    model = models.randomized(keras.Model(inputs, outputs, name="carrying"))
    assert [layer.name for layer in model.layers[1:]] == names
    return model


def first_values(model: Any) -> dict[str, float]:
    """The value of each layer's regularizer when it is called for the first time."""
    found = {}
    for layer in model.layers[1:]:
        held = layer.kernel_regularizer
        fresh = type(held).from_config(held.get_config())
        value = fresh(ops.stop_gradient(ops.convert_to_tensor(layer.kernel)))
        found[layer.name] = float(value) if has_fixed_draw(fresh) else 0.0
    return found


def configs(model: Any) -> dict[str, Any]:
    return {layer.name: layer.kernel_regularizer.get_config() for layer in model.layers[1:]}


def has_fixed_draw(regularizer: Any) -> bool:
    is_seeded = regularizer.attachment.options.get("seed") is not None
    return is_seeded or not isinstance(regularizer, keras.random.SeedGenerator)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Path]]:
    """The model and its two files."""
    model = carrying()
    folder = tmp_path_factory.mktemp("carrying")
    paths = [folder / f"model{suffix}" for suffix in (".h5", ".keras")]
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # .h5 is a legacy format
            model.save(path)
    return model, paths


@pytest.mark.parametrize("name", variants())
def test_config_makes_the_same_regularizer_again(name: str) -> None:
    regularizer = variants()[name]
    config = json.loads(json.dumps(regularizer.get_config()))
    again = type(regularizer).from_config(config)
    assert type(again) is type(regularizer)
    assert again.get_config() == regularizer.get_config()
    assert again.attachment == regularizer.attachment
    w = ops.convert_to_tensor(np.random.default_rng(1).normal(size=(4, 3)).astype("float32"))
    if has_fixed_draw(regularizer):
        for _ in range(4):
            assert float(again(w)) == float(regularizer(w))


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1], ids=["h5", "keras"])
def test_every_class_comes_back_from_a_file(files: Any, kind: int) -> None:
    model, paths = files
    loaded = keras.models.load_model(paths[kind])
    for layer, other in zip(model.layers[1:], loaded.layers[1:], strict=True):
        assert type(other.kernel_regularizer) is type(layer.kernel_regularizer)
        assert other.kernel_regularizer.get_config() == layer.kernel_regularizer.get_config()
        assert other.kernel.regularizer is other.kernel_regularizer
    assert first_values(loaded) == first_values(model)
    assert len(loaded.losses) == len(variants())


SCRIPT = """
import json, sys
{imports}
sys.path.insert(0, {repository!r})
from tests.regularizers.test_regularizers import configs, first_values
models = [keras.models.load_model(path) for path in sys.argv[1:]]
print(json.dumps([[configs(model), first_values(model)] for model in models]))
"""


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("imports", ["import orthwrap, keras", "import keras, orthwrap"])
def test_every_class_comes_back_in_another_process(files: Any, imports: str) -> None:
    model, paths = files
    script = SCRIPT.format(imports=imports, repository=str(REPOSITORY))
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    values = {name: pytest.approx(value, rel=1e-6) for name, value in first_values(model).items()}
    expected = [configs(model), values]
    assert json.loads(done.stdout.splitlines()[-1]) == [expected, expected]


def test_by_name_and_by_class_are_the_same() -> None:
    for name, cls in CLASSES.items():
        made = orthwrap.regularizer(name, 0.5, every=3)
        assert isinstance(made, cls)
        assert made.attachment == cls(0.5, every=3).attachment
        assert getattr(orthwrap, cls.__name__) is cls
    assert orthwrap.regularizer("so").factor == 1e-3
    assert orthwrap.regularizer("l2", 0.5)(np.ones((2, 2), "float32")) == 2.0


def test_combined_with_adds_the_other_at_its_own_strength() -> None:
    w = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    other = keras.regularizers.L2(0.25)
    for combined in (other, "l2", keras.regularizers.serialize(other)):
        made = orthwrap.SO(0.1, combined_with=combined)
        strength = 0.01 if combined == "l2" else 0.25
        assert float(made(w)) == pytest.approx(0.1 * so(w) + strength * np.sum(w**2), rel=1e-5)


def test_preserve_is_the_penalty_of_the_scaled_kernel() -> None:
    w = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    for name, cls in CLASSES.items():
        if name != "srip":
            plain, scaled = cls(1.0), cls(1.0, scale="preserve", alpha=2.5)
            assert float(scaled(w)) == pytest.approx(float(plain(w / 2.5)), rel=1e-5)


def test_preserve_of_an_object_measures_the_kernels_scale() -> None:
    by_word = orthwrap.apply(models.dense(), scale="preserve", factor=0.5)
    by_object = orthwrap.apply(models.dense(), regularizer=orthwrap.SO(0.5, scale="preserve"))
    words, objects = ([r.regularizer for r in x.report.layers] for x in (by_word, by_object))
    assert words == objects


# What is not orthwrap's


def reference_model(regularizer: Any) -> Any:
    return models.randomized(
        keras.Sequential([layers.Input((4,)), layers.Dense(3, kernel_regularizer=regularizer)])
    )


@pytest.fixture
def borrowed(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of the user's with a regularizer in it."""
    module = types.ModuleType("somebody_regularizers")

    def halved(w: Any) -> Any:
        return 0.5 * squares(w)

    halved.__module__, halved.__qualname__ = module.__name__, "halved"
    module.halved = halved  # type: ignore[attr-defined]  # that is what it is for
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_reference_is_resolved_where_the_user_named_it(
    borrowed: types.ModuleType, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / f"m{suffix}"
    model = reference_model(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(source)
    reference = "somebody_regularizers:halved"
    result = orthwrap.apply(source, regularizer=reference, factor=3.0)
    assert result.output == tmp_path / f"m-orth{suffix}"
    expected = 1.5 * float(np.sum(numpy(model.layers[-1].kernel) ** 2))

    loaded = orthwrap.load_model(result.output)
    assert float(loaded.losses[0]) == pytest.approx(expected, rel=1e-6)
    assert isinstance(loaded.layers[-1].kernel_regularizer, Attached)

    cloned = keras.models.clone_model(loaded)
    assert isinstance(cloned.layers[-1].kernel_regularizer, Attached)
    assert isinstance(cloned.layers[-1].kernel_regularizer._function, types.FunctionType)

    # Another process, in which the module happens to be imported.
    monkeypatch.setattr(references, "NAMED", {})
    assert sys.modules["somebody_regularizers"] is borrowed
    with pytest.raises(orthwrap.OrthwrapError) as caught:
        orthwrap.load_model(result.output)
    assert "\n" not in str(caught.value)
    assert f"it needs '{reference}' (in " in str(caught.value)
    assert "give --custom-objects package.module:Name" in str(caught.value)
    with pytest.raises(TypeError, match=f"'{reference}' is not known here: name it"):  # Keras's
        keras.models.load_model(result.output)
    for name in ("halved", reference):
        given = orthwrap.load_model(result.output, custom_objects={name: borrowed.halved})
        assert float(given.losses[0]) == pytest.approx(expected, rel=1e-6)

    # Taking it out again needs neither.
    plain = orthwrap.strip(result.output)
    assert plain.output is not None
    assert orthwrap.load_model(plain.output).losses == []


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("no_such_package_at_all:f", "cannot import 'no_such_package_at_all'"),
        ("math:no_such_function", "has no function 'no_such_function'"),
        ("math:pi", "'pi' of module 'math' is no function but of type float"),
        (":", "cannot import ''"),
        ("math:", "has no function ''"),
    ],
)
def test_reference_that_leads_nowhere_is_an_error_of_one_line(reference: str, words: str) -> None:
    for call in (
        lambda: orthwrap.apply(models.dense(), regularizer=reference),
        lambda: orthwrap.regularizer(reference),
    ):
        with pytest.raises(orthwrap.ValueFault, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


class Weighed:
    """A callable object, as users write them."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, w: Any) -> Any:
        return self.weight * squares(w)


class OwnL2(keras.regularizers.Regularizer):  # type: ignore[misc]  # Keras is untyped
    """A regularizer class that is not registered."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, w: Any) -> Any:
        return self.weight * squares(w)

    def get_config(self) -> dict[str, Any]:
        return {"weight": self.weight}


def pairs_of_objects() -> dict[str, tuple[Any, Any]]:
    """Two objects of one kind, the second three times as strong as the first."""
    return {
        "lambdas": (lambda w: squares(w), lambda w: 3 * squares(w)),
        "callables": (Weighed(1.0), Weighed(3.0)),
        "partials": (
            functools.partial(squares),
            functools.partial(lambda w, c: c * squares(w), c=3),
        ),
        "methods": (Weighed(1.0).__call__, Weighed(3.0).__call__),
        "unregistered": (OwnL2(1.0), OwnL2(3.0)),
        "keras": (keras.regularizers.L2(1.0), keras.regularizers.L2(3.0)),
        "configs": (
            keras.regularizers.serialize(keras.regularizers.L2(1.0)),
            keras.regularizers.serialize(keras.regularizers.L2(3.0)),
        ),
        "functions": (squares, squares_thrice),
    }


def squares_thrice(w: Any) -> Any:
    return 3 * squares(w)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kind", pairs_of_objects())
def test_two_objects_of_one_kind_stay_two(kind: str, in_place: bool) -> None:
    first, second = pairs_of_objects()[kind]
    model = models.dense()
    rules = [
        orthwrap.Rule(target="wide", regularizer=first),
        orthwrap.Rule(target="head", regularizer=second, factor=2.0),
    ]
    wide, head = (float(np.sum(numpy(layer.kernel) ** 2)) for layer in model.layers)
    result = orthwrap.apply(model, rules=rules, in_place=in_place)
    assert [float(x) for x in result.model.losses] == pytest.approx([wide, 6 * head], rel=1e-5)
    names = [r.regularizer.name for r in result.report.layers if r.regularizer]
    assert not any(" at 0x" in name for name in names)
    # It goes through the other verbs like any other.
    again = orthwrap.apply(result.model, rules=rules)
    assert {r.decision for r in again.report.layers} == {"already"}
    assert [float(x) for x in again.model.losses] == pytest.approx([wide, 6 * head], rel=1e-5)
    assert orthwrap.strip(again.model).model.losses == []


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_function_without_a_name_is_not_written_to_a_file(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"m{suffix}"
    model = models.dense()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(source)
    for call in (
        lambda: orthwrap.apply(source, regularizer=lambda w: squares(w)),
        lambda: orthwrap.apply(source, regularizer=Weighed(2.0)),
        lambda: orthwrap.apply(model, tmp_path / f"out{suffix}", regularizer=lambda w: squares(w)),
        lambda: orthwrap.apply(model, tmp_path / f"out{suffix}", regularizer=Weighed(2.0)),
    ):
        with pytest.raises(
            orthwrap.ValueFault, match=r"only as package\.module:function"
        ) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


FAULTY: dict[str, tuple[Callable[[Any], Any], str]] = {
    "numpy norm": (np.linalg.norm, "returned float32, not a scalar tensor"),
    "numpy gram": (
        lambda w: np.linalg.norm(numpy(w).T @ numpy(w) - np.eye(w.shape[1])),
        "not a scalar tensor",
    ),
    "per column": (lambda w: ops.sum(ops.square(w), 0), "a tensor of shape"),
    "one number in a list": (lambda w: ops.reshape(squares(w), (1,)), r"of shape \(1,\)"),
    "python float": (lambda w: 1.0, "returned float, not a scalar tensor"),
    "nothing": (lambda w: None, "returned NoneType"),
    "whole number": (lambda w: ops.cast(squares(w), "int32"), "returned int32, not a float"),
    "constant": (lambda w: ops.ones(()), "has no gradient"),
    "stopped": (lambda w: ops.stop_gradient(squares(w)), "has no gradient"),
    "raises": (lambda w: 1 / 0, "raised ZeroDivisionError"),
    "wrong arguments": (lambda: 0, "raised TypeError"),
    "fails when traced": (lambda w: squares(w) * float(squares(w)), "raised "),
}
if keras.backend.backend() == "torch":  # nothing is traced
    FAULTY.pop("fails when traced")
if keras.backend.backend() == "jax":  # a gradient that is missing is zero there, as others may be
    for _fault in ("constant", "stopped"):
        FAULTY.pop(_fault)


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_function_is_refused_before_anything_is_done(name: str, tmp_path: Path) -> None:
    function, words = FAULTY[name]
    model = models.dense()
    for output in (None, tmp_path / "out.keras"):
        with pytest.raises(orthwrap.ValueFault, match=words) as caught:
            orthwrap.apply(model, output, regularizer=function)
        assert "\n" not in str(caught.value)
        assert "use keras.ops" in str(caught.value)
        assert "wide" in str(caught.value)
        assert "(6, 9)" in str(caught.value)
    with pytest.raises(orthwrap.ValueFault, match=words):
        orthwrap.apply(model, regularizer=function, in_place=True)
    assert model.losses == []
    assert list(tmp_path.iterdir()) == []


def test_checking_many_shapes_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    inputs = layers.Input((3,))
    outputs = [layers.Dense(n)(inputs) for n in range(2, 12)]
    orthwrap.apply(keras.Model(inputs, outputs), regularizer=squares, measure=False)
    assert caplog.text == ""


# Values that make no sense


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: orthwrap.SO(-1.0), "factor -1.0 must be a finite number of at least 0"),
        (lambda: orthwrap.SO(float("nan")), "must be a finite number"),
        (lambda: orthwrap.SO(float("inf")), "must be a finite number"),
        (lambda: orthwrap.SO("much"), "factor 'much' is not a number"),
        (lambda: orthwrap.SO(scale="huge"), "scale='huge' is not known"),
        (lambda: orthwrap.SO(alpha=0.0), "alpha=0.0 must be above 0"),
        (lambda: orthwrap.SO(alpha=float("nan")), "must be above 0"),
        (lambda: orthwrap.SO(every=0), "every=0 must be at least 1"),
        (lambda: orthwrap.SO(every=1.5), "every=1.5 must be a whole number"),
        (lambda: orthwrap.SO(probes="some"), "probes='some' must be a whole number"),
        (lambda: orthwrap.SO(steps=3), "'so' takes no option 'steps'; it takes: estimate"),
        (lambda: orthwrap.MC(estimate="sketch"), "'mc' takes no option 'estimate'"),
        (lambda: orthwrap.SO(estimate="rough"), "must be exact, auto or sketch"),
        (lambda: orthwrap.SO(layout={"name": "dense"}), "a layout needs name, rows and columns"),
        (lambda: orthwrap.SO(layout=Layout("x", (0,), (0,)).to_config()), "every axis"),
        (lambda: orthwrap.SO(combined_with=3), "a name, a config or a callable; got 3"),
        (lambda: orthwrap.regularizer("soo"), "did you mean 'so'"),
        (lambda: orthwrap.regularizer("l2", every=2), "'l2' takes no options; got every"),
        (lambda: orthwrap.regularizer(orthwrap.SO), "SO is a class: give an object"),
        (lambda: orthwrap.regularizer(orthwrap.SO(), 0.5), "set them on the object"),
        (lambda: orthwrap.regularizer(squares, every=2), "set them on the object"),
        (lambda: orthwrap.regularizer(3), "a name, a config or a callable; got 3"),
        (
            lambda: Attached({"class_name": "Nobody", "config": {}, "module": None}),
            "is not known here",
        ),
    ],
)
def test_values_out_of_range_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(orthwrap.ValueFault) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [{"scale": "preserve"}, {"estimate": "sketch"}])
def test_activity_has_neither_sketch_nor_preserve_nor_lorth(words: dict[str, Any]) -> None:
    with pytest.raises(orthwrap.UsageError, match="on activity"):
        orthwrap.SO(on="activity", **words)
    with pytest.raises(orthwrap.UsageError, match="on activity"):
        orthwrap.LOrth(on="activity")


def test_base_class_is_not_to_be_made() -> None:
    with pytest.raises(TypeError, match="use one such as"):
        orthwrap.OrthogonalityRegularizer()


def test_kernel_that_the_layout_does_not_describe_is_named_with_it() -> None:
    conv = orthwrap.SO(layout=Layout("conv", (0, 1, 2), (3,), parts=2))
    for shape in ((4, 3), (3, 3, 2, 5)):
        with pytest.raises(orthwrap.ValueFault) as caught:
            conv(np.ones(shape, "float32"))
        assert "'conv'" in str(caught.value)
        assert str(shape) in str(caught.value)
    with pytest.raises(orthwrap.ValueFault, match="give it a layout"):
        orthwrap.SO()(np.ones(3, "float32"))


def test_without_a_layout_the_rank_decides() -> None:
    rng = np.random.default_rng(0)
    for shape in ((5, 3), (3, 2, 4), (2, 2, 3, 4), (2, 2, 2, 2, 3)):
        w = rng.normal(size=shape).astype("float32")
        expected = 1e-3 * so(w.reshape(-1, shape[-1]))
        assert float(orthwrap.SO()(w)) == pytest.approx(expected, rel=1e-5)


# Counts and random draws inside fit


def no_task(y: Any, p: Any) -> Any:
    return 0.0 * ops.mean(p, axis=-1)


class Batches(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """The loss of each batch, from Keras's running means."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._sum = 0.0
        self._count = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._count += 1
        total = logs["loss"] * self._count
        self.losses.append(total - self._sum)
        self._sum = total


def batch_losses(
    regularizer: Any, steps: int, epochs: int = 1, rate: float = 0.0, **compiled: Any
) -> tuple[list[float], Any]:
    """The penalty at each step of a fit with no task, and the model."""
    model = models.randomized(
        keras.Sequential([layers.Input((6,)), layers.Dense(4, kernel_regularizer=regularizer)])
    )
    model.compile(keras.optimizers.SGD(rate), no_task, **compiled)
    watcher = Batches()
    x = np.ones((2 * steps, 6), "float32")
    model.fit(x, x[:, :4], batch_size=2, epochs=epochs, verbose=0, callbacks=[watcher])
    return watcher.losses, model


# Keras warns of deprecated parts of PyTorch's compiler.
JIT = [False] if keras.backend.backend() == "torch" else [False, True]


@pytest.mark.dear
@pytest.mark.parametrize("jit", JIT)
def test_every_fires_once_in_so_many_steps_though_the_kernel_stands_still(jit: bool) -> None:
    losses, model = batch_losses(orthwrap.SO(0.5, every=3, seed=0), 12, epochs=2, jit_compile=jit)
    value = 0.5 * so(numpy(model.layers[0].kernel))
    in_threes = np.sort(np.reshape(losses, (-1, 3)))
    np.testing.assert_allclose(in_threes, [[0.0, 0.0, 3 * value]] * 8, rtol=1e-4, atol=1e-5)
    assert len(set(np.argmax(np.reshape(losses, (-1, 3)), axis=1))) == 3  # at no fixed place


def test_every_moves_the_weights_at_its_own_steps_only() -> None:
    regularizer = orthwrap.SO(0.1, every=2)
    model = models.randomized(
        keras.Sequential([layers.Input((6,)), layers.Dense(4, kernel_regularizer=regularizer)])
    )
    model.compile(keras.optimizers.SGD(0.05), no_task)
    x = np.ones((2, 6), "float32")
    moved = []
    for _ in range(4):
        before = numpy(model.layers[0].kernel)
        model.fit(x, x[:, :4], batch_size=2, verbose=0)
        after = numpy(model.layers[0].kernel)
        moved.append(not np.array_equal(after, before))
        if moved[-1]:
            gradient = 2 * 0.1 * 4 * before @ (before.T @ before - np.eye(4))
            np.testing.assert_allclose(after, before - 0.05 * gradient, rtol=1e-5, atol=1e-6)
    assert [sum(moved[:2]), sum(moved[2:])] == [1, 1]


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(("every", "accumulate"), [(2, 2), (2, 4), (3, 3)])
def test_every_is_right_under_gradient_accumulation(every: int, accumulate: int) -> None:
    """One update from several small steps is that of the plain penalty."""

    def trained(regularizer: Any) -> Any:
        model = models.randomized(
            keras.Sequential([layers.Input((6,)), layers.Dense(4, kernel_regularizer=regularizer)])
        )
        optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=accumulate)
        model.compile(optimizer, no_task)
        x = np.ones((4 * accumulate, 6), "float32")
        model.fit(x, x[:, :4], batch_size=1, verbose=0)
        return numpy(model.layers[0].kernel)

    plain, sparse = trained(orthwrap.SO(0.1)), trained(orthwrap.SO(0.1, every=every))
    start = numpy(
        models.randomized(keras.Sequential([layers.Input((6,)), layers.Dense(4)])).layers[0].kernel
    )
    assert not np.allclose(plain, start)
    np.testing.assert_allclose(sparse, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("jit", JIT)
def test_sketch_draws_anew_at_each_step_and_as_its_seed_says(jit: bool) -> None:
    def draws(seed: int | None) -> list[float]:
        made = orthwrap.SO(1.0, estimate="sketch", probes=2, seed=seed)
        return batch_losses(made, 12, jit_compile=jit)[0]

    first, again, other = draws(1), draws(1), draws(2)
    assert len({round(v, 5) for v in first}) > 8
    assert first == again
    assert first != other
    assert draws(None) != draws(None)


def test_sketch_is_right_on_average_and_srip_is_the_norm() -> None:
    losses, model = batch_losses(orthwrap.SO(1.0, estimate="sketch", probes=8, seed=0), 120)
    kernel = numpy(model.layers[0].kernel)
    assert np.mean(losses) == pytest.approx(so(kernel), rel=0.1)
    assert np.std(losses) > 0
    top = float(np.max(np.abs(np.linalg.eigvalsh(kernel.T @ kernel - np.eye(4)))))
    losses, _ = batch_losses(orthwrap.SRIP(1.0, steps=3, seed=0), 12)
    np.testing.assert_allclose(losses, top, rtol=1e-3)


def test_two_regularizers_count_apart() -> None:
    a, b = orthwrap.SO(1.0, every=2), orthwrap.SO(1.0, every=2)
    w = np.ones((3, 2), "float32")
    paid = [(r is a, float(r(w)) > 0) for r in (a, b, b, a, b, a, a, b)]
    for own in ([p for is_a, p in paid if is_a is which] for which in (True, False)):
        assert [sum(own[:2]), sum(own[2:])] == [1, 1]


# Precision


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_kernels_are_computed_in_float32(name: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    half = ops.cast(ops.convert_to_tensor(rng.normal(size=(40, 24)) * 4), dtype)
    full = ops.cast(half, "float32")
    make = functools.partial(orthwrap.regularizer, name, 1.0)
    seed = {"seed": 1} if name == "srip" else {}
    value = make(**seed)(half)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert np.isfinite(float(value))
    assert float(value) == pytest.approx(float(make(**seed)(full)), rel=1e-6)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16"])
def test_half_precision_layers_train_with_their_penalty(dtype: str) -> None:
    model = models.randomized(
        keras.Sequential([layers.Input((6,)), layers.Dense(4, dtype=dtype, name="half")])
    )
    model = orthwrap.apply(model, factor=1.0, scale="unit").model
    before = orthwrap.inspect(model).layers[0].before
    model.compile(keras.optimizers.SGD(0.05), no_task)
    x = np.ones((4, 6), "float32")
    model.fit(x, x[:, :4], epochs=20, verbose=0)
    after = orthwrap.inspect(model).layers[0].before
    assert before is not None
    assert after is not None
    assert after.residual < 0.3 * before.residual


# Gradients


def layer_models() -> dict[str, Any]:
    """A layer of each layout."""
    image, series, flat = (6, 6, 4), (5, 6), (6,)
    return {
        "dense": (layers.Dense(4), flat),
        "dense wide": (layers.Dense(9), flat),
        "conv": (layers.Conv2D(5, 2), image),
        "conv grouped": (layers.Conv2D(6, 2, groups=2), image),
        "conv transpose": (layers.Conv2DTranspose(3, 2, strides=2), image),
        "depthwise": (layers.DepthwiseConv2D(2, depth_multiplier=3), image),
        "separable": (layers.SeparableConv2D(5, 2, depth_multiplier=2), image),
        "lstm": (layers.LSTM(3), series),
        "gru": (layers.GRU(3), series),
        "conv lstm": (layers.ConvLSTM2D(2, 2), (3, *image)),
        "attention": (SelfAttention(), series),
        "einsum": (
            layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de"),
            series,
        ),
    }


class SelfAttention(layers.MultiHeadAttention):
    """Attention of one input to itself."""

    def __init__(self) -> None:
        super().__init__(2, 3, value_dim=4, name="attention")

    def build(self, shape: Any) -> None:
        super().build(shape, shape)

    def call(self, x: Any) -> Any:  # type: ignore[override]  # one argument less
        return super().call(x, x)

    def compute_output_spec(self, x: Any) -> Any:  # type: ignore[override]  # one argument less
        return super().compute_output_spec(x, x)


def regularized(name: str, **words: Any) -> Any:
    layer, shape = layer_models()[name]
    inputs = layers.Input(shape)
    model = models.randomized(keras.Model(inputs, layer(inputs)))
    orthwrap.apply(model, target="*", in_place=True, **words)
    return model


@pytest.mark.parametrize(
    "penalty", ["so", "dso", "mc", "offdiag", "cosine", "frobenius", "spectral", "band"]
)
@pytest.mark.parametrize("name", layer_models())
def test_gradient_agrees_with_differences(name: str, penalty: str) -> None:
    rng = np.random.default_rng(0)
    for variable in regularized(name, regularizer=penalty, factor=1.0).weights:
        if variable.regularizer is None:
            continue
        kernel = numpy(variable).astype("float64") * 3
        _, gradient = value_and_grad(variable.regularizer, kernel)
        for _ in range(2):
            direction = rng.normal(size=kernel.shape)
            step = 1e-6
            high, _ = value_and_grad(variable.regularizer, kernel + step * direction)
            low, _ = value_and_grad(variable.regularizer, kernel - step * direction)
            slope = float(np.sum(gradient * direction))
            assert slope == pytest.approx((high - low) / (2 * step), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["dense", "conv", "conv grouped", "conv transpose"])
def test_gradient_of_lorth_agrees_with_differences(name: str) -> None:
    rng = np.random.default_rng(0)
    (variable,) = (
        v
        for v in regularized(name, regularizer="lorth", factor=1.0).weights
        if v.regularizer is not None
    )
    kernel = numpy(variable).astype("float64") * 2
    _, gradient = value_and_grad(variable.regularizer, kernel)
    direction, step = rng.normal(size=kernel.shape), 1e-5
    high, _ = value_and_grad(variable.regularizer, kernel + step * direction)
    low, _ = value_and_grad(variable.regularizer, kernel - step * direction)
    slope = float(np.sum(gradient * direction))
    assert slope == pytest.approx((high - low) / (2 * step), rel=1e-4)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    # On JAX, Keras's attention takes no values of another width than the keys.
    [n for n in layer_models() if n != "attention" or keras.backend.backend() != "jax"],
)
def test_penalty_alone_makes_every_kernel_more_orthogonal(name: str) -> None:
    model = regularized(name, factor=1.0, scale="unit")
    before = [r.before for r in orthwrap.inspect(model).layers]
    model.compile(keras.optimizers.Adam(0.02), no_task)
    shape = [d or 1 for d in model.input_shape[1:]]
    x = np.ones((1, *shape), "float32")
    y = np.zeros((1, *(d or 1 for d in model.output_shape[1:])), "float32")
    model.fit(np.repeat(x, 80, 0), np.repeat(y, 80, 0), batch_size=1, verbose=0)
    after = [r.before for r in orthwrap.inspect(model).layers]
    for then, now in zip(before, after, strict=True):
        assert then is not None
        assert now is not None
        assert now.residual < 0.5 * then.residual


@pytest.mark.parametrize("name", CLASSES)
def test_orthonormal_kernel_is_at_rest(name: str) -> None:
    regularizer = orthwrap.regularizer(name, 1.0)
    for shape in ((6, 4), (4, 6), (4, 4), (5, 1), (1, 5)):
        w = orthogonal(max(shape), min(shape))
        w = w if shape[0] >= shape[1] else w.T
        value, gradient = value_and_grad(regularizer, w)
        minimum = abs(shape[0] - shape[1]) if name == "dso" else 0.0
        assert value == pytest.approx(minimum, abs=1e-5)
        assert np.all(np.isfinite(gradient))


# Outputs


def activity_oracle(name: str, outputs: Array) -> float:
    """Each formula as it stands, in float64."""
    a = outputs.astype("float64").reshape(-1, outputs.shape[-1])
    a = a / np.sqrt(len(a))
    gram, other = a.T @ a, a @ a.T
    deviation = gram - np.eye(len(gram))
    n = len(gram)
    lengths = np.linalg.norm(a, axis=0)
    if name == "so":
        return float(np.linalg.norm(deviation) ** 2)
    if name == "dso":
        return float(np.linalg.norm(deviation) ** 2 + np.linalg.norm(other - np.eye(len(a))) ** 2)
    if name == "mc":
        return float(np.max(np.abs(deviation)))
    if name == "srip":
        return float(np.max(np.abs(np.linalg.eigvalsh(deviation))))
    if name == "offdiag":
        return float(np.sum(gram**2) - np.sum(np.diag(gram) ** 2))
    if name == "cosine":
        cosines = np.abs(gram / np.outer(lengths, lengths))
        return float((np.sum(cosines) - n) / (n * (n - 1)))
    if name == "spectral":
        return float((np.linalg.norm(a, 2) - 1) ** 2)
    if name == "band":
        outside = np.abs(np.linalg.eigvalsh(deviation)) - 0.1
        return float(np.sum(np.maximum(outside, 0) ** 2))
    assert name == "frobenius"
    return float(np.linalg.norm(deviation))


ON_OUTPUTS = [name for name in CLASSES if name != "lorth"]


@pytest.mark.parametrize("shape", [(7, 5), (3, 5), (4, 3, 3, 5), (2, 4, 6)])
@pytest.mark.parametrize("name", ON_OUTPUTS)
def test_penalty_of_outputs_is_its_formula(name: str, shape: tuple[int, ...]) -> None:
    outputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    steps = {"steps": 300} if name == "srip" else {}
    regularizer = orthwrap.regularizer(name, 0.5, on="activity", **steps)
    expected = 0.5 * activity_oracle(name, outputs)
    tolerance = 5e-3 if name == "srip" else 1e-5
    assert float(regularizer(outputs)) == pytest.approx(expected, rel=tolerance)
    _, gradient = value_and_grad(regularizer, outputs)
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient != 0)


@pytest.mark.parametrize("name", ON_OUTPUTS)
def test_penalty_of_outputs_has_a_finite_gradient_everywhere(name: str) -> None:
    regularizer = orthwrap.regularizer(name, 1.0, on="activity")
    whitened = orthogonal(8, 3) * np.sqrt(8.0, dtype="float32")
    for outputs in (whitened, np.zeros((4, 3), "float32"), np.ones((4, 1), "float32")):
        value, gradient = value_and_grad(regularizer, outputs)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("name", ON_OUTPUTS)
def test_penalty_of_outputs_acts_in_fit(name: str) -> None:
    """Keras divides the loss of a layer's outputs by the number of samples."""
    inputs = layers.Input((4, 4, 3))
    x = layers.Conv2D(5, 2, name="conv")(inputs)
    outputs = layers.Dense(4, name="dense")(layers.Flatten(name="flat")(x))
    model = models.randomized(keras.Model(inputs, outputs))
    options = {"steps": 40} if name == "srip" else {}
    result = orthwrap.apply(
        model,
        regularizer=name,
        factor=0.5,
        on="activity",
        target=["conv", "dense"],
        options=options,
    )
    decided = [
        (r.path, r.slot, r.shape, r.layout, r.before) for r in result.report.layers if r.carries
    ]
    assert decided == [
        ("conv", "activity", None, None, None),
        ("dense", "activity", None, None, None),
    ]
    x = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype("float32")
    parts = [keras.Model(model.input, model.get_layer(n).output)(x) for n in ("conv", "dense")]
    expected = sum(0.5 * activity_oracle(name, numpy(part)) / 6 for part in parts)
    copy = result.model
    copy.compile(keras.optimizers.Adam(0.02), no_task)
    losses = copy.fit(x, np.zeros((6, 4)), batch_size=6, epochs=15, verbose=0).history["loss"]
    tolerance = 3e-2 if name == "srip" else 1e-4
    assert losses[0] == pytest.approx(expected, rel=tolerance)  # before the first step
    assert losses[-1] < losses[0]


def test_kernel_and_outputs_can_carry_one_each() -> None:
    model = models.dense()
    rules = [
        orthwrap.Rule(target="wide"),
        orthwrap.Rule(target="wide", on="activity", regularizer="mc", factor=0.1),
    ]
    result = orthwrap.apply(model, rules=rules)
    assert [(r.path, r.slot) for r in result.report.layers if r.carries] == [
        ("wide", "kernel"),
        ("wide", "activity"),
    ]
    layer = result.model.get_layer("wide")
    assert isinstance(layer.kernel_regularizer, orthwrap.SO)
    assert isinstance(layer.activity_regularizer, orthwrap.MC)
    stripped = orthwrap.strip(result.model).model
    assert stripped.get_config() == model.get_config()
