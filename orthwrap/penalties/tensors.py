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

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any

import keras
import numpy as np
from keras import ops

from orthwrap import keras_inside

Tensor = Any
Pullback = Callable[[Tensor], Any]

BACKEND: str = keras.backend.backend()  # for the whole process, as Keras has it
if BACKEND == "torch":  # which Keras has imported; within a function that takes time at each call
    import torch

# Below this size the two halves of a symmetric Gram matrix cost more apart than together.
SPLIT_ABOVE = 256


def differentiable(
    compute: Callable[..., tuple[Tensor, Pullback]],
    *tensors: Tensor,
    constants: tuple[Tensor, ...] = (),
) -> Tensor:
    """compute(*tensors, *constants) → (value, pullback), as an operation with that gradient.

    The pullback returns the gradients with respect to the tensors; constants have none. On JAX
    they are inputs all the same, because it cannot differentiate a traced operation that closes
    over a traced value.
    """
    precision = _precision.get()
    if constants and BACKEND != "jax":
        return differentiable(lambda *given: compute(*given, *constants), *tensors)
    if BACKEND == "torch" and precision is None:
        return _Differentiable.apply(compute, *tensors)

    def operation(*inputs: Tensor) -> tuple[Tensor, Callable[..., Any]]:
        with products_in(precision):  # also where a backend calls this later
            value, pullback = compute(*inputs)

        def gradient(*args: Tensor, upstream: Tensor | None = None) -> Any:
            # PyTorch hands over the inputs and names the upstream gradient; TensorFlow and JAX
            # hand over the upstream gradient alone.
            with products_in(precision):
                found = pullback(args[0] if upstream is None else upstream)
            found = found if isinstance(found, tuple) else (found,)
            gradients = (*found, *map(ops.zeros_like, constants))
            return gradients if len(gradients) > 1 else gradients[0]

        return value, gradient

    return ops.custom_gradient(operation)(*tensors, *constants)


if BACKEND == "torch":

    class _Differentiable(torch.autograd.Function):  # type: ignore[misc]
        """Keras's own way takes half as long again as a small penalty."""

        @staticmethod
        def forward(ctx: Any, compute: Callable[..., Any], *tensors: Tensor) -> Tensor:
            value, ctx.pullback = compute(*tensors)
            return value

        @staticmethod
        def backward(ctx: Any, upstream: Tensor) -> Any:
            found = ctx.pullback(upstream)
            return (None, *found) if isinstance(found, tuple) else (None, found)


# PyTorch computes while Python decides: there, what Keras's functions look at before they do
# anything takes longer than what is computed.


def tensor_of(x: Tensor) -> Tensor:
    """The value of a variable; a tensor as it is."""
    if BACKEND == "torch" and isinstance(x, keras.Variable):
        return x.value
    return ops.convert_to_tensor(x)


class _Torch:
    @staticmethod
    def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.reshape(shape)

    @staticmethod
    def transpose(x: Tensor, axes: Sequence[int]) -> Tensor:
        return x.permute(axes)


# Whose `reshape` and `transpose` a layout reads kernels with.
xp: Any = _Torch if BACKEND == "torch" else ops


def unbatched(batch: Tensor) -> Tensor:
    """A batch of one as the matrix it is: plain matrix products are faster than batched ones."""
    is_one = len(batch.shape) == 3 and batch.shape[0] == 1
    return xp.reshape(batch, batch.shape[1:]) if is_one else batch


def transposed(x: Tensor) -> Tensor:
    if BACKEND == "torch":
        return x.mT
    return ops.transpose(x) if len(x.shape) == 2 else ops.swapaxes(x, -1, -2)


def halves_pay(r: int) -> bool:
    """Whether half of a symmetric product of this size, in parts, is faster than all of it.

    On the processor, for large ones; on an accelerator, and where each operation is dispatched on
    its own, the parts cost more than they save.
    """
    return r > SPLIT_ABOVE and BACKEND != "torch" and on_processor()


def is_eager() -> bool:
    """Whether each operation is dispatched on its own, and on a CPU."""
    return BACKEND == "torch" and on_processor()


_found: list[bool] = []  # PyTorch's compiler warns of functools.cache


def on_processor() -> bool:
    """Whether what is computed now runs on a CPU: the backend has nothing else."""
    if not _found:
        _found.append(_has_nothing_else())
    return _found[0]


def _has_nothing_else() -> bool:
    if BACKEND == "jax":
        import jax

        return bool(jax.default_backend() == "cpu")
    if BACKEND == "torch":
        return not torch.cuda.is_available()
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


def is_tall(w: Tensor) -> bool:
    return bool(w.shape[-1] <= w.shape[-2])


def eye_like(w: Tensor) -> Tensor:
    return ops.eye(min(w.shape[-2:]), dtype=w.dtype)


def gram(w: Tensor) -> Tensor:
    """The smaller Gram matrix G, (…, r, r); where that is faster, its lower left as a copy."""
    tall = is_tall(w)
    r = w.shape[-1] if tall else w.shape[-2]
    if r <= SPLIT_ABOVE or not halves_pay(r):
        return cross(w, w, tall)
    a, b = _parted(w, r // 2, -1 if tall else -2)
    corner = cross(a, b, tall)
    upper = ops.concatenate([gram(a), corner], -1)
    lower = ops.concatenate([transposed(corner), gram(b)], -1)
    return ops.concatenate([upper, lower], -2)


def _parted(w: Tensor, middle: int, axis: int) -> tuple[Tensor, Tensor]:
    if BACKEND == "tensorflow":
        import tensorflow as tf

        first, last = tf.split(w, [middle, w.shape[axis] - middle], axis)
        return first, last
    first, last = ops.split(w, [middle], axis)
    return first, last


def cross(a: Tensor, b: Tensor, tall: bool) -> Tensor:
    """AᵀB of tall matrices, ABᵀ of wide ones, in one operation where the backend has that."""
    return _product(a, b, tall, not tall)


# What the factors of products are cast to; None leaves them as they are.
_precision: ContextVar[str | None] = ContextVar("precision", default=None)


@contextlib.contextmanager
def products_in(precision: str | None) -> Iterator[None]:
    """While active, `cross` and `multiplied` take the factors of their products in this dtype.

    Sums are in float32 where the backend has that: on JAX, and on PyTorch's GPUs. Elsewhere the
    product itself is of that dtype. What comes out has the dtype of what came in.
    """
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


def _product(a: Tensor, b: Tensor, a_turned: bool = False, b_turned: bool = False) -> Tensor:
    """A·B of matrices (…, m, n), either of them transposed."""
    own, low = a.dtype, _precision.get()
    if low is None:
        return _as_it_is(a, b, a_turned, b_turned)
    is_square = a is b
    a = ops.cast(a, low)
    b = a if is_square else ops.cast(b, low)
    return ops.cast(_as_it_is(a, b, a_turned, b_turned, own), own)


def _as_it_is(
    a: Tensor, b: Tensor, a_turned: bool = False, b_turned: bool = False, summed_in: Any = None
) -> Tensor:
    """A·B in the dtype that they have, summed in another one where the backend can."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.matmul(a, b, transpose_a=a_turned, transpose_b=b_turned)
    if BACKEND == "jax":
        return _on_jax(a, b, a_turned, b_turned, summed_in)
    a, b = (a.mT if a_turned else a), (b.mT if b_turned else b)
    return a @ b if summed_in is None else _on_torch(a, b)


def _on_jax(a: Tensor, b: Tensor, a_turned: bool, b_turned: bool, summed_in: Any) -> Tensor:
    import jax

    if len(a.shape) == 2 and len(b.shape) == 2:
        axes = (0 if a_turned else 1,), (1 if b_turned else 0,)
        return jax.lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=summed_in)
    a, b = (transposed(a) if a_turned else a), (transposed(b) if b_turned else b)
    return jax.numpy.matmul(a, b, preferred_element_type=summed_in)


def _on_torch(a: Tensor, b: Tensor) -> Tensor:
    by_dims = {2: (torch.mm, torch.ops.aten.mm), 3: (torch.bmm, torch.ops.aten.bmm)}
    multiply, known = by_dims.get(a.dim(), (None, None))
    if multiply is None or not a.is_cuda or a.dim() != b.dim() or "dtype" not in known.overloads():
        return a @ b
    return multiply(a, b, out_dtype=torch.float32)


# No identity matrix is made where a backend can do without: on large kernels it is as large as
# everything else, and each one is operations.


def less(g: Tensor, amount: float | None) -> Tensor:
    """G − amount·I, or for None G ⊙ (1−I); it may write into G."""
    if amount is None:
        return _without_diagonal(g)
    if BACKEND == "torch":
        is_compiled = torch.compiler.is_compiling()
        number = amount if is_compiled else _number_of_torch(amount, g.dtype)
        g.diagonal(0, -2, -1).sub_(number)
        return g
    if BACKEND == "tensorflow":
        import tensorflow as tf

        diagonal = tf.raw_ops.MatrixDiagPart(input=g) - amount
        return tf.raw_ops.MatrixSetDiag(input=g, diagonal=diagonal)
    return ops.where(_on_diagonal(g), g - amount, g)


@lru_cache(maxsize=4096)
def _number_of_torch(number: float, dtype: Any) -> Tensor:
    """A number of Python's takes an operation three times as long to begin with."""
    return torch.tensor(number, dtype=dtype, device="cpu")


def _without_diagonal(g: Tensor) -> Tensor:
    if BACKEND == "torch":
        g.diagonal(0, -2, -1).zero_()
        return g
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.raw_ops.MatrixSetDiag(input=g, diagonal=tf.zeros(g.shape[:-1], g.dtype))
    return ops.where(_on_diagonal(g), 0.0, g)


def _on_diagonal(g: Tensor) -> Tensor:
    import jax

    rows, columns = (jax.lax.broadcasted_iota("int32", g.shape[-2:], i) for i in (0, 1))
    return rows == columns


# TensorFlow's one operation for it gives half the sum.
_SHARE = 0.5 if BACKEND == "tensorflow" else 1.0


def square_sum(x: Tensor, factor: float = 1.0) -> Tensor:
    """factor · Σ x² over all entries."""
    total, factor = _square_sum(x), factor / _SHARE
    return total if factor == 1.0 else factor * total


def _square_sum(x: Tensor) -> Tensor:
    if BACKEND == "torch":
        return torch.linalg.vector_norm(x).square()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.nn.l2_loss(x)
    return ops.sum(ops.square(x))


def eigen(g: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (…, r), ascending, and eigenvectors (…, r, r) of symmetric matrices.

    Not to be differentiated: where two eigenvalues are equal, that is 0/0. The eigenvalues of a
    matrix that is not finite are NaN; some backends raise an error there, in the midst of training.
    """
    finite = ops.isfinite(ops.sum(g, (-2, -1), keepdims=True))
    values, vectors = eigh(ops.where(finite, g, eye_like(g)))
    return ops.where(ops.squeeze(finite, -1), values, float("nan")), vectors


def eigh(g: Tensor) -> tuple[Tensor, Tensor]:
    """The same of what is finite."""
    if BACKEND == "torch":
        values, vectors = torch.linalg.eigh(g)
    else:
        values, vectors = ops.linalg.eigh(g)
    return values, vectors


def multiplied(w: Tensor, s: Tensor) -> Tensor:
    """W·S or S·W, whichever fits an S of the smaller Gram matrix's size."""
    return _product(w, s) if is_tall(w) else _product(s, w)


def multiplied_by(w: Tensor, s: Tensor, number: float, scalar: Tensor) -> Tensor:
    """number · scalar · `multiplied`."""
    if BACKEND == "torch" and _precision.get() is None:
        pair = (w, s) if is_tall(w) else (s, w)
        return _with_product(w, *pair, kept=0, number=number).mul_(scalar)
    return times_scalar(multiplied(w, s), number * scalar)


def _with_product(x: Tensor, a: Tensor, b: Tensor, kept: float, number: float = 1.0) -> Tensor:
    """kept · x + number · A·B on PyTorch, as one operation; x can be broadcast to its shape."""
    multiply = torch.addmm if a.dim() == 2 else torch.baddbmm
    return multiply(x, a, b, beta=kept, alpha=number)


def square_of_gram(w: Tensor, amount: float | None, factor: float = 1.0) -> tuple[Tensor, Pullback]:
    """factor · Σ ‖G − amount·I‖_F², or for None ‖G ⊙ (1−I)‖_F²."""
    if BACKEND == "torch" and _precision.get() is None and not torch.compiler.is_compiling():
        return _square_of_gram_on_torch(w, amount, factor)
    changed = less(gram(w), amount)
    return square_sum(changed, factor), lambda upstream: multiplied_by(
        w, changed, 4 * factor, upstream
    )


def _square_of_gram_on_torch(
    w: Tensor, amount: float | None, factor: float
) -> tuple[Tensor, Pullback]:
    """With √factor in G from the start, which no operation is for."""
    part = factor**0.5
    pair = (w.mT, w) if is_tall(w) else (w, w.mT)
    g = _with_product(_any_number(w.device, w.dtype), *pair, kept=0, number=part)
    g = less(g, None if amount is None else part * amount)
    entries = g.view(-1)
    return torch.dot(entries, entries), lambda upstream: multiplied_by(w, g, 4 * part, upstream)


@cache
def _any_number(device: Any, dtype: Any) -> Tensor:
    """Of which nothing is taken."""
    return torch.empty((), device=device, dtype=dtype)


_COARSE = ("float16", "bfloat16")  # for sums of squares


def no_penalty(x: Tensor) -> tuple[Tensor, Pullback]:
    """A zero in the dtype in which x is computed, and its gradient."""
    return ops.zeros((), computed_in(x)), lambda _: ops.zeros_like(x)


def computed_in(x: Tensor) -> str:
    """The dtype of what is computed of it."""
    dtype: str = keras.backend.standardize_dtype(x.dtype)
    return "float32" if dtype in _COARSE else dtype


def widened(x: Tensor) -> Tensor:
    """A tensor, in the dtype in which it is computed."""
    if BACKEND == "torch" and x.element_size() > 2:
        return x
    return ops.cast(x, computed_in(x))  # which of TensorFlow's variables makes tensors


def own_scale(x: Tensor, entries: int) -> Tensor:
    """α = √(Σ x²/entries), 1 where that is 0."""
    square = square_sum(x, 1 / entries)
    return ops.sqrt(ops.where(square > 0, square, ops.ones_like(square)))


def over_own_scale(x: Tensor, entries: int) -> Tensor:
    """x/α, whose gradient knows that α moves with x: it is at right angles to x."""

    def compute(x: Tensor) -> tuple[Tensor, Pullback]:
        alpha = own_scale(x, entries)
        scaled = x / alpha

        def pullback(upstream: Tensor) -> Tensor:
            return across(upstream, scaled, entries) / alpha

        return scaled, pullback

    return differentiable(compute, x)


def across(x: Tensor, scaled: Tensor, entries: int) -> Tensor:
    """x without its part along something that was scaled to Σ scaled² = entries."""
    return x - (ops.sum(x * scaled) / entries) * scaled


def times_scalar(x: Tensor, scalar: Tensor) -> Tensor:
    """x · scalar, for an x that nobody else holds."""
    return x.mul_(scalar) if BACKEND == "torch" else x * scalar


def largest_row_sum(g: Tensor) -> Tensor:
    """max Σ|Gᵢⱼ| over the rows of each Gram matrix: at least its largest eigenvalue."""
    if BACKEND == "torch":
        return g.abs().sum(-1).amax(-1)
    return ops.max(ops.sum(ops.abs(g), -1), -1)


def lesser(a: Tensor, b: Tensor) -> Tensor:
    """Of scalars of one dtype."""
    if BACKEND == "torch":  # where Keras's minimum makes float32 of float64
        return torch.minimum(a, b)
    return ops.minimum(a, b)


def at_least_one(x: Tensor) -> Tensor:
    if BACKEND == "torch":
        return x.clamp(min=1.0)
    return ops.maximum(x, ops.ones_like(x))


def towards(w: Tensor, amount: float | None) -> tuple[Tensor, Tensor]:
    """W·(G − amount·I), or for None W·(G ⊙ (1−I)), and bounds of σ_max².

    It is a quarter of the gradient of the squared norm of what W is multiplied with.
    """
    g = gram(w)
    bound = largest_row_sum(g)  # before `less` may write into it
    return multiplied(w, less(g, amount)), bound


# A few vectors at a time: those of the m side of W are kept as columns (…, m, p), those of its
# n side as rows (…, p, n). So every product reads W in the order in which it is stored, which
# takes half as long as the other way round.


def to_long(w: Tensor, v: Tensor) -> Tensor:
    """From vectors of the smaller side to vectors of the larger."""
    return _as_it_is(w, v, False, True) if is_tall(w) else _as_it_is(v, w, True, False)


def to_short(w: Tensor, y: Tensor) -> Tensor:
    """The adjoint: to_short(w, to_long(w, v)) is G applied to v."""
    return _as_it_is(y, w, True, False) if is_tall(w) else _as_it_is(w, y, False, True)


def to_short_less(w: Tensor, y: Tensor, v: Tensor, amount: float) -> Tensor:
    """to_short(w, y) − amount·v; as one operation on PyTorch."""
    if BACKEND == "torch":
        pair = (y.mT, w) if is_tall(w) else (w, y.mT)
        return _with_product(v, *pair, kept=-amount)
    return to_short(w, y) - (v if amount == 1.0 else amount * v)


def outer(w: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Σ y ⊗ v over (long y, short v), in the shape of w: the gradient of Σ ⟨y, to_long(w, v)⟩."""
    columns, rows = -1, -2
    tall = is_tall(w)
    long = _joined([y for y, _ in pairs], columns if tall else rows)
    short = _joined([v for _, v in pairs], rows if tall else columns)
    return long @ short if tall else short @ long


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    if BACKEND != "torch":
        return ops.concatenate(parts, axis)
    return torch.cat(list(parts), axis)


def per_matrix(scalars: Tensor) -> Tensor:
    """(…,) scalars, one for each matrix, ready to multiply matrices."""
    if not len(scalars.shape):
        return scalars
    return ops.expand_dims(ops.expand_dims(scalars, -1), -1)


def norm(x: Tensor) -> Tensor:
    """‖·‖_F of each matrix."""
    if BACKEND == "torch":
        return torch.linalg.vector_norm(x, dim=(-2, -1))
    return ops.sqrt(ops.sum(ops.square(x), None if len(x.shape) == 2 else (-2, -1)))


def share(x: Tensor) -> float:
    """Which part of Σ x² a single operation gives: half of it on TensorFlow, for one matrix."""
    return _SHARE if len(x.shape) == 2 else 1.0


def root(x: Tensor) -> Tensor:
    """√share · ‖·‖_F of each matrix, in fewer operations than the norm itself."""
    return norm(x) if share(x) == 1.0 else ops.sqrt(_square_sum(x))


# Added to a norm before dividing by it: changes no norm that float32 can tell from 0 in practice,
# makes 0/0 a 0, and leaves room for a large upstream gradient.
TINY = 1e-30


def divided(a: Tensor, b: Tensor) -> Tensor:
    """a/b for b ≥ 0, and 0 where both are."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.math.divide_no_nan(a, b)
    return a / (b + TINY)


def rademacher(shape: Sequence[int], seed: Any, dtype: str = "float32") -> Tensor:
    """Independent random signs. `seed` as for `keras.random`: an int or a SeedGenerator."""
    if BACKEND == "torch":
        return _numbers_of_torch("rand", shape, seed, dtype).sub_(0.5).sign_()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        bits = tf.raw_ops.StatelessRandomUniformFullInt(
            shape=shape, seed=_key_of_tensorflow(seed), dtype="int32"
        )
        return tf.sign(tf.cast(bits, dtype))
    import jax

    bits = jax.random.bits(_key(seed), shape, "uint32")
    one, sign = np.float32(1).view("uint32"), np.uint32(1 << 31)
    return ops.cast(jax.lax.bitcast_convert_type(bits & sign | one, "float32"), dtype)


def gaussian(shape: Sequence[int], seed: Any, dtype: str = "float32") -> Tensor:
    """Independent standard normal numbers; arguments as of `rademacher`."""
    if BACKEND == "torch":
        return _numbers_of_torch("randn", shape, seed, dtype)
    if BACKEND == "jax":
        return keras.random.normal(shape, dtype=dtype, seed=seed)
    import tensorflow as tf

    return tf.raw_ops.StatelessRandomNormal(shape=shape, seed=_key_of_tensorflow(seed), dtype=dtype)


def _numbers_of_torch(name: str, shape: Sequence[int], seed: Any, dtype: str) -> Tensor:
    """Those of `keras.random`, which takes several times as long to come to them."""
    device, generator = keras_inside.torch_device(), None
    if device != "meta":  # where Keras only asks for shapes
        is_drawn = isinstance(seed, keras.random.SeedGenerator)
        first, second = seed.next() if is_drawn else (seed, 0)
        generator = torch.Generator(device)
        generator.manual_seed(int(first + second) & 0xFFFFFFFF)
    draw = getattr(torch, name)
    return draw(shape, generator=generator, dtype=getattr(torch, dtype), device=device)


def _key(seed: Any) -> Tensor:
    """What TensorFlow and JAX draw from: Keras's own functions take several times the steps."""
    if isinstance(seed, keras.random.SeedGenerator):
        return seed.next()
    return ops.convert_to_tensor([seed, 0], keras.random.SeedGenerator(0).state.dtype)


def _key_of_tensorflow(seed: Any) -> Tensor:
    return ops.cast(_key(seed), "int32")  # which XLA takes alone
