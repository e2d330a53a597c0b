"""What is found is all there is, and the same in memory, in `.keras`, unpacked, and in `.h5`."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from tests.conftest import needs_keras
from tests.support import models


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    """A clean session that knows the classes below."""
    keras.utils.clear_session(free_memory=False)
    own = (Composite, Dictionary, Inheriting, Ladder, Pair, Parts, Tabled, TwoRanks)
    with keras.saving.custom_object_scope({cls.__name__: cls for cls in own}):
        yield


# Oracles


def residual(matrices: Any) -> float:
    """√(Σ‖Gᵢ − I‖² / (count·r)) of a (count, m, n) array, in float64."""
    w = np.asarray(matrices, np.float64)
    w = w if w.shape[1] >= w.shape[2] else np.swapaxes(w, 1, 2)
    gram = np.swapaxes(w, 1, 2) @ w
    return float(
        np.sqrt(np.mean(np.sum((gram - np.eye(w.shape[2])) ** 2, axis=(1, 2))) / w.shape[2])
    )


def plain(kernel: Any) -> Any:
    w = keras.ops.convert_to_numpy(kernel)
    return w.reshape(1, -1, w.shape[-1])


def depthwise(kernel: Any) -> Any:
    w = keras.ops.convert_to_numpy(kernel)
    return w.reshape(-1, *w.shape[-2:]).transpose(1, 0, 2)


def everywhere(model: Any, folder: Path, h5: bool = True) -> dict[str, Any]:
    """The model, and files of it in each format."""
    packed, unpacked = folder / "m.keras", folder / "unpacked"
    model.save(packed)
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(unpacked)
    found = {"live": model, "keras": packed, "folder": unpacked}
    if h5:
        model.save(folder / "m.h5")
        found["h5"] = folder / "m.h5"
    return found


def kernels(source: Any, target: Any = ("all", "*")) -> dict[tuple[str, str | None], Any]:
    report = orthwrap.apply(source, dry_run=True, target=list(target)).report
    return {
        (r.path, r.kernel): (r.decision, r.shape, r.before and round(r.before.residual, 6))
        for r in report.layers
    }


def assert_alike(model: Any, folder: Path, h5: bool = True) -> dict[tuple[str, str | None], Any]:
    """All sources say the same; and what the live model says."""
    found = {name: kernels(s) for name, s in everywhere(model, folder, h5).items()}
    for name, seen in found.items():
        assert seen == found["live"], name
    return found["live"]


# Depthwise kernels, wherever they are


def within(inner: Any, *, shape: tuple[int, ...] = (6, 6, 3)) -> Any:
    inputs = layers.Input(shape)
    return models.randomized(
        keras.Model(inputs, layers.Dense(2, name="head")(inner(inputs)), name="outer")
    )


def stack(*inner: Any, name: str = "inner", shape: tuple[int, ...] = (6, 6, 3)) -> Any:
    x = inputs = layers.Input(shape)
    for layer in inner:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def dw(name: str = "dw", **words: Any) -> Any:
    return layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name=name, **words)


DEPTHWISE: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "top": (lambda: within(dw()), ["dw"]),
    "nested": (lambda: within(stack(dw(), layers.Conv2D(4, 3, name="c"))), ["inner/dw"]),
    "several": (
        lambda: within(stack(dw(), layers.Conv2D(4, 3, name="c"), dw("dw2"), dw("a"))),
        ["inner/dw", "inner/dw2", "inner/a"],
    ),
    "sequential": (
        lambda: within(keras.Sequential([layers.Input((6, 6, 3)), dw()], name="seq")),
        ["seq/dw"],
    ),
    "deep": (
        lambda: within(stack(stack(dw(), layers.Conv2D(4, 1, name="c"), name="in2"), name="in1")),
        ["in1/in2/dw"],
    ),
    "time distributed": (
        lambda: within(layers.TimeDistributed(dw(), name="td"), shape=(4, 6, 6, 3)),
        ["td/dw"],
    ),
    "spectral": (
        lambda: within(layers.SpectralNormalization(dw(), name="sn")),
        ["sn/dw"],
    ),
    "spectral within": (
        lambda: within(stack(layers.SpectralNormalization(dw(), name="sn"), dw("other"))),
        ["inner/sn/dw", "inner/other"],
    ),
    "nested wrapper": (
        lambda: within(
            stack(layers.TimeDistributed(dw(), name="td"), shape=(4, 6, 6, 3)),
            shape=(4, 6, 6, 3),
        ),
        ["inner/td/dw"],
    ),
    "one dimension": (
        lambda: within(stack(layers.DepthwiseConv1D(3, name="dw"), shape=(6, 3)), shape=(6, 3)),
        ["inner/dw"],
    ),
    "beside separable": (
        lambda: within(stack(dw(), layers.SeparableConv2D(4, 3, name="sep"))),
        ["inner/dw", "inner/sep"],
    ),
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_kernels_are_found_at_any_depth(name: str, tmp_path: Path) -> None:
    make, paths = DEPTHWISE[name]
    model = make()
    found = assert_alike(model, tmp_path)
    assert {p for p, kernel in found if kernel == "depthwise_kernel"} == set(paths)
    by_name = {layer.name: layer for layer in model._flatten_layers()}
    for (path, kernel), (decision, _, value) in found.items():
        assert decision == "regularized"
        if kernel == "depthwise_kernel" and "sep" not in path:
            own = by_name[path.rpartition("/")[2]].kernel
            assert value == pytest.approx(residual(depthwise(own)), rel=1e-4)


# Attention


def attention(kind: str, **words: Any) -> Any:
    x = layers.Input((5, 8))
    if kind == "group":
        words = {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2, **words}
        layer = layers.GroupQueryAttention(name="look", **words)
    else:
        layer = layers.MultiHeadAttention(2, 3, name="look", **words)
    return models.randomized(keras.Model(x, layer(x, x)))


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("kind", ["group", "multi"])
def test_every_kernel_of_attention_is_found_and_survives(
    kind: str, gate: bool, tmp_path: Path
) -> None:
    if gate:
        needs_keras("3.14", "has gates")
    model = attention(kind, **({"use_gate": True} if gate else {}))
    count = 5 if gate else 4
    found = assert_alike(model, tmp_path)
    assert len(found) == count
    assert all(decision == "regularized" for decision, _, _ in found.values())
    if gate:
        own = keras.ops.convert_to_numpy(model.get_layer("look")._gate_dense.kernel)
        expected = residual(own.transpose(1, 0, 2))
        assert found["look", "gate/kernel"][2] == pytest.approx(expected, rel=1e-4)
    for source in everywhere(model, tmp_path).values():
        (by_class,) = {r.class_name for r in orthwrap.inspect(source, measure=False).layers}
        assert orthwrap.inspect(source, target=f"class:{by_class}", measure=False).layers
        assert by_class == type(model.get_layer("look")).__name__.replace("Grouped", "Group")
        for suffix in (".keras", ".h5"):
            out = tmp_path / f"out{suffix}"
            result = orthwrap.apply(source, out, target="all", scale="unit", force=True)
            loaded = orthwrap.load_model(out)
            assert result.report.summary["regularized"] == len(loaded.losses) == count
            total = result.report.summary["penalty_before"]
            assert float(sum(loaded.losses)) == pytest.approx(total, rel=1e-5)


def test_the_reversible_embedding_is_an_embedding(tmp_path: Path) -> None:
    needs_keras("3.12", "has reversible embeddings")
    tokens = layers.Input((4,), dtype="int32")
    model = models.randomized(
        keras.Model(tokens, layers.ReversibleEmbedding(7, 5, name="words")(tokens))
    )
    value = residual(plain(model.get_layer("words").embeddings))
    for name, source in everywhere(model, tmp_path).items():
        found = kernels(source, ["words"])
        assert found["words", "embeddings"][0] == "regularized", name
        assert found["words", "embeddings"][2] == pytest.approx(value, rel=1e-4), name


# Layers and models of the caller's own


class Composite(layers.Layer):
    """It has a list called `layers`, and members beside it."""

    def __init__(self, parts: Any = None, out: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = list(parts or [layers.Dense(5, name="p0"), layers.Dense(4, name="p1")])
        self.out = out or layers.Dense(8, name="out")
        self.also = layers.Dense(3, name="also")

    def build(self, shape: Any) -> None:
        for layer in (*self.layers, self.out, self.also):
            if not layer.built:
                layer.build(shape)
            shape = (*shape[:-1], layer.units)

    def call(self, x: Any) -> Any:
        for layer in (*self.layers, self.out, self.also):
            x = layer(x)
        return x


class Parts(Composite):
    """The same, with most of it in the config."""

    def get_config(self) -> dict[str, Any]:
        save = keras.saving.serialize_keras_object
        held = {"layers": [save(p) for p in self.layers], "out": save(self.out)}
        return {**super(Composite, self).get_config(), **held}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        load = keras.saving.deserialize_keras_object
        parts = [load(p) for p in config.pop("layers")]
        return cls(parts, load(config.pop("out")), **config)


def test_a_list_called_layers_hides_no_other_member() -> None:
    report = orthwrap.apply(within(Composite(name="own"), shape=(6,))).report
    expected = {"own/p0", "own/p1", "own/out", "own/also", "head"}
    assert {r.path for r in report.layers if r.carries} == expected


def test_nor_does_it_in_a_config(tmp_path: Path) -> None:
    model = within(Parts(name="own"), shape=(6,))
    expected = {"own/p0", "own/p1", "own/out", "head"}
    for name, source in everywhere(model, tmp_path, h5=False).items():
        found = kernels(source)
        own = {layer.name: layer for layer in model._flatten_layers()}
        for path in expected:
            value = residual(plain(own[path.rpartition("/")[2]].kernel))
            assert found[path, "kernel"][2] == pytest.approx(value, rel=1e-4), name


class Pair(keras.Model):
    """Layers under attributes that sort before and after `layers`, in a list and alone."""

    def __init__(self, first: Any, rest: Any, zero: Any, alone: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first, self.rest, self.zero, self._alone = first, list(rest), zero, alone

    def build(self, shape: Any) -> None:
        for layer in (self.first, *self.rest, self.zero, self._alone):
            if not layer.built:
                layer.build(shape)
            shape = (*shape[:-1], layer.units)
        self.built = True

    def call(self, x: Any) -> Any:
        for layer in (self.first, *self.rest, self.zero, self._alone):
            x = layer(x)
        return x

    def get_config(self) -> dict[str, Any]:
        save = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "first": save(self.first),
            "rest": [save(p) for p in self.rest],
            "zero": save(self.zero),
            "alone": save(self._alone),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        load = keras.saving.deserialize_keras_object
        rest = [load(p) for p in config.pop("rest")]
        held = {k: load(config.pop(k)) for k in ("first", "zero", "alone")}
        return cls(rest=rest, **held, **config)


class Dictionary(layers.Layer):
    """Layers in a mapping."""

    def __init__(self, parts: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = dict(parts)

    def build(self, shape: Any) -> None:
        for layer in self.parts.values():
            if not layer.built:
                layer.build(shape)
            shape = (*shape[:-1], layer.units)

    def call(self, x: Any) -> Any:
        for layer in self.parts.values():
            x = layer(x)
        return x

    def get_config(self) -> dict[str, Any]:
        held = {k: keras.saving.serialize_keras_object(p) for k, p in self.parts.items()}
        return {**super().get_config(), "parts": held}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        held = config.pop("parts").items()
        return cls({k: keras.saving.deserialize_keras_object(p) for k, p in held}, **config)


class Ladder(layers.Layer):
    """Layers in lists of lists, and in a list of mappings."""

    def __init__(self, steps: Any, ways: Any = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = [list(inner) for inner in steps]
        self.ways = [dict(inner) for inner in ways]

    def _all(self) -> list[Any]:
        lists = [layer for inner in self.steps for layer in inner]
        return lists + [layer for inner in self.ways for layer in inner.values()]

    def build(self, shape: Any) -> None:
        for layer in self._all():
            if not layer.built:
                layer.build(shape)
            shape = (*shape[:-1], layer.units)

    def call(self, x: Any) -> Any:
        for layer in self._all():
            x = layer(x)
        return x

    def get_config(self) -> dict[str, Any]:
        save = keras.saving.serialize_keras_object
        steps = [[save(layer) for layer in inner] for inner in self.steps]
        ways = [{k: save(layer) for k, layer in inner.items()} for inner in self.ways]
        return {**super().get_config(), "steps": steps, "ways": ways}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        load = keras.saving.deserialize_keras_object
        steps = [[load(c) for c in inner] for inner in config.pop("steps")]
        ways = [{k: load(c) for k, c in inner.items()} for inner in config.pop("ways")]
        return cls(steps, ways, **config)


def assert_true_residuals(model: Any, folder: Path, paths: set[str], h5: bool = False) -> None:
    own = {layer.name: layer for layer in model._flatten_layers()}
    for name, source in everywhere(model, folder, h5).items():
        found = {path: value for (path, _), (_, _, value) in kernels(source).items()}
        assert set(found) == paths, name
        for path, value in found.items():
            expected = residual(plain(own[path.rpartition("/")[2]].kernel))
            assert value == pytest.approx(expected, rel=1e-4), (name, path)


def pair() -> Any:
    def part(units: int, name: str) -> Any:
        return layers.Dense(units, name=name)

    rest = [part(4, "r0"), part(7, "r1"), part(3, "r2")]
    model = Pair(part(5, "f"), rest, part(6, "z"), part(9, "u"))
    model(np.ones((1, 6), "float32"))
    return models.randomized(model)


def test_attributes_that_sort_after_layers(tmp_path: Path) -> None:
    paths = {"f", "r0", "r1", "r2", "z", "u"}
    assert_true_residuals(pair(), tmp_path, paths)
    target = tmp_path / "out.keras"
    report = orthwrap.apply(tmp_path / "m.keras", target).report
    assert {r.path for r in report.layers if r.carries} == paths
    assert len(keras.models.load_model(target).losses) == 6


def test_layers_in_a_mapping(tmp_path: Path) -> None:
    parts = {"b": layers.Dense(5, name="one"), "a": layers.Dense(4, name="two")}
    model = within(Dictionary(parts, name="own"), shape=(6,))
    assert_true_residuals(model, tmp_path, {"own/one", "own/two", "head"}, h5=True)


def test_layers_in_lists_of_lists(tmp_path: Path) -> None:
    one, two, three, four, five = (
        layers.Dense(3 + i, name=name) for i, name in enumerate(("e", "d", "c", "b", "a"))
    )
    own = Ladder([[one, two], [three]], [{"x": four}, {"y": five}], name="own")
    model = within(own, shape=(6,))
    paths = {*(f"own/{name}" for name in "abcde"), "head"}
    assert_true_residuals(model, tmp_path, paths, h5=True)
    for suffix in (".keras", ".h5"):
        out = tmp_path / f"o{suffix}"
        report = orthwrap.apply(tmp_path / f"m{suffix}", out).report
        assert report.summary["regularized"] == len(orthwrap.load_model(out).losses) == 6


def test_a_layer_that_two_members_share(tmp_path: Path) -> None:
    shared = layers.Dense(6, name="shared")
    rest = [layers.Dense(6, name="r"), shared]
    model = Pair(layers.Dense(6, name="f"), rest, shared, layers.Dense(6, name="u"))
    model(np.ones((1, 6), "float32"))
    models.randomized(model)
    assert_true_residuals(model, tmp_path, {"f", "r", "shared", "u"})


def test_a_distiller(tmp_path: Path) -> None:
    needs_keras("3.12", "has distillation")

    def half(name: str) -> Any:
        return models.randomized(
            stack(
                layers.Dense(5, name=f"{name}_a"),
                layers.Dense(3, name=f"{name}_b"),
                name=name,
                shape=(6,),
            ),
            seed=len(name),
        )

    loss = keras.distillation.LogitsDistillation()
    model = keras.distillation.Distiller(half("teacher"), half("student"), distillation_losses=loss)
    model.compile("sgd", "mse")
    model(np.ones((1, 6), "float32"))
    halves = ("teacher", "student")
    assert_true_residuals(model, tmp_path, {f"{h}/{h}_{x}" for h in halves for x in "ab"})


# A class of others with weights beside its kernel


class Tabled(layers.Layer):
    """Made before its kernel: a table of as many axes."""

    TABLE: tuple[int, ...] = (6, 6)

    def __init__(self, units: int = 4, kernel_regularizer: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=self.TABLE, name="table")
        self.kernel = self.add_weight(
            shape=(8, self.units), regularizer=self.kernel_regularizer, name="kernel"
        )
        self.bias = self.add_weight(shape=(self.units,), name="bias")

    def call(self, x: Any) -> Any:
        return x @ self.kernel + self.bias + keras.ops.sum(self.table)

    def get_config(self) -> dict[str, Any]:
        kept = keras.regularizers.serialize(self.kernel_regularizer)
        return {**super().get_config(), "units": self.units, "kernel_regularizer": kept}


class TwoRanks(Tabled):
    TABLE = (3, 2, 2)


class Inheriting(Tabled):
    """One weight alone has two axes: that is the kernel, wherever it stands."""

    TABLE = (6,)


def tabled(cls: type) -> Any:
    inputs = layers.Input((8,))
    x = cls(name="own")(inputs)
    return models.randomized(keras.Model(inputs, layers.Dense(2, name="beside")(x)))


@pytest.mark.parametrize("scale", ["unit", "preserve", "auto"])
@pytest.mark.parametrize("cls", [Tabled, TwoRanks, Inheriting])
def test_what_may_be_the_kernel_is_no_kernel(cls: type, scale: str, tmp_path: Path) -> None:
    model = tabled(cls)
    true = residual(plain(model.get_layer("own").kernel))
    decided = set()
    for source in everywhere(model, tmp_path).values():
        rules = [orthwrap.Rule(target=("own", "beside"), scale=scale)]
        record, _ = orthwrap.apply(source, dry_run=True, rules=rules).report.layers
        regularizer = record.regularizer
        decided.add((record.decision, None if regularizer is None else regularizer.scale))
        record, _ = orthwrap.inspect(source).layers
        if record.before is not None:
            assert record.before.residual == pytest.approx(true, rel=1e-5)
        if cls is Inheriting:
            assert record.before is not None
    assert len(decided) == 1
    known = {"unit": ("regularized", "unit"), "preserve": ("unsupported", None)}
    if cls is Tabled:
        assert decided == {known.get(scale, ("regularized", "unit"))}
    elif cls is TwoRanks:
        assert decided == {("unsupported", None)}
    else:
        assert decided == {("regularized", "unit" if scale == "unit" else "preserve")}


def test_a_penalty_on_a_kernel_that_is_not_known_by_place_is_the_true_one(tmp_path: Path) -> None:
    model = tabled(Tabled)
    model.save(tmp_path / "m.keras")
    report = orthwrap.apply(
        tmp_path / "m.keras", tmp_path / "o.keras", target="own", scale="unit"
    ).report
    record = report.layers[0]
    assert record.before is None
    assert "2 weights" in record.reason
    w = plain(model.get_layer("own").kernel)[0].astype(np.float64)
    expected = 1e-3 * np.sum((w.T @ w - np.eye(4)) ** 2)
    (loss,) = keras.models.load_model(tmp_path / "o.keras").losses
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_what_may_be_a_kernel_is_compared_whichever_it_is(tmp_path: Path) -> None:
    model = tabled(Tabled)
    model.save(tmp_path / "a.keras")
    assert {r.status for r in orthwrap.compare(tmp_path / "a.keras", model).layers} == {"same"}
    kernel = model.get_layer("own").kernel
    kernel.assign(kernel + 1)  # which a file has after the table
    model.save(tmp_path / "b.keras")
    rows = orthwrap.compare(tmp_path / "a.keras", tmp_path / "b.keras").layers
    assert {r.path: r.status for r in rows} == {"own": "changed", "beside": "same"}
    assert next(r for r in rows if r.path == "own").weight_change is None


# Frozen


def frozen(make: Callable[[], Any], thaw: bool = False) -> Any:
    model = make()
    model.trainable = False
    if thaw:
        model.layers[-1].trainable = True
    return model


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("thaw", [False, True])
@pytest.mark.parametrize("make", [models.dense, models.nested, models.wrapped, models.attention])
def test_a_penalty_is_claimed_where_keras_applies_one(
    make: Callable[[], Any], thaw: bool, suffix: str, tmp_path: Path
) -> None:
    frozen(make, thaw).save(tmp_path / f"m{suffix}")
    out = tmp_path / f"o{suffix}"
    report = orthwrap.apply(tmp_path / f"m{suffix}", out, target="all", scale="unit").report
    losses = orthwrap.load_model(out).losses
    assert sum(r.carries and r.trainable for r in report.layers) == len(losses)
    total = report.summary["penalty_before"]
    assert (total or 0.0) == pytest.approx(float(sum(losses)) if losses else 0.0, rel=1e-5)
