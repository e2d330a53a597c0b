"""Config trees of both dialects → layers with paths; edits that change nothing else."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from orthwrap.errors import FileFault
from orthwrap.model_config.tree import ABSENT, Edit, at, edit, to_snake_case, walk


def layer(cls: str, name: str, **config: object) -> dict:
    return {"class_name": cls, "config": {"name": name, "trainable": True, **config}}


def model(*layers: dict, cls: str = "Functional", name: str = "m", **config: object) -> dict:
    return {"class_name": cls, "config": {"name": name, "layers": list(layers), **config}}


def paths(root: dict) -> list[str]:
    return [x.path for x in walk(root)]


CONV = layer("Conv2D", "conv", kernel_regularizer=None)


def test_paths_leave_the_root_out_and_go_down() -> None:
    inner = model(layer("Conv2D", "conv1"), name="inner")
    outer = model(inner, layer("ReLU", "relu"), cls="Sequential", name="outer")
    assert paths(model(layer("Dense", "stem"), outer)) == [
        "stem",
        "outer",
        "outer/inner",
        "outer/inner/conv1",
        "outer/relu",
    ]


def test_what_holds_layers_is_a_layer_though_its_config_does_not_say_if_it_is_trainable() -> None:
    def task(name: str, **held: object) -> dict:
        return {"class_name": "own>Task", "config": {"name": name, **held}}

    root = task("outer", head=task("head", backbone=model(layer("Dense", "d"), name="bb")))
    assert paths(root) == ["head", "head/bb", "head/bb/d"]
    assert [x.held_by for x in walk(root)] == ["Task"] * 3
    loss = {"class_name": "MeanSquaredError", "config": {"name": "mse", "reduction": "sum"}}
    assert paths(task("outer", loss=loss, head=task("head", units=2))) == []


def test_a_bare_list_is_a_sequential_model() -> None:
    root = {"class_name": "Sequential", "config": [layer("Dense", "a"), layer("Dense", "b")]}
    assert paths(root) == ["a", "b"]
    assert walk(root)[1].pointers == (("config", 1),)


def test_wrapped_layers() -> None:
    root = model(
        layer("TimeDistributed", "td", layer=layer("Dense", "dense")),
        layer("Bidirectional", "bi", layer=layer("LSTM", "lstm")),
        layer(
            "Bidirectional",
            "bi2",
            layer=layer("GRU", "forward_gru"),
            backward_layer=layer("GRU", "backward_gru"),
        ),
        layer(
            "RNN",
            "rnn",
            cell=layer("StackedRNNCells", "cells", cells=[layer("LSTMCell", "a")]),
        ),
    )
    assert paths(root) == [
        "td",
        "td/dense",
        "bi",
        "bi/forward_lstm",
        "bi/backward_lstm",
        "bi2",
        "bi2/forward_gru",
        "bi2/backward_gru",
        "rnn",
        "rnn/cells",
        "rnn/cells/a",
    ]
    by_path = {x.path: x for x in walk(root)}
    assert by_path["bi/backward_lstm"].twin == "bi/forward_lstm"
    assert by_path["bi/backward_lstm"].pointers == by_path["bi/forward_lstm"].pointers
    assert by_path["bi2/backward_gru"].twin is None


def test_a_custom_layer_that_nests_layers_is_walked_through() -> None:
    block = layer(
        "pkg>Block",
        "block",
        first=layer("Conv2D", "conv1"),
        branches=[layer("Conv2D", "left"), layer("Conv2D", "right")],
        by_name={"skip": layer("Dense", "skip")},
        kernel_initializer={"class_name": "GlorotUniform", "config": {"seed": None}},
        dtype={"class_name": "DTypePolicy", "config": {"name": "float32"}},
    )
    found = walk(model(block))
    assert [x.path for x in found] == [
        "block",
        "block/conv1",
        "block/left",
        "block/right",
        "block/skip",
    ]
    assert found[0].class_name == "Block"


def test_a_shared_layer_is_one_entry_with_all_its_places() -> None:
    def shared() -> dict:
        return {**layer("Conv2D", "conv"), "shared_object_id": 7}

    root = model(model(shared(), name="left"), model(shared(), name="right"))
    found = {x.path: x for x in walk(root)}
    assert set(found) == {"left", "left/conv", "right"}
    assert found["left/conv"].paths == ("left/conv", "right/conv")
    changed = edit(root, [Edit(p, "x", 1) for p in found["left/conv"].pointers])
    places = [n["config"]["layers"][0]["config"] for n in changed["config"]["layers"]]
    assert [p.get("x") for p in places] == [1, 1]


def test_equal_names_in_different_models_are_different_layers() -> None:
    root = model(model(copy.deepcopy(CONV), name="a"), model(copy.deepcopy(CONV), name="b"))
    assert [x.paths for x in walk(root)] == [("a",), ("a/conv",), ("b",), ("b/conv",)]


def test_frozen_is_inherited() -> None:
    root = model(
        model(layer("Conv2D", "a"), {**layer("Conv2D", "b")}, name="frozen", trainable=False),
        {"class_name": "Conv2D", "config": {"name": "c", "trainable": False}},
        layer("Conv2D", "d"),
    )
    assert {x.path: x.trainable for x in walk(root)} == {
        "frozen": False,
        "frozen/a": False,
        "frozen/b": False,
        "c": False,
        "d": True,
    }


def test_operations_are_not_counted_among_the_layers_of_a_class() -> None:
    op = {
        "class_name": "Tanh",
        "module": "keras.src.ops.numpy",
        "config": {"name": "tanh"},
    }
    found = walk(model(layer("Dense", "a"), op, layer("Dense", "b")))
    assert [x.is_operation for x in found] == [False, True, False]
    assert [x.steps[0].ordinal for x in found] == [0, None, 1]


def test_an_edit_changes_the_copy_alone() -> None:
    root = model(copy.deepcopy(CONV))
    before = json.dumps(root)
    value: dict[str, Any] = {"class_name": "L2", "config": {}}
    changed = edit(root, [Edit(("config", "layers", 0), "kernel_regularizer", value)])
    assert json.dumps(root) == before
    assert at(changed, ("config", "layers", 0))["config"]["kernel_regularizer"] == value
    value["config"]["l2"] = 1  # the tree has a copy of its own
    assert at(changed, ("config", "layers", 0))["config"]["kernel_regularizer"]["config"] == {}
    back = edit(changed, [Edit(("config", "layers", 0), "kernel_regularizer", None)])
    assert json.dumps(back) == before


def test_an_edit_can_take_a_key_out() -> None:
    root = model(copy.deepcopy(CONV))
    changed = edit(root, [Edit(("config", "layers", 0), "kernel_regularizer", ABSENT)])
    assert "kernel_regularizer" not in at(changed, ("config", "layers", 0))["config"]


@pytest.mark.parametrize("root", [None, [], "x", {}, {"class_name": "Functional"}])
def test_what_is_no_config_is_refused(root) -> None:
    with pytest.raises(FileFault):
        walk(root)


def test_nesting_without_end_is_refused() -> None:
    root = model(layer("Dense", "x"))
    for i in range(300):
        root = model(root, name=f"m{i}")
    with pytest.raises(FileFault, match="nests"):
        walk(root)


@pytest.mark.parametrize("junk", [None, 3, "x", [], {"class_name": 3, "config": {}}, {"config": 1}])
def test_junk_among_the_layers_is_passed_over(junk) -> None:
    assert paths(model(layer("Dense", "a"), junk, layer("Dense", "b"))) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "snake"),
    [
        ("Conv2D", "conv2d"),
        ("SeparableConv2D", "separable_conv2d"),
        ("LSTMCell", "lstm_cell"),
        ("StackedRNNCells", "stacked_rnn_cells"),
        ("InputLayer", "input_layer"),
        ("Conv2DTranspose", "conv2d_transpose"),
        ("MultiHeadAttention", "multi_head_attention"),
    ],
)
def test_snake_case_is_that_of_keras_files(name: str, snake: str) -> None:
    assert to_snake_case(name) == snake
