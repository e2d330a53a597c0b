"""Each rewrite by itself, on configs as the versions wrote them. No Keras, no files."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from orthwrap.errors import FileFault
from orthwrap.stores.edits import Weight
from orthwrap.upgrades import Modernised, modernise
from orthwrap.upgrades.arrays.store_paths import snake_case
from orthwrap.upgrades.layers.arguments import ACCEPTED
from orthwrap.upgrades.layers.hard_sigmoid import REGISTERED, scale_gates
from orthwrap.upgrades.rewriting import parse_version


def layer(class_name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {"name": class_name.lower(), **config}}


def sequential(*layers: dict[str, Any], shape: Any = (None, 4)) -> dict[str, Any]:
    first = {
        "class_name": "InputLayer",
        "config": {"name": "in", "batch_input_shape": list(shape), "dtype": "float32"},
    }
    return {"class_name": "Sequential", "config": {"name": "s", "layers": [first, *layers]}}


def functional(*layers: dict[str, Any], outputs: Any, inputs: Any = None) -> dict[str, Any]:
    first = {
        "class_name": "InputLayer",
        "name": "in",
        "config": {"name": "in", "batch_input_shape": [None, 4], "dtype": "float32"},
        "inbound_nodes": [],
    }
    return {
        "class_name": "Functional",
        "config": {
            "name": "f",
            "layers": [first, *layers],
            "input_layers": inputs or [["in", 0, 0]],
            "output_layers": outputs,
        },
    }


def node(class_name: str, name: str, calls: Any, **config: Any) -> dict[str, Any]:
    return {
        "class_name": class_name,
        "name": name,
        "config": {"name": name, **config},
        "inbound_nodes": calls,
    }


def bring(
    config: dict[str, Any],
    version: str = "2.3.1",
    backend: str = "tensorflow",
    training: Any = None,
    weights: Any = None,
) -> Modernised:
    before = copy.deepcopy((config, training))
    result = modernise(
        config,
        training_config=training,
        keras_version=version,
        backend=backend,
        weights=weights,
    )
    assert (config, training) == before, "the input was changed"
    return result


def only(result: Modernised, index: int = 1) -> dict[str, Any]:
    """The config of one layer of the result."""
    found: dict[str, Any] = result.model_config["config"]["layers"][index]
    return found


def names(result: Modernised) -> list[str]:
    return [upgrade.name for upgrade in result.upgrades]


def test_keras_3_comes_back_as_it_is() -> None:
    config = sequential(layer("LSTM", time_major=False, activation="hard_sigmoid"))
    result = bring(config, "3.3.3")
    assert result.model_config is config
    assert result.upgrades == ()


def test_nothing_to_do() -> None:
    config = sequential(layer("Dense", units=2, activation="relu"))
    result = bring(config)
    assert result.model_config is config
    assert result.upgrades == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2.2.4-tf", (2, 2)), ("1.0", (1, 0)), ("3.15.1", (3, 15)), ("", (0, 0)), ("x", (0, 0))],
)
def test_versions(text: str, expected: tuple[int, int]) -> None:
    assert parse_version(text) == expected


def test_bare_list_and_input_layer() -> None:
    config = {
        "class_name": "Sequential",
        "config": [layer("Dense", units=2, batch_input_shape=[None, 7], dtype="float32")],
    }
    result = bring(config, "2.1.3")
    assert names(result) == ["bare-list Sequential", "input shape", "input layer"]
    first, second = result.model_config["config"]["layers"]
    assert first["class_name"] == "InputLayer"
    assert first["config"]["batch_shape"] == [None, 7]
    assert first["config"]["name"] == "dense_input"
    assert "batch_input_shape" not in second["config"]


def test_input_layer_of_a_wrapped_layer() -> None:
    inner = layer("GRU", units=2, batch_input_shape=[None, 5, 3], reset_after=False)
    config = {
        "class_name": "Sequential",
        "config": {"name": "s", "layers": [layer("Bidirectional", layer=inner)]},
    }
    assert only(bring(config), 0)["config"]["batch_shape"] == [None, 5, 3]


def test_input_layer_of_a_nested_model() -> None:
    inner = {"class_name": "Sequential", "config": [layer("Dense", batch_input_shape=[None, 9])]}
    config = {"class_name": "Sequential", "config": [inner, layer("Dense", units=1)]}
    result = bring(config, "2.0.8")
    assert only(result, 0)["config"]["batch_shape"] == [None, 9]


def test_input_type_of_a_mixed_layer_is_a_plain_type() -> None:
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    dense = layer("Dense", batch_input_shape=[None, 3], dtype=policy)
    result = bring({"class_name": "Sequential", "config": {"name": "s", "layers": [dense]}})
    assert only(result, 0)["config"]["dtype"] == "float32"
    assert only(result, 1)["config"]["dtype"] == "mixed_float16"


@pytest.mark.parametrize(
    ("old", "changes"),
    [
        (
            layer("Dense", kernel_initializer={"class_name": "Zeros", "config": {"dtype": "f"}}),
            {"kernel_initializer": {"class_name": "Zeros", "config": {}}},
        ),
        (layer("LSTM", time_major=False, implementation=1), {"time_major": None}),
        (layer("DepthwiseConv2D", groups=1, kernel_initializer="x"), {"groups": None}),
        (layer("SeparableConv1D", groups=1), {"groups": None}),
        (layer("LeakyReLU", alpha=0.3), {"alpha": None, "negative_slope": 0.3}),
        (
            layer("LeakyReLU", alpha={"type": "ndarray", "value": 0.3}),
            {"alpha": None, "negative_slope": 0.3},
        ),
        (layer("BatchNormalization", axis=[3]), {"axis": 3}),
        (layer("BatchNormalization", renorm=False, fused=True), {"renorm": None, "fused": None}),
        (layer("Embedding", input_length=7, input_dim=3), {"input_length": None, "input_dim": 3}),
        (layer("SpatialDropout1D", noise_shape=None, trainable=True), {"trainable": None}),
        (layer("GRU", units=2), {"reset_after": False}),
        (layer("Attention", causal=False), {"causal": None}),
        (layer("MultiHeadAttention", query_shape=[1, 2], num_heads=2), {"query_shape": None}),
        (layer("Activation", activation="softmax_v2"), {"activation": "softmax"}),
        (layer("CategoryEncoding", max_tokens=4), {"max_tokens": None, "num_tokens": 4}),
        (layer("RandomFlip", rng_type="x", force_generator=True), {"rng_type": None}),
        (
            layer("Dense", dtype={"class_name": "PolicyV1", "config": {"name": "infer"}}),
            {"dtype": None},
        ),
    ],
)
def test_arguments(old: dict[str, Any], changes: dict[str, Any]) -> None:
    result = bring(sequential(old))
    assert result.upgrades
    new = only(result)["config"]
    for key, value in changes.items():
        assert new.get(key) == value
        assert (key in new) == (value is not None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("BatchNormalizationV1", "BatchNormalization"),
        ("SyncBatchNormalization", "BatchNormalization"),
        ("UnifiedLSTM", "LSTM"),
        ("ThresholdedReLU", "ReLU"),
        ("RandomWidth", "Identity"),
        ("CuDNNGRU", "GRU"),
    ],
)
def test_classes(old: str, new: str) -> None:
    assert (
        only(bring(sequential(layer(old, units=1) if "GRU" in old else layer(old))))["class_name"]
        == new
    )


def test_thresholded_relu_keeps_its_threshold() -> None:
    assert only(bring(sequential(layer("ThresholdedReLU", theta=0.7))))["config"][
        "threshold"
    ] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        (layer("LSTM", time_major=True), "time_major=True"),
        (layer("DepthwiseConv2D", groups=2), "groups=2"),
        (layer("LocallyConnected1D"), "locally connected"),
        (layer("DenseFeatures"), "feature columns"),
        (layer("SeparableConv1D", padding="causal"), "causal"),
        (layer("BatchNormalization", axis=[1, 2]), "axes"),
        (layer("BatchNormalization", renorm=True), "renorm"),
        (layer("Attention", causal=True), "causal"),
    ],
)
def test_what_cannot_be_brought_along(old: dict[str, Any], expected: str) -> None:
    with pytest.raises(FileFault, match=expected) as caught:
        bring(sequential(old))
    message = str(caught.value)
    assert old["config"]["name"] in message
    assert "\n" not in message


def test_wrapped_layers_get_their_module() -> None:
    result = bring(sequential(layer("TimeDistributed", layer=layer("Dense", units=3))))
    inner = only(result)["config"]["layer"]
    assert (inner["module"], inner["registered_name"]) == ("keras.layers", None)
    custom = bring(sequential(layer("TimeDistributed", layer=layer("Mine", units=3))))
    assert "module" not in only(custom)["config"]["layer"]


def test_axes_of_layer_normalization_survive() -> None:
    new = only(bring(sequential(layer("LayerNormalization", axis=[1, 2]))))
    assert new["config"]["axis"] == [1, 2]
    assert new["module"] == "keras.layers"


def test_slashes() -> None:
    config = functional(
        node("Dense", "a/b", [[["in", 0, 0, {}]]], units=2),
        node("Dense", "a_b", [[["a/b", 0, 0, {}]]], units=2),
        outputs=[["a_b", 0, 0]],
    )
    result = bring(config)
    assert result.renamed == {"a/b": "a_b_1"}
    first, second = result.model_config["config"]["layers"][1:]
    assert first["name"] == first["config"]["name"] == "a_b_1"
    assert second["inbound_nodes"] == [[["a_b_1", 0, 0, {}]]]


def test_nested_call_numbers() -> None:
    inner = functional(node("Dense", "d", [[["in", 0, 0, {}]]]), outputs=[["d", 0, 0]])
    inner |= {"name": "sub", "inbound_nodes": [[["in", 0, 0, {}]], [["x", 0, 0, {}]]]}
    config = functional(
        node("Dense", "x", [[["in", 0, 0, {}]]]),
        inner,
        node("Add", "add", [[["sub", 1, 0, {}], ["sub", 2, 0, {}]]]),
        outputs=[["add", 0, 0], ["sub", 1, 0]],
    )
    result = bring(config)
    assert only(result, 3)["inbound_nodes"] == [[["sub", 0, 0, {}], ["sub", 1, 0, {}]]]
    # Keras 3 counts a functional model's calls from 1 in the list of outputs.
    assert result.model_config["config"]["output_layers"] == [["add", 0, 0], ["sub", 1, 0]]
    assert only(result, 2)["config"]["output_layers"] == ["d", 0, 0]


def test_tensor_among_the_arguments() -> None:
    config = functional(
        node("Dense", "v", [[["in", 0, 0, {}]]]),
        node("MultiHeadAttention", "m", [[["in", 0, 0, {"value": ["v", 0, 0], "key": None}]]]),
        outputs=[["m", 0, 0]],
    )
    call = only(bring(config), 2)["inbound_nodes"][0]
    assert call["args"][0]["config"]["keras_history"] == ["in", 0, 0]
    assert call["kwargs"].keys() == {"value"}
    assert call["kwargs"]["value"]["config"]["keras_history"] == ["v", 0, 0]


def test_initial_state() -> None:
    config = functional(
        node("Dense", "h", [[["in", 0, 0, {}]]]),
        node("GRU", "g", [[["in", 0, 0, {}], ["h", 0, 0, {}]]], reset_after=True),
        outputs=[["g", 0, 0]],
    )
    call = only(bring(config), 2)["inbound_nodes"][0]
    assert len(call["args"]) == 1
    assert len(call["kwargs"]["initial_state"]) == 1


# --- operations ---------------------------------------------------------------------------------


def operation(function: str, first: Any, class_name: str = "TFOpLambda", **arguments: Any) -> Any:
    call = [*first, arguments] if isinstance(first[0], str) else first
    return functional(node(class_name, "op", [call], function=function), outputs=[["op", 0, 0]])


def test_division_by_a_constant() -> None:
    result = bring(operation("math.truediv", ["in", 0, 0], y=2.0, name=None))
    new = only(result)
    assert (new["module"], new["class_name"]) == ("keras.src.ops.numpy", "TrueDivide")
    assert new["inbound_nodes"][0]["args"][1] == 2.0
    assert new["name"] == new["config"]["name"] == "op"


def test_constant_before_the_tensor() -> None:
    config = functional(
        node(
            "TFOpLambda",
            "op",
            [["_CONSTANT_VALUE", -1, 2.0, {"y": ["in", 0, 0], "name": None}]],
            function="math.subtract",
        ),
        outputs=[["op", 0, 0]],
    )
    args = only(bring(config))["inbound_nodes"][0]["args"]
    assert args[0] == 2.0
    assert args[1]["config"]["keras_history"] == ["in", 0, 0]


def test_slices() -> None:
    spec = [{"start": None, "stop": None, "step": None}, {"start": 0, "stop": 2, "step": 1}, 3]
    new = only(
        bring(operation("__operators__.getitem", ["in", 0, 0], "SlicingOpLambda", slice_spec=spec))
    )
    key = new["inbound_nodes"][0]["args"][1]
    assert key[1] == {"class_name": "__slice__", "config": {"start": 0, "stop": 2, "step": 1}}
    assert key[2] == 3


@pytest.mark.parametrize("function", ["image.rgb_to_hsv", "signal.fft", "py_function"])
def test_unknown_operation_is_named(function: str) -> None:
    with pytest.raises(FileFault) as caught:
        bring(operation(function, ["in", 0, 0]))
    assert function in str(caught.value)
    assert "'op'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_argument_is_refused() -> None:
    with pytest.raises(FileFault, match="transpose_b"):
        bring(operation("linalg.matmul", ["in", 0, 0], b=["in", 0, 0], transpose_b=True))
    with pytest.raises(FileFault, match="computed by the model"):
        bring(operation("reshape", ["in", 0, 0], shape=["in", 0, 0]))


def graph_node(op: str, inputs: Any, constants: Any, **attributes: Any) -> Any:
    definition = {"name": "x", "op": op, "input": [], "attr": attributes}
    return functional(
        node("TensorFlowOpLayer", "op", [inputs], node_def=definition, constants=constants),
        outputs=[["op", 0, 0]],
    )


@pytest.mark.parametrize(
    ("op", "constants", "attributes", "expected", "settings"),
    [
        ("RealDiv", {"1": 2.0}, {}, "TrueDivide", {}),
        ("Mul", {"0": 2.0}, {}, "Multiply", {}),
        ("AddV2", {"1": [1.0, 2.0]}, {}, "Add", {}),
        (
            "Mean",
            {"1": [1, 2]},
            {"keep_dims": {"b": True}},
            "Mean",
            {"axis": [1, 2], "keepdims": True},
        ),
        ("Squeeze", {}, {"squeeze_dims": {"list": {"i": ["1"]}}}, "Squeeze", {"axis": 1}),
        ("Reshape", {"1": [-1, 2]}, {}, "Reshape", {"newshape": [-1, 2]}),
        ("Cast", {}, {"DstT": {"type": "DT_HALF"}}, "Cast", {"dtype": "float16"}),
        ("ConcatV2", {"1": -1}, {}, "Concatenate", {"axis": -1}),
        ("ExpandDims", {"1": 1}, {}, "ExpandDims", {"axis": 1}),
        ("Relu6", {}, {}, "Relu6", {}),
        ("ResizeBilinear", {"1": [4, 4]}, {}, "Resize", {"size": [4, 4]}),
    ],
)
def test_graph_nodes(
    op: str, constants: Any, attributes: Any, expected: str, settings: dict[str, Any]
) -> None:
    result = bring(graph_node(op, [["in", 0, 0, {}]], constants, **attributes), "2.2.4-tf")
    new = only(result)
    assert new["class_name"] == expected
    for key, value in settings.items():
        assert new["config"][key] == value


def test_strided_slice() -> None:
    config = graph_node(
        "StridedSlice",
        [["in", 0, 0, {}]],
        {"1": [0, 1], "2": [0, 3], "3": [1, 1]},
        begin_mask={"i": "1"},
        end_mask={"i": "1"},
        shrink_axis_mask={"i": "0"},
    )
    key = only(bring(config, "2.3.0-tf"))["inbound_nodes"][0]["args"][1]
    assert key[0]["config"] == {"start": None, "stop": None, "step": 1}
    assert key[1]["config"] == {"start": 1, "stop": 3, "step": 1}


# --- weights ------------------------------------------------------------------------------------


def arrays(*shapes: tuple[int, ...]) -> list[Weight]:
    rng = np.random.default_rng(0)
    return [Weight(f"w{i}", rng.normal(size=shape)) for i, shape in enumerate(shapes)]


def test_gates_are_scaled_and_nothing_else() -> None:
    old = arrays((3, 8), (2, 8), (8,))
    new = scale_gates(4, (0, 1, 3), "l")(old)
    for before, after in zip(old, new, strict=True):
        ratio = after.array / before.array
        np.testing.assert_allclose(ratio[..., [0, 1, 2, 3, 6, 7]], 1.2)
        np.testing.assert_allclose(ratio[..., 4:6], 1.0)


def test_hard_sigmoid_without_a_linear_map_asks_for_a_function() -> None:
    result = bring(sequential(layer("LSTM", units=2, activation="hard_sigmoid")))
    assert result.needs_orthwrap == (REGISTERED,)
    assert only(result)["config"]["activation"]["registered_name"] == REGISTERED


def test_hard_sigmoid_activation_is_plain_keras() -> None:
    result = bring(sequential(layer("Activation", activation="hard_sigmoid")))
    assert result.needs_orthwrap == ()
    new = only(result)
    assert new["class_name"] == "Sequential"
    assert [child["class_name"] for child in new["config"]["layers"]] == ["Rescaling", "Activation"]


def test_edits_reach_into_nested_models() -> None:
    inner = sequential(
        layer("BatchNormalization"), layer("Dense", units=2, activation="hard_sigmoid")
    )
    result = bring(sequential(inner))
    (edit,) = result.weight_edits
    old = arrays((4,), (4,), (4, 2), (2,), (4,), (4,))
    new = edit.transform(old)
    for index, (before, after) in enumerate(zip(old, new, strict=True)):
        factor = 1.2 if index in {2, 3} else 1.0
        np.testing.assert_allclose(after.array, before.array * factor)


def test_an_unknown_neighbour_stops_an_edit_inside_a_model() -> None:
    inner = sequential(layer("Mine"), layer("Dense", activation="hard_sigmoid"))
    (edit,) = bring(sequential(inner)).weight_edits
    with pytest.raises(FileFault, match="mine"):
        edit.transform(arrays((4,), (4, 2), (2,)))


class View:
    """Weights of a file, by name."""

    def __init__(self, **layers: tuple[str, ...]) -> None:
        self.layers = layers

    def layer_names(self) -> tuple[str, ...]:
        return tuple(self.layers)

    def shapes(self, layer: str) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.layers.get(layer, ()), (3,))


def test_generators_of_random_layers_are_dropped() -> None:
    view = View(randomflip=("random_flip/StateVar:0",), dense=("k", "b"))
    config = sequential(layer("RandomFlip", mode="horizontal"), layer("Dense", units=2))
    (edit,) = bring(config, "2.6.0", weights=view).weight_edits
    assert edit.layer == "randomflip"
    assert edit.transform(arrays((3,))) == []


def test_keras_1_on_theano_is_told_by_its_names() -> None:
    config = {
        "class_name": "Sequential",
        "config": [
            layer(
                "Convolution2D",
                nb_filter=2,
                nb_row=3,
                nb_col=3,
                dim_ordering="th",
                batch_input_shape=[None, 2, 5, 5],
            )
        ],
    }
    kernel = Weight("c_W", np.arange(36.0).reshape(2, 2, 3, 3))
    for name, turned in (("c_W:0", False), ("c_W", True)):
        (edit,) = bring(config, "1.1.0", weights=View(convolution2d=(name,))).weight_edits
        new = edit.transform([kernel])[0].array
        expected = kernel.array.transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(new, expected[::-1, ::-1] if turned else expected)


def test_theano_kernels_turn() -> None:
    (edit,) = bring(sequential(layer("Conv2D", filters=2)), "2.1.3", "theano").weight_edits
    kernel, bias = arrays((3, 2, 4, 5), (5,))
    new = edit.transform([kernel, bias])
    np.testing.assert_array_equal(new[0].array, kernel.array[::-1, ::-1])
    np.testing.assert_array_equal(new[1].array, bias.array)


# --- .keras -------------------------------------------------------------------------------------


def test_modules_of_older_keras() -> None:
    config = sequential(layer("Dense", units=2))
    config |= {"module": "tf_keras.src.engine.sequential", "registered_name": "Sequential"}
    only(Modernised(config, None)).update(module="keras.src.layers.core.dense")
    result = modernise(config, keras_version="2.13.1")
    assert result.model_config["module"] == "keras"
    assert only(result)["module"] == "keras.layers"
    assert modernise(config, keras_version="3.0.0").upgrades == ()


def test_group_names_follow_classes() -> None:
    assert [snake_case(name) for name in ("Conv2DTranspose", "LSTM", "BatchNormalization")] == [
        "conv2d_transpose",
        "lstm",
        "batch_normalization",
    ]
    model = sequential(
        layer("Activation", activation="hard_sigmoid"),
        sequential(layer("Dense", units=2, activation="hard_sigmoid")),
    )
    result = modernise(model, keras_version="2.13.1")
    assert [edit.path for edit in result.store_edits] == ["layers/sequential/layers/dense"]
    assert [(m.old, m.new_name) for m in result.store_moves] == [
        ("layers/activation", "sequential"),
        ("layers/sequential", "sequential_1"),
    ]


# --- training -----------------------------------------------------------------------------------


def compiled(optimizer: Any, **more: Any) -> Any:
    config = {"optimizer_config": optimizer, "loss": "mse", "metrics": ["accuracy"], **more}
    result = bring(sequential(layer("Dense", units=1)), training=config)
    return result.training_config


def test_old_optimizer() -> None:
    old = {"class_name": "Adam", "config": {"lr": 0.1, "decay": 0.0, "epsilon": None}}
    new = compiled(old)["optimizer_config"]
    assert new["config"] == {"learning_rate": 0.1}
    assert compiled(old)["loss"] == "mean_squared_error"
    assert compiled(old)["loss_weights"] is None


def test_decay_becomes_a_schedule() -> None:
    new = compiled({"class_name": "SGD", "config": {"lr": 0.1, "decay": 0.01}})
    rate = new["optimizer_config"]["config"]["learning_rate"]
    assert rate["class_name"] == "InverseTimeDecay"
    assert rate["config"]["decay_rate"] == 0.01
    assert rate["config"]["decay_steps"] == 1


def test_newer_optimizer() -> None:
    config = {"learning_rate": 0.1, "jit_compile": True, "is_legacy_optimizer": False}
    new = compiled({"class_name": "Custom>AdamW", "config": config})["optimizer_config"]
    assert new == {"class_name": "AdamW", "config": {"learning_rate": 0.1}}
    inner = {"class_name": "Adam", "config": {"learning_rate": 0.1, "decay": 0.0}}
    scaled = {"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": inner}}
    assert compiled(scaled)["optimizer_config"]["class_name"] == "Adam"


def test_losses_and_metrics() -> None:
    sgd = {"class_name": "SGD", "config": {"learning_rate": 0.1}}
    wrapped = {"class_name": "MeanMetricWrapper", "config": {"name": "a", "fn": "binary_accuracy"}}
    loss = {"class_name": "BinaryCrossentropy", "config": {"reduction": "auto", "fn": "x"}}
    new = compiled(sgd, loss={"out": loss}, metrics=[["fmeasure", wrapped, "cosine_proximity"]])
    assert new["loss"]["out"]["config"] == {"reduction": "sum_over_batch_size"}
    assert new["metrics"] == [
        [{"class_name": "BinaryAccuracy", "config": {"name": "a"}}, "cosine_similarity"]
    ]
    own = {"class_name": "Custom>Mine", "config": {}}
    assert compiled(sgd, loss=own)["loss"] == own


# --- the whole ----------------------------------------------------------------------------------


def test_table_knows_every_common_layer() -> None:
    assert {"Dense", "Conv2D", "LSTM", "MultiHeadAttention", "Bidirectional"} <= ACCEPTED.keys()
    assert "units" in ACCEPTED["Dense"]
    assert "time_major" not in ACCEPTED["LSTM"]


def test_the_table_is_keras_3s() -> None:
    """Every layer with its arguments exists in the Keras that is installed."""
    import inspect

    import keras

    for name, arguments in ACCEPTED.items():
        cls = getattr(keras.layers, name, None)
        assert cls is not None, name
        taken: set[str] = set()
        for base in cls.__mro__:
            if "__init__" in vars(base):
                taken |= set(inspect.signature(base.__init__).parameters)
        assert arguments <= taken | {"dtype"}, name


def test_import_needs_no_keras() -> None:
    code = (
        "import sys, orthwrap.upgrades\n"
        "bad = {'keras', 'tensorflow', 'tf_keras', 'h5py', 'numpy'} & set(sys.modules)\n"
        "raise SystemExit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
