"""Slots and decisions at their edges: odd layers, odd configs, verbs that attach nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orthwrap.errors import FileFault, NoMatchError, UsageError, ValueFault
from orthwrap.model_config.needs import Need, lost_code_in, references_in, unknown
from orthwrap.model_config.tree import walk, with_old_names
from orthwrap.penalties.attachment import Attachment
from orthwrap.plan.as_it_is import plan_inspect, plan_strip
from orthwrap.plan.decide import plan
from orthwrap.plan.decision import Plan
from orthwrap.plan.reasons import FROZEN, IS_FROZEN, Reason, about_anew, because, joined
from orthwrap.plan.templates import check_foreign, check_references, templates_of
from orthwrap.rules.rule import Rule
from orthwrap.survey import Slot, survey
from tests.support.dict_store import node, store

L2 = {"class_name": "L2", "config": {"l2": 0.01}}
SO = Attachment("so", 0.5).to_node()
DENSE, CONV = np.ones((4, 3)), np.ones((3, 3, 2, 4))
RELU = {"class_name": "ReLU", "config": {"name": "relu", "trainable": True}}


def slot_of(layer: dict[str, Any], kernel: np.ndarray | None) -> Slot:
    """The one slot of a model of one layer `x`."""
    (slot,) = survey(store(layer, **({} if kernel is None else {"x": kernel}))).slots
    return slot


def told(planned: Plan) -> dict[str, tuple[str, str]]:
    return {d.slot.layer.path: (d.decision, d.reason) for d in planned.decisions}


# Layers


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (node("Dense", "x"), None, "its kernel was not found among the weights"),
        (node("Dense", "x"), (4, 3, 2), "of shape (4, 3, 2) does not fit a dense layer"),
        (node("Conv2D", "x"), (4, 3), "kernel has at least 3 axes, this one 2"),
        (node("Conv2D", "x", groups=3), (3, 3, 2, 4), "3 groups do not divide its last axis, 4"),
        (node("Conv2D", "x", groups=True), (3, 3, 2, 4), "True groups do not divide"),
        (node("Conv2D", "x", groups=0), (3, 3, 2, 4), "0 groups do not divide"),
        (node("Conv2D", "x", strides=[0, 0]), (3, 3, 2, 4), "strides [0, 0] are not 2 positive"),
        (
            node("Conv2D", "x", dilation_rate=[1]),
            (3, 3, 2, 4),
            "dilation_rate [1] are not 2 positive",
        ),
        (node("DepthwiseConv2D", "x", strides="2"), (3, 3, 4, 1), "strides '2' are not 2 positive"),
        (node("Conv1DTranspose", "x", strides=-1), (3, 2, 4), "strides -1 are not 1 positive"),
        (node("Conv2DTranspose", "x", groups=2), (3, 3, 2, 4), "grouped transposed convolutions"),
        (node("EinsumDense", "x", equation="ab"), (4, 3), "is not of the form 'ab,bc->ac'"),
        (node("EinsumDense", "x", equation="ab,bz->ac"), (4, 3), "axis 'z' of equation"),
        (node("EinsumDense", "x", equation="ab,b->ab"), (4,), "no fan-in axis or no fan-out axis"),
        (node("EinsumDense", "x", equation="ab,bc->ac"), (4, 3, 2), "names 2 axes; the kernel has"),
        (node("Dense", "x", dtype={"class_name": "QuantizedDTypePolicy"}), (4, 3), "is quantized"),
        (node("Dense", "x", quantization_config={}), (4, 3), "regularize before quantizing"),
        (node("Dense", "x", lora_rank=2), (4, 3), "LoRA factors"),
    ],
)
def test_why_a_kernel_has_no_layout(
    layer: dict[str, Any], shape: tuple[int, ...] | None, words: str
) -> None:
    slot = slot_of(layer, None if shape is None else np.ones(shape))
    assert words in slot.problem
    assert "\n" not in slot.problem
    (decision,) = plan_inspect(survey(store(layer, x=np.ones(shape or 1)))).decisions
    assert decision.decision == "unsupported"


@pytest.mark.parametrize("strides", [2, [2, 2], (2, 2), np.int64(2), (np.int32(2), 2)])
def test_strides_may_be_a_number_or_one_for_each_axis(strides: Any) -> None:
    layout = slot_of(node("Conv2D", "x", strides=strides), CONV).layout
    assert layout is not None
    assert layout.strides == (2, 2)


@pytest.mark.parametrize("strides", [[2], "2", None, [2, 0], [True, True]])
def test_what_a_class_of_others_calls_strides_need_not_be_any(strides: Any) -> None:
    layout = slot_of(node("TheirConv", "x", strides=strides), CONV).layout
    assert layout is not None
    assert set(layout.strides or (1,)) == {1}
    assert (
        "are not 2 positive integers" in slot_of(node("Conv2D", "x", strides=strides), CONV).problem
    )


def test_a_scale_is_that_of_all_kernels_of_a_slot() -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 2, 4))
    sigma = np.linalg.svd(kernel.reshape(18, 4), compute_uv=False)
    assert slot_of(node("Conv2D", "x"), kernel).alpha() == pytest.approx(np.sqrt(np.mean(sigma**2)))


# Configs


@pytest.mark.parametrize("root", [None, [], {"class_name": "Model"}, "text"])
def test_what_is_no_models_config(root: Any) -> None:
    with pytest.raises(FileFault, match="expected a model config"):
        walk(root)


def test_a_config_without_layers_has_none() -> None:
    assert walk({"class_name": "Own", "config": {"width": 3}}) == ()
    surveyed = survey(_Holding({"class_name": "Own", "config": {"width": 3}}))
    with pytest.raises(NoMatchError, match="holds no layers: a model that builds its own layers"):
        plan(surveyed, [Rule(target="x")])


class _Holding:
    """A store of a config that is given whole."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root

    def layers(self) -> Any:
        return walk(self.root)

    def unclaimed(self, layers: Any, specified: Any) -> list[Any]:
        return []


def test_layers_in_the_arguments_of_a_custom_layer() -> None:
    inner = {"one": node("Dense", "a"), "not_one": {"class_name": "Zeros", "config": {}}}
    own = node("pkg>Own", "own", parts=inner, members=[node("Dense", "b"), 3], named="Dense")
    root = {"class_name": "Functional", "config": {"name": "m", "layers": [own, 7, {"x": 1}]}}
    assert [layer.path for layer in walk(root)] == ["own", "own/a", "own/b"]


def test_two_layers_of_one_name_have_two_paths() -> None:
    own = node("Own", "own", a=node("Dense", "d"), b=node("Dense", "d"), c=node("Dense", "d"))
    paths = [layer.path for layer in walk(store(own).root)]
    assert paths == ["own", "own/d", "own/d'", "own/d'2"]


def test_a_layer_without_a_name_is_called_by_its_class() -> None:
    layers = [{"class_name": "Dense", "config": {"units": 3}}, node("Dense", "")]
    assert [layer.path for layer in walk(store(*layers).root)] == ["dense", "dense_1"]


def test_a_layer_is_found_by_the_name_that_it_had() -> None:
    (layer,) = walk(store(node("Dense", "a_b")).root)
    assert with_old_names((layer,), {}) == (layer,)
    (both,) = with_old_names((layer,), {"a:b": "a_b"})
    assert both.paths == ("a_b", "a:b")


@pytest.mark.parametrize("size", [1500, 6001])
def test_a_config_of_no_real_size_is_refused(size: int) -> None:
    if size > 6000:
        root = store(*(node("Dense", f"d{i}") for i in range(size))).root
        words = "more than 6000 layers"
    else:
        root, words = store(node("Dense", "x" * 70_000)).root, "characters long"
    with pytest.raises(FileFault, match=words):
        walk(root)


def test_functions_that_regularizers_in_a_config_refer_to() -> None:
    attached = Attachment("my:own", 1.0, foreign="my:own").to_node()
    combined = Attachment("so", 1.0, combined_with="my:other", replaced="my:kept").to_node()
    layers = (
        node("Dense", "a", kernel_regularizer=attached),
        node("Dense", "b", kernel_regularizer=combined, activity_regularizer=attached),
        node("Dense", "c", kernel_regularizer=Attachment("l2", 1.0, foreign=L2).to_node()),
    )
    assert references_in(store(*layers).root) == {"my:own": ("a", "b"), "my:other": ("b",)}


def test_what_nobody_knows_in_a_config() -> None:
    own = node("pkg>Own", "own", activation="anything", part={"class_name": "Bare", "config": {}})
    own["registered_name"] = "pkg>Own"
    written = {"class_name": "Deep", "config": {}, "module": "pkg.deep"}
    own["config"]["written"] = written
    named = {"class_name": "function", "config": "bent", "registered_name": "bent", "module": "m"}
    layers = (
        own,
        node("Dense", "d", activation=named, kernel_initializer="strange"),
        node("Lambda", "l", function="called"),
    )
    root = {**store(*layers).root, "compile_config": {"loss": {"a": ["mine", "mse"]}}}
    keras_has = {"Functional", "Dense", "Lambda", "mse"}

    def lookup(need: Need) -> str | None:
        return "keras" if need.name in keras_has else None

    found = {(need.name, need.kind, need.where) for need in unknown(root, lookup)}
    assert found == {
        ("pkg>Own", "class", "own"),
        ("Deep", "class", "own"),  # written as Keras writes its objects; Bare may mean anything
        ("bent", "function", "d"),
        ("strange", "initializer", "d"),
        ("called", "function", "l"),
        ("mine", "loss", "(the training configuration)"),
    }


def test_a_lambda_that_keras_cannot_read_back_is_found() -> None:
    lost = node("Dense", "bends", activation={"value": ["YQ==", None, None]})
    fine = node("Dense", "fine", activation={"class_name": "ReLU", "config": {}})
    assert lost_code_in(store(fine, lost).root) == ("bends",)


# Inspect and strip


def several() -> Any:
    frozen = node("Dense", "frozen", kernel_regularizer=SO)
    frozen["config"]["trainable"] = False
    return survey(
        store(
            node("Dense", "plain"),
            node("Dense", "ours", kernel_regularizer=SO),
            node("Dense", "theirs", kernel_regularizer=L2),
            frozen,
            node("Conv2D", "odd", groups=3),
            RELU,
            **dict.fromkeys(("plain", "ours", "theirs", "frozen"), DENSE),
            odd=CONV,
        )
    )


def test_inspect_says_what_each_kernel_carries() -> None:
    found = told(plan_inspect(several()))
    assert found["plain"] == ("not_selected", "has no regularizer")
    assert found["ours"] == ("already", "has so 0.5")
    assert found["theirs"] == ("kept", "has L2(l2=0.01)")
    assert found["frozen"] == ("already", f"has so 0.5; {IS_FROZEN.text}")
    assert found["odd"][0] == "unsupported"
    assert "relu" not in found


def test_inspect_of_some() -> None:
    planned = plan_inspect(several(), ["*s", "relu@activity"], ["theirs", "plain", "nobody"])
    found = told(planned)
    assert found["ours"] == ("already", "has so 0.5")
    assert found["theirs"] == ("excluded", "matches exclude theirs")
    assert found["plain"] == ("not_selected", "no target matches")
    assert planned.warnings == (
        "exclude 'plain' excludes nothing that a target matches",
        "exclude 'nobody' excludes nothing; nearest: odd, ours, plain",
    )
    assert plan_inspect(several(), exclude=["plain"]).warnings == ()
    with pytest.raises(NoMatchError, match="matches no layer; nearest: plain"):
        plan_inspect(several(), ["plein"])


def test_strip_takes_out_what_is_ours_alone() -> None:
    replaced = Attachment("so", 1.0, replaced=L2).to_node()
    absent = Attachment("so", 1.0, absent=True).to_node()
    layers = [
        node("Dense", name, kernel_regularizer=regularizer)
        for name, regularizer in (("a", SO), ("b", replaced), ("c", absent), ("d", L2))
    ]
    planned = plan_strip(survey(store(*layers, **dict.fromkeys("abcd", DENSE))))
    assert told(planned) == {
        "a": ("removed", "had so 0.5"),
        "b": ("removed", "had so 1; L2(l2=0.01) is back"),
        "c": ("removed", "had so 1"),
        "d": ("not_selected", "has no orthwrap regularizer"),
    }
    assert [edit.value for edit in planned.edits[:2]] == [None, L2]


# Attaching


def attached(source: Any, **rule: Any) -> Plan:
    return plan(survey(source), [Rule(**rule)])


def test_what_is_ours_and_not_chosen_is_left_as_it_is() -> None:
    source = store(
        node("Dense", "a"),
        node("Dense", "b", kernel_regularizer=SO, activity_regularizer=SO),
        node("Dense", "c", kernel_regularizer=SO),
        **dict.fromkeys("abc", DENSE),
    )
    planned = attached(source, target="*", exclude="[bc]")
    decisions = {
        (d.slot.layer.path, d.slot.name): (d.decision, d.reason) for d in planned.decisions
    }
    assert decisions["b", "kernel"] == ("already", "matches exclude [bc]; left as it is")
    assert decisions["b", "activity"] == ("already", "no target matches; left as it is")
    assert decisions["a", "kernel"][0] == "regularized"
    assert ("a", "activity") not in decisions


def test_a_factor_for_some_may_be_auto() -> None:
    source = store(node("Dense", "a"), node("Dense", "b"), a=DENSE, b=DENSE)
    planned = attached(source, target="*", factor=0.5, factor_for={"a": "auto"}, scale="unit")
    auto, fixed = planned.decisions
    assert (auto.auto, fixed.auto) == (True, False)
    assert auto.reason == "matches *; factor auto: 0.5 until training finds it"
    assert fixed.attachment is not None
    assert fixed.attachment.factor == 0.5


def test_depthwise_kernels_across_their_channels() -> None:
    kernel = np.ones((3, 3, 6, 1))
    source = store(node("DepthwiseConv2D", "x", depthwise_regularizer=None), x=kernel)
    (each,) = attached(source, target="x").changes
    (across,) = attached(source, target="x", options={"across_channels": True}).changes
    for decision, matrices in ((each, (6, 9, 1)), (across, (1, 9, 6))):
        assert decision.attachment is not None
        assert decision.attachment.layout is not None
        assert decision.attachment.layout.matrices(kernel.shape) == matrices
        assert "across_channels" not in decision.attachment.options


def test_a_regularizer_of_others_has_no_layout_and_no_scale() -> None:
    (decision,) = attached(store(node("Dense", "x"), x=DENSE), target="x", regularizer="l2").changes
    assert decision.attachment is not None
    assert (decision.attachment.layout, decision.attachment.alpha) == (None, 1.0)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"regularizer": "lorth"}, "lorth is a penalty of kernels"),
        ({"options": {"estimate": "sketch"}}, "estimate sketch works on kernels"),
        ({"scale": "preserve"}, "scale preserve works on kernels"),
        ({"factor": "auto"}, "factor auto works on kernels"),
    ],
)
@pytest.mark.parametrize("place", [{"target": "x", "on": "activity"}, {"target": "x@activity"}])
def test_what_outputs_cannot_have(rule: dict[str, Any], words: str, place: Any) -> None:
    with pytest.raises(UsageError, match=words):
        attached(store(node("Dense", "x"), x=DENSE), **place, **rule)


def test_a_model_without_kernels_says_so() -> None:
    with pytest.raises(NoMatchError, match="matches nothing: no layer of this model has a kernel"):
        attached(store(RELU), target="conv")
    with pytest.raises(NoMatchError, match="matches only layers without a kernel: relu"):
        attached(store(RELU), target="relu")


def test_reasons_about_one_thing_are_said_anew() -> None:
    reasons = (*because("matches x", "", "added"), IS_FROZEN)
    assert joined(reasons) == f"matches x; added; {IS_FROZEN.text}"
    assert joined(about_anew(reasons, FROZEN)) == "matches x; added"
    assert joined(about_anew(reasons, FROZEN, Reason("thawed"))) == "matches x; added; thawed"


def test_templates_of_rules() -> None:
    rules = [Rule(), Rule(regularizer="math:sqrt", factor=2.0)]
    templates, functions = templates_of(rules)
    assert [t.name for t in templates] == ["so", "math:sqrt"]
    assert functions == {}
    made, functions = templates_of([Rule(regularizer=np.linalg.norm, factor=0.5)])
    assert made[0].factor == 0.5
    assert list(functions.values()) == [np.linalg.norm]
    check_references(functions)
    with pytest.raises(ValueFault, match="options go with a regularizer's name"):
        templates_of([Rule(regularizer=np.linalg.norm, options={"a": 1})])
    _, functions = templates_of([Rule(regularizer=lambda w: 0.0)])
    with pytest.raises(ValueFault, match=r"only as package\.module:function"):
        check_references(functions)


def test_regularizers_of_others_are_tried_on_each_shape_before_anything_is_done() -> None:
    from keras import ops

    shapes = []

    def own(w: Any) -> Any:
        shapes.append(tuple(w.shape))
        return ops.sum(ops.square(w))

    def broken(w: Any) -> Any:
        raise RuntimeError("not today")

    source = store(*(node("Dense", n) for n in "abc"), a=DENSE, b=DENSE, c=np.ones((5, 2)))
    for function, word in ((own, ""), (broken, r"on a of shape \(4, 3\) raised RuntimeError: not")):
        rules = [Rule(target="*", regularizer=function)]
        templates, functions = templates_of(rules)
        planned = plan(survey(source), rules, templates)
        if word:
            with pytest.raises(ValueFault, match=word):
                check_foreign(planned, functions)
        else:
            check_foreign(planned, functions)
    assert set(shapes) == {(4, 3), (5, 2)}
    for name in ("so", "l2"):  # which need no trial
        check_foreign(attached(source, target="*", regularizer=name))
    check_foreign(attached(source, target="a@activity"))
