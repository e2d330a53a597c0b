"""Writes regularizers.md, the list of penalties, from their descriptors."""

from __future__ import annotations

from pathlib import Path

from orthwrap.penalties.penalty import Penalty
from orthwrap.penalties.table import PENALTIES

PAGE = Path(__file__).with_suffix(".md")

HEAD = """# Regularizers

W is a layer's kernel as matrices, fan-in × fan-out (m × n), and G the smaller of WᵀW and WWᵀ. Each
penalty is taken times its factor, and summed over layers. A factor from elsewhere transfers only
where its penalty was written by the same convention: squared or not, summed or averaged, with a ½
or without. This page is made by `make docs`.

| name | times factor | minimum | default factor | convention | options | on outputs |
|---|---|---|---|---|---|---|
"""

SOURCES = """
Every penalty takes `every` and, for depthwise kernels, `across_channels`; all but `lorth` take
`filter_groups`, and on outputs `gram`, `side`, `shape` and `center`.

## Options that make it cheaper

- `every=k` pays for the penalty at one call in k, k times as strong there: once in each k calls, at
  a place among them that is drawn anew, so that each kernel gets its share also where one object
  serves several, and whatever validates in between. In a compiled step on an accelerator, choosing
  takes longer than computing where 4 · m · n · min(m, n) < 3 · 10¹⁰: such a kernel pays at each
  call there, once as strong, which is the same on average. So on convolutions `every` saves next to
  nothing on a GPU with JAX or TensorFlow. A call left out is a 0, on PyTorch without a gradient.
- `estimate=sketch` replaces G by `probes` random signs (8), at a cost linear in the number of
  weights. Its mean is the penalty, so where the penalty itself is cheaper, nothing speaks for it:
  `estimate=auto` takes, kernel by kernel, the penalty itself where min(m, n) ≤ 8 · `probes` on a
  CPU, ≤ 128 · `probes` on an accelerator, and the sketch elsewhere. The report says which.
- `precision=bfloat16` casts the factors of matrix products, of the penalty, of its gradient and of
  its pull, to bfloat16, for an accelerator that multiplies those faster. Sums are in float32 where
  the backend offers that (JAX; PyTorch on a GPU), else the product is rounded to bfloat16 too, and
  all else is computed as before. The thin products of a sketch, which are bound by memory, stay as
  they are. It puts a floor under what is seen: at an orthonormal kernel (256 × 64 to 4608 × 512,
  on a CPU) the residual that the penalty sees was 0.0008–0.0023 on JAX and PyTorch, and 0.003–0.004
  on TensorFlow, in place of 1e-7–3e-7. Reports measure in full. It is about products alone and
  changes no setting of the process; what those do is in [cost.md](cost.md).
- `srip` is σ_max(G−I) to 1e-3 where min(m, n) ≤ 128. Above, it is estimated from below, from a
  Gaussian start, by `steps` products with G−I. On kernels of 576 × 192 to 2304 × 512, random ones
  and ones near orthonormal, estimate over truth was: 1 step 0.34–0.53, 2 (the default) 0.57–0.75,
  5 0.74–0.95, 20 0.91–1.00. Keras calls a regularizer in validation as in training, so the loss of
  a `fit` or `evaluate` of your own has the estimate in its validation too; the report's figures,
  and those on validation data that `apply` and `finetune` show and choose by, are exact.
- `spectral` finds σ_max by the same means: exact, to 4e-4, where min(m, n) ≤ 128, and above by
  `steps` products with G, which cost a pass over the weights each.
- On outputs the same holds of the number of features. Figures on validation data are exact to 1e-3
  up to 1,024 features, by products of G−I with itself.
- Figures on validation data are estimates still, of what draws: on outputs of more than 1,024
  features, of kernels where min(m, n) > 2048, and of kernels in models whose `compute_loss` is
  their own, which may take losses as it likes; there `every` has its chance too.

What draws or counts keeps a seed and a count: such a regularizer is also a
`keras.random.SeedGenerator`, whose state its layer tracks as it tracks that of its dropout. No
weight and no file has it. On JAX, what nobody hands the state to counts nothing: in a `jax.jit` of
your own, probes follow from the kernel's bits, and `every` pays at each call, once as strong.

## With another aim

`spectral` holds the largest singular value alone at `target` (1) and leaves the others free: for
the gain of a layer, not for orthogonality. It pulls up what is below the target, too. Scale `auto`
takes `unit` for it; with `preserve` the target is in units of α.

`band` leaves every singular value free whose square is within `slack` (0.1) of 1, so for σ from
0.949 to 1.049, and with `slack=0` is `so`. It is for layers that exact orthogonality would cost
accuracy, such as recurrent ones. Beside the products of `so` it takes an eigendecomposition of G at
each call, which grows with r³: on 2 CPU cores, at r = 512, loss and gradient took about 1.5
(TensorFlow), 3 (PyTorch) and 5 (JAX) times as long as of `so`. XLA has a slow one: there, which is
where Keras trains on TensorFlow unless told `compile(jit_compile=False)`, it was 5 to 15 times (r
from 64 to 512; 3 s at 512). On an H200 with PyTorch 2.11 it took 0.36 s for ResNet-50's 54 kernels,
where a training step of 128 images took 0.19 s. `every=k` pays at one step in k.

## Whatever the scale: `--scale free`

The penalty is P(W/α) with α = √(tr G/r), the kernel's RMS singular value *as it is at that step*:
of `so`, ‖G/s−I‖² with s = tr G/r. Singular values are driven to be equal, and the task alone
decides at what size. (‖G−sI‖² with the same s would be smallest at W = 0, and shrinks weights.)
The gradient is at right angles to W, finite everywhere, 0 at W = 0. A kernel of several matrices
has one α; for `lorth`, α is the RMS of the convolution's own singular values.

- **For** networks that go on training for long, where the size that a kernel had when the
  regularizer came (`preserve`) or 1 (`unit`) is not the one that it needs later.
- **It costs** a few passes over the weights beside the penalty: on 2 CPU cores with TensorFlow,
  loss and gradient of `so` took 1.1 times as long (kernels of 576 × 64 to 4608 × 512), of its
  sketch, at r = 512, twice as long.
- **Not** where the size matters: for a bound of the gain take `unit`, or `spectral`. As the value
  does not depend on the size of W, its gradient grows as 1/α for a small kernel; weight decay
  beside it then makes the penalty ever stronger. And not on outputs.

A pull leaves α as it is, a goal is of the scaled residual, and the report's `alpha` is null.
Parseval regularization (Chung et al. 2024, arXiv:2412.07224) has a fixed s.

## Groups of filters: `--option filter_groups=N`

The filters of a layer, the last axis of its kernel, in N consecutive groups of equal size. Each is
a matrix of its own, of which the penalties are summed: filters of different groups are free, as in
group orthogonalization (Kurtz, Bar, Giryes 2023, arXiv:2306.10001, the variant that its code calls
`inter`, by the same convention). Each group of a grouped convolution, each head of attention and
each gate of a recurrent layer is split so.

- **For** layers that are normalized in groups, with more filters than inputs (n > m, where no more
  than m filters can be at right angles), and wide ones: the products cost a share of 1/N. Measured
  as above, 4 groups took 0.4 and 0.3 times as long at r = 256 and 512, and 1.6 times at r = 64.
- **Not** where all filters can be at right angles and should be.

The report has one more matrix for each, and `filter_groups` among the regularizer's options. A
kernel whose filters N does not divide is `unsupported`, as are transposed convolutions, whose last
axis is their inputs.

## On outputs

`--on activity` takes what a layer puts out, as Keras's `activity_regularizer`.

By default (`gram=batch`) all of a batch is one matrix A = (samples · positions, features), divided
by the root of its rows, and G = AᵀA. Keras divides what is added by the number of samples in the
batch, so what is added to the loss is factor · P(G) / samples: with batches of 64 a factor weighs
half of what it does with 32.

`--option center=true` takes the mean of each feature off first, over samples and positions, so
that G is the features' covariance C (divided by the number of rows). `offdiag` of it decorrelates
features and is 2 × DeCov, ½(‖C‖² − ‖diag C‖²) (Cogswell et al. 2016, arXiv:1511.06068): for DeCov
with weight w take the factor w/2 · samples. Without it, features with a mean, such as all that
went through a ReLU, count as correlated.

```
$ orthwrap apply model.h5 --target features --on activity --regularizer offdiag --option center=true
```

`--option gram=sample` takes each sample as a matrix A of its own, undivided. What is added to the
loss is factor × the mean of P over the samples, whatever the batch size, the last and smaller
batch included.

- A is (positions, features) of the sample. `shape=3x3` cuts its numbers, in their order, into
  matrices of that shape instead, over which the mean is taken too: the 9 outputs of a PointNet
  transform are one, the (heads, T, T) scores of attention one for each head with `shape=TxT`.
- `side=columns` multiplies AᵀA, `side=rows` AAᵀ; without it, the smaller of both is taken, so that
  0 can be reached. For an attention matrix of r hops over n > r tokens that is AAᵀ. Where lengths
  vary, say which side: its length must be known.

| for | options |
|---|---|
| attention of each sentence, ‖AAᵀ−I‖² | `gram=sample`, `side=rows` |
| orthonormal columns in each sample's output (W, H) | `gram=sample`, `side=columns` |
| a transform K × K from K² outputs | `gram=sample`, `shape=3x3` |

It costs two products for each sample: samples · m · n · min(m, n) multiplications, and as many
Gram matrices in memory. It is not for convolutions' outputs as a rule: m = height · width, and
what is wanted of features there is a statistic of the batch. Padded positions count as any other.

## Sources

"""

OWN = '''
## One of your own

```python
# my_penalties.py
import numpy as np
import orthwrap


def log_barrier(w):
    """Σ (log σ²)² of matrices (count, m, n): both small and large singular values are dear."""
    from keras import ops

    return ops.sum(ops.square(2 * ops.log(ops.svd(w, compute_uv=False))))


orthwrap.register_penalty(
    orthwrap.Penalty(
        name="log_barrier",
        formula="Σ (log σᵢ²)²",
        minimum="0",
        source="ours",
        exact=log_barrier,
        figure=lambda matrices: float(np.sum(np.log(matrices.singular_values**2) ** 2)),
        meaning=orthwrap.Meaning("log barrier", "barrier", "Σ (log σ²)²; 0 is orthonormal"),
    )
)
```

Where that was imported, `log_barrier` works wherever `so` does, in rules and in reports, as
`orthwrap.regularizer("log_barrier")` or `orthwrap.LogBarrier`. The commands import it by name:

```
$ orthwrap apply model.h5 --regularizer log_barrier --custom-objects my_penalties
```

A file that carries it is read, loaded and stripped only where it is registered: `--custom-objects
my_penalties`, or `import my_penalties` in Python. Reports show its figure under its `meaning`, and
the residual where it has none. `help(orthwrap.Penalty)` says what else a penalty can have: options,
an estimate by random probes, a form on outputs. One for everybody is a file like these in
`orthwrap/penalties`, and a line in `table.py` there.
'''


def text() -> str:
    """The page."""
    rows = "".join(f"| {' | '.join(_cells(p))} |\n" for p in PENALTIES.values())
    sources = "".join(f"- `{p.name}`: {p.source}\n" for p in PENALTIES.values())
    return HEAD + rows + SOURCES + sources + OWN


def _cells(penalty: Penalty) -> list[str]:
    options = ", ".join(f"`{option.name}`" for option in penalty.special_options)
    cells = [
        f"`{penalty.name}`",
        penalty.formula,
        penalty.minimum,
        f"{penalty.default_factor:g}",
        penalty.convention,
        options or "–",
        "no" if penalty.on_outputs is None else "yes",
    ]
    return [cell.replace("|", "\\|") for cell in cells]


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
