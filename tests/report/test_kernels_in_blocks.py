"""A kernel that is read in blocks has the figures of its formulas, as one in memory has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from orthwrap.model_config import blocks as blocks_module
from orthwrap.model_config.blocks import all_of, blocks, scale_of
from orthwrap.model_config.layout import Layout, conv_layout
from orthwrap.report import measure as measure_module
from orthwrap.report.measure import MatrixBatch, measure, relative_change, together

DENSE = Layout("dense", (0,), (1,))
DEPTHWISE = Layout("depthwise", (0, 1), (3,), batch=(2,))

# Layout, shape of the kernel, and its matrices by hand.
KERNELS: dict[str, tuple[Layout, tuple[int, ...], Callable[[Any], list[Any]]]] = {
    "tall": (DENSE, (37, 5), lambda k: [k]),
    "wide": (DENSE, (5, 37), lambda k: [k]),
    "convolution": (conv_layout(4), (3, 3, 2, 8), lambda k: [k.reshape(18, 8)]),
    "groups": (
        conv_layout(4, groups=2),
        (3, 3, 2, 8),
        lambda k: [k[..., :4].reshape(18, 4), k[..., 4:].reshape(18, 4)],
    ),
    "depthwise": (
        DEPTHWISE,
        (3, 3, 6, 2),
        lambda k: [k[:, :, i].reshape(9, 2) for i in range(6)],
    ),
}


class Counting:
    """A kernel on a disk: counts how often it is read, and how many numbers at once."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.most, self.readings = values, values.shape, 0, 0

    def __getitem__(self, index: Any) -> np.ndarray:
        found = self.values[index]
        self.readings += 1
        self.most = max(self.most, found.size)
        return found


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of so few numbers that every kernel here is larger."""
    monkeypatch.setattr(blocks_module, "_BLOCK", 16)
    monkeypatch.setattr(measure_module, "_BLOCK", 16)
    return 16


def gram(w: np.ndarray) -> np.ndarray:
    return w.T @ w if w.shape[1] <= w.shape[0] else w @ w.T


@pytest.mark.parametrize("name", KERNELS)
def test_figures_of_a_kernel_that_is_read_in_blocks(name: str, small_blocks: int) -> None:
    layout, shape, matrices_of = KERNELS[name]
    values = np.random.default_rng(1).normal(size=shape)
    matrices = matrices_of(values)
    kernel = Counting(values)
    found = measure(kernel, layout, {"name": "so", "alpha": 2.0})
    r = min(matrices[0].shape)
    squares = [np.linalg.norm(gram(w) - np.eye(r)) ** 2 for w in matrices]
    sigma = np.array([np.linalg.svd(w, compute_uv=False) for w in matrices])
    assert kernel.most <= small_blocks
    assert found.residual == pytest.approx(math.sqrt(sum(squares) / (len(matrices) * r)))
    assert found.scale == pytest.approx(math.sqrt(np.mean(sigma**2)))
    assert found.sigma_min == pytest.approx(sigma.min())
    assert found.sigma_max == pytest.approx(sigma.max())
    assert found.condition == pytest.approx((sigma.max(1) / sigma.min(1)).max())
    halves = [np.linalg.norm(gram(w / 2) - np.eye(r)) ** 2 for w in matrices]
    assert found.penalty == pytest.approx(sum(halves))


def test_lorth_of_a_dense_kernel_in_blocks_is_so(small_blocks: int) -> None:
    w = np.random.default_rng(2).normal(size=(9, 4))
    found = measure(Counting(w), DENSE, {"name": "lorth", "alpha": 1.0})
    assert found.penalty == pytest.approx(np.linalg.norm(gram(w) - np.eye(4)) ** 2)


def test_an_orthonormal_kernel_in_blocks(small_blocks: int) -> None:
    q = np.linalg.qr(np.random.default_rng(3).normal(size=(40, 6)))[0]
    found = measure(Counting(3 * q), DENSE)
    assert found.scaled_residual == pytest.approx(0, abs=1e-12)
    assert found.residual == pytest.approx(8)
    assert found.scale == pytest.approx(3)
    assert found.coherence == pytest.approx(0, abs=1e-12)


def test_a_small_singular_value_is_found_in_blocks(small_blocks: int) -> None:
    """The Gram matrix has lost it: an SVD of all blocks together has not."""
    rng = np.random.default_rng(4)
    u, v = (np.linalg.qr(rng.normal(size=shape))[0] for shape in ((40, 8), (8, 8)))
    found = measure(Counting(u @ np.diag(np.geomspace(1, 1e-11, 8)) @ v), DENSE)
    assert found.sigma_min == pytest.approx(1e-11, rel=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("limit", [4, 100])
def test_what_is_no_number_anywhere_leaves_no_figure(
    bad: float, limit: int, small_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "EXACT_LIMIT", limit)
    values = np.ones((12, 6, 1, 9))
    values[11, 5, 0, 8] = bad
    for layout, kernel in ((DENSE, values[..., 0, :].reshape(72, 9)), (conv_layout(4), values)):
        assert set(measure(Counting(kernel), layout).to_json().values()) == {None}


def test_zero_blocks_are_zero_matrices(small_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    zero = measure(Counting(np.zeros((20, 4))), DENSE)
    assert (zero.residual, zero.sigma_max, zero.scale) == (1.0, 0.0, 1.0)
    monkeypatch.setattr(measure_module, "EXACT_LIMIT", 2)
    estimated = measure(Counting(np.zeros((20, 4))), DENSE, {"name": "so", "alpha": 1.0})
    assert (estimated.residual, estimated.sigma_max) == (1.0, 0.0)
    assert estimated.penalty == pytest.approx(4.0)


def test_a_penalty_without_an_estimate_is_left_out_of_a_large_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure_module, "EXACT_LIMIT", 4)
    w = np.random.default_rng(5).normal(size=(20, 8))
    assert measure(w, DENSE, {"name": "mc", "alpha": 1.0}).penalty is None
    assert measure(w, DENSE).penalty is None


@pytest.mark.parametrize("name", KERNELS)
def test_blocks_are_all_of_the_kernel_once(name: str, small_blocks: int) -> None:
    _, shape, _ = KERNELS[name]
    values = np.arange(math.prod(shape), dtype="float32").reshape(shape)
    parts = list(blocks(values, all_of(values), range(len(shape))))
    assert sorted(np.concatenate([p.ravel() for p in parts])) == list(range(values.size))
    assert max(p.size for p in parts) <= small_blocks
    assert {p.dtype for p in parts} == {np.dtype("float64")}


def test_without_singular_values_a_kernel_is_read_as_float32(
    small_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as much at once, and nothing is made float64 on the way."""
    made: list[np.dtype[Any]] = []
    own = MatrixBatch.tall_blocks

    def noted(*what: Any) -> Any:
        for block in own(*what):
            made.append(block.dtype)
            yield block

    monkeypatch.setattr(MatrixBatch, "tall_blocks", noted)
    kernel = Counting(np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32))
    measure(kernel, DENSE, with_sigmas=False)
    assert (made, kernel.readings, kernel.most) == ([np.dtype(np.float32)], 1, 2 * small_blocks)


def test_change_of_a_kernel(small_blocks: int) -> None:
    before = np.random.default_rng(6).normal(size=(9, 7))
    after = before.copy()
    assert relative_change(before, after) == (True, 0.0)
    after[8, 6] += 2
    same, change = relative_change(Counting(before), Counting(after))
    assert not same
    assert change == pytest.approx(2 / np.linalg.norm(before))
    assert relative_change(np.zeros((9, 7)), np.ones((9, 7))) == (False, math.sqrt(63))


@pytest.mark.parametrize("blas_threads", ["1", "4"])
def test_results_come_in_the_order_of_the_jobs(
    blas_threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", blas_threads)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    sizes = [3, 5000, 1, 2000, 7]
    assert together([lambda i=i: i for i in range(5)], sizes) == [0, 1, 2, 3, 4]
    assert together([], []) == []


def test_a_job_that_fails_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    with pytest.raises(ZeroDivisionError):
        together([lambda: 1.0, lambda: 1 / 0], [1, 1])


def test_scale_in_blocks_is_the_rms_singular_value(small_blocks: int) -> None:
    w = np.random.default_rng(7).normal(size=(11, 6))
    sigma = np.linalg.svd(w, compute_uv=False)
    assert scale_of(Counting(w), DENSE) == pytest.approx(math.sqrt(np.mean(sigma**2)))
