"""Kernels held to singular values, against SVDs in float64."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import orthwrap
from orthwrap.constraints import OrthogonalityConstraint, projections
from orthwrap.model_config.layout import Layout, conv_layout
from orthwrap.penalties import tensors

Array = np.ndarray[Any, np.dtype[Any]]


def oracle(w: Array, constrain: str, alpha: float = 1.0) -> Array:
    """By an SVD of each matrix."""
    u, sigma, v = np.linalg.svd(w.astype(np.float64), full_matrices=False)
    name, _, numbers = constrain.partition(":")
    found = [alpha * float(n) for n in numbers.split(",")] if numbers else []
    if name == "orthogonal":
        sigma = np.full_like(sigma, alpha)
    elif name == "spectral":
        sigma = sigma / np.maximum(1.0, sigma.max(-1, keepdims=True) / found[0])
    else:
        sigma = np.clip(sigma, found[0], found[1])
    made: Array = (u * sigma[..., None, :]) @ v
    return made


def held(kernel: Array, constrain: str = "orthogonal", **words: Any) -> Array:
    made = OrthogonalityConstraint(constrain, **words)(ops.convert_to_tensor(kernel))
    assert keras.backend.standardize_dtype(made.dtype) == str(kernel.dtype)
    found: Array = ops.convert_to_numpy(made)
    return found


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_sigmas(sigma: Any, m: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    n = len(sigma)
    u, v = (np.linalg.qr(rng.normal(size=(size, n)))[0] for size in (m, n))
    made: Array = ((u * np.asarray(sigma)) @ v.T).astype(np.float32)
    return made


def residual(w: Array) -> float:
    sigma = np.linalg.svd(w.astype(np.float64), compute_uv=False)
    return float(np.sqrt(np.mean((sigma**2 - 1) ** 2)))


@pytest.mark.parametrize("constrain", ["orthogonal", "spectral:0.7", "band:0.9,1.1"])
@pytest.mark.parametrize("shape", [(12, 5), (4, 9), (1, 6), (6, 1), (7, 7)])
def test_it_is_what_an_svd_gives(shape: tuple[int, int], constrain: str) -> None:
    w = with_sigmas(np.geomspace(2, 0.1, min(shape)), max(shape))
    w = w if shape[0] >= shape[1] else w.T
    # Rounding turns it by up to 6e-5 at this condition, 20: it is as orthogonal, and beside.
    np.testing.assert_allclose(held(w, constrain), oracle(w, constrain), atol=1e-4)
    scaled = held(w, constrain, scale="preserve", alpha=0.3)
    np.testing.assert_allclose(scaled, oracle(w, constrain, 0.3), atol=1e-4)


# One shape for each: JAX compiles anew for another.
@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    exponents=st.lists(st.floats(-3.0, 3.0), min_size=4, max_size=4),
    seed=st.integers(0, 2**20),
    size=st.sampled_from([1e-8, 1.0, 1e8]),
)
def test_any_kernel_of_full_rank_becomes_orthogonal(
    exponents: list[float], seed: int, size: float
) -> None:
    w = with_sigmas(10.0 ** np.array(exponents), 6, seed) * np.float32(size)
    found = held(w)
    assert residual(found) < 2e-6
    assert residual(held(found)) < 2e-6  # and stays so
    np.testing.assert_allclose(held(-w), -found, atol=1e-5)


@pytest.mark.slow
def test_rounding_at_the_largest_singular_value_does_not_grow() -> None:
    """Their row sums are σ_max² itself, so that the first step leaves it at its interval's end."""
    for low in (0.1, 1e-2, 1e-4, 1e-6):
        for length in (1.0, 0.3, 7.0):
            w = np.diag(length * np.geomspace(1, low, 8)).astype(np.float32)
            np.testing.assert_allclose(held(w), np.eye(8), atol=1e-6)


def test_the_schedule_is_the_best_of_its_kind() -> None:
    """Each polynomial's error is the same, with changing sign, at four points of its interval."""
    low, high = 1e-6, 1.0
    for a, b, c in projections.BEST:
        within = np.geomspace(low, high, 400_001)
        off = 1 - (a * within + b * within**3 + c * within**5)
        turns = off[[0, -1]].tolist()
        inner = np.flatnonzero(np.diff(np.sign(np.diff(off)))) + 1
        assert len(inner) == 2
        found = np.array([turns[0], *off[inner], turns[1]])
        np.testing.assert_allclose(np.abs(found), abs(found[0]), rtol=1e-3)
        assert (np.sign(found) == [1, -1, 1, -1]).all()
        low, high = 1 - off[0], 1 + off[0]
    assert high - 1 < 2e-4  # so that one more cubes that


@pytest.mark.parametrize(
    ("w", "steps"),
    [
        (with_sigmas([1] * 16, 64) + 1e-3 * drawn(64, 16), 2),  # as between two steps of training
        (drawn(96, 16), 9),
        (drawn(24, 24), 13),
        (with_sigmas(np.geomspace(1, 1e-6, 16), 32), 20),
        (drawn(24, 3) @ drawn(3, 8), 20),  # which does not end by itself
        (drawn(24, 8) * (np.arange(8) > 2), 9),  # filters that are 0 do
        (np.zeros((8, 4), np.float32), 1),
        (np.full((8, 4), np.nan, np.float32), 1),
    ],
)
def test_it_makes_as_many_steps_as_it_needs(
    w: Array, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if keras.backend.backend() == "jax":
        pytest.skip("a loop on JAX is traced once")
    calls = []
    gram = tensors.gram  # once a step

    def counted(*given: Any) -> Any:
        calls.append(given)
        return gram(*given)

    monkeypatch.setattr(tensors, "gram", counted)
    projections.polar(ops.convert_to_tensor(w))
    assert 0 < len(calls) <= steps


@pytest.mark.parametrize("shape", [(96, 16), (24, 24), (5, 40)])
def test_a_matrix_comes_out_alone_as_among_others(shape: tuple[int, int]) -> None:
    w = drawn(*shape)
    alone = ops.convert_to_numpy(projections.polar(ops.convert_to_tensor(w)))
    among = projections.polar(ops.convert_to_tensor(np.stack([w, 3 * w])))
    np.testing.assert_allclose(ops.convert_to_numpy(among)[1], alone, atol=5e-5)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="dispatches each operation")
def test_a_step_dispatches_few_operations() -> None:
    from tests.support.operations import dispatched

    w = ops.convert_to_tensor(drawn(24, 24))
    assert dispatched(lambda: projections.polar(w)) <= 13 * 16 + 10  # of at most 13 steps


@contextlib.contextmanager
def warned_always() -> Iterator[None]:
    """PyTorch warns of a thing once in a process, which an earlier test may have had."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    was = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        yield
    finally:
        torch.set_warn_always(was)


@pytest.mark.parametrize("shape", [(24, 24), (3, 3, 4, 6)])
def test_a_variable_that_wants_gradients_is_projected_without_a_word(
    shape: tuple[int, ...],
) -> None:
    variable = keras.Variable(drawn(math.prod(shape[:-1]), shape[-1]).reshape(shape))
    with warnings.catch_warnings(), warned_always():
        warnings.simplefilter("error")
        found = OrthogonalityConstraint("orthogonal").project(variable.value)
    right = oracle(ops.convert_to_numpy(variable).reshape(-1, shape[-1]), "orthogonal")
    np.testing.assert_allclose(ops.convert_to_numpy(found).reshape(right.shape), right, atol=2e-5)


def test_what_is_lacking() -> None:
    """A kernel of rank 3 with 5 columns, with zero columns, and nothing at all."""
    assert np.array_equal(held(np.zeros((6, 3), np.float32)), np.zeros((6, 3)))
    w = drawn(12, 5) * np.array([1, 0, 1, 0, 1], np.float32)
    found = held(w)
    assert not found[:, [1, 3]].any()
    np.testing.assert_allclose(found[:, ::2], oracle(w[:, ::2], "orthogonal"), atol=2e-5)
    deficient = drawn(12, 3) @ drawn(3, 5)
    sigma = np.linalg.svd(held(deficient), compute_uv=False)
    assert np.isfinite(sigma).all()
    np.testing.assert_allclose(sigma[:3], 1, atol=1e-6)
    assert sigma.max() < 1 + 1e-6


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (conv_layout(4, groups=2), (3, 3, 2, 6)),
        (Layout("depthwise", (0, 1), (3,), batch=(2,)), (3, 3, 4, 2)),
        (Layout("recurrent", (0,), (1,), parts=4), (5, 20)),
        (Layout("attention", (0,), (2,), batch=(1,)), (6, 2, 3)),
        (conv_layout(4, name="conv_transpose"), (2, 2, 4, 6)),
        (None, (3, 3, 2, 5)),
    ],
)
def test_each_matrix_of_a_kernel_is_held(layout: Layout | None, shape: tuple[int, ...]) -> None:
    kernel = drawn(*shape)
    found = held(kernel, layout=None if layout is None else layout.to_config())
    by = layout or conv_layout(4)
    wanted = oracle(by.to_matrices(kernel, np), "orthogonal")
    np.testing.assert_allclose(by.to_matrices(found, np), wanted, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype: str) -> None:
    kernel = ops.cast(drawn(32, 8), dtype)
    found = OrthogonalityConstraint("orthogonal")(kernel)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    wanted = oracle(ops.convert_to_numpy(ops.cast(kernel, "float32")), "orthogonal")
    found = ops.convert_to_numpy(ops.cast(found, "float32"))
    np.testing.assert_allclose(found, wanted, atol=1e-3 if dtype == "float16" else 4e-3)


def test_a_kernel_that_the_layout_does_not_describe() -> None:
    with pytest.raises(orthwrap.ValueFault, match=r"layout 'dense'.*got shape \(2, 2, 2\)"):
        held(drawn(2, 2, 2), layout=Layout("dense", (0,), (1,)))
    with pytest.raises(orthwrap.ValueFault, match=r"every=0 must be at least 1"):
        OrthogonalityConstraint("orthogonal", every=0)
    with pytest.raises(orthwrap.ValueFault, match=r"alpha=0\.0 must be"):
        OrthogonalityConstraint("orthogonal", alpha=0.0)
