"""Writes performance.md and its chart from what `make bench` leaves in benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_suffix(".md")
CHART = PAGE.parent / "images" / "performance.png"
RESULTS = PAGE.parents[1] / "benchmarks" / "results" / "files.json"

HEAD = """# Performance

What the commands cost on files, held against a script that does the same with Keras alone: it loads
the model, clones it with regularizers, and saves it. Whole processes are timed, in turn with their
yardstick; a *ratio* is the median over rounds, and says more than seconds do, for these are of a
machine that others used too. Made from `benchmarks/results/files.json` by `python
docs/performance.py`; `make bench` measures anew.

![Seconds of each way](images/performance.png)
"""

TAIL = """
## Training

An epoch with a goal takes about as long as one without
([measured](finetuning.md#what-it-comes-to)).
What a penalty costs depends on how large the kernels are against the batch: loss and gradient of
`so` are two matrix products for each kernel and step, whatever the batch. `make bench` times every
penalty against them, and against automatic differentiation of the one-liner.
"""


def text(found: dict[str, Any]) -> str:
    """The page."""
    return "\n".join([HEAD, *_tables(found["rows"]), *_machine(found["machine"]), TAIL])


def _tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    for section, members in groupby(rows, key=lambda row: row["section"]):
        yield f"## {section}\n\n| | | ratio |\n|---|---|---|"
        for row in members:
            ratio = "–" if row["ratio"] is None else f"{row['ratio']:.3f}"
            yield f"| {row['name']} | {_short(row['value'])} {row['unit']} | {ratio} |"
        yield ""


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _machine(host: dict[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {host[name]}" for name in ("python", "keras", "tensorflow"))
    yield f"On {host['cpu']}, {host['cores']} cores; {versions}; load {host['load'][0]:.0f}."


def chart(rows: list[dict[str, Any]]) -> None:
    """Seconds, a bar for each row that has them."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"font.size": 9})
    timed = [row for row in rows if row["unit"] == "s"]
    names = [f"{row['section'].split(', ')[0]} {_format(row)}: {row['name']}" for row in timed]
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(timed) + 0.8))
    colours = ["tab:gray" if row["name"].startswith("Keras") else "tab:blue" for row in timed]
    bars = axes.barh(names, [row["value"] for row in timed], color=colours)
    axes.bar_label(bars, [f"{row['value']:.2g} s" for row in timed], padding=3)
    axes.margins(x=0.1)
    axes.invert_yaxis()
    axes.set_xlabel("seconds, whole process (gray: a script with Keras alone)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(CHART, dpi=110, metadata={"Software": None})


def _format(row: dict[str, Any]) -> str:
    return next((word.rstrip(",") for word in row["section"].split() if word.startswith(".")), "")


if __name__ == "__main__":
    measured = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(text(measured), encoding="utf-8")
    chart(measured["rows"])
