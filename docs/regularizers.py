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

OWN = """
Every penalty takes `every` and, for depthwise kernels, `across_channels`.

## Sources

"""


def text() -> str:
    """The page."""
    rows = "".join(f"| {' | '.join(_cells(p))} |\n" for p in PENALTIES.values())
    return HEAD + rows + OWN + "".join(f"- `{p.name}`: {p.source}\n" for p in PENALTIES.values())


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
