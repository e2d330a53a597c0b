"""Kernels pulled after each optimizer step: the mathematics by hand, and what Keras makes of it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from orthwrap import Pull
from orthwrap.errors import UsageError, ValueFault
from orthwrap.model_config.layout import Layout
from orthwrap.penalties.lorth import lorth, lorth_pull
from tests.support.backend import double_precision, tensor, value_and_grad

Array = np.ndarray[Any, np.dtype[Any]]
BACKEND = keras.backend.backend()

# Keras itself asks PyTorch's parameters for arrays so.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


# By hand


def retracted(w: Array, rate: float, steps: int = 1, *, lengths_free: bool = False) -> Array:
    """One matrix, by NumPy in float64."""
    w = np.asarray(w, np.float64)
    wide = w.shape[1] > w.shape[0]
    x = w.T if wide else w
    for _ in range(steps):
        g = x.T @ x
        beta = min(rate, 1 / (2 * max(1.0, np.abs(g).sum(1).max())))
        off = np.diag(np.diag(g)) if lengths_free else np.eye(len(g))
        x = x - beta * (x @ (g - off))
    return x.T if wide else x


LAYOUTS: dict[str, tuple[Layout, tuple[int, ...]]] = {
    "dense": (Layout("dense", (0,), (1,)), (7, 4)),
    "wide": (Layout("dense", (0,), (1,)), (3, 8)),
    "conv": (Layout("conv", (0, 1, 2), (3,)), (3, 3, 2, 5)),
    "grouped": (Layout("conv", (0, 1, 2), (3,), parts=2), (2, 2, 3, 8)),
    "gates": (Layout("recurrent", (0,), (1,), parts=4), (5, 20)),
    "heads": (Layout("attention", (0,), (2,), (1,)), (6, 3, 4)),
}


@pytest.mark.parametrize("name", ["so", "dso", "frobenius", "offdiag"])
@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.parametrize(("size", "alpha"), [(0.3, 1.0), (3.0, 1.0), (0.5, 0.7)])
def test_a_pull_is_the_one_by_hand(name: str, case: str, size: float, alpha: float) -> None:
    layout, shape = LAYOUTS[case]
    kernel = size * np.random.default_rng(1).standard_normal(shape)
    scale = "unit" if alpha == 1.0 else "preserve"
    regularizer: Any = orthwrap.regularizer(name, layout=layout, scale=scale, alpha=alpha)
    with double_precision():
        found = ops.convert_to_numpy(regularizer.pulled(tensor(kernel), 1 / 64))
    matrices = layout.to_matrices(kernel / alpha, np)
    free = name == "offdiag"
    wanted = np.stack([retracted(w, 1 / 64, lengths_free=free) for w in matrices])
    assert found.dtype == np.float64
    np.testing.assert_allclose(
        found, alpha * layout.from_matrices(wanted, shape, np), rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize(
    ("shape", "strides", "groups"),
    [
        ((3, 3, 4, 5), (1, 1), 1),
        ((3, 3, 3, 8), (2, 2), 1),
        ((2, 3, 2, 6), (2, 1), 2),
        ((1, 1, 4, 6), (1, 1), 1),
        ((5, 3, 4), (2,), 1),
        ((6, 4), (), 1),
    ],
)
def test_lorth_pulls_by_a_quarter_of_its_gradient(
    shape: tuple[int, ...], strides: tuple[int, ...], groups: int
) -> None:
    kernel = 0.4 * np.random.default_rng(2).standard_normal(shape)
    _, gradient = value_and_grad(lambda k: lorth(k, strides, groups), kernel)
    with double_precision():
        direction, bound = lorth_pull(tensor(kernel), strides, groups)
        direction, bound = ops.convert_to_numpy(direction), float(ops.convert_to_numpy(bound))
    np.testing.assert_allclose(direction, gradient / 4, rtol=1e-10, atol=1e-12)
    if all(s == 1 for s in strides):  # the operator itself, at many more frequencies
        spectrum = np.fft.fftn(kernel, [16] * len(strides), range(len(strides)))
        spectrum = spectrum.reshape(-1, *shape[-2:]) if strides else spectrum[None]
        per_group = np.split(spectrum, groups, axis=-1)
        largest = max(np.linalg.norm(f, 2) for part in per_group for f in part)
        points = [2 * k - 1 for k in shape[: len(strides)]]
        at_points = np.fft.fftn(kernel, points, range(len(strides))) if strides else spectrum[0]
        at_points = at_points.reshape(-1, *shape[-2:])
        assert bound >= max(np.linalg.norm(f, 2) for f in at_points) ** 2 * (1 - 1e-12)
        assert bound >= 0.5 * largest**2


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_many_pulls_at_any_rate_end_orthonormal_without_overshooting(size: float) -> None:
    w = size * np.random.default_rng(3).standard_normal((6, 6))
    regularizer: Any = orthwrap.regularizer("so")
    pulled = tensor(w.astype("float32"))
    above = np.linalg.svd(w, compute_uv=False) >= 1
    for _ in range(60):
        pulled = regularizer.pulled(pulled, 10.0)
        sigma = np.linalg.svd(ops.convert_to_numpy(pulled), compute_uv=False)
        assert np.all(sigma[above] >= 1 - 1e-4)  # those above 1 come down to it, not below
    assert np.linalg.norm(sigma[above] - 1) < 1e-2


def test_half_precision_is_computed_in_float32() -> None:
    w = np.random.default_rng(4).standard_normal((300, 8)).astype("float16") * np.float16(40)
    regularizer: Any = orthwrap.regularizer("so")
    found = regularizer.pulled(tensor(w), 0.01)  # its Gram matrix is beyond float16
    assert keras.backend.standardize_dtype(found.dtype) == "float16"
    wanted = retracted(w.astype("float64"), 0.01)
    np.testing.assert_allclose(ops.convert_to_numpy(found), wanted, rtol=2e-3, atol=0.05)


# In `fit`


def network(name: str = "so", **words: Any) -> Any:
    """Two kernels, one of them wide, that carry a regularizer; trained by nothing but the pull."""
    keras.utils.set_random_seed(5)
    plain = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(9, activation="tanh", name="wide"),
            layers.Dense(3, name="head"),
        ]
    )
    model = orthwrap.apply(plain, regularizer=name, **{"scale": "unit", **words}).model
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def kernels(model: Any) -> dict[str, Array]:
    return {
        layer.name: np.asarray(ops.convert_to_numpy(layer.kernel), np.float64)
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


X = np.random.default_rng(6).standard_normal((32, 6)).astype("float32")
Y = np.random.default_rng(7).standard_normal((32, 3)).astype("float32")


def fit(model: Any, *callbacks: Any, epochs: int = 1, **words: Any) -> Any:
    """Four steps an epoch."""
    return model.fit(
        X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=list(callbacks), **words
    )


def assert_pulled(model: Any, before: dict[str, Array], rate: float, steps: int) -> None:
    for name, kernel in kernels(model).items():
        np.testing.assert_allclose(kernel, retracted(before[name], rate, steps), atol=2e-6)


@pytest.mark.dear
@pytest.mark.parametrize("eager", [False, True])
def test_each_step_pulls_once(eager: bool) -> None:
    if eager and BACKEND == "torch":
        pytest.skip("PyTorch has no other way")
    model = network()
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=eager)
    before = kernels(model)
    fit(model, Pull(0.05), epochs=2)
    assert_pulled(model, before, 0.05, 8)


@pytest.mark.slow
def test_a_pull_after_a_first_fit_acts_and_ends_with_its_fit() -> None:
    model = network()
    fit(model)
    before = kernels(model)
    fit(model, Pull(0.05))
    assert_pulled(model, before, 0.05, 4)
    after = kernels(model)
    fit(model)
    for name, kernel in kernels(model).items():
        np.testing.assert_array_equal(kernel, after[name])


def test_the_gate_of_every_counts_optimizer_steps() -> None:
    model = network(options={"every": 3})
    before = kernels(model)
    fit(model, Pull(0.02), epochs=2)  # 8 steps: the 3rd and the 6th
    assert_pulled(model, before, 0.06, 2)


@pytest.mark.dear
@pytest.mark.parametrize("every", [1, 2])
def test_accumulated_gradients_pull_at_the_update_alone(every: int) -> None:
    model = network(options={"every": every})
    model.compile(keras.optimizers.SGD(0.0, gradient_accumulation_steps=2), "mse")
    before = kernels(model)
    fit(model, Pull(0.02), epochs=2)  # 8 small steps
    assert_pulled(model, before, 0.02 * every, 4 // every)


def test_scaled_losses_pull_once_a_step() -> None:
    model = network()
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0))
    model.compile(scaled, "mse", auto_scale_loss=False)
    before = kernels(model)
    fit(model, Pull(0.05))
    assert_pulled(model, before, 0.05, 4)
    assert len(model.optimizer.variables) == len(scaled.variables)


@pytest.mark.slow
def test_the_loss_is_clean_and_a_foreign_regularizer_stays() -> None:
    model = network(factor=10.0, existing="combine")
    seen: dict[str, float] = {}
    history = fit(model, Pull(0.05), validation_data=(X, Y)).history
    seen["loss"] = history["val_loss"][-1]
    predicted = ops.convert_to_numpy(model(X))
    assert seen["loss"] == pytest.approx(float(np.mean((predicted - Y) ** 2)), rel=1e-5)
    with_penalty = model.evaluate(X, Y, verbose=0)
    assert with_penalty > seen["loss"] + 0.01  # the factor is back once it ended

    plain = keras.Sequential(
        [layers.Input((6,)), layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5))]
    )
    both = orthwrap.apply(plain, scale="unit").model
    both.compile(keras.optimizers.SGD(0.0), "mse")
    found = fit(both, Pull(0.05), validation_data=(X, Y)).history["val_loss"][-1]
    error = np.mean((ops.convert_to_numpy(both(X)) - Y) ** 2)
    square = 0.5 * np.sum(np.square(kernels(both)[both.layers[0].name]))
    assert found == pytest.approx(float(error + square), rel=1e-5)


def test_a_constraint_that_is_there_comes_after_the_pull() -> None:
    inputs = layers.Input((6,))
    bound = keras.constraints.MaxNorm(0.5, axis=0)
    model = keras.Model(inputs, layers.Dense(3, kernel_constraint=bound, name="head")(inputs))
    model = orthwrap.apply(model, scale="unit").model
    model.compile(keras.optimizers.SGD(0.0), "mse")
    own = model.get_layer("head").kernel.constraint
    wanted = kernels(model)["head"]
    for _ in range(4):
        wanted = retracted(wanted, 0.05)
        norms = np.linalg.norm(wanted, axis=0, keepdims=True)
        wanted = wanted * np.clip(norms, 0, 0.5) / (1e-7 + norms)
    fit(model, Pull(0.05))
    np.testing.assert_allclose(kernels(model)["head"], wanted, atol=2e-6)
    assert model.get_layer("head").kernel.constraint is own


@pytest.mark.dear
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_checkpoint_in_mid_run_keeps_the_whole_optimizer(tmp_path: Path, ending: str) -> None:
    model = network()
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    path = tmp_path / f"mid.{ending}"
    pull = Pull(0.05)
    fit(model, pull, keras.callbacks.ModelCheckpoint(path), epochs=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Skipping variable loading")
        loaded = orthwrap.load_model(path)
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for one, other in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))
    assert [v.constraint for v in model.trainable_variables] == [None] * 4
    assert "save" not in vars(model)


def test_a_fit_that_broke_off_gives_way_to_the_next() -> None:
    class Broken(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            raise RuntimeError("stop")

    model = network()
    with pytest.raises(RuntimeError):
        fit(model, Pull(0.05), Broken())
    before = kernels(model)
    count = len(model.optimizer.variables)
    fit(model, Pull(0.02))
    assert_pulled(model, before, 0.02, 4)
    assert len(model.optimizer.variables) == count - (BACKEND == "jax")


def test_two_pulls_of_one_kernel_are_refused() -> None:
    with pytest.raises(ValueFault, match="two callbacks pull the same kernel"):
        fit(network(), Pull(0.05), Pull(0.02))


def test_each_pull_has_its_own_layers() -> None:
    model = network()
    before = kernels(model)
    fit(model, Pull(0.05, target="wide"), Pull(0.01, exclude="wide"))
    found = kernels(model)
    np.testing.assert_allclose(found["wide"], retracted(before["wide"], 0.05, 4), atol=2e-6)
    np.testing.assert_allclose(found["head"], retracted(before["head"], 0.01, 4), atol=2e-6)


@pytest.mark.parametrize(
    ("words", "pull", "error", "said"),
    [
        ({"regularizer": "srip"}, {"target": "wide"}, ValueFault, "wide: srip has no pull"),
        ({"regularizer": "srip"}, {}, ValueFault, "no trained kernel to pull"),
        ({}, {"target": "nowhere"}, ValueFault, "matches no layer"),
    ],
)
def test_what_cannot_be_pulled_is_refused_by_name(
    words: dict[str, Any], pull: dict[str, Any], error: Any, said: str
) -> None:
    model = network(words.get("regularizer", "so"))
    with pytest.raises(error, match=re.escape(said)):
        fit(model, Pull(**pull))


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), "fast", True, None])
def test_a_rate_that_is_none_is_refused(rate: Any) -> None:
    with pytest.raises(ValueFault, match="must be a finite number above 0"):
        Pull(rate)


def test_averaged_weights_are_refused_before_anything_is_changed() -> None:
    model = network()
    model.compile(keras.optimizers.SGD(0.0, use_ema=True), "mse")
    with pytest.raises(UsageError, match="use_ema"):
        fit(model, Pull(0.05))
    assert not any(v.constraint for v in model.trainable_variables)
    assert not any(getattr(v.regularizer, "is_pulled", False) for v in model.trainable_variables)


def test_an_object_shared_with_a_kernel_that_is_not_pulled_is_refused() -> None:
    shared = orthwrap.SO(1e-3)
    model = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(4, kernel_regularizer=shared, name="one"),
            layers.Dense(3, kernel_regularizer=shared, name="two"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    with pytest.raises(ValueFault, match="shares one regularizer object"):
        fit(model, Pull(0.05, target="one"))
    before = kernels(model)
    fit(model, Pull(0.05))
    assert_pulled(model, before, 0.05, 4)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.skipif(BACKEND == "jax", reason="JAX has a gradient of zero for every weight")
def test_a_kernel_that_no_gradient_reaches_is_told() -> None:
    inputs = layers.Input((6,))
    used = layers.Dense(3, name="used", kernel_regularizer=orthwrap.SO())(inputs)
    unused = layers.Dense(3, name="unused", kernel_regularizer=orthwrap.SO())(inputs)
    model = keras.Model(inputs, [used, unused])
    model.compile(keras.optimizers.SGD(0.0), loss=["mse", None])
    before = kernels(model)
    with pytest.warns(UserWarning, match="no gradient reaches unused"):
        model.fit(X, [Y, Y], verbose=0, callbacks=[Pull(0.05)])
    np.testing.assert_array_equal(kernels(model)["unused"], before["unused"])


@pytest.mark.slow
def test_adamw_decays_what_a_fixed_alpha_would_keep() -> None:
    """AdamW's decay shrinks every singular value; the pull holds them at α all the same."""
    plain = keras.Sequential([layers.Input((6,)), layers.Dense(6, name="head")])
    model = orthwrap.apply(plain, scale="preserve").model
    alpha = model.layers[0].kernel.regularizer.attachment.alpha
    model.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.5), "mse")
    zero = np.zeros_like(X), np.zeros_like(X)  # no gradient but the decay
    model.fit(*zero, batch_size=1, epochs=20, verbose=0, callbacks=[Pull(0.1)])
    sigma = np.linalg.svd(kernels(model)["head"], compute_uv=False)
    # 0 = decay·rate·σ + β·σ(σ²/α² − 1)
    np.testing.assert_allclose(sigma, alpha * np.sqrt(1 - 5e-3 / 0.1), rtol=2e-2)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(keras.optimizers, "Muon"), reason="this Keras has no Muon")
def test_a_pull_goes_with_muon() -> None:
    """Muon orthogonalizes the update, not the weight: a kernel stays as far as it was."""
    far: dict[bool, float] = {}
    for pulled in (False, True):
        model = network()
        model.compile(keras.optimizers.Muon(1e-3), "mse")
        fit(model, *([Pull(0.1)] if pulled else []), epochs=25)
        w = kernels(model)["wide"]
        far[pulled] = float(np.linalg.norm(w @ w.T - np.eye(6)))
    assert far[True] < 0.1 * far[False]
