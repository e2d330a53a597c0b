"""What the user says, at its edges: kinds of words, rules files, references, options, names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orthwrap._version import __version__
from orthwrap.errors import FileFault, ValueFault
from orthwrap.penalties import options
from orthwrap.penalties.attachment import Attachment, describe, ours_within
from orthwrap.penalties.template import template
from orthwrap.rules import references, words
from orthwrap.rules.custom_objects import custom_objects_of
from orthwrap.rules.file import read_rules
from orthwrap.rules.patterns import parse
from orthwrap.rules.rule import Rule


class Layerish:
    name = "conv7"

    def __call__(self) -> None: ...

    def get_config(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        (words.whole(1), np.int64(3), 3),
        (words.positive, np.float32(0.5), 0.5),
        (words.between_0_and_1(0.2), 0.25, 0.25),
        (words.choice("a", "b"), "b", "b"),
        (words.several, "x", ("x",)),
        (words.several, ["x", "y"], ("x", "y")),
        (words.patterns, "conv*", ("conv*",)),
        (words.patterns, math.isnan, (math.isnan,)),
        (words.patterns, iter(("a", "b")), ("a", "b")),
        (words.factor, "auto", "auto"),
        (words.factor, "1e-3", 1e-3),
        (words.factors_by_pattern, {"a": "auto", "b": 2}, (("a", "auto"), ("b", 2.0))),
        (words.factors_by_pattern, [("a", 0)], (("a", 0.0),)),
        (words.mapping, {"steps": 5}, {"steps": 5}),
        (words.path, "a/b", Path("a/b")),
        (words.flag, 1, True),
    ],
)
def test_a_kind_keeps_a_value(kind: words.Kind, value: Any, kept: Any) -> None:
    found = kind.check("it", value)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (words.whole(1), 0, "it 0 must be a whole number of at least 1"),
        (words.whole(0), True, "it True must be a whole number of at least 0"),
        (words.whole(0), 1.0, "it 1.0 must be a whole number"),
        (words.whole(0), 2**32, "of at least 0 and below 2**32"),
        (words.positive, math.inf, "must be a finite number above 0"),
        (words.positive, "2", "must be a finite number above 0"),
        (words.positive, False, "must be a finite number above 0"),
        (words.between_0_and_1(0.2), 1, "must lie between 0 and 1, as 0.2 does"),
        (words.patterns, 3, "it must be a pattern or several; got 3"),
        (words.factor, True, "factor True is not a number"),
        (words.factor, "inf", "factor 'inf' must be a finite number of at least 0"),
        (words.factors_by_pattern, "a=1", "must be a mapping or pairs of pattern and factor"),
        (words.factors_by_pattern, [("a", 1, 2)], "must be a mapping or pairs"),
        (words.factors_by_pattern, 3, "must be a mapping or pairs"),
        (words.mapping, [("steps", 5)], "it must be a mapping, as {'steps': 5}"),
    ],
)
def test_a_kind_refuses_a_value_in_one_line(kind: words.Kind, value: Any, said: str) -> None:
    with pytest.raises(ValueFault) as caught:
        kind.check("it", value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[[rule]", "is no TOML"),
        (b"\xff\xfe", "is no TOML"),
        (b"x = " + b"[" * 9999, "is nested deeper than Python reads"),
        (b"#" * (1 << 20) + b"#", "is longer than 1 MB"),
        (b"", "must hold [[rule]] tables and nothing else"),
        (b"rule = []", "must hold [[rule]] tables and nothing else"),
        (b"[rule]\ntarget = 'a'", "must hold [[rule]] tables and nothing else"),
        (b"more = 1\n[[rule]]\ntarget = 'a'", "must hold [[rule]] tables and nothing else"),
        (b"rule = [3]", "rule 1 is no table: write [[rule]]"),
        (b"[[rule]]\n[[rule]]\nfactor = -1", "rule 2: factor -1 must be a finite number"),
    ],
    ids=lambda v: str(v[:40]),
)
def test_a_file_of_no_rules_is_said_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_bytes(content)
    with pytest.raises((FileFault, ValueFault)) as caught:
        read_rules(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rules_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileFault, match=r"none\.toml cannot be read: No such file"):
        read_rules(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (Layerish, "a class is no pattern: write 'class:Layerish'"),
        (Layerish(), "a layer is no pattern: give its path, such as 'conv7'"),
        ("", "a non-empty string or a callable; got ''"),
        (3, "a non-empty string or a callable; got 3"),
    ],
)
def test_what_is_no_pattern_is_said(pattern: Any, said: str) -> None:
    with pytest.raises(ValueFault) as caught:
        parse(pattern)
    assert said in str(caught.value)


# References


def test_a_reference_is_imported() -> None:
    assert references.imported("math:sqrt", "regularizer") is math.sqrt
    assert references.imported("collections:OrderedDict.fromkeys", "x")("ab") == {
        "a": None,
        "b": None,
    }


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("math:pi", "'pi' of module 'math' is no function but of type float"),
        ("math:sqtr", "module 'math' has no function 'sqtr' for regularizer 'math:sqtr'; nearest"),
        ("matth:sqrt", "cannot import 'matth' for regularizer 'matth:sqrt'"),
        ("json.decoderr:x", "nearest: json.decoder"),
        (":sqrt", "cannot import ''"),
    ],
)
def test_a_reference_that_leads_nowhere(reference: str, said: str) -> None:
    with pytest.raises(ValueFault) as caught:
        references.imported(reference, "regularizer")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_object_has_a_reference_or_says_that_it_has_none() -> None:
    assert references.reference_of(math.sqrt) == "math:sqrt"
    assert references.reference_of(Layerish) == f"{__name__}:Layerish"

    def inner() -> None: ...

    for nameless in (inner, lambda: None, Layerish()):
        reference = references.reference_of(nameless)
        assert reference.endswith(f" at {id(nameless):#x}>")
        references.remember(reference, nameless)
        assert reference not in references.NAMED


def test_what_was_named_is_found_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "NAMED", {})
    assert references.find("math:sqrt") is None  # imported it is, named it is not
    assert references.find("builtins:exec") is None
    references.remember("math:sqrt", math.sqrt)
    assert references.find("math:sqrt") is math.sqrt
    assert references.find("package>Nothing") is None
    given = {"sqrt": math.cbrt}
    assert references.find("math:sqrt", given) is math.cbrt  # what is given comes first
    with references.known_objects({"Here": Layerish}):
        assert references.find("Here") is Layerish
    assert references.find("Here") is None


def test_custom_objects_may_be_a_mapping_or_nothing() -> None:
    assert custom_objects_of(None) == {}
    assert custom_objects_of({"Own": Layerish})["Own"] is Layerish


# Options and names of regularizers


@pytest.mark.parametrize(
    ("option", "value", "kept"),
    [
        (options.EVERY, "4", 4),
        (options.ESTIMATE, "sketch", "sketch"),
        (options.SEED, None, None),
        (options.SEED, "7", 7),
        (options.ACROSS_CHANNELS, "True", True),
        (options.ACROSS_CHANNELS, 0, False),
    ],
)
def test_an_option_is_converted(option: options.Option, value: Any, kept: Any) -> None:
    assert option.convert(value) == kept
    expected = {} if kept == option.default else {option.name: kept}
    assert options.checked("so", (option,), {option.name: value}) == expected


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        (options.EVERY, 1.5, "option every=1.5 must be a whole number"),
        (options.EVERY, 0, "option every=0 must be at least 1"),
        (options.EVERY, None, "option every=None must be a whole number"),
        (options.SEED, -1, "option seed=-1 must be at least 0"),
        (options.ESTIMATE, "guess", "option estimate='guess' must be exact, auto or sketch"),
        (options.ACROSS_CHANNELS, "yes", "option across_channels='yes' must be true or false"),
    ],
)
def test_an_option_is_refused(option: options.Option, value: Any, said: str) -> None:
    with pytest.raises(ValueFault) as caught:
        options.checked("so", (option,), {option.name: value})
    assert str(caught.value) == said


def test_names_of_regularizers() -> None:
    so = template(Rule(options={"every": "2", "estimate": "exact"}))
    assert (so.name, so.factor, dict(so.options)) == ("so", 1e-3, {"every": 2})
    assert template(Rule(regularizer="cosine")).factor == 1e-2
    assert template(Rule(factor="auto")).factor == 1e-3  # until training finds it
    l2 = template(Rule(regularizer="l2", factor=0.5))
    assert (l2.factor, l2.is_penalty, l2.label, str(l2)) == (0.5, False, "l2", "l2 0.5")
    assert l2.foreign["config"] == {"l2": 1.0}
    own = template(Rule(regularizer="my:penalty"))
    assert (own.factor, own.foreign) == (1.0, "my:penalty")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"regularizer": math.sqrt}, "is neither a name nor a reference"),
        ({"regularizer": "my:penalty", "options": {"a": 1}}, "takes no options; got a"),
        ({"regularizer": "my:penalty", "scale": "preserve"}, "knows no scale='preserve'"),
    ],
)
def test_a_regularizer_that_is_none(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueFault, match=said.replace("'", "['\"]")):
        template(Rule(**rule))


L2 = {"class_name": "L2", "config": {"l2": 0.01}}


@pytest.mark.parametrize(
    "attachment",
    [
        Attachment("so", 0.1, "preserve", 2.5, {"every": 2}, combined_with=L2),
        Attachment("l2", 0.1, foreign=L2, replaced=L2, absent=True),
        Attachment("my:own", 1.0, foreign="my:own", on="activity"),
    ],
)
def test_an_attachment_comes_back_from_its_node(attachment: Attachment) -> None:
    node = attachment.to_node()
    assert Attachment.from_node(node) == attachment
    assert ours_within([{"a": (node,)}]) == {node["registered_name"]}
    assert describe(node) == str(attachment)


def test_what_an_attachment_sets_aside_is_the_original() -> None:
    other = {"class_name": "L1", "config": {"l1": 0.5}}
    assert Attachment("so", 1.0).original is None
    assert Attachment("so", 1.0, replaced=L2).original == L2
    assert Attachment("so", 1.0, combined_with=other, replaced=L2).original == other


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class_name": "Nobody"}, "whose penalty is not registered here"),
        ({"config": None}, f"that orthwrap {__version__} cannot read"),
        ({"config": {"factor": "much"}}, f"that orthwrap {__version__} cannot read"),
        (
            {"config": {"factor": 1.0, "layout": {"rows": 1}}},
            f"that orthwrap {__version__} cannot read",
        ),
    ],
)
def test_a_node_of_another_version_is_refused(change: dict[str, Any], said: str) -> None:
    node = {**Attachment("so", 1.0).to_node(), **change}
    with pytest.raises(ValueFault, match=said):
        Attachment.from_node(node)


@pytest.mark.parametrize(
    ("node", "word"),
    [
        ("my:own", "my:own"),
        (3, "3"),
        (L2, "L2(l2=0.01)"),
        ({"class_name": "L1L2", "config": {"l1": 0.0, "l2": 0.25}}, "L1L2(l2=0.25)"),
        ({"class_name": "pkg>Own", "config": {"mode": "rows"}}, "Own"),
        ({"class_name": "Own"}, "Own"),
        ({"class_name": "function", "config": "my_l2"}, "my_l2"),
    ],
)
def test_a_regularizer_in_a_word(node: Any, word: str) -> None:
    assert describe(node) == word


def test_a_name_that_is_not_a_regularizers_own_says_what_it_stands_for() -> None:
    assert Attachment("mine", 1.0, foreign=L2).label == "mine (L2(l2=0.01))"
    assert Attachment("my:own", 1.0, foreign="my:own").label == "my:own"
    nameless = "my:<lambda at 0x7f00>"
    assert Attachment("<lambda>", 1.0, foreign=nameless).label == "<lambda> (my:<lambda>)"
