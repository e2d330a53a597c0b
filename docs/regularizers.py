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
    )
)
```

Where that was imported, `log_barrier` works wherever `so` does, in rules and in reports, as
`orthwrap.regularizer("log_barrier")` or `orthwrap.LogBarrier`. The commands import it by name:

```
$ orthwrap apply model.h5 --regularizer log_barrier --custom-objects my_penalties
```

A file that carries it is read, loaded and stripped only where it is registered: `--custom-objects
my_penalties`, or `import my_penalties` in Python. `help(orthwrap.Penalty)` says what else a penalty
can have: options, an estimate by random probes, a form on outputs. One for everybody is a file like
these in `orthwrap/penalties`, and a line in `table.py` there.
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
