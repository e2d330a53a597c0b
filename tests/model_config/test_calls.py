"""Files in which the calls of a layer are not told apart, as Keras 3.2 wrote them."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers

import orthwrap

SAID = "called more than once, and the file has the first call's result in every place"


def siamese(shared: Any) -> Any:
    a, b = keras.Input((4,)), keras.Input((4,))
    return keras.Model([a, b], layers.Subtract()([shared(a), shared(b)]))


def two_outputs(shared: Any) -> Any:
    a, b = keras.Input((4,)), keras.Input((4,))
    return keras.Model([a, b], [shared(a), shared(b)])


def chain(shared: Any) -> Any:
    x = keras.Input((4,))
    return keras.Model(x, shared(shared(x)))


def once(shared: Any) -> Any:
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2)(shared(x)))


def below(shared: Any) -> Any:
    a, b = keras.Input((4,)), keras.Input((4,))
    inner = siamese(shared)
    inner.name = "inner"
    return keras.Model([a, b], layers.Dense(1)(inner([a, b])))


def dense() -> Any:
    return layers.Dense(4, name="shared")


def backbone() -> Any:
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(4)(x), name="shared")


def saved(model: Any, path: Path, *, version: str, first_alone: bool = True) -> Path:
    """The model's file as that release writes it: 3.2 has call 0 for each tensor in a call."""
    model.save(path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    if first_alone:
        history = rb'("keras_history": \["[^"]+", )\d+'
        members["config.json"] = re.sub(history, rb"\g<1>0", members["config.json"])
    metadata = json.loads(members["metadata.json"])
    members["metadata.json"] = json.dumps({**metadata, "keras_version": version}).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def told(report: Any) -> list[str]:
    return [warning.partition(":")[0] for warning in report.warnings if SAID in warning]


@pytest.mark.parametrize("make", [dense, backbone])
@pytest.mark.parametrize(
    ("graph", "found"),
    [
        (siamese, ["shared"]),  # call 1 is used nowhere
        (chain, ["shared"]),  # right, but nothing in the file says so
        (two_outputs, []),  # whose calls 3.2 numbers rightly
        (once, []),
        (below, ["inner/shared"]),
    ],
)
def test_a_layer_of_whose_calls_the_file_has_the_first_alone_is_named(
    graph: Callable[[Any], Any], make: Callable[[], Any], found: list[str], tmp_path: Path
) -> None:
    path = saved(graph(make()), tmp_path / "m.keras", version="3.2.1")
    assert told(orthwrap.inspect(path, measure=False)) == found


@pytest.mark.parametrize("version", ["3.0.5", "3.1.1", "3.3.0", "3.15.1"])
def test_files_of_releases_that_number_calls_have_no_such_warning(
    version: str, tmp_path: Path
) -> None:
    path = saved(chain(dense()), tmp_path / "m.keras", version=version, first_alone=False)
    assert not told(orthwrap.inspect(path, measure=False))


def test_every_verb_on_a_file_says_so(tmp_path: Path) -> None:
    path = saved(siamese(dense()), tmp_path / "m.keras", version="3.2.0")
    attached = tmp_path / "a.keras"
    reports = [
        orthwrap.check(path, max={"residual": 9}),
        orthwrap.upgrade(path, tmp_path / "u.keras").report,
        orthwrap.apply(path, attached).report,
        orthwrap.strip(attached, tmp_path / "s.keras").report,
    ]
    assert [told(report) for report in reports] == [["shared"]] * 4
    assert any(SAID in warning for warning in reports[2].to_json()["warnings"])


@pytest.mark.parametrize(("graph", "found"), [(siamese, ["shared"]), (chain, [])])
def test_where_no_version_is_known_a_call_that_nothing_uses_decides(
    graph: Callable[[Any], Any], found: list[str], tmp_path: Path
) -> None:
    """`model.to_json()` does not say which Keras wrote it."""
    model = graph(dense())
    history = r'("keras_history": \["[^"]+", )\d+'
    (tmp_path / "m.json").write_text(re.sub(history, r"\g<1>0", model.to_json()))
    model.save_weights(tmp_path / "m.weights.h5")
    report = orthwrap.inspect(tmp_path / "m.json", weights=tmp_path / "m.weights.h5")
    assert told(report) == found


def test_the_weights_of_such_a_file_go_into_the_model_built_in_python(tmp_path: Path) -> None:
    """What the warning advises."""
    model = siamese(dense())
    path = saved(model, tmp_path / "m.keras", version="3.2.1")
    arrays = [keras.ops.eye(4), keras.ops.ones((4, 4))]
    expected = keras.ops.convert_to_numpy(model(arrays))
    assert abs(keras.ops.convert_to_numpy(keras.models.load_model(path)(arrays))).max() == 0
    again = siamese(dense())
    again.load_weights(path)
    assert (keras.ops.convert_to_numpy(again(arrays)) == expected).all()
