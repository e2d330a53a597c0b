"""Decisions and their reasons, on real files and on layers made for the purpose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from orthwrap.errors import NoMatchError, UsageError, ValueFault
from orthwrap.model_config.tree import edit, is_ours
from orthwrap.penalties.attachment import Attachment
from orthwrap.plan.as_it_is import plan_strip
from orthwrap.plan.decide import plan
from orthwrap.plan.decision import Plan
from orthwrap.rules.rule import Rule
from orthwrap.stores.files import open_file
from orthwrap.survey import survey
from tests.support.dict_store import DictStore, node, store
from tests.support.samples import nested_file


def planned(source: Any, **rule: Any) -> Plan:
    return plan(survey(source), [Rule(**rule)])


def decisions(p: Plan) -> dict[str, tuple[str, str]]:
    return {
        d.slot.layer.path if d.slot.name == "kernel" else f"{d.slot.layer.path}@{d.slot.name}": (
            d.decision,
            d.reason,
        )
        for d in p.decisions
    }


L2 = {"class_name": "L2", "config": {"l2": 0.01}}
DENSE = np.ones((4, 3))
CONV = np.ones((3, 3, 2, 4))


def test_every_kernel_gets_one_decision_with_a_reason() -> None:
    source = open_file(nested_file(".keras"))
    found = decisions(planned(source, target=("all-conv", "all-dense"), exclude=("stem",)))
    assert {path: d for path, (d, _) in found.items()} == {
        "stem": "excluded",
        "outer/inner/conv0": "regularized",
        "outer/inner/conv1": "regularized",
        "td/dense": "regularized",
        "bi/forward_lstm": "not_selected",
        "bi/forward_lstm@recurrent": "not_selected",
        "bi/backward_lstm": "not_selected",
        "bi/backward_lstm@recurrent": "not_selected",
        "rnn/cells/a": "not_selected",
        "rnn/cells/a@recurrent": "not_selected",
        "rnn/cells/b": "not_selected",
        "rnn/cells/b@recurrent": "not_selected",
        "head": "regularized",
    }
    assert all(reason for _, reason in found.values())


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_both_formats_give_the_same_plan(suffix: str) -> None:
    here = decisions(planned(open_file(nested_file(suffix)), target="all"))
    there = decisions(planned(open_file(nested_file(".keras")), target="all"))
    assert here == there


def test_groups_and_strides_reach_the_regularizer() -> None:
    source = store(node("Conv2D", "c", groups=2, strides=[2, 1]), c=np.ones((3, 3, 2, 8)))
    (decision,) = planned(source, target="all-conv").changes
    assert decision.attachment.layout.parts == 2
    assert decision.attachment.layout.strides == (2, 1)
    assert Attachment.from_node(decision.value) == decision.attachment


def test_the_first_rule_that_matches_wins() -> None:
    source = store(node("Conv2D", "a"), node("Conv2D", "b"), a=CONV, b=CONV)
    p = plan(
        survey(source),
        [Rule(target="a", regularizer="srip"), Rule(target="all-conv", factor=0.5)],
    )
    assert [(d.attachment.name, d.attachment.factor) for d in p.changes] == [
        ("srip", 1e-3),
        ("so", 0.5),
    ]


def test_excluded_from_one_rule_is_free_for_the_next() -> None:
    source = store(node("Conv2D", "a"), node("Conv2D", "b"), a=CONV, b=CONV)
    rules = [Rule(target="all-conv", exclude="a"), Rule(target="a", regularizer="offdiag")]
    assert [d.attachment.name for d in plan(survey(source), rules).changes] == ["offdiag", "so"]


def test_factor_for_overrides_by_its_first_match() -> None:
    source = store(*(node("Conv2D", n) for n in ("a1", "a2", "b")), a1=CONV, a2=CONV, b=CONV)
    p = planned(source, target="all-conv", factor=1.0, factor_for=(("a1", 2.0), ("a*", 3.0)))
    assert [d.attachment.factor for d in p.changes] == [2.0, 3.0, 1.0]


def test_preserve_keeps_the_scale_of_each_kernel() -> None:
    source = store(node("Dense", "a"), node("Dense", "b"), a=2.0 * np.eye(4), b=0.5 * np.eye(4))
    p = planned(source, target="all-dense", scale="preserve")
    assert [d.attachment.alpha for d in p.changes] == pytest.approx([2.0, 0.5])


def test_attention_has_one_slot_one_factor_and_one_alpha() -> None:
    shapes = dict.fromkeys(("query", "key", "value"), (6, 2, 4)) | {"attention_output": (2, 4, 6)}
    kernels = {f"mha:{n}/kernel": np.full(s, 0.5) for n, s in shapes.items()}
    source = DictStore(store(node("MultiHeadAttention", "mha")).root, kernels)
    (decision,) = planned(source, target="all-attention", scale="preserve").changes
    assert len(decision.slot.kernels) == 4
    squares = sum(np.sum(k**2) for k in kernels.values())
    assert decision.attachment.alpha == pytest.approx(math.sqrt(squares / (4 * 2 * 4)))
    assert decision.attachment.layout.matrices((2, 4, 6)) == (2, 4, 6)


def test_attention_whose_shapes_coincide_is_unsupported() -> None:
    source = store(
        node("MultiHeadAttention", "mha"), node("Dense", "d"), mha=np.ones((4, 4, 4)), d=DENSE
    )
    p = planned(source, target=("all-attention", "d"))
    assert decisions(p)["mha"][0] == "unsupported"
    assert "shape" in decisions(p)["mha"][1]


@pytest.mark.parametrize("pattern", ["bi/forward_*", "bi/backward_*", "class:LSTM"])
def test_two_directions_with_one_config_are_chosen_together(pattern: str) -> None:
    lstm = node("LSTM", "lstm", recurrent_regularizer=None)
    source = store(
        node("Bidirectional", "bi", layer=lstm),
        **{f"bi/{d}_lstm:{k}": np.ones((3, 8)) for d in ("forward", "backward")
           for k in ("kernel", "recurrent_kernel")},
    )  # fmt: skip
    p = planned(source, target=f"{pattern}@kernel")
    (change,) = p.changes
    assert [k.layer.path for k in change.slot.kernels] == ["bi/forward_lstm", "bi/backward_lstm"]
    assert len(p.edits) == 1


@pytest.mark.parametrize(
    ("existing", "decision", "combined", "replaced"),
    [
        ("keep", "kept", None, None),
        ("combine", "regularized", L2, None),
        ("replace", "regularized", None, L2),
    ],
)
def test_what_happens_to_a_foreign_regularizer(existing, decision, combined, replaced) -> None:
    source = store(node("Dense", "d", kernel_regularizer=L2), d=DENSE)
    p = planned(source, target="d", existing=existing)
    assert p.decisions[0].decision == decision
    if combined or replaced:
        assert p.decisions[0].attachment.combined_with == combined
        assert p.decisions[0].attachment.replaced == replaced


def applied(source: DictStore, **rule: Any) -> DictStore:
    return DictStore(edit(source.root, planned(source, **rule).edits), source._kernels)


@pytest.mark.parametrize("existing", ["combine", "replace"])
@pytest.mark.parametrize("original", [None, L2, "l2"])
def test_applying_again_replaces_and_strip_gives_the_original_back(existing, original) -> None:
    source = store(node("Dense", "d", kernel_regularizer=original), d=DENSE)
    once = applied(source, target="d", existing=existing)
    twice = applied(once, target="d", regularizer="srip", existing="combine")
    same = planned(once, target="d", existing=existing)
    assert same.decisions[0].decision == "already"
    assert not same.edits
    attached = Attachment.from_node(
        twice.root["config"]["layers"][0]["config"]["kernel_regularizer"]
    )
    assert attached.name == "srip"
    assert attached.original == original
    assert not is_ours(attached.original)
    if original is not None and existing == "replace":
        assert attached.replaced == original, "what was set aside must not come back by itself"
    for model in (once, twice):
        stripped = edit(model.root, plan_strip(survey(model)).edits)
        assert stripped == source.root


def test_a_key_that_was_not_there_goes_again() -> None:
    source = store({"class_name": "Dense", "config": {"name": "d", "trainable": True}}, d=DENSE)
    once = applied(source, target="d")
    assert edit(once.root, plan_strip(survey(once)).edits) == source.root


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"lora_rank": 4}, "LoRA"),
        ({"dtype": {"class_name": "QuantizedDTypePolicy", "config": {}}}, "quantized"),
        ({"quantization_config": {"mode": "int8"}}, "quantized"),
    ],
)
def test_kernels_that_cannot_be_regularized_say_why(config, word) -> None:
    source = store(node("Dense", "d", **config), node("Dense", "e"), d=DENSE, e=DENSE)
    decision, reason = decisions(planned(source, target="all-dense"))["d"]
    assert decision == "unsupported"
    assert word in reason


def test_all_chosen_unsupported_is_an_error() -> None:
    source = store(node("Dense", "d", lora_rank=4), node("Dense", "e"), d=DENSE, e=DENSE)
    with pytest.raises(NoMatchError, match="LoRA"):
        planned(source, target="d")


def test_a_frozen_kernel_is_attached_and_says_so() -> None:
    source = store(node("Dense", "d", trainable=False), d=DENSE)
    ((decision, reason),) = decisions(planned(source, target="d")).values()
    assert decision == "regularized"
    assert "frozen" in reason


@pytest.mark.parametrize(
    ("strides", "kernel", "possible"),
    [([1, 1], (3, 3, 4, 8), True), ([3, 3], (2, 2, 4, 64), False), ([1, 1], (1, 1, 4, 8), True)],
)
def test_lorth_is_offered_only_where_it_can_exist(strides, kernel, possible) -> None:
    source = store(
        node("Conv2D", "c", strides=strides), node("Dense", "d"), c=np.ones(kernel), d=DENSE
    )
    decision, reason = decisions(planned(source, target=("c", "d"), regularizer="lorth"))["c"]
    assert decision == ("regularized" if possible else "unsupported")
    assert possible or "use so" in reason


def test_lorth_is_not_for_depthwise_kernels() -> None:
    kernels = {"d": DENSE, "w": np.ones((3, 3, 4, 2))}
    source = store(
        node("DepthwiseConv2D", "w", depthwise_regularizer=None), node("Dense", "d"), **kernels
    )
    found = decisions(planned(source, target=("w", "d"), regularizer="lorth"))
    assert found["w@depthwise"][0] == "unsupported"


def test_an_unknown_class_goes_by_rank_and_says_so() -> None:
    source = store(node("pkg>ConvDNA", "c", strides=[1]), c=np.ones((15, 4, 32)))
    ((decision, reason),) = decisions(planned(source, target="all-conv")).values()
    assert decision == "regularized"
    assert "ConvDNA is not known" in reason


def test_activities_are_a_slot_of_their_own() -> None:
    source = store(node("Dense", "d", activity_regularizer=None), d=DENSE)
    p = planned(source, target="d", on="activity")
    assert decisions(p) == {
        "d": ("not_selected", "no target matches"),
        "d@activity": ("regularized", "matches d; scale unit: of outputs"),
    }
    (change,) = p.edits
    assert change.key == "activity_regularizer"


@pytest.mark.parametrize(
    "rule",
    [
        {"regularizer": "lorth"},
        {"scale": "preserve"},
        {"options": {"estimate": "sketch"}},
    ],
)
def test_activities_take_no_kernel_options(rule) -> None:
    with pytest.raises(UsageError):
        planned(store(node("Dense", "d"), d=DENSE), target="d", on="activity", **rule)


NO_MATCH = [
    ("dens", "d"),
    ("class:dense", "class:Dense"),
    ("relu", "only layers without a kernel"),
    ("d@recurrent", "d (Dense) has no slot 'recurrent'; it has kernel"),
    ("d@kernl", "; after @ stands a slot: kernel, depthwise, pointwise, recurrent, "),
    ("all-recurrent", "all-dense"),
    ("re:dd", "d"),
]


@pytest.mark.parametrize(("target", "hint"), NO_MATCH)
def test_a_target_that_matches_nothing_names_the_nearest(target: str, hint: str) -> None:
    source = store(node("Dense", "d"), {"class_name": "ReLU", "config": {"name": "relu"}}, d=DENSE)
    with pytest.raises(NoMatchError) as caught:
        planned(source, target=(target, "d"))
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_default_target_does_not_ask_for_both_families() -> None:
    assert len(planned(store(node("Dense", "d"), d=DENSE)).changes) == 1
    with pytest.raises(NoMatchError):
        planned(store({"class_name": "ReLU", "config": {"name": "relu"}}))


def test_an_exclude_that_excludes_nothing_is_a_warning() -> None:
    source = store(node("Dense", "d"), node("Conv2D", "c"), d=DENSE, c=CONV)
    assert planned(source, target="d", exclude=("zz", "c")).warnings == (
        "exclude 'zz' excludes nothing; nearest: d, c, all-conv",
        "exclude 'c' excludes nothing that a target matches",
    )


BAD_RULES = [
    ({"regularizer": "srp"}, "srip"),
    ({"regularizer": "SO"}, "'so'"),
    ({"factor": -1}, "at least 0"),
    ({"factor": math.nan}, "finite"),
    ({"factor": "x"}, "number"),
    ({"factor_for": (("d", -1),)}, "at least 0"),
    ({"scale": "big"}, "unit"),
    ({"existing": "drop"}, "combine"),
    ({"on": "bias"}, "activity"),
    ({"options": {"steps": 3}}, "takes no option"),
    ({"regularizer": "srip", "options": {"steps": 0}}, "at least 1"),
    ({"regularizer": "srip", "options": {"steps": "x"}}, "whole number"),
    ({"options": {"estimate": "guess"}}, "sketch"),
    ({"regularizer": "l2", "options": {"steps": 3}}, "no options"),
    ({"regularizer": "l2", "scale": "preserve"}, "scale"),
    ({"target": ()}, "target"),
]


@pytest.mark.parametrize(("rule", "hint"), BAD_RULES)
def test_a_bad_value_is_one_line_that_helps(rule, hint) -> None:
    with pytest.raises(ValueFault) as caught:
        planned(store(node("Dense", "d"), d=DENSE), **{"target": "d", **rule})
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
