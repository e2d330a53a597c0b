"""Models in memory: the copy is the original in all but its regularizers; in_place changes it."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from tests.conftest import needs_keras
from tests.support import models

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(autouse=True)
def _clean_session() -> None:
    """The same names in every test, and no graph of another."""
    keras.utils.clear_session(free_memory=False)


# Oracles


def so(kernel: Any, groups: int = 1) -> float:
    """Σ ‖G−I‖_F² in float64, of the last axis against all others, group by group."""
    w = np.asarray(numpy(ops.cast(kernel, "float64")))
    total = 0.0
    for part in np.split(w.reshape(-1, w.shape[-1]), groups, axis=-1):
        gram = part.T @ part if part.shape[1] <= part.shape[0] else part @ part.T
        total += float(np.sum((gram - np.eye(len(gram))) ** 2))
    return total


def default_kernels(model: Any) -> list[tuple[Any, int]]:
    """(kernel, groups) of what `all-conv` and `all-dense` choose, found without orthwrap."""
    found = {}
    within = set()  # the parts of an attention layer are no layers of the model
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.MultiHeadAttention):
            within |= {id(part) for part in layer._flatten_layers()}
        if id(layer) in within:
            continue
        if isinstance(layer, layers.SeparableConv2D):
            found[id(layer)] = (layer.pointwise_kernel, 1)
        elif isinstance(layer, layers.DepthwiseConv2D):
            continue
        elif isinstance(layer, (layers.Conv1D, layers.Conv2D, layers.Conv3D)):
            found[id(layer)] = (layer.kernel, layer.groups)
        elif isinstance(layer, (layers.Conv2DTranspose, layers.Dense, layers.EinsumDense)):
            found[id(layer)] = (layer.kernel, 1)
    return list(found.values())


def numpy(tensor: Any) -> Array:
    """A copy; bfloat16 as float32."""
    array = np.array(ops.convert_to_numpy(tensor))
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def weights_of(model: Any) -> list[tuple[str, Array]]:
    """In the model's order; Keras's own paths of variables differ once a file was loaded."""
    return [(re.sub(r"^variable(_\d+)?$", "unnamed", v.name), numpy(v)) for v in model.weights]


def losses_of(model: Any) -> list[float]:
    return [float(numpy(value)) for value in model.losses]


def regularizers_of(model: Any) -> list[Any]:
    """Every regularizer that a layer or a variable of the model holds."""
    found = [v.regularizer for v in model.weights]
    for layer in (model, *model._flatten_layers(include_self=False)):
        found += [value for key, value in vars(layer).items() if key.endswith("_regularizer")]
    return [r for r in found if r is not None]


def assert_same_weights(first: Any, second: Any) -> None:
    ours, theirs = weights_of(first), weights_of(second)
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    for (path, a), (_, b) in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(a, b, err_msg=path)


def assert_same_outputs(first: Any, second: Any, inputs: Any) -> None:
    before = keras.tree.flatten(first(inputs, training=False))
    after = keras.tree.flatten(second(inputs, training=False))
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(*(numpy(ops.cast(v, "float32")) for v in (a, b)))


def assert_faithful(original: Any, weights: list[tuple[str, Array]], result: Any) -> float:
    """The copy is the original with losses; the original is what it was. Gives back their sum."""
    copy, report = result.model, result.report
    assert copy is not original
    assert type(copy) is type(original)
    assert copy.name == original.name
    assert_same_weights(original, copy)
    assert not {id(v) for v in original.variables} & {id(v) for v in copy.variables}
    assert [v.trainable for v in original.weights] == [v.trainable for v in copy.weights]

    assert original.losses == []
    assert regularizers_of(original) == []
    for (path, now), (_, then) in zip(weights_of(original), weights, strict=True):
        np.testing.assert_array_equal(now, then, err_msg=path)

    acting = [r for r in report.layers if r.carries and r.trainable]
    assert len(copy.losses) == len(acting)
    total = sum(losses_of(copy))
    if all(r.before is not None for r in acting):
        terms = [r.regularizer.factor * r.before.penalty for r in acting]
        assert total == pytest.approx(sum(terms), rel=2e-5, abs=1e-9)
    return total


# The copy


def applications() -> dict[str, tuple[int, Callable[..., Any]]]:
    """The size and the maker of a small member of each family of `keras.applications`.

    Where a family says how deep and how wide, each of its blocks is there but not many times.
    """
    a, src, of = keras.applications, keras.src.applications, partial

    def stacks(x: Any) -> Any:
        stack = src.resnet.stack_residual_blocks_v1
        return stack(stack(x, 8, 2, stride1=1, name="conv2"), 16, 2, name="conv3")

    thin = {"width_coefficient": 0.35, "depth_coefficient": 0.3, "default_size": 32}
    cells = {"num_blocks": 1, "penultimate_filters": 96, "stem_block_filters": 8}
    return {
        "MobileNet": (32, of(a.MobileNet, alpha=0.5)),
        "MobileNetV3Small": (32, a.MobileNetV3Small),
        "DenseNet": (32, of(src.densenet.DenseNet, [2, 1, 1, 1])),
        "EfficientNetV2": (
            32,
            of(src.efficientnet_v2.EfficientNetV2, **thin, name="efficientnetv2-b0"),
        ),
        "NASNet": (32, of(src.nasnet.NASNet, **cells, skip_reduction=False)),
        "Xception": (71, a.Xception),
        "ConvNeXt": (32, of(src.convnext.ConvNeXt, [1, 2, 1, 1], [8, 16, 24, 32])),
        "ResNet": (32, of(src.resnet.ResNet, stacks, False, True)),
        "VGG16": (32, of(a.VGG16, include_top=False, pooling="avg")),
    }


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("name", applications())
def test_copy_of_an_application_is_the_original_with_losses(name: str) -> None:
    size, make = applications()[name]
    original = make(weights=None, input_shape=(size, size, 3), classes=10)
    weights = weights_of(original)
    chosen = default_kernels(original)
    # The figures of a large model take NumPy longer than all else; the oracle below is enough.
    is_small = original.count_params() < 8_000_000
    result = orthwrap.apply(original, scale="unit", measure=is_small)
    total = assert_faithful(original, weights, result)
    assert result.report.summary["regularized"] == len(chosen)
    expected = 1e-3 * sum(so(kernel, groups) for kernel, groups in chosen)
    assert total == pytest.approx(expected, rel=2e-5)
    assert_same_outputs(original, result.model, models.inputs_for(original, samples=2))
    assert result.report.warnings == ()
    del original, result
    gc.collect()


def keras_reads_back(model: Any, folder: Path) -> bool:
    """Whether Keras itself loads the `.keras` that it writes of a model."""
    model.save(folder / "plain.keras")
    try:
        return bool(keras.models.load_model(folder / "plain.keras"))
    except (ValueError, TypeError, UserWarning):
        return False


@pytest.mark.dear
@pytest.mark.parametrize("target", [None, "all"])
@pytest.mark.parametrize("name", models.ALL)
def test_copy_of_any_structure_is_the_original_with_losses(
    name: str, target: str | None, tmp_path: Path
) -> None:
    original = models.ALL[name]()
    weights = weights_of(original)
    result = orthwrap.apply(original, target=target, scale="unit")
    assert_faithful(original, weights, result)
    assert_same_outputs(original, result.model, models.inputs_for(original))
    assert all("whether a saved file keeps what" in w for w in result.report.warnings)
    shares = name in ("shared", "shared_between_submodels")
    assert len(result.report.warnings) == (shares and not keras_reads_back(original, tmp_path))
    assert not getattr(result.model, "compiled", False)
    if target is None:
        expected = 1e-3 * sum(
            so(kernel, groups) for kernel, groups in default_kernels(original) if kernel.trainable
        )
        assert sum(losses_of(result.model)) == pytest.approx(expected, rel=2e-5, abs=1e-9)


@pytest.mark.parametrize("name", ["shared", "shared_between_submodels"])
def test_shared_layer_is_one_entry_with_one_loss_and_stays_shared(name: str) -> None:
    original = models.ALL[name]()
    result = orthwrap.apply(original)
    paths = [r.path for r in result.report.layers]
    assert sum(path.endswith("shared") for path in paths) == 1
    assert len(result.model.losses) == 3
    assert len(result.model.weights) == len(original.weights)
    kernel = result.model.weights[0]
    assert kernel.shape == (6, 6)
    before = [numpy(result.model(x)) for x in [np.ones((1, 6), "float32")]]
    kernel.assign(kernel * 0)
    after = [numpy(result.model(x)) for x in [np.ones((1, 6), "float32")]]
    assert not np.allclose(before, after)


@pytest.mark.parametrize("place", ["left/shared", "right/shared"])
def test_shared_layer_matches_by_any_of_its_places(place: str) -> None:
    report = orthwrap.apply(models.shared_between_submodels(), target=place).report
    chosen = [r.path for r in report.layers if r.carries]
    assert chosen == ["left/shared"]


def test_copy_changes_apart_from_the_original() -> None:
    original = models.nested()
    weights = weights_of(original)
    copy = orthwrap.apply(original).model
    for variable in copy.weights:
        variable.assign(variable + 1)
    for (_, now), (_, then) in zip(weights_of(original), weights, strict=True):
        np.testing.assert_array_equal(now, then)


def test_paths_of_nested_and_wrapped_layers() -> None:
    nested = orthwrap.inspect(models.nested(), measure=False)
    assert [r.path for r in nested.layers] == [
        "middle/first",
        "middle/inner/deep",
        "middle/last",
        "first",
    ]
    wrapped = {r.path for r in orthwrap.inspect(models.wrapped(), measure=False).layers}
    assert {
        "each/inner",
        "both/forward_lstm",
        "both/backward_lstm",
        "two/forward_there",
        "two/back",
        "simple",
        "head",
    } < wrapped
    assert any(p.startswith("stack/") and p.endswith("/low") for p in wrapped)


def test_every_kind_of_kernel_is_found_in_a_live_model() -> None:
    report = orthwrap.apply(models.convolutional(), target=["all", "head"]).report
    layouts = {(r.path, r.slot): r.matrices for r in report.layers if r.carries}
    assert layouts == {
        ("plain", "kernel"): (1, 36, 6),
        ("grouped", "kernel"): (3, 18, 2),
        ("deep", "depthwise"): (6, 9, 2),
        ("separable", "depthwise"): (12, 9, 1),
        ("separable", "pointwise"): (1, 12, 5),
        ("up", "kernel"): (1, 16, 5),
        ("head", "kernel"): (1, 4, 3),
    }


def test_frozen_kernels_are_attached_and_act_once_they_thaw() -> None:
    result = orthwrap.apply(models.frozen_layers())
    reasons = {r.path: r.reason for r in result.report.layers}
    assert "frozen: Keras applies no penalty" in reasons["middle/inner/deep"]
    assert "frozen: Keras applies no penalty" in reasons["middle/last"]
    assert "frozen" not in reasons["first"]
    assert len(result.model.losses) == 2
    result.model.get_layer("middle").get_layer("inner").trainable = True
    assert len(result.model.losses) == 3


def test_frozen_model_stays_frozen_and_its_sum_is_null() -> None:
    result = orthwrap.apply(models.frozen_model())
    assert result.model.trainable is False
    assert result.model.trainable_weights == []
    assert result.report.summary["regularized"] == 4
    assert result.report.summary["penalty_before"] is None
    result.model.trainable = True
    assert len(result.model.losses) == 4


# Layers of the caller's own


class Scaled(layers.Conv2D):
    """A subclass: its layout is its base's."""

    def call(self, inputs: Any) -> Any:
        return 2 * super().call(inputs)


class Gated(layers.Layer):
    """A layer of its own with a kernel and a kernel_regularizer, as users write them."""

    def __init__(self, units: int, kernel_regularizer: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(
            shape=(shape[-1], self.units), regularizer=self.kernel_regularizer, name="kernel"
        )
        self.gate = self.add_weight(shape=(self.units,), initializer="ones", name="gate")

    def call(self, inputs: Any) -> Any:
        return ops.matmul(inputs, self.kernel) * self.gate

    def get_config(self) -> dict[str, Any]:
        regularizer = keras.regularizers.serialize(self.kernel_regularizer)
        return {**super().get_config(), "units": self.units, "kernel_regularizer": regularizer}


class Block(layers.Layer):
    """Layers within, of which its config says nothing; two of them have one name."""

    def __init__(self, units: int = 4, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.first = layers.Dense(units, name="proj")
        self.second = layers.Dense(units, name="proj")
        self.rest = [layers.Dense(units, name="listed")]

    def call(self, inputs: Any) -> Any:
        return self.rest[0](self.second(ops.tanh(self.first(inputs))))


def leaky(x: Any) -> Any:
    return ops.maximum(x, 0.1 * x)


def test_subclass_of_a_known_layer_has_its_layout() -> None:
    inputs = layers.Input((6, 6, 4))
    original = keras.Model(inputs, Scaled(6, 3, groups=2, name="own")(inputs))
    result = orthwrap.apply(original, scale="unit")
    (record,) = result.report.layers
    assert record.class_name == "Scaled"
    assert record.matrices == (2, 18, 3)
    assert "class Scaled has the layout of Conv2D" in record.reason
    assert sum(losses_of(result.model)) == pytest.approx(
        1e-3 * so(original.get_layer("own").kernel, groups=2), rel=1e-5
    )
    assert_same_outputs(original, result.model, models.inputs_for(original))


def test_layer_of_an_unknown_class_goes_by_rank() -> None:
    inputs = layers.Input((6,))
    original = keras.Model(inputs, Gated(4, name="own")(inputs))
    result = orthwrap.apply(original, target="own", scale="unit")
    (record,) = result.report.layers
    assert record.matrices == (1, 6, 4)
    assert "Gated is not known: layout by its kernel's rank" in record.reason
    assert losses_of(result.model) == pytest.approx(
        [1e-3 * so(original.get_layer("own").kernel)], rel=1e-5
    )


def test_layers_within_a_layer_that_are_not_in_the_config_act_with_a_warning() -> None:
    inputs = layers.Input((4,))
    original = keras.Model(inputs, Block(name="block")(inputs))
    result = orthwrap.apply(original, scale="unit")
    assert [r.path for r in result.report.layers if r.carries] == [
        "block/proj",
        "block/proj'",
        "block/listed",
    ]
    expected = 1e-3 * sum(so(kernel) for kernel, _ in default_kernels(original))
    assert len(result.model.losses) == 3
    assert sum(losses_of(result.model)) == pytest.approx(expected, rel=1e-5)
    assert any("not in the model's config" in w for w in result.report.warnings)
    assert original.losses == []
    assert regularizers_of(original) == []


def test_functions_of_the_caller_need_no_registration() -> None:
    def leaky_too(x: Any) -> Any:  # another function of the same kind, known nowhere
        return ops.maximum(x, 0.3 * x)

    leaky_too.__name__ = "leaky"
    inputs = layers.Input((6,))
    x = layers.Dense(5, activation=leaky, name="module")(inputs)
    x = layers.Dense(5, activation=leaky_too, name="local")(x)
    x = layers.Dense(5, activation=lambda v: np.float32(0.5) * ops.square(v), name="lambda")(x)
    x = layers.Lambda(lambda v: ops.tanh(v) + np.float32(1), name="around")(x)
    x = ops.sin(x) * 2
    original = models.randomized(keras.Model(inputs, x))
    weights = weights_of(original)
    result = orthwrap.apply(original)
    assert_faithful(original, weights, result)
    assert_same_outputs(original, result.model, models.inputs_for(original))
    assert result.model.get_layer("local").activation is leaky_too


def test_objects_of_the_caller_need_no_registration() -> None:
    class Halves(keras.initializers.Initializer):  # type: ignore[misc]  # Keras is untyped
        def __call__(self, shape: Any, dtype: Any = None) -> Any:
            return ops.full(shape, 0.5, dtype)

    class Bounded(keras.constraints.Constraint):  # type: ignore[misc]  # Keras is untyped
        def __call__(self, w: Any) -> Any:
            return ops.clip(w, -1, 1)

    class Soft(layers.Layer):
        def call(self, x: Any) -> Any:
            return ops.softplus(x)

    inputs = layers.Input((6,))
    x = layers.Dense(
        5, kernel_initializer=Halves(), bias_constraint=Bounded(), activation=Soft(), name="own"
    )(inputs)
    original = keras.Model(inputs, x)
    weights = weights_of(original)
    result = orthwrap.apply(original)
    assert_faithful(original, weights, result)
    assert type(result.model.get_layer("own").bias_constraint) is Bounded


def test_wrapped_convolution_of_spectral_normalization_is_found() -> None:
    inputs = layers.Input((6, 6, 3))
    wrapped = layers.SpectralNormalization(layers.Conv2D(4, 3, name="conv"), name="spectral")
    original = models.randomized(keras.Model(inputs, wrapped(inputs)))
    result = orthwrap.apply(original)
    assert [(r.path, r.decision) for r in result.report.layers] == [
        ("spectral/conv", "regularized")
    ]
    assert len(result.model.losses) == 1


def test_statistics_and_vocabularies_learnt_from_data_are_copied() -> None:
    needs_keras("3.14", "reads the weights of tf_idf again")
    rng = np.random.default_rng(0)
    normal = layers.Normalization(name="normal")
    normal.adapt(5 + 3 * rng.normal(size=(50, 3)))
    bins = layers.Discretization(num_bins=4, name="bins")
    bins.adapt(rng.normal(size=(50, 1)))
    words = layers.TextVectorization(output_sequence_length=3, name="words")
    words.adapt(np.array(["the cat sat", "the dog ran"]))
    kinds = layers.StringLookup(name="kinds", output_mode="tf_idf")
    kinds.adapt(np.array([["a", "b"], ["a", "c"]]))

    inputs = {
        "numbers": layers.Input((3,), name="numbers"),
        "text": layers.Input((), dtype="string", name="text"),
        "kind": layers.Input((2,), dtype="string", name="kind"),
    }
    x = layers.Concatenate()(
        [
            normal(inputs["numbers"]),
            layers.Flatten()(layers.Embedding(8, 2)(bins(inputs["numbers"]))),
            layers.Flatten()(layers.Embedding(9, 2)(words(inputs["text"]))),
            kinds(inputs["kind"]),
        ]
    )
    original = keras.Model(inputs, layers.Dense(2, name="head")(x))
    copy = orthwrap.apply(original).model
    import tensorflow as tf

    given = {
        "numbers": tf.constant([[1.0, 5.0, 9.0], [4.0, 2.0, -3.0]]),
        "text": tf.constant(["the dog sat", "a cat"]),
        "kind": tf.constant([["a", "c"], ["z", "b"]]),
    }
    assert_same_outputs(original, copy, given)
    assert copy.get_layer("words").get_vocabulary() == words.get_vocabulary()


# Compiled state


def classification(samples: int = 24, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, 6)).astype("float32"), rng.integers(0, 3, samples)


def fitted(model: Any, **compiled: Any) -> Any:
    """The model after three steps."""
    compiled.setdefault("loss", "sparse_categorical_crossentropy")
    model.compile(**compiled)
    model.fit(*classification(), batch_size=8, shuffle=False, verbose=0)
    return model


def own_loss(y: Any, p: Any) -> Any:
    return ops.mean(ops.square(p - ops.one_hot(ops.cast(ops.reshape(y, (-1,)), "int32"), 3)))


def own_metric(y: Any, p: Any) -> Any:
    return ops.mean(p, axis=-1)


class OwnLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras is untyped
    def call(self, y: Any, p: Any) -> Any:
        return own_loss(y, p)


class OwnMetric(keras.metrics.Mean):  # type: ignore[misc]  # Keras is untyped
    def update_state(self, y: Any, p: Any, sample_weight: Any = None) -> Any:
        return super().update_state(p[:, 0])


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    def __call__(self, step: Any) -> Any:
        return 0.1 / (1 + ops.cast(step, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {}


COMPILED: dict[str, Callable[[], dict[str, Any]]] = {
    "string": lambda: {"optimizer": "rmsprop"},
    "momentum": lambda: {"optimizer": keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True)},
    "adam": lambda: {"optimizer": keras.optimizers.Adam(0.01), "metrics": ["accuracy"]},
    "averages": lambda: {"optimizer": keras.optimizers.AdamW(0.01, use_ema=True)},
    "accumulated": lambda: {"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)},
    "schedule": lambda: {
        "optimizer": keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 10))
    },
    "own schedule": lambda: {"optimizer": keras.optimizers.Adam(OwnSchedule())},
    "scaled loss": lambda: {
        "optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))
    },
    "own function": lambda: {"optimizer": "sgd", "loss": own_loss, "metrics": [own_metric]},
    "own lambda": lambda: {"optimizer": "sgd", "loss": lambda y, p: own_loss(y, p)},
    "own class": lambda: {"optimizer": "sgd", "loss": OwnLoss(), "metrics": [OwnMetric("own")]},
    "weighted": lambda: {
        "optimizer": "sgd",
        "weighted_metrics": [keras.metrics.SparseCategoricalAccuracy("weighted")],
    },
    "eager": lambda: {"optimizer": "adam", "run_eagerly": True},
    "no jit": lambda: {"optimizer": "adam", "jit_compile": False},
}


# What a traced step has of its own; what else a model is compiled with, a step shows as it is run.
TRACED = ("accumulated", "scaled loss", "weighted", "own class", "eager", "no jit")


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=(pytest.mark.traced, pytest.mark.slow) if k in TRACED else ())
        for k in COMPILED
    ],
)
def test_training_goes_on_in_the_copy_as_in_the_original(kind: str) -> None:
    original = fitted(models.dropout(), **COMPILED[kind]())
    result = orthwrap.apply(original, factor=0.0, measure=False)
    copy = result.model
    assert result.report.warnings == ()
    assert copy.compiled
    assert type(copy.optimizer) is type(original.optimizer)
    assert copy.optimizer is not original.optimizer
    assert copy.jit_compile == original.jit_compile
    assert copy.run_eagerly == original.run_eagerly
    for a, b in zip(original.optimizer.variables, copy.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))
    assert not {id(v) for v in original.optimizer.variables} & {
        id(v) for v in copy.optimizer.variables
    }
    before = weights_of(original)
    logs = [
        model.fit(*classification(seed=1), batch_size=8, shuffle=False, verbose=0).history
        for model in (original, copy)
    ]
    assert set(logs[0]) == set(logs[1])
    for (path, a), (_, b) in zip(weights_of(original), weights_of(copy), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=path)
    for key, values in logs[0].items():
        assert values == pytest.approx(logs[1][key], rel=1e-5)
    moved = [
        not np.array_equal(a, b) for (_, a), (_, b) in zip(before, weights_of(copy), strict=True)
    ]
    assert any(moved)


@pytest.mark.slow
def test_mixed_precision_training_goes_on_with_its_loss_scale() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        original = fitted(models.dense(), optimizer=keras.optimizers.Adam(0.01))
        assert isinstance(original.optimizer, keras.optimizers.LossScaleOptimizer)
        copy = orthwrap.apply(original, factor=0.0).model
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(copy.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(copy.optimizer.inner_optimizer, keras.optimizers.Adam)
    for model in (original, copy):
        model.fit(*classification(seed=1), batch_size=8, shuffle=False, verbose=0)
    for (path, a), (_, b) in zip(weights_of(original), weights_of(copy), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=path)


def test_learning_rate_changed_after_compile_is_the_copys_too() -> None:
    original = fitted(models.dense(), optimizer=keras.optimizers.Adam(0.01))
    original.optimizer.learning_rate = 0.25
    copy = orthwrap.apply(original).model
    assert float(copy.optimizer.learning_rate) == 0.25
    copy.optimizer.learning_rate = 0.5
    assert float(original.optimizer.learning_rate) == 0.25


@pytest.mark.slow
def test_layer_frozen_after_compiling_trains_on_as_in_the_original() -> None:
    original = fitted(models.dense(), optimizer=keras.optimizers.Adam(0.01))
    original.get_layer("wide").trainable = False
    original.compile(original.optimizer, "sparse_categorical_crossentropy")
    copy = orthwrap.apply(original, factor=0.0).model
    for model in (original, copy):
        model.fit(*classification(seed=1), batch_size=8, shuffle=False, verbose=0)
    assert_same_weights(original, copy)


@pytest.mark.slow
def test_losses_by_name_of_several_outputs_are_carried_over() -> None:
    original = models.many_ports()
    original.compile(
        "adam",
        loss={"kind": "sparse_categorical_crossentropy", "size": own_loss_of_size},
        loss_weights={"kind": 1.0, "size": 0.5},
        metrics={"kind": [keras.metrics.SparseCategoricalAccuracy(name="right")], "size": "mae"},
    )
    x = models.inputs_for(original, samples=8)
    y = {"kind": np.arange(8) % 3, "size": np.linspace(0, 1, 8)[:, None]}
    original.fit(x, y, verbose=0)
    result = orthwrap.apply(original, factor=0.0)
    assert result.report.warnings == ()
    logs = [model.fit(x, y, shuffle=False, verbose=0).history for model in (original, result.model)]
    assert set(logs[0]) == set(logs[1])
    assert {"kind_right", "size_mae"} < set(logs[0])
    for key, values in logs[0].items():
        assert values == pytest.approx(logs[1][key], rel=1e-5)


def own_loss_of_size(y: Any, p: Any) -> Any:
    return ops.mean(ops.abs(y - p), axis=-1)


@pytest.mark.slow
def test_compiled_submodel_keeps_its_own_loss_and_optimizer() -> None:
    original = models.nested()
    inner = original.get_layer("middle")
    inner.compile(keras.optimizers.Adam(0.02), loss=lambda y, p: ops.mean(ops.abs(y - p)))
    inner.fit(np.ones((4, 6)), np.ones((4, 4)), verbose=0)
    original.compile("sgd", "mse")
    result = orthwrap.apply(original, factor=0.0)
    assert result.report.warnings == ()
    copy = result.model.get_layer("middle")
    assert copy.compiled
    for model in (inner, copy):
        model.fit(np.ones((4, 6)), np.ones((4, 4)), verbose=0)
    assert_same_weights(original, result.model)


def test_model_compiled_without_loss_or_optimizer_does_not_stumble() -> None:
    original = models.dense()
    original.compile(optimizer=None, loss=None)
    result = orthwrap.apply(original)
    assert result.report.warnings == ()


@pytest.mark.slow
def test_shared_layers_and_compiled_state_go_together() -> None:
    original = models.shared_between_submodels()
    original.compile(keras.optimizers.Adam(0.01), own_loss_of_size)
    x, y = np.ones((4, 6), "float32"), np.zeros((4, 8), "float32")
    original.fit(x, y, verbose=0)
    result = orthwrap.apply(original, factor=0.0)
    (warning,) = result.report.warnings  # Keras cannot load what it saves of this
    assert "whether a saved file keeps what" in warning
    for model in (original, result.model):
        model.fit(x, y, verbose=0)
    for (path, a), (_, b) in zip(weights_of(original), weights_of(result.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7, err_msg=path)


# Subclassed models


class Rebuilds(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """get_config rebuilds it, its layers are not in there."""

    def __init__(self, units: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(units, name="hidden", activation="tanh")
        self.head = layers.Dense(2, name="head")

    def build(self, shape: Any) -> None:
        self.hidden.build(shape)
        self.head.build((shape[0], self.units))

    def call(self, inputs: Any) -> Any:
        return self.head(self.hidden(inputs))

    def get_config(self) -> dict[str, Any]:
        return {"units": self.units, "name": self.name}


class Holds(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """Its layers come as arguments and stand in its config."""

    def __init__(self, hidden: Any, head: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden, self.head = hidden, head

    def build(self, shape: Any) -> None:
        self.hidden.build(shape)
        self.head.build((shape[0], self.hidden.units))

    def call(self, inputs: Any) -> Any:
        return self.head(self.hidden(inputs))

    def get_config(self) -> dict[str, Any]:
        held = {
            key: keras.saving.serialize_keras_object(getattr(self, key))
            for key in ("hidden", "head")
        }
        return {"name": self.name, **held}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        held = {
            key: keras.saving.deserialize_keras_object(config.pop(key))
            for key in ("hidden", "head")
        }
        return cls(**held, **config)


class Cannot(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """No config: it takes an argument that Keras cannot write."""

    def __init__(self, thing: object, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.thing = thing
        self.hidden = layers.Dense(4, name="hidden")
        self.head = layers.Dense(2, name="head")

    def call(self, inputs: Any) -> Any:
        return self.head(self.hidden(inputs))


class Lies(Rebuilds):
    """Its config rebuilds another model than it is."""

    def get_config(self) -> dict[str, Any]:
        return {"units": self.units + 1, "name": self.name}


def built(model: Any) -> Any:
    model(np.ones((2, 6), "float32"))
    return model


def test_subclassed_model_without_layers_in_its_config_is_changed_on_the_copy() -> None:
    original = built(Rebuilds(5, name="sub"))
    result = orthwrap.apply(original)
    assert type(result.model) is Rebuilds
    assert len(result.model.losses) == 2
    assert original.losses == []
    assert regularizers_of(original) == []
    assert any("not in the model's config" in w for w in result.report.warnings)
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    assert_same_outputs(original, result.model, x)
    assert isinstance(result.model.hidden.kernel_regularizer, orthwrap.SO)


def test_subclassed_model_with_layers_in_its_config_is_edited() -> None:
    original = built(Holds(layers.Dense(4, name="hidden"), layers.Dense(2, name="head")))
    result = orthwrap.apply(original)
    assert [r.path for r in result.report.layers] == ["hidden", "head"]
    assert len(result.model.losses) == 2
    assert original.losses == []
    assert not any("not in the model's config" in w for w in result.report.warnings)


def test_model_that_cannot_be_rebuilt_is_refused_with_a_way_out() -> None:
    for model in (built(Cannot(object())), built(Lies(4))):
        with pytest.raises(orthwrap.RebuildError, match="in_place=True") as caught:
            orthwrap.apply(model)
        assert "\n" not in str(caught.value)
        assert model.losses == []


def test_in_place_works_where_no_copy_can_be_made() -> None:
    model = built(Cannot(object()))
    result = orthwrap.apply(model, in_place=True)
    assert result.model is model
    assert len(model.losses) == 2


class Noisy(Rebuilds):
    """Its config forgets a number that its outputs need."""

    def __init__(self, units: int = 4, offset: float = 0.0, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.offset = offset

    def call(self, inputs: Any) -> Any:
        return super().call(inputs) + self.offset


def test_copy_with_other_outputs_is_refused() -> None:
    inputs = layers.Input((6,))

    class Forgets(layers.Dense):
        offset = 0.0

        def call(self, inputs: Any) -> Any:
            return super().call(inputs) + self.offset

    layer = Forgets(3, name="own")
    model = keras.Model(inputs, layer(inputs))
    layer.offset = 1.0
    with pytest.raises(orthwrap.RebuildError, match="gives other outputs") as caught:
        orthwrap.apply(model)
    assert "in_place=True" in str(caught.value)


# In place


def no_task(y: Any, p: Any) -> Any:
    """A task loss that wants nothing, so that the penalty alone moves the weights."""
    return 0.0 * ops.mean(p, axis=-1)


def descended(kernel: Array, rate: float, factor: float) -> Array:
    """The kernel after one step of plain descent on factor · ‖G−I‖_F²."""
    tall = kernel.shape[1] <= kernel.shape[0]
    gram = kernel.T @ kernel if tall else kernel @ kernel.T
    deviation = gram - np.eye(len(gram))
    return kernel - rate * factor * 4 * (kernel @ deviation if tall else deviation @ kernel)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("jit", [True, False])
def test_in_place_moves_the_weights_of_a_model_that_was_fitted_before(jit: bool) -> None:
    model = models.dense()
    model.compile(keras.optimizers.SGD(0.5), no_task, jit_compile=jit)
    x, y = classification(8)
    model.fit(x, y, batch_size=8, verbose=0)
    kernels = [numpy(layer.kernel) for layer in model.layers]
    model.fit(x, y, batch_size=8, verbose=0)
    for layer, then in zip(model.layers, kernels, strict=True):
        np.testing.assert_array_equal(numpy(layer.kernel), then)

    result = orthwrap.apply(model, factor=0.1, in_place=True)
    assert result.model is model
    model.fit(x, y, batch_size=8, verbose=0)
    for layer, then in zip(model.layers, kernels, strict=True):
        np.testing.assert_allclose(
            numpy(layer.kernel), descended(then, 0.5, 0.1), rtol=1e-5, atol=1e-6
        )

    kernels = [numpy(layer.kernel) for layer in model.layers]
    orthwrap.strip(model, in_place=True)
    model.fit(x, y, batch_size=8, verbose=0)
    for layer, then in zip(model.layers, kernels, strict=True):
        np.testing.assert_array_equal(numpy(layer.kernel), then)


@pytest.mark.parametrize("name", models.ALL)
def test_in_place_gives_the_losses_that_a_copy_has(name: str) -> None:
    model = models.ALL[name]()
    copy = orthwrap.apply(model, target="all").model
    result = orthwrap.apply(model, target="all", in_place=True)
    assert result.model is model
    assert sorted(losses_of(model)) == pytest.approx(sorted(losses_of(copy)), rel=1e-5)
    # What Keras would write is the same too.
    written = keras.saving.serialize_keras_object
    assert regularizer_nodes(written(model)) == regularizer_nodes(written(copy))
    orthwrap.strip(model, in_place=True)
    assert model.losses == []
    assert regularizers_of(model) == []


def regularizer_nodes(value: Any) -> list[Any]:
    """Every orthwrap node in a config, in its order."""
    if isinstance(value, dict):
        if str(value.get("registered_name")).startswith("orthwrap>"):
            return [value]
        return [node for inner in value.values() for node in regularizer_nodes(inner)]
    if isinstance(value, (list, tuple)):
        return [node for inner in value for node in regularizer_nodes(inner)]
    return []


# Strip, and applying again


def with_l2() -> Any:
    return models.randomized(
        keras.Sequential(
            [
                layers.Input((6,)),
                layers.Dense(5, kernel_regularizer=keras.regularizers.L2(0.3), name="decayed"),
                layers.Dense(4, activity_regularizer="l1", name="active"),
                layers.Dense(3, name="plain"),
            ],
            name="decaying",
        )
    )


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("existing", ["keep", "combine", "replace"])
def test_strip_gives_back_what_was_there(existing: str, in_place: bool) -> None:
    original = with_l2()
    config = original.get_config()
    applied = orthwrap.apply(original, scale="unit", existing=existing, in_place=in_place).model
    l2 = 0.3 * float(np.sum(numpy(original.get_layer("decayed").kernel) ** 2))
    ours = 1e-3 * so(original.get_layer("decayed").kernel)
    (decayed,) = (
        float(v.regularizer(v))
        for v in applied.weights
        if v.regularizer is not None and v.shape == (6, 5)
    )
    expected = {"keep": l2, "combine": l2 + ours, "replace": ours}[existing]
    assert decayed == pytest.approx(expected, rel=1e-5)

    stripped = orthwrap.strip(applied, in_place=in_place).model
    assert stripped.get_config() == config
    assert_same_weights(original, stripped)
    assert isinstance(stripped.get_layer("decayed").kernel_regularizer, keras.regularizers.L2)
    kernel = stripped.get_layer("decayed").kernel
    assert float(kernel.regularizer(kernel)) == pytest.approx(l2, rel=1e-6)
    assert stripped.get_layer("plain").kernel_regularizer is None


def test_applying_the_same_again_changes_nothing() -> None:
    first = orthwrap.apply(with_l2())
    second = orthwrap.apply(first.model)
    assert {r.decision for r in second.report.layers if r.carries} == {"already"}
    assert losses_of(second.model) == losses_of(first.model)
    assert second.model.get_config() == first.model.get_config()


def test_applying_another_replaces_and_never_doubles() -> None:
    original = model = with_l2()
    l2 = 0.3 * float(np.sum(numpy(model.get_layer("decayed").kernel) ** 2))
    kernels = [layer.kernel for layer in model.layers]
    for factor in (1e-2, 1e-1, 1.0):
        result = orthwrap.apply(model, scale="unit", factor=factor)
        model = result.model
        expected = l2 + factor * sum(so(k) for k in kernels)
        values = [float(v.regularizer(v)) for v in model.weights if v.regularizer is not None]
        assert sum(values) == pytest.approx(expected, rel=1e-5)
    assert all("→" in r.reason for r in result.report.layers if r.carries)
    stripped = orthwrap.strip(model).model
    assert stripped.get_config() == original.get_config()


def test_strip_of_a_plain_model_is_a_plain_copy() -> None:
    original = models.nested()
    result = orthwrap.strip(original)
    assert result.model is not original
    assert_same_weights(original, result.model)
    assert {r.decision for r in result.report.layers} == {"not_selected"}


def test_strip_keeps_the_compiled_state() -> None:
    original = orthwrap.apply(fitted(models.dense(), optimizer="adam")).model
    plain = orthwrap.strip(original).model
    assert plain.compiled
    for a, b in zip(original.optimizer.variables, plain.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))


# Refusals and the shapes that arguments may have


def test_unbuilt_model_is_refused_in_one_line() -> None:
    for model in (keras.Sequential([layers.Dense(3)]), Rebuilds(name="unbuilt")):
        with pytest.raises(orthwrap.ValueFault, match="no weights yet: call it once") as caught:
            orthwrap.apply(model)
        assert model.name in str(caught.value)


@pytest.mark.parametrize("thing", [None, 3, [], layers.Dense(3), np.ones(3), b"model.h5"])
def test_what_is_no_model_is_refused_in_one_line(thing: Any) -> None:
    for verb in (orthwrap.apply, orthwrap.inspect, orthwrap.strip):
        with pytest.raises(
            orthwrap.ValueFault, match=r"expected a keras\.Model or a path"
        ) as caught:
            verb(thing)
        assert "\n" not in str(caught.value)


def test_inspect_and_dry_run_change_nothing() -> None:
    model = models.convolutional()
    report = orthwrap.inspect(model)
    assert {r.decision for r in report.layers} == {"not_selected"}
    planned = orthwrap.apply(model, dry_run=True, in_place=True)
    assert planned.model is None
    assert planned.report.summary["regularized"] == 5
    assert regularizers_of(model) == []


@pytest.mark.parametrize(
    "target", ["wide", ["wide"], ("wide",), iter(["wide"]), (p for p in ["wide"]), {"wide": 1}]
)
def test_target_is_one_pattern_or_any_iterable_of_them(target: Any) -> None:
    report = orthwrap.apply(models.dense(), target=target, exclude=iter(())).report
    assert [r.path for r in report.layers if r.carries] == ["wide"]


def test_callable_pattern_gets_the_layers_record() -> None:
    report = orthwrap.apply(models.nested(), target=lambda layer: layer.name == "first").report
    assert [r.path for r in report.layers if r.carries] == ["middle/first", "first"]


@pytest.mark.dear
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("kind", [str, Path])
def test_model_to_file_is_written_once_and_loads(
    tmp_path: Path, kind: Callable[[str], Any], suffix: str
) -> None:
    original = fitted(models.dense(), optimizer="adam")
    target = tmp_path / f"out{suffix}"
    result = orthwrap.apply(original, kind(str(target)))
    assert result.output == target
    assert result.report.output == str(target)
    loaded = orthwrap.load_model(target)
    assert_same_weights(result.model, loaded)
    assert losses_of(loaded) == losses_of(result.model)
    with pytest.raises(orthwrap.FileFault, match="exists"):
        orthwrap.apply(original, target)
    assert orthwrap.apply(original, target, force=True).output == target
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
