"""Makes docs/cost.md of what lies in results/: counts of operations, and costs beside a step.

python benchmarks/cost_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orthwrap.report.cost_record import BenchReport
from orthwrap.report.cost_table import share_text, time_text

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "cost.md"
BACKENDS = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow"}

HEAD = """# What penalties cost

A penalty's cost is a share of your training step, which depends on model, batch, device and
backend. Measure it on yours:

```
orthwrap bench model.keras --batch 128
orthwrap bench model.keras --batch 128 --regularizer so --whole
```

or `orthwrap.bench(model, batch=128)` in Python. Each penalty, and each way of having it cheaper, is
measured in turn with the model's own training step on a batch that is made up, in one process:
the time that its loss and gradient take, less what a call of the same kernels takes that computes
nothing. Within a step a device may do some of that beside the rest: `--whole` measures each
within a step of its own, which is compiled for it. So are [constraints](constraints.md), with
`--constrain orthogonal`, on kernels that they have held and that a step of 0.001 has moved.
`--seconds` (60) bounds all that. On JAX with an accelerator each call does its work several times
over, since handing out its results would take longer than computing them.

This page is made by `benchmarks/cost_page.py` from what lies in `benchmarks/results`.
"""

OPERATIONS = """
## Operations

On an accelerator, and wherever a backend dispatches each operation on its own, their number is the
cost. Of loss and gradient, for each of ResNet-50's 54 kernels: what PyTorch dispatches, the
equations of JAX's program, the nodes that TensorFlow's graph needs. The one-liner is
`sum(square(W.T @ W - eye))` with the backend's own gradient. On a CPU, large symmetric products are
taken as halves, which is more operations and less time. No step calls the host back, whatever
the penalty and its options.

"""

KERNELS = """
## Against the one-liner

Loss and gradient of all kernels of a model, as multiples of what the one-liner takes: medians of
rounds in which each is measured in turn.

"""

STEPS = """
## Beside a training step

"""

NO_GPU = """No figures of a GPU are here: none was at hand. `benchmarks/gpu.sh` measures on one,
in at most 8 minutes, on JAX and PyTorch, and puts them here.

"""

SETTINGS = """
## Settings of the process

orthwrap changes none of them. Those that decide how products in float32 are computed on a GPU are
the backends' own:

- **TF32** (a 10-bit mantissa): TensorFlow uses it unless told
  `tf.config.experimental.enable_tensor_float_32_execution(False)`; JAX too, unless
  `jax.config.update("jax_default_matmul_precision", "highest")`; PyTorch does not, unless
  `torch.set_float32_matmul_precision("high")`. It is for the whole process, your layers included.
- **bfloat16** for the products of a penalty alone: `--option precision=bfloat16`, see
  [regularizers.md](regularizers.md).
- **XLA on TensorFlow**: Keras compiles steps with it unless told `compile(jit_compile=False)`. On a
  CPU it multiplies large matrices no faster, and compiles for long.
"""


def operations() -> str:
    """The table of counts, in which each column is a backend, on a CPU or not."""
    told = {b: _read(RESULTS / f"operations-{b}.json") for b in BACKENDS}
    columns = {
        f"{BACKENDS[b]}{'' if kind == 'accelerator' else ', CPU'}": each
        for b, data in told.items()
        if data
        for kind, each in data["each"].items()
    }
    if not columns:
        return ""
    rows = [["", *columns], ["---", *["---:"] * len(columns)]]
    rows += [
        [f"`{name}`", *(f"{each[name]:.1f}" for each in columns.values())]
        for name in next(iter(columns.values()))
    ]
    return OPERATIONS + _table(rows)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def kernels() -> str:
    """The table against the one-liner, in which each column is a report."""
    reports = [_read(p) for p in sorted(RESULTS.glob("kernels-*.json"))]
    if not reports:
        return ""
    heads, columns = [], []
    for told in reports:
        name = told["backend"]
        version = told["versions"].get(name, "")
        first = told["rows"][0]["seconds"]["median"]
        heads.append(
            f"{told['model']}, {BACKENDS[name]} {version}, {told['device']['name']}"
            f" (one-liner {time_text(first)})"
        )
        columns.append({row["name"]: f"{row['ratio']['median']:.2f}" for row in told["rows"]})
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [["", *heads], ["---", *["---:"] * len(heads)]]
    rows += [[f"`{name}`", *(column.get(name, "–") for column in columns)] for name in names]
    return KERNELS + _table(rows)


def steps() -> str:
    """A section for each report."""
    reports = [(p.stem, _read(p)) for p in sorted(RESULTS.glob("steps-*.json"))]
    parts = [STEPS]
    if not any(data["device"]["kind"] == "accelerator" for _, data in reports):
        parts.append(NO_GPU)
    parts += [_section(name, BenchReport.from_json(data)) for name, data in reports]
    return "".join(parts)


def _section(name: str, report: BenchReport) -> str:
    device = report.device
    many = f", {device['count']} cores" if device["kind"] == "cpu" else ""
    version = report.versions.get(report.backend, "")
    backend = f"{BACKENDS[report.backend]} {version}, Keras {report.versions.get('keras', '')}"
    model = name.split("-")[2]
    where = "each within a step of its own" if report.whole else "beside the step"
    facts = (
        f"`{model}`, {report.kernels} kernels of {report.parameters:,} weights, batch "
        f"{report.batch}, {report.precision}: one step {time_text(report.step.median)} "
        f"({time_text(report.step.low)} to {time_text(report.step.high)}), {where}, median of "
        f"{report.rounds} rounds. {device['name']}{many}; {backend}.\n\n"
    )
    rows = [["penalty", "had as", "time", "of a step", "half of the rounds"], _RIGHT]
    for row in report.rows:
        spread = f"{share_text(row.share_low)} to {share_text(row.share_high)}"
        figures = [time_text(row.seconds), share_text(row.share), spread]
        rows.append([f"`{row.regularizer}`", row.how, *figures])
    for held in report.constraints:
        spread = f"{share_text(held.share_low)} to {share_text(held.share_high)}"
        rows.append(
            [f"`{held.constrain}`", "held", time_text(held.seconds), share_text(held.share), spread]
        )
    notes = "".join(f"{note}\n\n" for note in report.warnings)
    return facts + notes + _table(rows) + "\n"


_RIGHT = ["---", "---", "---:", "---:", "---:"]


def _table(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    PAGE.write_text(HEAD + operations() + kernels() + steps() + SETTINGS, encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
