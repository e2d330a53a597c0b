"""`gram=sample` and `center=true`: penalties of outputs against NumPy and against Keras by hand."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from typer.testing import CliRunner

import orthwrap
from orthwrap.penalties import activity
from orthwrap.report.record import Report
from orthwrap.rules.file import read_rules
from orthwrap_cli.main import app
from tests.penalties.oracles import assert_gradient
from tests.penalties.test_on_outputs import FORMULAS, NEARLY
from tests.support.backend import EAGER_IS_CHEAP, value, value_and_grad

# Keras itself triggers this on tensors of some NumPy and backend versions.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

RNG = np.random.default_rng


def of_samples(name: str, **options: Any) -> Any:
    """The mean over a batch, as a function of outputs: what Keras adds, which divides the sum."""
    made = orthwrap.regularizer(name, 1.0, on="activity", gram="sample", **options)
    return lambda outputs: made(outputs) / outputs.shape[0]


def expected(name: str, matrices: Any, side: str) -> float:
    """Each matrix by itself, then the mean."""
    smaller = "rows" if matrices.shape[1] < matrices.shape[2] else "columns"
    upright = [a.T if (smaller if side == "smaller" else side) == "rows" else a for a in matrices]
    return float(np.mean([FORMULAS[name](a, a.T @ a) for a in upright]))


def close(name: str) -> dict[str, float]:
    return {"rel": 2e-3 if name in NEARLY else 1e-6, "abs": 1e-10}


@settings(max_examples=15 if EAGER_IS_CHEAP else 3, deadline=None)
@pytest.mark.parametrize("name", FORMULAS)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    side=st.sampled_from(["smaller", "rows", "columns"]),
    seed=st.integers(0, 99),
)
def test_it_is_the_mean_over_the_samples(
    name: str, shape: tuple[int, int, int], side: str, seed: int
) -> None:
    outputs = RNG(seed).normal(size=shape)
    found = value(of_samples(name, side=side), outputs)
    assert found == pytest.approx(expected(name, outputs, side), **close(name))


def softmax(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


CASES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    # outputs, options, (the matrix A of a sample → ‖AᵀA−I‖² or ‖AAᵀ−I‖²)
    "attention": (softmax(RNG(0).normal(size=(6, 4, 9))), {}, lambda a: a @ a.T - np.eye(4)),
    "columns": (RNG(1).normal(size=(6, 8, 5)), {}, lambda a: a.T @ a - np.eye(5)),
    "larger": (RNG(1).normal(size=(6, 8, 5)), {"side": "rows"}, lambda a: a @ a.T - np.eye(8)),
    "pointnet": (
        RNG(2).normal(size=(6, 9)),
        {"shape": "3x3"},
        lambda a: a.reshape(3, 3) @ a.reshape(3, 3).T - np.eye(3),
    ),
    "images": (
        RNG(3).normal(size=(6, 3, 4, 2)),
        {},
        lambda a: a.reshape(12, 2).T @ a.reshape(12, 2) - np.eye(2),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cases_that_people_have(case: str) -> None:
    outputs, options, deviation = CASES[case]
    by_hand = np.mean([np.linalg.norm(deviation(a)) ** 2 for a in outputs])
    assert value(of_samples("so", **options), outputs) == pytest.approx(by_hand, rel=1e-6)
    pooled = value(orthwrap.regularizer("so", 1.0, on="activity"), outputs)
    assert abs(pooled - by_hand) > 0.1 * by_hand


def test_a_shape_cuts_each_sample_into_matrices_whose_mean_counts() -> None:
    heads = softmax(RNG(4).normal(size=(3, 2, 5, 5)))  # samples, heads, positions, positions
    matrices = heads.reshape(6, 5, 5)
    found = value(of_samples("so", shape="5x5"), heads)
    assert found == pytest.approx(expected("so", matrices, "rows"), rel=1e-6)
    several = RNG(5).normal(size=(3, 4, 9))
    found = value(of_samples("offdiag", shape=(3, 3), side="rows"), several)
    assert found == pytest.approx(expected("offdiag", several.reshape(12, 3, 3), "rows"), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in FORMULAS if name != "srip"])
def test_gradient_agrees_with_central_differences(name: str) -> None:
    outputs = RNG(6).normal(size=(3, 4, 3))
    assert_gradient(of_samples(name), outputs, directions=1)


@pytest.mark.parametrize("name", FORMULAS)
def test_gradient_is_finite_at_the_minimum_and_at_zero(name: str) -> None:
    units = np.stack([np.eye(4, 3), -np.eye(4, 3)])
    result, gradient = value_and_grad(of_samples(name), units)
    assert result == pytest.approx(1.0 if name == "dso" else 0.0, abs=1e-6)
    assert np.isfinite(gradient).all()
    _, gradient = value_and_grad(of_samples(name), np.zeros((2, 4, 3)))
    np.testing.assert_array_equal(gradient, 0)


# What the factor means


class ByHand(keras.regularizers.Regularizer):
    """0.3 · ‖AAᵀ−I‖² of each sample, summed: Keras divides by the number of samples."""

    def __call__(self, y: Any) -> Any:
        g = ops.matmul(y, ops.swapaxes(y, 1, 2))
        return 0.3 * ops.sum(ops.square(g - ops.eye(g.shape[-1])))


def of_sequences(regularizer: Any) -> Any:
    inputs = keras.Input((3, 6))
    outputs = keras.layers.Dense(5, activity_regularizer=regularizer, name="d")(inputs)
    model = keras.Model(inputs, outputs)
    model.set_weights([RNG(7).normal(size=(6, 5)) / 2, np.zeros(5)])
    return model


def test_the_factor_is_that_of_the_mean_whatever_the_batch_size() -> None:
    x = RNG(8).normal(size=(10, 3, 6)).astype("float32")
    ours = of_sequences(orthwrap.SO(0.3, on="activity", gram="sample"))
    theirs = of_sequences(ByHand())
    y = ops.convert_to_numpy(theirs(x)).astype("float64")
    for start, stop in ((0, 10), (0, 4), (8, 10), (9, 10)):
        found, by_hand = [], 0.3 * expected("so", y[start:stop], "rows")
        for model in (ours, theirs):
            model(x[start:stop])
            found.append(float(sum(model.losses)))
        assert found == pytest.approx([by_hand] * 2, rel=1e-5)


def test_a_fit_with_a_partial_last_batch_is_that_of_keras_by_hand() -> None:
    x = RNG(9).normal(size=(10, 3, 6)).astype("float32")
    trained = []
    for regularizer in (orthwrap.SO(0.3, on="activity", gram="sample"), ByHand()):
        model = of_sequences(regularizer)
        model.compile(keras.optimizers.SGD(0.05), lambda y, p: 0.0 * p)
        history = model.fit(x, x[..., :5], batch_size=4, epochs=1, shuffle=False, verbose=0)
        trained.append([*model.get_weights(), history.history["loss"]])
    for found, by_hand in zip(*trained, strict=True):
        np.testing.assert_allclose(found, by_hand, rtol=1e-5, atol=1e-6)


# Decorrelated features


@settings(max_examples=20 if EAGER_IS_CHEAP else 4, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 9), st.integers(1, 5)),
    seed=st.integers(0, 99),
    shift=st.sampled_from([0.0, 3.0, -50.0]),
)
def test_centred_offdiag_is_twice_decov(shape: tuple[int, int], seed: int, shift: float) -> None:
    """½(‖C‖_F² − ‖diag C‖²), C the covariance over the batch (Cogswell et al. 2016)."""
    outputs = RNG(seed).normal(size=shape) + shift
    c = np.atleast_2d(np.cov(outputs.T, bias=True))
    decov = 0.5 * (np.linalg.norm(c) ** 2 - np.linalg.norm(np.diag(c)) ** 2)
    centred = orthwrap.OffDiag(1.0, on="activity", center=True)
    assert value(centred, outputs) == pytest.approx(2 * decov, rel=1e-6, abs=1e-9)


def test_the_centre_is_that_of_samples_and_positions() -> None:
    outputs = RNG(1).normal(size=(3, 4, 2)) + np.array([1.0, -2.0])
    c = np.cov(outputs.reshape(-1, 2).T, bias=True)
    centred = orthwrap.SO(1.0, on="activity", center="true")
    assert value(centred, outputs) == pytest.approx(np.linalg.norm(c - np.eye(2)) ** 2, rel=1e-6)
    assert_gradient(centred, outputs, directions=1)
    assert centred.get_config()["center"] is True


# What is refused

FAULTS = [
    ((None, 9), {}, r"shape \(batch, 9\) are one vector a sample.*shape=3x3"),
    ((None, 10), {"shape": (3, 3)}, r"\(batch, 10\) are no matrices of 3 × 3"),
    ((None,), {"shape": (3, 3)}, "are no matrices of 3 × 3"),
    ((None, None, 5), {}, "side=rows or side=columns"),
    ((None, None, 5), {"side": "rows"}, "how many rows there are must be known"),
]


@pytest.mark.parametrize(("shape", "words", "said"), FAULTS)
def test_outputs_that_are_no_matrices_are_named(
    shape: tuple[int | None, ...], words: dict[str, Any], said: str
) -> None:
    with pytest.raises(orthwrap.ValueFault, match=said) as caught:
        activity.grams_of_samples(keras.KerasTensor(shape), **words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gram", ["of", "Sample", 3])
def test_values_of_the_options_are_checked(gram: Any) -> None:
    with pytest.raises(orthwrap.ValueFault, match="must be batch or sample"):
        orthwrap.SO(on="activity", gram=gram)
    for shape in ("3", "3x0", "3x3x3", "axb", 9, (3,), (2.5, 2)):
        with pytest.raises(orthwrap.ValueFault, match=r"two whole numbers .* as 3x3"):
            orthwrap.SO(on="activity", gram="sample", shape=shape)


TOGETHER = [
    ({"gram": "sample"}, "kernel", "gram is of outputs"),
    ({"center": True}, "kernel", "center is of outputs"),
    ({"side": "rows"}, "activity", "side goes with gram=sample"),
    ({"shape": "3x3"}, "activity", "shape goes with gram=sample"),
    ({"gram": "sample", "center": True}, "activity", "center is of the whole batch"),
    ({"filter_groups": 2}, "activity", "filter_groups works on kernels"),
]


@pytest.mark.parametrize(("options", "on", "said"), TOGETHER)
def test_what_does_not_go_together_is_wrong_usage(
    options: dict[str, Any], on: str, said: str
) -> None:
    with pytest.raises(orthwrap.UsageError, match=said):
        orthwrap.SO(on=on, **options)


# On models

RULES = """
[[rule]]
target = ["attention"]
on = "activity"
factor = 0.5
options = { gram = "sample", side = "rows" }

[[rule]]
target = ["transform"]
on = "activity"
factor = 0.25
options = { gram = "sample", shape = "3x3" }

[[rule]]
target = ["features"]
on = "activity"
regularizer = "offdiag"
factor = 0.125
options = { center = true }
"""


def with_attention() -> Any:
    inputs = keras.Input((4, 6))
    attention = keras.layers.Dense(4, activation="softmax", name="attention")(inputs)
    flat = keras.layers.Flatten()(attention)
    transform = keras.layers.Dense(9, name="transform")(flat)
    model = keras.Model(inputs, keras.layers.Dense(5, name="features")(transform))
    rng = RNG(11)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def penalty_by_hand(model: Any, x: Any) -> float:
    a, t, f = (
        ops.convert_to_numpy(keras.Model(model.input, model.get_layer(n).output)(x)).astype("f8")
        for n in ("attention", "transform", "features")
    )
    c = np.cov(f.T, bias=True)
    decov = np.linalg.norm(c) ** 2 - np.linalg.norm(np.diag(c)) ** 2
    of_samples = 0.5 * expected("so", a, "rows") + 0.25 * expected(
        "so", t.reshape(-1, 3, 3), "rows"
    )
    return float(of_samples + 0.125 * decov / len(x))  # by which Keras divides what is of the batch


def test_by_a_rules_file_on_files_and_on_models(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    model = with_attention()
    model.save("m.keras")
    Path("rules.toml").write_text(RULES, encoding="utf-8")
    ran = CliRunner().invoke(app, ["apply", "m.keras", "--rules", "rules.toml", "--json", "r.json"])
    assert ran.exit_code == 0, ran.output
    assert "gram=sample" in ran.output
    loaded = orthwrap.load_model("m-orth.keras")
    live = orthwrap.apply(model, rules=read_rules(Path("rules.toml")))
    for x in (RNG(12).normal(size=(7, 4, 6)), RNG(13).normal(size=(2, 4, 6))):
        by_hand = penalty_by_hand(model, x.astype("float32"))
        for made in (loaded, live.model):
            made(x.astype("float32"))
            assert float(sum(made.losses)) == pytest.approx(by_hand, rel=1e-4)
    filed = Report.from_json(json.loads(Path("r.json").read_text()))
    for report in (filed, live.report):
        options = {r.path: r.regularizer.options for r in report.layers if r.regularizer}
        assert options == {
            "attention": {"gram": "sample", "side": "rows"},
            "transform": {"gram": "sample", "shape": "3x3"},
            "features": {"center": True},
        }
    stripped = orthwrap.strip(live.model).model
    assert stripped.get_config() == model.get_config()
    orthwrap.strip("m-orth.keras", "plain.keras")
    configs = [zipfile.ZipFile(f).read("config.json") for f in ("m.keras", "plain.keras")]
    assert json.loads(configs[0]) == json.loads(configs[1])


def test_outputs_of_a_model_are_looked_at_before_anything_is_set() -> None:
    model = with_attention()
    before = model.get_config()
    for options, said in (
        ({"gram": "sample"}, r"features: outputs of shape \(batch, 5\) are one vector a sample"),
        ({"gram": "sample", "shape": "2x2"}, r"features: .* are no matrices of 2 × 2"),
    ):
        rules = [
            orthwrap.Rule(target="attention"),
            orthwrap.Rule(target="features", on="activity", options=options),
        ]
        with pytest.raises(orthwrap.ValueFault, match=said):
            orthwrap.apply(model, rules=rules, in_place=True)
        assert model.get_config() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--option", "gram=sample"], "gram is of outputs"),
        (["--on", "activity", "--option", "side=rows"], "side goes with gram=sample"),
        (
            ["-t", "features@activity", "-t", "transform", "--option", "center=1"],
            "center is of out",
        ),
    ],
)
def test_wrong_usage_ends_with_2_and_writes_nothing(
    words: list[str], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.keras"
    with_attention().save(path)
    ran = CliRunner().invoke(app, ["apply", str(path), *words])
    assert ran.exit_code == 2
    assert said in ran.output
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]
