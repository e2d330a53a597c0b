"""What penalties and constraints cost, on a screen: a training step, and what of it each takes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from orthwrap.report.cost_record import BenchReport, Cost
from orthwrap.report.signs import Text
from orthwrap.text import counted

_CHEAP, _DEAR = 0.05, 0.20  # shares of a step
_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
_ROOM = 96  # columns from which half of the rounds have one of their own


def cost_parts(report: BenchReport, table: Table, width: int) -> Sequence[RenderableType]:
    """What to show of it, below its head; `table` is an empty one."""
    wide = width >= _ROOM
    table.add_column("penalty", no_wrap=True)
    table.add_column("had as", no_wrap=True)
    for heading in ("kernels", "time", "of a step", *(["half of the rounds"] if wide else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    last = ""
    for row in report.rows:
        name = "" if row.regularizer == last else row.regularizer
        table.add_row(Text(name, style="bold"), row.how, *_cells(row, report, wide))
        last = row.regularizer
    for held in report.constraints:
        table.add_row(Text(held.constrain, style="bold"), "held", *_cells(held, report, wide))
    return [_step(report), table, _foot(report)]


def _step(report: BenchReport) -> RenderableType:
    step = report.step
    head = Text("one training step takes ")
    head.append(time_text(step.median), "bold green")
    head.append(f" ({time_text(step.low)} … {time_text(step.high)})", "dim")
    backend = _BACKENDS.get(report.backend, report.backend)
    version = report.versions.get(report.backend, "")
    count, kind = report.device["count"], report.device["kind"]
    many = f", {counted(count, 'core')}" if kind == "cpu" else ""
    many = f", {count} of them" if not many and count > 1 else many
    lines = [
        f"{report.device['name']}{many} · {backend} {version}".rstrip(),
        f"batch {report.batch} · {report.precision} · {report.loss}",
    ]
    return Group(head, *(Text(line, style="dim") for line in lines))


def _cells(row: Cost, report: BenchReport, wide: bool) -> list[Text]:
    few = row.kernels < report.kernels
    style = "green" if row.share <= _CHEAP else "yellow" if row.share > _DEAR else ""
    spread = f"{share_text(row.share_low)} … {share_text(row.share_high)}"
    return [
        Text(str(row.kernels), style="yellow" if few else "dim"),
        Text(time_text(row.seconds)),
        Text(share_text(row.share), style=style),
        *([Text(spread, style="dim")] if wide else []),
    ]


def _foot(report: BenchReport) -> RenderableType:
    count, weights = report.kernels, report.parameters
    kernels = f"{counted(count, 'kernel')} of {weights:,} weights"
    beside = ["loss and gradient"] if report.rows else []
    beside += ["kernels a step of 0.001 away, held"] if report.constraints else []
    where = f"{', or '.join(beside)}, beside a step"
    where = "each within a step of its own" if report.whole else where
    rounds = f"median of {report.rounds} rounds in turn"
    lines = [Text(f"{kernels}; {where}; {rounds}", style="dim")]
    if report.left_out:
        names = _in_short(report.left_out)
        lines.append(Text(f"no time for {names}: give more with --seconds", style="yellow"))
    return Group(*lines)


def _in_short(names: Sequence[str]) -> str:
    """`so (sketch, pulled), dso, mc`: each penalty once."""
    ways: dict[str, list[str]] = {}
    for name in names:
        penalty, _, how = name.partition(", ")
        ways.setdefault(penalty, []).append(how)
    return ", ".join(
        penalty if hows[0] in ("exact", "held") else f"{penalty} ({', '.join(hows)})"
        for penalty, hows in ways.items()
    )


def time_text(seconds: float) -> str:
    """`24.1 ms`, `1.35 s`."""
    if seconds >= 1:
        return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:,.0f} s"
    return f"{1e3 * seconds:.2f} ms" if seconds < 0.01 else f"{1e3 * seconds:.1f} ms"


def share_text(share: float) -> str:
    """`4.9 %`"""
    return (
        f"{share:.2%}" if share < 0.00995 else f"{share:.1%}" if share < 0.995 else f"{share:.0%}"
    )
