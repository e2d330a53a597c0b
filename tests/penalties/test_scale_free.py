"""Scale `free`: P(W/α) with α of the moment, against NumPy and central differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import orthwrap
from orthwrap.model_config.layout import Layout, conv_layout
from orthwrap.penalties.table import PENALTIES
from orthwrap.report.measure import measure
from tests.penalties.oracles import (
    FIGURES,
    ORACLES,
    SHAPES,
    assert_gradient,
    orthonormal,
    random,
)
from tests.support.backend import EAGER_IS_CHEAP, value, value_and_grad

# Keras itself triggers this on tensors of some NumPy and backend versions.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

BATCH = Layout("batch", (1,), (2,), (0,))


def free(name: str, layout: Any = BATCH, **options: Any) -> Any:
    return orthwrap.regularizer(name, 1.0, scale="free", layout=layout, **options)


def rms(w: Any) -> float:
    """The RMS of all singular values of a batch of matrices."""
    return float(np.sqrt(np.mean([np.linalg.svd(x, compute_uv=False) ** 2 for x in w])))


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=15 if EAGER_IS_CHEAP else 3, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 99),
    size=st.sampled_from([1e-3, 1.0, 40.0]),
)
def test_value_is_that_of_w_over_its_rms_singular_value(
    name: str, shape: tuple[int, int, int], seed: int, size: float
) -> None:
    w = size * random(shape, seed)
    expected = sum(ORACLES[name](x) for x in w / rms(w))
    assert value(free(name), w) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 7, 4), (2, 4, 7), (1, 1, 5), (1, 5, 1)], ids=str)
@pytest.mark.parametrize("name", ORACLES)
def test_gradient_agrees_with_central_differences_and_keeps_the_length(
    name: str, shape: tuple[int, int, int]
) -> None:
    w = random(shape, 6)
    assert_gradient(free(name), w, directions=1)
    _, gradient = value_and_grad(free(name), w)
    along = abs(np.sum(gradient * w))
    assert along <= 1e-9 * np.linalg.norm(gradient) * np.linalg.norm(w) + 1e-14


@pytest.mark.parametrize(("m", "n"), [(6, 4), (4, 6), (5, 5)])
def test_gradient_of_so_is_that_of_the_svd(m: int, n: int) -> None:
    """f(σ) = Σ (σᵢ²/s−1)², s = Σσᵢ²/r: ∂f/∂σᵢ = (4/s)·σᵢ·(σᵢ²/s − Σσⱼ⁴/(r·s²))."""
    w = random((1, m, n), 3)
    u, sigma, vt = np.linalg.svd(w[0], full_matrices=False)
    s = np.mean(sigma**2)
    slope = 4 / s * sigma * (sigma**2 / s - np.mean(sigma**4) / s**2)
    found, gradient = value_and_grad(free("so"), w)
    assert found == pytest.approx(np.sum((sigma**2 / s - 1) ** 2), rel=1e-9)
    np.testing.assert_allclose(gradient[0], (u * slope) @ vt, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FIGURES)
def test_at_zero_and_at_the_minimum_the_gradient_is_finite(
    name: str, shape: tuple[int, int, int]
) -> None:
    _, gradient = value_and_grad(free(name), np.zeros(shape))
    np.testing.assert_array_equal(gradient, 0)
    count, m, n = shape
    minimum = count * abs(m - n) if name == "dso" else 0
    for size in (1e-3, 30.0):
        found, gradient = value_and_grad(free(name), size * orthonormal(shape))
        assert found == pytest.approx(minimum, abs=1e-6)
        assert np.isfinite(gradient).all()


def test_a_tiny_float32_kernel_has_a_finite_gradient() -> None:
    for size in (1e-18, 1e-25, 1e-40):
        _, gradient = value_and_grad(free("so"), random((1, 5, 3), dtype="float32") * size)
        assert np.isfinite(gradient).all()


@pytest.mark.dear
@pytest.mark.parametrize("name", ["so", "offdiag"])
def test_a_sketch_of_it_has_its_mean(name: str) -> None:
    w = random((1, 6, 4), 2, "float32")
    sketched = {"estimate": "sketch", "probes": 16}
    several = 60 if EAGER_IS_CHEAP else 12
    draws = [value(free(name, **sketched, seed=i), w) for i in range(several)]
    assert abs(np.mean(draws) - value(free(name), w)) < 4 * np.std(draws) / np.sqrt(len(draws))


# lorth: α is the RMS of the operator's singular values


@pytest.mark.parametrize(("channels", "filters", "stride"), [(3, 5, 1), (6, 2, 1), (2, 16, 2)])
def test_lorth_is_at_rest_at_any_multiple_of_an_orthogonal_convolution(
    channels: int, filters: int, stride: int
) -> None:
    kernel = np.zeros((2, 2, channels, filters))
    if stride == 1:
        kernel[0, 0] = orthonormal((1, channels, filters))[0]
    else:  # its four phases see each input once
        kernel = orthonormal((1, 4 * channels, filters))[0].reshape(kernel.shape)
    layout = conv_layout(4, strides=(stride, stride))
    regularizer = free("lorth", layout)
    found, gradient = value_and_grad(regularizer, 7 * kernel)
    assert found == pytest.approx(0, abs=1e-8)
    np.testing.assert_allclose(gradient, 0, atol=1e-8)
    figures = measure(7 * kernel, layout, {"name": "lorth", "alpha": None})
    assert figures.penalty == pytest.approx(0, abs=1e-8)
    other = random(kernel.shape, 5)
    figures = measure(other, layout, {"name": "lorth", "alpha": None})
    assert figures.penalty == pytest.approx(value(regularizer, other), rel=1e-6)
    assert_gradient(regularizer, other, directions=1)


# The pull


@pytest.mark.parametrize("name", [p.name for p in PENALTIES.values() if p.pull is not None])
def test_the_pull_makes_singular_values_equal_and_keeps_their_rms(name: str) -> None:
    w = 5 * random((3, 3, 4, 6), 4) if name == "lorth" else 5 * random((2, 6, 4), 4)
    layout = conv_layout(4) if name == "lorth" else BATCH
    regularizer = free(name, layout)
    before = value(regularizer, w)
    size = np.linalg.norm(w)
    pulled = ops.convert_to_tensor(w.astype("float32"))
    for _ in range(40):
        pulled = regularizer.pulled(pulled, ops.convert_to_tensor(0.05))
    pulled = ops.convert_to_numpy(pulled)
    minimum = 4.0 if name == "dso" else 0.0  # |m−n| of two matrices
    share = 0.25 if name == "lorth" else 0.1  # whose frequencies share one bound
    assert value(regularizer, pulled) - minimum < share * (before - minimum)
    assert np.linalg.norm(pulled) == pytest.approx(size, rel=0.1)
    at_rest = ops.convert_to_tensor(pulled)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(regularizer.pulled(at_rest, ops.convert_to_tensor(0.0))), pulled
    )


# On models


def two() -> Any:
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(4, name="a")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="b")(hidden))
    rng = np.random.default_rng(0)
    model.set_weights([2 * rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def test_on_a_file_and_on_a_model_with_its_figures_and_stripped(tmp_path: Path) -> None:
    model, path = two(), tmp_path / "m.keras"
    model.save(path)
    words: dict[str, Any] = {"scale": "free", "factor": 0.5, "regularizer": "so"}
    filed = orthwrap.apply(path, tmp_path / "out.keras", **words)
    live = orthwrap.apply(model, **words)
    loaded = orthwrap.load_model(tmp_path / "out.keras")
    total = 0.0
    for kernel in ("a", "b"):
        w = ops.convert_to_numpy(model.get_layer(kernel).kernel).astype("float64")
        sigma = np.linalg.svd(w, compute_uv=False)
        total += 0.5 * np.sum((sigma**2 / np.mean(sigma**2) - 1) ** 2)
    for report in (filed.report, live.report):
        assert report.summary["penalty_before"] == pytest.approx(total, rel=1e-6)
        (record, _) = (r for r in report.layers if r.carries)
        assert record.driven == "scaled_residual"
        regularizer = record.to_json()["regularizer"]
        assert (regularizer["scale"], regularizer["alpha"]) == ("free", None)
        assert " free" in str(report)
    for made in (loaded, live.model):
        assert float(sum(made.losses)) == pytest.approx(total, rel=1e-5)
    assert orthwrap.strip(live.model).model.get_config() == model.get_config()
    again = orthwrap.apply(live.model, **words).report
    assert {r.decision for r in again.layers} == {"already"}


def test_a_pull_in_a_fit_keeps_the_length() -> None:
    model = orthwrap.apply(two(), scale="free", target="a").model
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.random.default_rng(1).normal(size=(64, 5)).astype("float32")
    before = ops.convert_to_numpy(model.get_layer("a").kernel)
    model.fit(x, x[:, :3], epochs=8, verbose=0, callbacks=[orthwrap.Pull(0.1)], batch_size=8)
    after = ops.convert_to_numpy(model.get_layer("a").kernel)
    residuals = [measure(w, Layout("dense", (0,), (1,))).scaled_residual for w in (before, after)]
    assert residuals[1] < 0.1 * residuals[0]
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), rel=0.05)


@pytest.mark.parametrize("words", [{"on": "activity"}, {"regularizer": "l2"}])
def test_where_there_is_no_free_scale(words: dict[str, Any]) -> None:
    with pytest.raises(orthwrap.OrthwrapError, match="scale"):
        orthwrap.apply(two(), scale="free", **words)


def test_a_rules_scale_takes_the_place_of_an_objects() -> None:
    made = orthwrap.SO(1.0, scale="preserve", alpha=3.0)
    model = orthwrap.apply(two(), rules=[orthwrap.Rule(target="a", regularizer=made, scale="free")])
    attachment = model.model.get_layer("a").kernel_regularizer.attachment
    assert (attachment.scale, attachment.alpha) == ("free", 1.0)
