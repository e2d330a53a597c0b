"""Building blocks of the penalties' tensor forms: gradients, Gram matrices, probes.

Tensors are float32 or float64; a batch of matrices has shape (count, m, n), fan-in × fan-out, and
G is the smaller Gram matrix of each, WᵀW if n ≤ m, else WWᵀ, of size r = min(m, n).

Randomness comes in as a tensor of `penalty.probe_shape(w.shape, p)`, which receives no gradient:
signs from `rademacher` make the estimate E‖(G−I)v‖² = ‖G−I‖_F², linear in the number of weights.

Gradients are analytic, because the automatic one costs a third matrix product, and because at an
orthonormal W that of an unsquared norm is 0/0. There, and wherever else a penalty has a kink, the
gradient is a finite element of its subdifferential.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any
Pullback = Callable[[Tensor], Any]

# Below this size the two halves of a symmetric Gram matrix cost more apart than together.
SPLIT_ABOVE = 256


def differentiable(
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


def unbatched(batch: Tensor) -> Tensor:
    """A batch of one as the matrix it is: plain matrix products are faster than batched ones."""
    return ops.reshape(batch, batch.shape[1:]) if batch.shape[0] == 1 else batch


def transposed(x: Tensor) -> Tensor:
    return ops.swapaxes(x, -1, -2)


def is_tall(w: Tensor) -> bool:
    return bool(w.shape[-1] <= w.shape[-2])


def eye_like(w: Tensor) -> Tensor:
    return ops.eye(min(w.shape[-2:]), dtype=w.dtype)


# A Gram matrix is symmetric, so a large one is kept as its upper half: (half of the leading
# quarter, the upper right quarter, half of the trailing quarter), or plainly below SPLIT_ABOVE.
Half = Any


def half_gram(w: Tensor) -> Half:
    """The smaller Gram matrix G, (…, r, r), as its upper half."""
    tall = is_tall(w)
    r = w.shape[-1] if tall else w.shape[-2]
    if r <= SPLIT_ABOVE:
        return transposed(w) @ w if tall else w @ transposed(w)
    middle = r // 2
    a = w[..., :middle] if tall else w[..., :middle, :]
    b = w[..., middle:] if tall else w[..., middle:, :]
    corner = transposed(a) @ b if tall else a @ transposed(b)
    return half_gram(a), corner, half_gram(b)


def on_diagonal_blocks(half: Half, change: Callable[[Tensor, Tensor], Tensor]) -> Half:
    """change(block, I) on the blocks that hold the diagonal."""
    if isinstance(half, tuple):
        first, corner, last = half
        return on_diagonal_blocks(first, change), corner, on_diagonal_blocks(last, change)
    return change(half, ops.eye(half.shape[-1], dtype=half.dtype))


def sum_of_squares(half: Half) -> Tensor:
    """‖·‖_F² of each matrix."""
    if isinstance(half, tuple):
        first, corner, last = half
        return sum_of_squares(first) + 2 * sum_of_squares(corner) + sum_of_squares(last)
    return ops.sum(ops.square(half), (-2, -1))


def whole(half: Half, scale: Tensor | None = None) -> Tensor:
    """The symmetric matrix, times a scale (one, or one for each matrix)."""
    if isinstance(half, tuple):
        first, corner, last = half
        corner = corner if scale is None else scale * corner
        upper = ops.concatenate([whole(first, scale), corner], -1)
        lower = ops.concatenate([transposed(corner), whole(last, scale)], -1)
        return ops.concatenate([upper, lower], -2)
    return half if scale is None else scale * half


def gram(w: Tensor) -> Tensor:
    """The smaller Gram matrix G, (…, r, r)."""
    return whole(half_gram(w))


def multiplied(w: Tensor, s: Tensor) -> Tensor:
    """W·S or S·W, whichever fits an S of the smaller Gram matrix's size."""
    return w @ s if is_tall(w) else s @ w


def square_of_gram(
    w: Tensor, change: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Pullback]:
    """Σ ‖G'‖_F², where G' is G with change(block, I) for the blocks that hold the diagonal.

    `change` subtracts something constant, or sets entries to 0.
    """
    changed = on_diagonal_blocks(half_gram(w), change)
    value = ops.sum(sum_of_squares(changed))
    return value, lambda upstream: multiplied(w, whole(changed, 4 * upstream))


def largest_row_sum(g: Tensor) -> Tensor:
    """max Σ|Gᵢⱼ| over the rows of each Gram matrix: at least its largest eigenvalue."""
    return ops.max(ops.sum(ops.abs(g), -1), -1)


def towards(w: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """W·change(G, I), a quarter of the gradient of ‖change(G, I)‖_F², and bounds of σ_max²."""
    g = gram(w)
    return multiplied(w, change(g, eye_like(w))), largest_row_sum(g)


# A few vectors at a time: those of the m side of W are kept as columns (…, m, p), those of its
# n side as rows (…, p, n). So every product reads W in the order in which it is stored, which
# takes half as long as the other way round.


def to_long(w: Tensor, v: Tensor) -> Tensor:
    """From vectors of the smaller side to vectors of the larger."""
    return w @ transposed(v) if is_tall(w) else transposed(v) @ w


def to_short(w: Tensor, y: Tensor) -> Tensor:
    """The adjoint: to_short(w, to_long(w, v)) is G applied to v."""
    return transposed(y) @ w if is_tall(w) else w @ transposed(y)


def outer(w: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Σ y ⊗ v over (long y, short v), in the shape of w: the gradient of Σ ⟨y, to_long(w, v)⟩."""
    columns, rows = -1, -2
    tall = is_tall(w)
    long = ops.concatenate([y for y, _ in pairs], columns if tall else rows)
    short = ops.concatenate([v for _, v in pairs], rows if tall else columns)
    return long @ short if tall else short @ long


def per_matrix(scalars: Tensor) -> Tensor:
    """(…,) scalars, one for each matrix, ready to multiply matrices."""
    return ops.expand_dims(ops.expand_dims(scalars, -1), -1)


def norm(x: Tensor) -> Tensor:
    return ops.sqrt(ops.sum(ops.square(x), (-2, -1)))


# Added to a norm before dividing by it: changes no norm that float32 can tell from 0 in practice,
# makes 0/0 a 0, and leaves room for a large upstream gradient.
TINY = 1e-30


def rademacher(shape: Sequence[int], seed: Any, dtype: str = "float32") -> Tensor:
    """Independent random signs. `seed` as for `keras.random`: an int or a SeedGenerator."""
    signs = keras.random.randint(shape, 0, 2, dtype="int32", seed=seed)
    return ops.cast(2 * signs - 1, dtype)
