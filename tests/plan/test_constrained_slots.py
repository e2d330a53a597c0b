"""Constraints in plans, files and reports; and taken off again."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from typer.testing import CliRunner

import orthwrap
from orthwrap.penalties.constrained import Constrained
from orthwrap.rules.constrain import Constrain
from orthwrap.rules.file import read_rules
from orthwrap.stores.files import open_file
from orthwrap_cli.main import app
from tests.support import models
from tests.support.samples import nested_file, small_file


@pytest.mark.parametrize(
    ("text", "limits", "shown"),
    [
        ("orthogonal", (1, 1), "orthogonal"),
        ("spectral:2", (0, 2), "spectral:2"),
        ("spectral:1.0", (0, 1), "spectral:1"),
        ("band:0.9,1.1", (0.9, 1.1), "band:0.9,1.1"),
        ("band:0,1e-7", (0, 1e-7), "band:0,1e-07"),
        ("band:0.333333333333,1", (0.333333333333, 1), "band:0.333333333333,1"),
    ],
)
def test_words(text: str, limits: tuple[float, float], shown: str) -> None:
    found = Constrain.parse(text)
    assert (found.low, found.high) == limits
    assert str(found) == shown
    assert Constrain.parse(shown) == found
    assert orthwrap.Rule(constrain=text).replace(existing="keep").constrain == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("orthognal", "unknown constraint 'orthognal'; did you mean orthogonal?"),
        ("spectral", "not understood"),
        ("spectral:0", "out of range"),
        ("spectral:nan", "out of range"),
        ("spectral:inf", "out of range"),
        ("spectral:1,2", "not understood"),
        ("band:1.1,0.9", "out of range"),
        ("band:-1,1", "out of range"),
        ("band:1", "not understood"),
        ("band:a,b", "not understood"),
        ("orthogonal:2", "out of range"),
    ],
)
def test_words_that_are_none(text: str, said: str) -> None:
    with pytest.raises(orthwrap.ValueFault, match=said):
        Constrain.parse(text)


def test_what_a_constraint_alone_has_no_use_for() -> None:
    rule = orthwrap.Rule(constrain="orthogonal")
    assert rule.regularizer is None
    assert orthwrap.Rule(constrain="orthogonal", regularizer="so").regularizer == "so"
    assert orthwrap.Rule(constrain=None).regularizer == "so"
    for words in ({"factor": 1e-3}, {"options": {"every": 2}}, {"on": "activity"}, {"pull": 0.1}):
        with pytest.raises(orthwrap.UsageError, match="constrain attaches none beside it"):
            orthwrap.Rule(constrain="orthogonal", **words)
    with pytest.raises(orthwrap.UsageError, match="scale free is of a regularizer"):
        orthwrap.Rule(constrain="orthogonal", scale="free", regularizer="so")
    with pytest.raises(orthwrap.ValueFault, match="choose one of: unit, preserve"):
        orthwrap.OrthogonalityConstraint("orthogonal", scale="free")
    with pytest.raises(orthwrap.UsageError, match="every is about constrain"):
        orthwrap.Rule(every=3)
    with pytest.raises(orthwrap.UsageError, match="constrain holds kernels"):
        orthwrap.apply(
            models.dense(), target="wide", constrain="orthogonal", regularizer="so", on="activity"
        )


def config_of(path: Path) -> Any:
    with contextlib.closing(open_file(path)) as store:
        return json.loads(json.dumps(store.root))


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("words", [[], ["--regularizer", "so"]])
def test_from_the_command_line_and_back(suffix: str, words: list[str], tmp_path: Path) -> None:
    source, made, plain = (tmp_path / f"{name}{suffix}" for name in ("a", "b", "c"))
    source.write_bytes(nested_file(suffix).read_bytes())
    run = CliRunner().invoke(
        app,
        [
            *("apply", str(source), "-o", str(made), "-t", "all", "--constrain", "band:0.9,1.1"),
            *("--every", "2", "--scale", "preserve", "--existing", "replace", "--json", "-"),
            *words,
        ],
    )
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout)
    kernels = told["summary"]["kernels"]
    assert told["summary"]["constrained"] == kernels > 1
    assert told["summary"]["regularized"] == (kernels if words else 0)
    for layer in told["layers"]:
        held = layer["constraint"]
        assert layer["decision"] == ("regularized" if words else "constrained")
        assert (held["name"], held["low"], held["high"]) == ("band", 0.9, 1.1)
        assert held["alpha"] == pytest.approx(layer["before"]["scale"], rel=1e-6)
        assert held["every"] == 2
    found = orthwrap.inspect(made)
    assert [r.constraint.every for r in found.layers if r.constraint] == [2] * kernels
    again = orthwrap.apply(
        made, dry_run=True, target="all", constrain="band:0.9,1.1", every=2, scale="preserve"
    )
    assert all("already held band" in r.reason for r in again.report.layers)
    orthwrap.strip(made, plain)
    assert config_of(plain) == config_of(source)
    assert "orthwrap" not in json.dumps(config_of(plain))


def test_a_rules_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(
        '[[rule]]\ntarget = "wide"\nconstrain = "spectral:1.5"\nevery = 4\n'
        '[[rule]]\ntarget = "head"\npull = 0.01\n'
    )
    first, second = read_rules(path)
    assert (str(first.constrain), first.every, first.regularizer) == ("spectral:1.5", 4, None)
    assert (second.constrain, second.pull) == (None, 0.01)
    path.write_text('[[rule]]\ntarget = "wide"\nconstrain = "orthogonal"\nevery = "4"\n')
    with pytest.raises(orthwrap.ValueFault, match="every must be a whole number"):
        read_rules(path)


def test_python_takes_a_rules_file_as_the_command_does(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\ntarget = "free"\nconstrain = "spectral:1.5"\n')
    for rules in (path, str(path)):
        report = orthwrap.apply(bound(), rules=rules).report
        assert [r.constraint and str(r.constraint) for r in report.layers] == [None, "spectral:1.5"]
    with pytest.raises(orthwrap.FileFault, match=r"none\.toml"):
        orthwrap.apply(bound(), rules=tmp_path / "none.toml")
    for junk in (7, [path], ()):
        with pytest.raises(orthwrap.ValueFault, match="or the path of a rules file"):
            orthwrap.apply(bound(), rules=junk)


def bound() -> Any:
    """A kernel with a constraint of its own, one with none."""
    inputs = layers.Input((6,))
    x = layers.Dense(5, kernel_constraint=keras.constraints.MaxNorm(0.5), name="own")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="free")(x))


@pytest.mark.parametrize("existing", ["keep", "combine"])
def test_a_constraint_of_others_stays(existing: str) -> None:
    model = bound()
    result = orthwrap.apply(model, constrain="orthogonal", existing=existing)
    own, free = result.report.layers
    assert (own.decision, own.constraint, own.foreign) == ("kept", None, "MaxNorm(max_value=0.5)")
    assert "of two in turn the last alone holds" in own.reason
    assert free.decision == "constrained"
    assert isinstance(result.model.get_layer("own").kernel.constraint, keras.constraints.MaxNorm)
    both = orthwrap.apply(model, constrain="orthogonal", regularizer="so", existing=existing)
    own, _ = both.report.layers
    assert (own.decision, own.constraint) == ("regularized", None)
    assert "keeps its constraint MaxNorm" in own.reason


@pytest.mark.parametrize("in_place", [False, True])
def test_a_constraint_of_others_set_aside_and_given_back(in_place: bool) -> None:
    model = bound()
    config = model.get_config()
    held = orthwrap.apply(model, constrain="orthogonal", existing="replace", in_place=in_place)
    record = held.report.layers[0]
    assert record.constraint is not None
    assert record.constraint.replaced == "MaxNorm(max_value=0.5)"
    kernel = held.model.get_layer("own").kernel
    assert isinstance(kernel.constraint, orthwrap.OrthogonalityConstraint)
    back = orthwrap.strip(held.model, in_place=in_place)
    kernel = back.model.get_layer("own").kernel
    assert kernel.constraint.get_config() == {"max_value": 0.5, "axis": 0}
    assert back.model.get_layer("free").kernel.constraint is None
    assert back.model.get_config() == config
    assert "regularizers and constraints of 2 kernels removed" in str(back.report)


def test_another_constraint_replaces_ours_and_a_regularizer_leaves_it() -> None:
    first = orthwrap.apply(bound(), constrain="orthogonal", existing="replace").model
    result = orthwrap.apply(first, constrain="spectral:1")
    own = result.report.layers[0]
    assert "orthogonal → spectral:1" in own.reason
    assert own.constraint is not None
    assert own.constraint.replaced == "MaxNorm(max_value=0.5)"
    beside = orthwrap.apply(result.model, regularizer="so", target="own").report.layers
    assert [r.decision for r in beside] == ["regularized", "constrained"]
    assert all(r.constraint is not None and r.constraint.name == "spectral" for r in beside)
    assert orthwrap.strip(result.model, all=True).model.get_layer("own").kernel.constraint


@pytest.mark.dear
@pytest.mark.parametrize(
    "build", [models.nested, models.shared, models.wrapped, models.attention, models.convolutional]
)
def test_live_models_of_each_kind(build: Any) -> None:
    model = build()
    config = model.get_config()
    result = orthwrap.apply(model, target="all", constrain="orthogonal", measure=False)
    held = [v for v in result.model.variables if v.constraint is not None]
    assert held
    for variable in held:  # each by its own layout: it takes what it is given
        assert variable.constraint(variable).shape == variable.shape
    back = orthwrap.strip(result.model).model
    assert not any(v.constraint is not None for v in back.variables)
    assert back.get_config() == config


def test_a_scale_by_evidence() -> None:
    model = models.dense()
    model.get_layer("wide").kernel.assign(np.eye(6, 9))
    model.get_layer("head").kernel.assign(3 * np.eye(9, 3))
    records = orthwrap.apply(model, constrain="orthogonal").report.layers
    assert [(r.constraint.scale, r.constraint.alpha) for r in records if r.constraint] == [
        ("unit", 1.0),
        ("preserve", 3.0),
    ]
    assert "scale preserve: RMS singular value 3" in records[1].reason
    limits = orthwrap.apply(model, constrain="spectral:1").report.layers
    assert all(r.constraint is not None and r.constraint.scale == "unit" for r in limits)


def test_a_kernel_that_lacks_a_direction_is_told() -> None:
    model = models.dense()
    model.get_layer("wide").kernel.assign(np.ones((6, 9)))
    for constrain in ("orthogonal", "band:0.5,2"):
        report = orthwrap.apply(model, constrain=constrain).report
        assert [w for w in report.warnings if w.startswith("wide: rank-deficient")]
    assert not orthwrap.apply(model, constrain="spectral:1").report.warnings
    assert not orthwrap.apply(models.dense(), constrain="orthogonal").report.warnings


def test_a_class_without_such_a_key(tmp_path: Path) -> None:
    path = tmp_path / "own.keras"
    path.write_bytes(small_file(".keras").read_bytes())
    assert orthwrap.apply(path, constrain="orthogonal", dry_run=True).report.summary["constrained"]

    class Own(layers.Layer):  # type: ignore[misc]  # Keras is untyped
        def __init__(self, kernel_regularizer: Any = None, **words: Any) -> None:
            super().__init__(**words)
            self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(
                shape=(shape[-1], 4), name="kernel", regularizer=self.kernel_regularizer
            )

        def call(self, x: Any) -> Any:
            return x @ self.kernel

        def get_config(self) -> dict[str, Any]:
            own = keras.regularizers.serialize(self.kernel_regularizer)
            return {**super().get_config(), "kernel_regularizer": own}

    model = keras.Sequential([keras.Input((6,)), Own(name="own"), layers.Dense(2, name="head")])
    records = orthwrap.apply(model, target=["own", "head"], constrain="orthogonal").report.layers
    assert [r.decision for r in records] == ["unsupported", "constrained"]
    assert "the config of class Own has no kernel_constraint" in records[0].reason


@pytest.mark.parametrize(
    "changed",
    [
        {"constrain": "sideways"},
        {"every": -1},
        {"every": "soon"},
        {"alpha": "nan"},
        {"scale": 3},
        {"layout": {"name": "x"}},
        {"more": 1},
        {"constrain": None},
    ],
)
def test_a_node_that_is_broken_is_one_line(changed: dict[str, Any]) -> None:
    node = Constrained(Constrain.parse("orthogonal")).to_node()
    assert Constrained.from_node(node).to_node() == node
    node["config"] |= changed
    with pytest.raises(orthwrap.ValueFault, match=r"orthwrap constraint.*that orthwrap .* cannot"):
        Constrained.from_node(node)
