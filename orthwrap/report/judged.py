"""The end of a training on a screen: the verdict, and runs beside the first one."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from orthwrap.report.beside import Repeats, Spread
from orthwrap.report.record import Training
from orthwrap.report.signs import Text
from orthwrap.report.verdict import Verdict, division, figure


def judged(verdict: Verdict) -> RenderableType:
    """The verdict in a line, what to do next, and what to be warned of."""
    style = "bold yellow" if verdict.fails else "bold green"
    lines = [Text(verdict.line, style=style)]
    if verdict.next_step:
        lines.append(Text.assemble(("next: ", "bold"), verdict.next_step))
    lines += [Text.assemble(("WARNING: ", "bold red"), (w, "bold")) for w in verdict.warnings]
    return Group(*lines)


AT_WHICH_FACTORS = "before is at the first factors of the schedule, after at its last"


def arrived(training: Training) -> str:
    """When every kernel was first at the goal; "" where there was none, or it was not reached."""
    first = None if training.goal is None else training.goal.first_reached
    if first is None:
        return ""
    seconds = f"{first.seconds:.1f}" if first.seconds < 10 else f"{first.seconds:,.0f}"
    return f", at the goal after {first.epoch} ({seconds} s)"


def kept(training: Training) -> str:
    """Why the epoch that is kept is not the last one; "" where it is."""
    if training.kept_epoch == training.epochs:
        return ""
    why = "the best"
    if training.keep == "best" and training.verdict is not None:
        task = training.verdict.task
        why = "the most orthogonal" + (" one within the task's margin" if task else "")
        why = "which lost least of the task" if task is not None and task.lost else why
    return f"; the weights are those of epoch {training.kept_epoch}, {why}"


def with_repeats(repeats: Repeats, table: Table) -> RenderableType:
    """The runs of several seeds, and their spread.

    Args:
        table: empty, as all tables of a report look.
    """
    tasks = [run.verdict.task for run in repeats.runs]
    name = next((task.name.replace("_", " ") for task in tasks if task), "task")
    columns = ["original", "control", "orthogonal"]
    columns = [c for c in columns if c != "control" or repeats.spread["control"]]
    table.add_column("seed")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("median", justify="right")
    table.add_column("worst")
    for run in repeats.runs:
        task, worst = run.verdict.task, run.verdict.worst
        values = {} if task is None else {"original": task.original, "control": task.control}
        values["orthogonal"] = None if task is None else task.after
        numbers = (values.get(c) for c in columns)
        median = run.verdict.median
        table.add_row(
            str(run.seed),
            *("–" if n is None else figure(n) for n in numbers),
            "–" if median is None else division(median),
            "–" if worst is None else f"{division(worst.division or 0.0)} {worst.path}",
        )
    spread = repeats.spread
    keys = {"original": "original", "control": "control", "orthogonal": "after"}
    least = spread["worst_division"]
    middle = spread["median_division"]
    table.add_row(
        "mean",
        *(_mean(spread[keys[c]]) for c in columns),
        "–" if middle is None else division(middle.mean),
        "–" if least is None else f"{division(least.least)} to {division(least.most)}",
        style="bold",
    )
    count = len(repeats.runs)
    head = Text(f"{name} and divisions of residuals over {count} seeds", style="bold")
    return Group(head, table)


def _mean(spread: Spread | None) -> str:
    return "–" if spread is None else f"{figure(spread.mean)} ± {spread.deviation:.2g}"
