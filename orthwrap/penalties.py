"""Orthogonality penalties: pure functions of a batch of matrices, sources in `catalog`.

    so(w, probes=None)            Σ ‖G−I‖_F²
    dso(w)                        Σ ‖WᵀW−I‖_F² + ‖WWᵀ−I‖_F²
    mc(w)                         Σ max |G−I|
    srip(w, start, steps=2)       Σ σ_max(G−I)
    offdiag(w, probes=None)       Σ ‖G⊙(1−I)‖_F²
    cosine(w)                     Σ mean |cos| over pairs
    frobenius(w)                  Σ ‖G−I‖_F
    lorth(kernel, strides=None, groups=1, probes=None)

`w` is a float32 or float64 tensor of shape (count, m, n), fan-in × fan-out; Σ runs over the batch;
G is the smaller Gram matrix, WᵀW if n ≤ m, else WWᵀ, of size r = min(m, n). `lorth` takes the
kernel itself. The result is a scalar of w's dtype.

Randomness comes in as a tensor: `probes` of shape `probe_shape(w.shape, p)` (for `lorth`:
`lorth_probe_shape(…)`) with entries ±1 from `rademacher` make the estimate E‖(G−I)v‖² = ‖G−I‖_F²
at a cost linear in the number of weights; `start` is any tensor of shape `probe_shape(w.shape, 1)`.
Neither receives a gradient.

Gradients are analytic, because the automatic one costs a third matrix product, and because at an
orthonormal W that of an unsquared norm is 0/0. There, and wherever else a penalty has a kink, the
gradient is a finite element of its subdifferential.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import keras
from keras import ops

from orthwrap.conv_gram import ConvGeometry, half_spectrum

Tensor = Any
Pullback = Callable[[Tensor], Any]

# Below this size the two halves of a symmetric Gram matrix cost more apart than together.
SPLIT_ABOVE = 256


def so(w: Tensor, probes: Tensor | None = None) -> Tensor:
    """Soft orthogonality, Σ ‖G−I‖_F². Minimum 0. Bansal et al. 2018."""
    if probes is not None:
        return _differentiable(_so_sketch, _matrices(w), constants=(_matrices(probes),))
    return _differentiable(_so, _matrices(w))


def dso(w: Tensor) -> Tensor:
    """Double soft orthogonality, Σ ‖WᵀW−I‖_F² + ‖WWᵀ−I‖_F². Minimum Σ |m−n|. Bansal et al. 2018.

    The nonzero eigenvalues of WᵀW and WWᵀ are the same, so the larger Gram matrix adds only the
    constant |m−n|.
    """
    count, m, n = w.shape
    return 2 * so(w) + count * abs(m - n)


def mc(w: Tensor) -> Tensor:
    """Mutual coherence, Σ max |G−I|. Minimum 0. Bansal et al. 2018."""
    return _differentiable(_mc, _matrices(w))


def srip(w: Tensor, start: Tensor, steps: int = 2) -> Tensor:
    """Spectral restricted isometry, Σ σ_max(G−I). Minimum 0. Bansal et al. 2018.

    `steps` products with G−I, none of which forms it, estimate σ from below. The gradient is
    that of σ with the last vector held fixed. The published code uses two steps and squares.
    """
    if steps < 1:
        raise ValueError(f"srip needs at least 1 step, got {steps}")
    compute = partial(_srip, steps=steps)
    return _differentiable(compute, _matrices(w), constants=(_matrices(start),))


def offdiag(w: Tensor, probes: Tensor | None = None) -> Tensor:
    """Orthogonality without the norms, Σ ‖G⊙(1−I)‖_F². Minimum 0. Brock et al. 2019 (BigGAN)."""
    if probes is not None:
        return _differentiable(_offdiag_sketch, _matrices(w), constants=(_matrices(probes),))
    return _differentiable(_offdiag, _matrices(w))


def cosine(w: Tensor) -> Tensor:
    """Σ mean |cos| over pairs of columns (of rows where n > m). Minimum 0; 0 for a single one.

    Equal to `keras.regularizers.OrthogonalRegularizer(1.0, mode="columns")` for n ≤ m.
    """
    return _differentiable(_cosine, _matrices(w))


def frobenius(w: Tensor) -> Tensor:
    """The classic, Σ ‖G−I‖_F, not squared. Minimum 0. Compare Brock et al. 2017."""
    return _differentiable(_frobenius, _matrices(w))


def lorth(
    kernel: Tensor,
    strides: Sequence[int] | None = None,
    groups: int = 1,
    probes: Tensor | None = None,
) -> Tensor:
    """Orthogonality of the convolution itself, ‖K⋆K−I_r0‖_F² − (M−C·S^d)⁺, summed over groups.

    `kernel` has shape (*k, C/groups, M), the last axis group-major: that of a Conv layer, and
    also that of a Conv*DTranspose layer, whose (*k, out, in) is the convolution it is the
    adjoint of. `strides`: one per spatial axis, default 1. A Dense kernel has no spatial axes,
    and its `lorth` is `so`. Minimum 0 where `catalog.lorth_exists`. Wang et al. 2020, Achour et
    al. 2022. See `conv_gram` for how it becomes a sum of Gram matrices.
    """
    geometry = ConvGeometry.of(kernel.shape, strides or (1,) * (len(kernel.shape) - 2), groups)
    n_taps = prod(geometry.taps)
    shape = (groups, geometry.rows, geometry.filters)
    widths = [(0, extra) for extra in geometry.padding] + [(0, 0), (0, 0)]
    taps = ops.pad(kernel, widths) if any(geometry.padding) else kernel
    taps = ops.transpose(ops.reshape(taps, geometry.split_shape), geometry.split_order)
    if n_taps == 1:
        return so(ops.reshape(taps, shape), probes) + geometry.constant

    taps = ops.reshape(taps, (n_taps, prod(shape)))
    cos, sin = half_spectrum(geometry.taps)
    half = len(cos)
    real, imaginary = (
        ops.reshape(
            ops.convert_to_tensor(table, dtype=kernel.dtype) @ taps, (half * groups, *shape[1:])
        )
        for table in (cos, sin)
    )
    zero = ops.reshape(ops.sum(taps, 0), shape)
    if probes is None:
        total = so(zero) + 2 * _differentiable(_complex_so, real, imaginary)
    else:
        rest = _differentiable(_complex_so_sketch, real, imaginary, constants=(probes[groups:],))
        total = so(zero, probes[:groups]) + 2 * rest
    return total / prod(geometry.points) + geometry.constant


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "so": so,
    "dso": dso,
    "mc": mc,
    "srip": srip,
    "lorth": lorth,
    "offdiag": offdiag,
    "cosine": cosine,
    "frobenius": frobenius,
}


# --- randomness -----------------------------------------------------------------------------


def probe_shape(w_shape: Sequence[int], probes: int) -> tuple[int, int, int]:
    """For matrices (count, m, n): (count, probes, n) if n ≤ m, else (count, m, probes)."""
    count, m, n = w_shape
    return (count, probes, n) if n <= m else (count, m, probes)


def lorth_probe_shape(
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None,
    groups: int,
    probes: int,
) -> tuple[int, int, int]:
    """The shape of the probes that `lorth` takes for this kernel: own ones at each frequency."""
    geometry = ConvGeometry.of(kernel_shape, strides or (1,) * (len(kernel_shape) - 2), groups)
    frequencies = (prod(geometry.points) + 1) // 2
    return probe_shape((frequencies * groups, geometry.rows, geometry.filters), probes)


def rademacher(shape: Sequence[int], seed: Any, dtype: str = "float32") -> Tensor:
    """Independent random signs. `seed` as for `keras.random`: an int or a SeedGenerator."""
    signs = keras.random.randint(shape, 0, 2, dtype="int32", seed=seed)
    return ops.cast(2 * signs - 1, dtype)


# --- building blocks ------------------------------------------------------------------------


def _differentiable(
    compute: Callable[..., tuple[Tensor, Pullback]],
    *tensors: Tensor,
    constants: tuple[Tensor, ...] = (),
) -> Tensor:
    """compute(*tensors, *constants) → (value, pullback), as an operation with that gradient.

    The pullback returns the gradients with respect to the tensors; constants have none. They are
    inputs all the same, because JAX cannot differentiate a traced operation that closes over a
    traced value.
    """

    def operation(*inputs: Tensor) -> tuple[Tensor, Callable[..., Any]]:
        value, pullback = compute(*inputs)

        def gradient(*args: Tensor, upstream: Tensor | None = None) -> Any:
            # PyTorch hands over the inputs and names the upstream gradient; TensorFlow and JAX
            # hand over the upstream gradient alone.
            found = pullback(args[0] if upstream is None else upstream)
            found = found if isinstance(found, tuple) else (found,)
            gradients = (*found, *map(ops.zeros_like, constants))
            return gradients if len(gradients) > 1 else gradients[0]

        return value, gradient

    return ops.custom_gradient(operation)(*tensors, *constants)


def _matrices(batch: Tensor) -> Tensor:
    """A batch of one as the matrix it is: plain matrix products are faster than batched ones."""
    return ops.reshape(batch, batch.shape[1:]) if batch.shape[0] == 1 else batch


def _t(x: Tensor) -> Tensor:
    return ops.swapaxes(x, -1, -2)


def _is_tall(w: Tensor) -> bool:
    return bool(w.shape[-1] <= w.shape[-2])


def _eye_like(w: Tensor) -> Tensor:
    return ops.eye(min(w.shape[-2:]), dtype=w.dtype)


# A Gram matrix is symmetric, so a large one is kept as its upper half: (half of the leading
# quarter, the upper right quarter, half of the trailing quarter), or plainly below SPLIT_ABOVE.
Half = Any


def _half_gram(w: Tensor) -> Half:
    """The smaller Gram matrix G, (…, r, r), as its upper half."""
    tall = _is_tall(w)
    r = w.shape[-1] if tall else w.shape[-2]
    if r <= SPLIT_ABOVE:
        return _t(w) @ w if tall else w @ _t(w)
    middle = r // 2
    a = w[..., :middle] if tall else w[..., :middle, :]
    b = w[..., middle:] if tall else w[..., middle:, :]
    corner = _t(a) @ b if tall else a @ _t(b)
    return _half_gram(a), corner, _half_gram(b)


def _on_diagonal_blocks(half: Half, change: Callable[[Tensor, Tensor], Tensor]) -> Half:
    """change(block, I) on the blocks that hold the diagonal."""
    if isinstance(half, tuple):
        first, corner, last = half
        return _on_diagonal_blocks(first, change), corner, _on_diagonal_blocks(last, change)
    return change(half, ops.eye(half.shape[-1], dtype=half.dtype))


def _sum_of_squares(half: Half) -> Tensor:
    """‖·‖_F² of each matrix."""
    if isinstance(half, tuple):
        first, corner, last = half
        return _sum_of_squares(first) + 2 * _sum_of_squares(corner) + _sum_of_squares(last)
    return ops.sum(ops.square(half), (-2, -1))


def _whole(half: Half, scale: Tensor | None = None) -> Tensor:
    """The symmetric matrix, times a scale (one, or one for each matrix)."""
    if isinstance(half, tuple):
        first, corner, last = half
        corner = corner if scale is None else scale * corner
        upper = ops.concatenate([_whole(first, scale), corner], -1)
        lower = ops.concatenate([_t(corner), _whole(last, scale)], -1)
        return ops.concatenate([upper, lower], -2)
    return half if scale is None else scale * half


def _gram(w: Tensor) -> Tensor:
    """The smaller Gram matrix G, (…, r, r)."""
    return _whole(_half_gram(w))


def _times(w: Tensor, s: Tensor) -> Tensor:
    """W·S or S·W, whichever fits an S of the smaller Gram matrix's size."""
    return w @ s if _is_tall(w) else s @ w


# A few vectors at a time: those of the m side of W are kept as columns (…, m, p), those of its
# n side as rows (…, p, n). So every product reads W in the order in which it is stored, which
# takes half as long as the other way round.


def _to_long(w: Tensor, v: Tensor) -> Tensor:
    """From vectors of the smaller side to vectors of the larger."""
    return w @ _t(v) if _is_tall(w) else _t(v) @ w


def _to_short(w: Tensor, y: Tensor) -> Tensor:
    """The adjoint: _to_short(w, _to_long(w, v)) is G applied to v."""
    return _t(y) @ w if _is_tall(w) else w @ _t(y)


def _outer(w: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Σ y ⊗ v over (long y, short v), in the shape of w: the gradient of Σ ⟨y, _to_long(w, v)⟩."""
    columns, rows = -1, -2
    tall = _is_tall(w)
    long = ops.concatenate([y for y, _ in pairs], columns if tall else rows)
    short = ops.concatenate([v for _, v in pairs], rows if tall else columns)
    return long @ short if tall else short @ long


def _per_matrix(scalars: Tensor) -> Tensor:
    """(…,) scalars, one for each matrix, ready to multiply matrices."""
    return ops.expand_dims(ops.expand_dims(scalars, -1), -1)


def _norm(x: Tensor) -> Tensor:
    return ops.sqrt(ops.sum(ops.square(x), (-2, -1)))


# Added to a norm before dividing by it: changes no norm that float32 can tell from 0 in practice,
# makes 0/0 a 0, and leaves room for a large upstream gradient.
_TINY = 1e-30


# --- the penalties, each with its pullback --------------------------------------------------


def _so(w: Tensor) -> tuple[Tensor, Pullback]:
    deviation = _on_diagonal_blocks(_half_gram(w), lambda block, eye: block - eye)
    value = ops.sum(_sum_of_squares(deviation))
    return value, lambda upstream: _times(w, _whole(deviation, 4 * upstream))


def _offdiag(w: Tensor) -> tuple[Tensor, Pullback]:
    deviation = _on_diagonal_blocks(_half_gram(w), lambda block, eye: block * (1 - eye))
    value = ops.sum(_sum_of_squares(deviation))
    return value, lambda upstream: _times(w, _whole(deviation, 4 * upstream))


def _frobenius(w: Tensor) -> tuple[Tensor, Pullback]:
    deviation = _on_diagonal_blocks(_half_gram(w), lambda block, eye: block - eye)
    norms = ops.sqrt(_sum_of_squares(deviation))

    def pullback(upstream: Tensor) -> Tensor:
        return _times(w, _whole(deviation, _per_matrix(2 * upstream / (norms + _TINY))))

    return ops.sum(norms), pullback


def _mc(w: Tensor) -> tuple[Tensor, Pullback]:
    r = min(w.shape[-2:])
    deviation = ops.reshape(_gram(w) - _eye_like(w), (*w.shape[:-2], r * r))
    magnitude = ops.abs(deviation)

    def pullback(upstream: Tensor) -> Tensor:
        # Only the two vectors whose product is the largest entry have a gradient.
        place = ops.argmax(magnitude, -1)
        sign = ops.sum(ops.sign(deviation) * ops.one_hot(place, r * r, dtype=w.dtype), -1)
        axis = -2 if _is_tall(w) else -1
        i = ops.expand_dims(ops.one_hot(place // r, r, dtype=w.dtype), axis)
        j = ops.expand_dims(ops.one_hot(place % r, r, dtype=w.dtype), axis)
        i = _per_matrix(upstream * sign) * i
        return _outer(w, [(_to_long(w, i), j), (_to_long(w, j), i)])

    return ops.sum(ops.max(magnitude, -1)), pullback


def _cosine(w: Tensor) -> tuple[Tensor, Pullback]:
    r = min(w.shape[-2:])
    if r == 1:
        return ops.zeros((), w.dtype), lambda upstream: ops.zeros_like(w)
    axis = -2 if _is_tall(w) else -1
    # As keras.ops.normalize does, a vector no longer than epsilon is divided by epsilon.
    epsilon = keras.config.epsilon()
    norms = ops.sqrt(ops.sum(ops.square(w), axis, keepdims=True))
    normal = norms > epsilon
    norms = ops.where(normal, norms, ops.full_like(norms, epsilon))
    unit = w / norms
    cosines = _gram(unit) * (1 - _eye_like(w))
    pairs = r * (r - 1)

    def pullback(upstream: Tensor) -> Tensor:
        slope = _times(unit, (2 * upstream / pairs) * ops.sign(cosines))
        along = ops.sum(slope * unit, axis, keepdims=True) * ops.cast(normal, w.dtype)
        return (slope - along * unit) / norms

    return ops.sum(ops.abs(cosines)) / pairs, pullback


def _srip(w: Tensor, start: Tensor, *, steps: int) -> tuple[Tensor, Pullback]:
    image, norms = start, _norm(start)
    for _ in range(steps):
        v = image / _per_matrix(norms + _TINY)
        long_v = _to_long(w, v)
        image = _to_short(w, long_v) - v
        norms = _norm(image)

    def pullback(upstream: Tensor) -> Tensor:
        u = _per_matrix(upstream / (norms + _TINY)) * image
        return _outer(w, [(_to_long(w, u), v), (long_v, u)])

    return ops.sum(norms), pullback


def _so_sketch(w: Tensor, probes: Tensor) -> tuple[Tensor, Pullback]:
    long_v = _to_long(w, probes)
    image = _to_short(w, long_v) - probes
    count = probes.shape[-2 if _is_tall(w) else -1]

    def pullback(upstream: Tensor) -> Tensor:
        u = (2 * upstream / count) * image
        return _outer(w, [(_to_long(w, u), probes), (long_v, u)])

    return ops.sum(ops.square(image)) / count, pullback


def _offdiag_sketch(w: Tensor, probes: Tensor) -> tuple[Tensor, Pullback]:
    short = -2 if _is_tall(w) else -1
    diagonal = ops.sum(ops.square(w), short, keepdims=True)
    long_v = _to_long(w, probes)
    image = _to_short(w, long_v) - diagonal * probes
    count = probes.shape[short]

    def pullback(upstream: Tensor) -> Tensor:
        u = (2 * upstream / count) * image
        own = ops.sum(u * probes, short, keepdims=True)
        return _outer(w, [(_to_long(w, u), probes), (long_v, u)]) - (2 * own) * w

    return ops.sum(ops.square(image)) / count, pullback


# K̂ = A + iB. Its Gram matrix K̂ᴴK̂ (K̂K̂ᴴ on the wide side) is R ± iJ with R = AᵀA + BᵀB
# symmetric and J = AᵀB − BᵀA antisymmetric: real products only, for the backends' sake.


def _complex_so(a: Tensor, b: Tensor) -> tuple[Tensor, Pullback]:
    tall = _is_tall(a)
    cross = _t(a) @ b if tall else a @ _t(b)
    real = _gram(a) + _gram(b) - _eye_like(a)
    imaginary = cross - _t(cross)
    value = ops.sum(ops.square(real)) + ops.sum(ops.square(imaginary))

    def pullback(upstream: Tensor) -> tuple[Tensor, Tensor]:
        # (A + iB)(R + iJ) when tall, its transpose's counterpart when wide, by three products
        # instead of four.
        p, j = (4 * upstream) * real, (4 * upstream) * imaginary
        j = j if tall else -j
        first = _times(a + b, p)
        second = _times(a, j - p)
        third = _times(b, p + j)
        return first - third, first + second

    return value, pullback


def _complex_so_sketch(a: Tensor, b: Tensor, probes: Tensor) -> tuple[Tensor, Pullback]:
    long_a, long_b = _to_long(a, probes), _to_long(b, probes)
    real = _to_short(a, long_a) + _to_short(b, long_b) - probes
    imaginary = _to_short(a, long_b) - _to_short(b, long_a)
    count = probes.shape[-2 if _is_tall(a) else -1]
    value = (ops.sum(ops.square(real)) + ops.sum(ops.square(imaginary))) / count

    def pullback(upstream: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (2 * upstream / count) * real, (2 * upstream / count) * imaginary
        # ⟨x, dR v⟩ + ⟨y, dJ v⟩, gathered by what multiplies dA and dB.
        mixed_a = _to_long(a, x) - _to_long(b, y)
        mixed_b = _to_long(b, x) + _to_long(a, y)
        return (
            _outer(a, [(long_a, x), (long_b, y), (mixed_a, probes)]),
            _outer(b, [(long_b, x), (-long_a, y), (mixed_b, probes)]),
        )

    return value, pullback
