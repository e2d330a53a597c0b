"""Whatever can be rebuilt is rebuilt, and the original keeps every bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from tests.live.test_live import assert_same_outputs, numpy
from tests.support import models


@pytest.fixture(autouse=True)
def _clean_session() -> None:
    keras.utils.clear_session(free_memory=False)


def series(*layer: Any, batch: int | None = 2) -> Any:
    """A model of layers that take and give series of 3 steps of 4 numbers."""
    x = inputs = layers.Input(batch_shape=(batch, 3, 4))
    for each in layer:
        x = each(x)
    return models.randomized(keras.Model(inputs, layers.Dense(2, name="head")(x)))


class Counts(layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Each call is another one: a weight, a list, a dict, a bare variable and a number count."""

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.listed = [self.add_weight(shape=(), initializer="zeros", trainable=False)]
        self.named = {"n": self.add_weight(shape=(), initializer="zeros", trainable=True)}
        self.hidden = (keras.Variable(0.0, trainable=False),)
        self.calls = 0

    def call(self, inputs: Any) -> Any:
        for v in (self.weight, self.listed[0], self.named["n"], self.hidden[0]):
            v.assign(v + 1.0)
            inputs = inputs + v
        self.calls += 1
        return inputs


class Draws(layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Random numbers at inference too, with a seed of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(7)

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.normal(ops.shape(inputs), seed=self.generator)


class Measured(layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """A metric that goes on at each call."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, inputs: Any) -> Any:
        self.seen.update_state(inputs)
        return inputs + self.seen.result()


class Costs(layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Adds a loss at each call."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(ops.mean(inputs))
        return inputs


STATEFUL: dict[str, Callable[[], Any]] = {
    "LSTM": lambda: series(layers.LSTM(4, stateful=True, return_sequences=True)),
    "GRU": lambda: series(layers.GRU(4, stateful=True, return_sequences=True)),
    "two directions": lambda: series(
        layers.Bidirectional(layers.LSTM(3, return_sequences=True, stateful=True))
    ),
    "cells": lambda: series(
        layers.RNN([layers.GRUCell(4), layers.LSTMCell(4)], stateful=True, return_sequences=True)
    ),
    "within": lambda: series(
        keras.Sequential(
            [
                layers.Input(batch_shape=(2, 3, 4)),
                layers.SimpleRNN(4, stateful=True, return_sequences=True),
            ]
        )
    ),
    "counts": lambda: series(Counts()),
    "draws": lambda: series(Draws()),
    "measured": lambda: series(Measured()),
    "norm": lambda: series(layers.BatchNormalization(), layers.Dropout(0.5, seed=3)),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_copy_goes_on_from_the_state_that_the_original_is_in(name: str) -> None:
    original = STATEFUL[name]()
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    original(x, training=True)
    original(x)
    result = orthwrap.apply(original)
    assert result.report.warnings == ()
    for _ in range(2):  # each call moves both alike
        assert_same_outputs(original, result.model, x)


def test_counts_and_losses_of_the_original_are_not_those_of_a_check() -> None:
    original = series(Counts(name="counts"), Costs())
    original(np.ones((2, 3, 4), "float32"))
    counts = original.get_layer("counts")
    loss = numpy(original.losses[0])
    copy = orthwrap.apply(original).model
    assert counts.calls == 2  # the graph was made with one, and it was called once
    assert [numpy(v) for v in original.losses] == [loss]
    assert len(copy.losses) == 1  # the penalty of its head


def test_numbers_without_a_seed_come_as_if_nothing_had_been_called() -> None:
    if keras.backend.backend() == "jax":
        pytest.skip("JAX draws no such numbers in a graph")
    keras.utils.set_random_seed(3)
    inputs = layers.Input((4,))
    noisy = layers.Lambda(lambda x: x + 0 * keras.random.normal((1,)))(inputs)
    original = keras.Model(inputs, layers.Dense(2, kernel_initializer="ones")(noisy))
    drawn: list[Any] = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        keras.random.normal((2,))
        if drawn:
            orthwrap.apply(original)
        drawn.append(numpy(keras.random.normal((3,))))
    np.testing.assert_array_equal(*drawn)


# Models around models


def backbone() -> Any:
    inputs = layers.Input((6,), name="features")
    x = layers.Dense(5, activation="tanh", name="first")(inputs)
    return keras.Model(inputs, layers.Dense(4, name="second")(x), name="backbone")


class Head(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """Ends on a model that it is given, and shares nothing with it but its input."""

    def __init__(self, body: Any, units: int = 2, **options: Any) -> None:
        super().__init__(
            body.input, layers.Dense(units, name="logits")(body(body.input)), **options
        )
        self.body, self.units = body, units

    def get_config(self) -> dict[str, Any]:
        body = keras.saving.serialize_keras_object(self.body)
        return {"body": body, "units": self.units, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        body = keras.saving.deserialize_keras_object(config.pop("body"))
        return cls(body, **config)


class Backbone(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """Makes its own graph from numbers, and its config holds no layers."""

    def __init__(self, width: int = 4, **options: Any) -> None:
        inputs = keras.Input((6,), name="features")
        x = layers.Dense(width, name="hidden")(inputs)
        outputs = {"pooled": layers.Dense(width, name="pooler")(x), "sequence": x}
        super().__init__(inputs=inputs, outputs=outputs, **options)
        self.width = width

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "trainable": self.trainable, "width": self.width}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**config)


class Task(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """A classifier as KerasHub builds them: a Functional that names its backbone."""

    def __init__(self, backbone: Any, classes: int = 3, **options: Any) -> None:
        inputs = backbone.input
        head = layers.Dense(classes, name="predictions")
        super().__init__(inputs=inputs, outputs=head(backbone(inputs)["pooled"]), **options)
        self.backbone, self.head, self.classes = backbone, head, classes

    def get_config(self) -> dict[str, Any]:
        body = keras.layers.serialize(self.backbone)
        return {"backbone": body, "classes": self.classes, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        config["backbone"] = keras.layers.deserialize(config["backbone"])
        return cls(**config)


class Autoencoder(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """Holds `encoder` and `auto`, which have the encoder's layers in common."""

    def __init__(self, width: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.width = width
        inputs = layers.Input((6,), name="features")
        code = layers.Dense(width, name="code")(layers.Dense(5, name="in")(inputs))
        self.encoder = keras.Model(inputs, code, name="encoder")
        self.auto = keras.Model(inputs, layers.Dense(6, name="out")(code), name="auto")

    def call(self, inputs: Any) -> Any:
        return self.auto(inputs)

    def get_config(self) -> dict[str, Any]:
        return {"width": self.width, "name": self.name}


class Pair(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """The same two models, in its config."""

    def __init__(self, encoder: Any, auto: Any, **options: Any) -> None:
        super().__init__(**options)
        self.encoder, self.auto = encoder, auto

    def call(self, inputs: Any) -> Any:
        return self.auto(inputs)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {"encoder": serialize(self.encoder), "auto": serialize(self.auto)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**{k: keras.saving.deserialize_keras_object(v) for k, v in config.items()})


def pair() -> Any:
    made = Autoencoder()
    return Pair(made.encoder, made.auto)


def distiller() -> Any:
    from keras.distillation import Distiller, FeatureDistillation, LogitsDistillation

    def classifier(width: int, name: str) -> Any:
        inputs = layers.Input((6,), name="features")
        x = layers.Dense(width, name="hidden")(inputs)
        return keras.Model(inputs, layers.Dense(3, name="logits")(x), name=name)

    losses = [LogitsDistillation(temperature=2.0), FeatureDistillation("mse", "hidden", "hidden")]
    return Distiller(classifier(4, "teacher"), classifier(4, "student"), losses, [0.5, 0.5])


AROUND: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "head": (lambda: Head(backbone()), {"backbone/first", "backbone/second", "logits"}),
    "head of a head": (
        lambda: Head(Head(backbone(), name="inner"), 1),
        {"inner/backbone/first", "inner/backbone/second", "inner/logits", "logits"},
    ),
    "task": (lambda: Task(Backbone()), {"backbone/hidden", "backbone/pooler", "predictions"}),
    "autoencoder": (Autoencoder, {"encoder/in", "encoder/code", "auto/out"}),
    "pair": (pair, {"encoder/in", "encoder/code", "auto/out"}),
    "distiller": (
        distiller,
        {f"{m}/{n}" for m in ("teacher", "student") for n in ("hidden", "logits")},
    ),
}


@pytest.mark.parametrize("name", AROUND)
def test_models_around_models_are_rebuilt(name: str) -> None:
    make, kernels = AROUND[name]
    original = models.randomized(make())
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    original(x)
    result = orthwrap.apply(original)
    copy = result.model
    assert {r.path for r in result.report.layers if r.carries} == kernels
    assert type(copy) is type(original)
    assert len(copy.weights) == len(original.weights)
    assert_same_outputs(original, copy, x)
    assert len(copy.losses) == sum(r.trainable for r in result.report.layers)
    for mine, theirs in zip(copy._flatten_layers(), original._flatten_layers(), strict=True):
        assert mine is not theirs
        if mine.name in ("backbone", "encoder", "auto", "teacher", "student"):
            assert_same_outputs(theirs, mine, x)


def test_what_models_share_is_shared_in_the_copy() -> None:
    for make in (Autoencoder, pair):
        original = models.randomized(make())
        original(np.ones((1, 6), "float32"))
        copy = orthwrap.apply(original).model
        kernel = copy.encoder.get_layer("code").kernel
        assert any(v is kernel for v in copy.auto.weights)


@keras.saving.register_keras_serializable()
class Both(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """Two models that it is given, and no graph around them."""

    def __init__(self, generator: Any, critic: Any, **options: Any) -> None:
        super().__init__(**options)
        self.generator, self.critic = generator, critic

    def call(self, x: Any) -> Any:
        return self.generator(x) + self.critic(x)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        both = {"generator": serialize(self.generator), "critic": serialize(self.critic)}
        return {"name": self.name, **both}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        made = {
            k: keras.saving.deserialize_keras_object(config[k]) for k in ("generator", "critic")
        }
        return cls(**made, name=config["name"])


class NeverCalled(Both):
    """Such as a GAN, with a `train_step` alone."""

    call = keras.Model.call


@pytest.mark.parametrize("is_first", [True, False], ids=["input too", "layer alone"])
@pytest.mark.parametrize("is_called", [True, False], ids=["call", "train_step"])
def test_models_without_a_graph_around_them_share_in_the_copy_too(
    is_first: bool, is_called: bool
) -> None:
    shared = layers.Dense(3, name="shared")

    def around(name: str) -> Any:
        inputs = layers.Input((3,))
        x = inputs if is_first else layers.Dense(3, name=f"before_{name}")(inputs)
        return keras.Model(inputs, layers.Dense(3, name=f"after_{name}")(shared(x)), name=name)

    original = (Both if is_called else NeverCalled)(around("generator"), around("critic"))
    models.randomized(original)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    if is_called:
        original(x)
    result = orthwrap.apply(original)
    copy = result.model
    assert copy.generator.get_layer("shared") is copy.critic.get_layer("shared")
    assert copy.generator.get_layer("shared") is not shared
    for mine, theirs in ((copy.generator, original.generator), (copy.critic, original.critic)):
        assert_same_outputs(theirs, mine, x)
    carry = {r.path.partition("/")[2] for r in result.report.layers if r.carries}
    before = set() if is_first else {"before_generator", "before_critic"}
    assert carry == {"shared", "after_generator", "after_critic", *before}
    assert len(copy.losses) == len(carry)


@pytest.mark.parametrize("has_graph", [True, False])
def test_what_two_models_share_is_said_not_to_be_shared_in_a_file(
    has_graph: bool, tmp_path: Path
) -> None:
    shared = layers.Dense(3, name="shared")
    made = [keras.Sequential([layers.Input((3,)), shared, layers.Dense(3)]) for _ in range(2)]
    x = layers.Input((3,))
    original = keras.Model(x, made[0](x) + made[1](x)) if has_graph else Both(*made)
    original(np.ones((1, 3), "float32"))
    result = orthwrap.apply(original, tmp_path / "model.keras")
    assert len(result.model.losses) == 3
    assert any("8 weights where the model has 6" in note for note in result.report.warnings)


@pytest.mark.slow
def test_original_and_copy_train_on_apart() -> None:
    """JAX deletes the arrays that a step trains: the two must have none in common."""
    original = models.dense()
    original.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.ones((4, 6), "float32"), np.arange(4) % 3
    original.fit(x, y, verbose=0)
    copy = orthwrap.apply(original, factor=0.0).model
    for model in (copy, original, copy):
        model.fit(x, y, verbose=0)
    for a, b in zip(original.weights, copy.weights, strict=True):
        assert np.all(np.isfinite(numpy(a)))
        assert np.all(np.isfinite(numpy(b)))


# Models that train in a way of their own and are never called


class Gan(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """Two models and a `train_step`; no `call`, so that Keras never builds it."""

    def __init__(self, generator: Any = None, critic: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.generator = generator or network("functional_7", 3, 6)
        self.critic = critic or network("functional_8", 6, 1)
        self.tracker = keras.metrics.Mean(name="loss")
        self.seeds = keras.random.SeedGenerator(5)

    @property
    def metrics(self) -> list[Any]:
        return [self.tracker]

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            made = self.generator(keras.random.normal((4, 3), seed=self.seeds))
            loss = ops.mean(self.critic(made)) + sum(self.losses)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


class GanWithConfig(Gan):
    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        parts = {"generator": serialize(self.generator), "critic": serialize(self.critic)}
        return {"name": self.name, **parts}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        for key in ("generator", "critic"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)


def network(name: str, inputs: int, outputs: int) -> Any:
    x = start = layers.Input((inputs,))
    x = layers.Dense(4, activation="tanh", name="hidden")(x)
    return keras.Model(start, layers.Dense(outputs, name="out")(x), name=name)


ALL_OF_GAN = {f"functional_{n}/{name}" for n in (7, 8) for name in ("hidden", "out")}


def test_model_without_call_is_changed_in_place() -> None:
    model = models.randomized(Gan())
    assert not model.built
    result = orthwrap.apply(model, in_place=True)
    assert result.model is model
    assert {r.path for r in result.report.layers if r.carries} == ALL_OF_GAN
    assert result.report.model.parameters == sum(int(np.prod(v.shape)) for v in model.weights)
    assert len(model.losses) == 4
    assert orthwrap.inspect(model).summary["regularized"] == 4


@pytest.mark.dear
@pytest.mark.parametrize("trained", [False, True])
def test_model_without_call_is_copied_by_its_config(trained: bool) -> None:
    if trained and keras.backend.backend() != "tensorflow":
        pytest.skip("its own step is one of TensorFlow")
    original = models.randomized(GanWithConfig())
    if trained:
        original.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
        original.fit(np.zeros((8, 1)), batch_size=4, verbose=0)
    result = orthwrap.apply(original, factor=0.0)
    copy = result.model
    assert {r.path for r in result.report.layers if r.carries} == ALL_OF_GAN
    x = np.ones((2, 3), "float32")
    assert_same_outputs(original.generator, copy.generator, x)
    np.testing.assert_array_equal(numpy(original.seeds.state), numpy(copy.seeds.state))
    assert len(copy.losses) == 4
    if trained:
        assert result.report.warnings == ()
        for model in (original, copy):
            model.fit(np.zeros((8, 1)), batch_size=4, verbose=0)
        for a, b in zip(original.weights, copy.weights, strict=True):
            np.testing.assert_allclose(numpy(a), numpy(b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", ["generator/*", "functional_7/*", "re:generator/.*"])
@pytest.mark.parametrize("make", [Gan, GanWithConfig])
def test_attributes_name_models_too(target: str, make: type) -> None:
    report = orthwrap.apply(make(), target=target, in_place=True).report
    chosen = {r.path for r in report.layers if r.carries}
    assert chosen == {"functional_7/hidden", "functional_7/out"}


def test_attributes_name_models_in_a_file_too(tmp_path: Any) -> None:
    path = tmp_path / "gan.keras"
    model = GanWithConfig()
    model.built = True  # else Keras warns that it may have no weights
    model.save(path)
    report = orthwrap.apply(path, target="generator/*").report
    chosen = {r.path for r in report.layers if r.carries}
    assert chosen == {"functional_7/hidden", "functional_7/out"}


def test_name_of_a_layer_goes_before_that_of_an_attribute() -> None:
    class Crossed(keras.Model):  # type: ignore[misc]  # Keras is untyped
        def __init__(self) -> None:
            super().__init__()
            self.one = layers.Dense(3, name="two")
            self.two = layers.Dense(3, name="one")

        def call(self, x: Any) -> Any:
            return self.two(self.one(x))

    model = Crossed()
    model(np.ones((1, 3), "float32"))
    report = orthwrap.apply(model, target="one", in_place=True).report
    assert [r.path for r in report.layers if r.carries] == ["one"]
    assert model.two.kernel.regularizer is not None


def test_model_without_weights_is_still_refused() -> None:
    class Empty(keras.Model):  # type: ignore[misc]  # Keras is untyped
        def train_step(self, data: Any) -> Any:
            return {}

    for in_place in (False, True):
        with pytest.raises(orthwrap.ValueFault, match="no weights yet"):
            orthwrap.apply(Empty(), in_place=in_place)


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_model_that_has_nothing_to_learn_is_read_as_its_file_is(kind: str, tmp_path: Path) -> None:
    x = layers.Input((4, 4, 3))
    row = [layers.Cropping2D(1), layers.Flatten()]
    graph = keras.Model(x, row[1](row[0](x)))
    model = graph if kind == "functional" else keras.Sequential([x, *row])
    model.save(tmp_path / "model.keras")
    for source in (model, tmp_path / "model.keras"):
        assert orthwrap.inspect(source).layers == ()
        with pytest.raises(orthwrap.NoMatchError, match="no layer of this model has a kernel"):
            orthwrap.apply(source)
    assert_same_outputs(model, orthwrap.strip(model).model, np.ones((2, 4, 4, 3), "float32"))


# What a class does in its own way


def quantized(mode: str) -> Any:
    model = models.dense()
    model.get_layer("wide").quantize(mode)
    return model


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_quantized_layer_does_not_stand_in_the_way_of_others(mode: str) -> None:
    original = quantized(mode)
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    original(x, training=mode == "float8")
    result = orthwrap.apply(original)
    assert [r.path for r in result.report.layers if r.carries] == ["head"]
    for name in ("wide", "head"):
        ours = {v.name: v for v in result.model.get_layer(name).weights}
        theirs = {v.name: v for v in original.get_layer(name).weights}
        assert ours.keys() == theirs.keys()
        for key, variable in theirs.items():
            np.testing.assert_array_equal(numpy(variable), numpy(ours[key]), err_msg=key)
    assert_same_outputs(original, result.model, x)


class Reversed(layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Its config makes its weights in another order, all of one shape."""

    def __init__(self, backwards: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.backwards = backwards

    def build(self, shape: Any) -> None:
        names = ["first", "second", "third"]
        for name in reversed(names) if self.backwards else names:
            setattr(self, name, self.add_weight(shape=(shape[-1],), initializer="ones"))

    def call(self, inputs: Any) -> Any:
        return inputs * self.first + self.second - 2 * self.third

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "backwards": not self.backwards}


def test_weights_go_by_what_holds_them() -> None:
    inputs = layers.Input((4,))
    x = layers.Dense(3, name="head")(Reversed(name="own")(inputs))
    original = models.randomized(keras.Model(inputs, x))
    copy = orthwrap.apply(original).model
    assert copy.get_layer("own").backwards
    assert_same_outputs(original, copy, np.ones((2, 4), "float32"))


@pytest.mark.parametrize(
    "place",
    ["load_own_variables", "save_own_variables", "save_assets", "load_assets", "build", "call",
     "get_config", "from_config"],
)  # fmt: skip
def test_fault_of_a_class_is_one_line_that_names_it(place: str, tmp_path: Path) -> None:
    fails_at: list[str] = []

    class Own(layers.Layer):  # type: ignore[misc]  # Keras is untyped
        """None of Keras's, so that it saves in its own way."""

        def build(self, shape: Any) -> None:
            self.fail("build")
            self.gain = self.add_weight(shape=(1,))

        def fail(self, name: str) -> None:
            if name in fails_at:
                raise KeyError("of the class")

        def call(self, x: Any) -> Any:
            self.fail("call")
            return x * self.gain

        def get_config(me) -> dict[str, Any]:  # no name is sure
            me.fail("get_config")
            return super().get_config()

        @classmethod
        def from_config(cls, config: Any) -> Any:
            cls.fail(cls, "from_config")
            return super().from_config(config)

        def load_own_variables(self, store: Any) -> None:
            self.fail("load_own_variables")
            super().load_own_variables(store)

        def save_own_variables(self, store: Any) -> None:
            self.fail("save_own_variables")
            super().save_own_variables(store)

        def save_assets(self, folder: str) -> None:
            self.fail("save_assets")

        def load_assets(self, folder: str) -> None:
            self.fail("load_assets")

    inputs = layers.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(Own(name="own")(inputs)))
    assert orthwrap.apply(model).report.summary["regularized"] == 1
    model.save(tmp_path / "m.keras")
    fails_at.append(place)
    for verb in (orthwrap.apply, orthwrap.strip):
        with pytest.raises(orthwrap.RebuildError) as caught:
            verb(model)
        assert "Own" in str(caught.value)
        assert "of the class" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert model.losses == []
    if place in ("load_own_variables", "build", "call", "from_config"):
        with pytest.raises(orthwrap.OrthwrapError) as told:
            orthwrap.load_model(tmp_path / "m.keras", custom_objects={"Own": Own})
        assert "Own" in str(told.value)
        assert "of the class" in str(told.value)
        assert "\n" not in str(told.value)


def test_number_in_place_of_nan_is_another_output() -> None:
    class Breaks(layers.Layer):  # type: ignore[misc]  # Keras is untyped
        """Its copies give NaN."""

        def __init__(self, value: float = float("nan"), **options: Any) -> None:
            super().__init__(**options)
            self.value = value

        def call(self, x: Any) -> Any:
            return x * self.value

        def get_config(self) -> dict[str, Any]:
            return {"name": self.name}

    def made(value: float) -> Any:
        inputs = layers.Input((4,))
        return keras.Model(inputs, layers.Dense(2)(Breaks(value)(inputs)))

    with pytest.raises(orthwrap.RebuildError, match="gives other outputs"):
        orthwrap.apply(made(1.0))
    assert orthwrap.apply(made(float("nan"))).report.warnings == ()


def test_copy_that_holds_the_models_own_weights_is_refused() -> None:
    held: list[Any] = []

    class Kept(layers.Layer):  # type: ignore[misc]  # Keras is untyped
        """All layers of the class have one variable."""

        def build(self, shape: Any) -> None:
            if not held:
                held.append(keras.Variable(np.ones(4, "float32")))
            self.gain = held[0]

        def call(self, x: Any) -> Any:
            return x * self.gain

    inputs = layers.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(Kept()(inputs)))
    with pytest.raises(orthwrap.RebuildError, match="own weights"):
        orthwrap.apply(model)
    assert orthwrap.apply(model, in_place=True).model is model
