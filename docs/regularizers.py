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
Every penalty takes `every` and, for depthwise kernels, `across_channels`.

## Options that make it cheaper

- `every=k` pays for the penalty at one call in k, k times as strong there: once in each k calls, at
  a place among them that is drawn anew, so that each kernel gets its share also where one object
  serves several, and whatever validates in between.
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
  validation has the estimate too; the report's figures are exact.
- `spectral` finds σ_max by the same means: exact, to 4e-4, where min(m, n) ≤ 128, and above by
  `steps` products with G, which cost a pass over the weights each.

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
from 64 to 512; 3 s at 512). On a GPU it has not been measured. `every=k` pays at one step in k.

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
