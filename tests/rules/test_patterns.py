"""The pattern dialect, on names as real networks have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orthwrap.errors import ValueFault
from orthwrap.rules.patterns import SHORTHANDS, Candidate, nearest, parse


def candidate(path: str, cls: str = "Conv2D", slot: str = "kernel", family: str | None = "conv"):
    return Candidate((path,), cls, slot, family)


PATHS = [
    # pattern, path, matches
    ("conv1", "conv1", True),
    ("conv1", "conv1_conv", False),
    ("conv1*", "conv1_conv", True),
    ("conv1", "backbone/conv1", True),
    ("inner/conv1", "outer/inner/conv1", True),
    ("ner/conv1", "outer/inner/conv1", False),
    ("outer/*", "outer/inner/conv1", True),
    ("outer/*/conv?", "outer/inner/conv1", True),
    ("*", "conv2_block1_1_conv", True),
    ("conv[24]_block*", "conv4_block6_2_conv", True),
    ("conv[24]_block*", "conv3_block6_2_conv", False),
    ("block?_sepconv*", "block4_sepconv2", True),
    ("Conv1", "conv1", False),
    ("stem.conv", "stemxconv", False),
    ("re:conv[0-9]+", "conv12", True),
    ("re:conv[0-9]+", "backbone/conv12", False),
    ("re:.*conv[0-9]+", "backbone/conv12", True),
    ("re:conv", "conv12", False),
    ("bi/forward_lstm", "bi/forward_lstm", True),
    ("forward_*", "bi/forward_lstm", True),
    ("conv1@kernel", "conv1", True),
    ("conv1@recurrent", "conv1", False),
    ("name@home", "name@home", True),
]


@pytest.mark.parametrize(("pattern", "path", "expected"), PATHS)
def test_a_path_pattern_matches_as_a_shell_would(pattern: str, path: str, expected: bool) -> None:
    assert parse(pattern).matches(candidate(path)) is expected


@pytest.mark.parametrize(
    ("pattern", "families"),
    [
        ("all-conv", {"conv"}),
        ("all-dense", {"dense"}),
        ("all-depthwise", {"depthwise"}),
        ("all-attention", {"attention"}),
        ("all-recurrent", {"recurrent"}),
        ("all", {"conv", "dense", "depthwise", "attention", "recurrent"}),
    ],
)
def test_a_shorthand_takes_its_families_and_no_other(pattern: str, families: set[str]) -> None:
    every = {"conv", "dense", "depthwise", "attention", "recurrent", None}
    taken = {f for f in every if parse(pattern).matches(candidate("x", family=f))}
    assert taken == families
    assert pattern in SHORTHANDS


def test_a_class_pattern_is_exact() -> None:
    assert parse("class:Conv2D").matches(candidate("x", "Conv2D"))
    assert not parse("class:Conv2D").matches(candidate("x", "Conv2DTranspose"))
    assert not parse("class:conv2d").matches(candidate("x", "Conv2D"))
    assert not parse("class:Conv*").matches(candidate("x", "Conv2D"))


def test_a_shared_layer_matches_by_any_of_its_places() -> None:
    shared = Candidate(("left/conv", "right/conv"), "Conv2D", "kernel", "conv")
    assert parse("left/*").matches(shared)
    assert parse("right/conv").matches(shared)


def test_a_callable_is_given_the_layer() -> None:
    seen: list[object] = []
    layer = object()

    def look(given: object) -> bool:
        seen.append(given)
        return True

    assert parse(look).matches(Candidate(("x",), "Conv2D", "kernel", "conv", layer))
    assert seen == [layer]


@pytest.mark.parametrize("pattern", ["", None, 3, "re:conv(", "re:*"])
def test_a_pattern_that_is_none_is_refused_in_one_line(pattern: object) -> None:
    with pytest.raises(ValueFault) as caught:
        parse(pattern)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def raising(layer: object) -> bool:
    raise KeyError("width")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raising, "pattern function raising at layer 'conv1' failed: KeyError: 'width'"),
        (lambda layer: layer.width, "<lambda> at layer 'conv1' failed: AttributeError"),
        (lambda layer: None, "returned None: it must return True or False"),
        (lambda layer: "conv", "returned 'conv': it must return True or False"),
    ],
)
def test_a_function_that_cannot_tell_is_named_with_the_layer(function: Any, said: str) -> None:
    with pytest.raises(ValueFault) as caught:
        parse(function).matches(candidate("conv1"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_function_may_answer_with_a_number_of_numpy() -> None:
    answer: Any = np.True_
    assert parse(lambda layer: answer).matches(candidate("conv1"))


@pytest.mark.parametrize(
    ("pattern", "best"),
    [
        ("cnov1", "conv1"),
        ("conv_1", "conv1"),
        ("backbone/conv2_x", "backbone/conv2"),
        ("class:conv2d", "class:Conv2D"),
        ("all-convs", "all-conv"),
        ("re:conv1x", "conv1"),
    ],
)
def test_the_nearest_pattern_is_offered_first(pattern: str, best: str) -> None:
    paths = ["conv1", "backbone/conv2", "backbone/dense", "head"]
    assert nearest(pattern, paths, ["Conv2D", "Dense"], {"conv", "dense"})[0] == best


def test_what_is_offered_matches_something() -> None:
    offered = nearest("all-depthwise", ["conv1"], ["Conv2D"], {"conv"})
    assert "all-depthwise" not in offered
    assert all(parse(p).matches(candidate("conv1")) for p in offered)
