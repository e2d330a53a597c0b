"""A report drawn with matplotlib: training curves, residuals by depth, spectra before and after."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from orthwrap.errors import ValueFault
from orthwrap.report.about import figure_of
from orthwrap.report.goal_progress import GoalProgress
from orthwrap.report.record import LayerRecord, Report, Training
from orthwrap.text import printable

_OLD, _NEW, _ALSO = "#9aa3ae", "#3f6fe0", "#d9822b"  # read on white and on black
_INK = "#010203"  # no such colour is used: it stands for the page's own
_LOSSES = ("loss", "penalty", "task_loss")
_MOST = 12  # spectra in one figure; of more kernels, those whose residual is largest


def drawing_of(report: Report) -> Any:
    """All that there is to draw, one below the other; see `Report.plot`."""
    drawn = [*panels_of(report), *_spectra(report)]
    if not drawn:
        raise ValueFault("there is nothing to draw: no kernel was measured")
    figure = _figure(9, sum(height for _, height, _ in drawn))
    parts: Any = figure.subfigures(len(drawn), 1, height_ratios=[height for _, height, _ in drawn])
    for (name, _, draw), part in zip(drawn, [parts] if len(drawn) == 1 else parts, strict=True):
        part.suptitle(name, x=0.01, ha="left", fontsize=10, fontweight="bold")
        draw(part)
    return figure


Panel = tuple[str, float, Callable[[Any], None]]
"""What it shows, how high it is in inches, and who draws it into a figure."""


def panels_of(report: Report) -> list[Panel]:
    """Training curves and residuals by depth, those of them that there are."""
    panels: list[Panel] = []
    training = report.training
    if training is not None and any(len(v) > 1 for v in training.history.values()):
        panels.append(("Training curves", 2.6, lambda f: _curves(f, training)))
    measured = [r for r in report.layers if r.before is not None]
    if len(measured) > 1:
        panels.append(("Residual by depth", 2.4, lambda f: _by_depth(f, measured)))
    return panels


def svg_of(panel: Panel) -> str:
    """A panel as an SVG element, without a size of its own, in the page's colour of text."""
    _, height, draw = panel
    figure = _figure(9, height)
    draw(figure)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "orthwrap"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


class Drawing(Figure):
    """A figure that a notebook shows, whether pyplot is loaded there or not."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=110)
        return data.getvalue()


def _figure(width: float, height: float) -> Drawing:
    return Drawing(figsize=(width, height), layout="constrained")


def _dressed(axes: Any, title: str = "", x: str = "", y: str = "") -> None:
    """Axes with little ink, and no name read as mathematics."""
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(_OLD)
    axes.tick_params(which="both", colors=_INK, labelsize=8)
    axes.grid(axis="y", color=_OLD, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=9, loc="left", color=_INK, parse_math=False)
    axes.set_xlabel(x, fontsize=8, color=_INK)
    axes.set_ylabel(y, fontsize=8, color=_INK)


def _logarithmic(axes: Any) -> None:
    """Ticks at 1, 2 and 5, as plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK)


def _curves(figure: Any, training: Training) -> None:
    """Task, penalty and residuals apart, and the first metric beside them."""
    history = training.history
    metrics = [n for n in history if f"val_{n}" in history and n not in _LOSSES]
    wanted = [n for n in ("task_loss", *metrics[:1]) if n in history]
    if any(history.get("penalty", ())):  # a pull leaves none in the loss
        wanted.insert(1, "penalty")
    goal = training.goal if training.goal is not None and training.goal.epochs else None
    row = _row(figure, len(wanted) + (goal is not None))
    for name, axes in zip(wanted, row, strict=False):
        _lines(axes, history, name)
        _dressed(axes, printable(name.replace("_", " ")), "epoch")
        if name == "penalty" and min(history[name]) > 0:
            _logarithmic(axes)
    if goal is not None:
        _residuals(row[-1], goal)
    for axes in row:
        axes.xaxis.get_major_locator().set_params(integer=True)
        if training.kept_epoch:
            axes.axvline(training.kept_epoch, color=_OLD, linewidth=0.8, linestyle=":")
        _legend(axes)


def _residuals(axes: Any, goal: GoalProgress) -> None:
    """What the goal is about: the driven residuals, from before the first step on."""
    starts = tuple(k.start for k in goal.kernels)
    steps = [(0, starts), *((e.epoch, e.residuals) for e in goal.epochs)]
    known = [(n, [v for v in values if math.isfinite(v)]) for n, values in steps]
    known = [(n, values) for n, values in known if values]
    sides: Any = (("largest", max, _NEW), ("median", statistics.median, _ALSO))
    for label, of, colour in sides:
        points = [(n, of(values)) for n, values in known]
        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=".", markersize=4)
    if min(min(values) for _, values in known) > 0:
        _logarithmic(axes)
    _dressed(axes, "residual", "epoch")


def _row(figure: Any, count: int) -> list[Any]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _lines(axes: Any, history: Mapping[str, Sequence[float]], name: str) -> None:
    validation = history.get(f"val_{name}")
    epochs = range(1, len(history[name]) + 1)
    label = "training" if validation else None
    axes.plot(epochs, history[name], color=_NEW, label=label, marker=".", markersize=4)
    if validation and name != "penalty":
        steps = range(1, len(validation) + 1)
        axes.plot(steps, validation, color=_ALSO, label="validation", marker=".", markersize=4)


def _by_depth(figure: Any, measured: Sequence[LayerRecord]) -> None:
    (axes,) = _row(figure, 1)
    sides = {"before": _OLD, "after": _NEW}
    trained = any(r.after is not None for r in measured)
    for when, colour in sides.items():
        points = [(i, figure_of(r, getattr(r, when))) for i, r in enumerate(measured, 1)]
        known = [(i, v) for i, v in points if v is not None and math.isfinite(v)]
        if known:
            label = when if trained else None
            axes.plot(*zip(*known, strict=True), ".", color=colour, label=label, markersize=7)
    values = [v for r in measured for w in sides if (v := figure_of(r, getattr(r, w))) is not None]
    if values and min(values) > 0 and max(values) / min(values) > 20:
        _logarithmic(axes)
    _dressed(axes, x="kernel, from the input on", y="residual")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes)


def _spectra(report: Report) -> list[Panel]:
    found = [r for r in report.layers if r.before is not None and r.before.spectrum]
    worst = sorted(found, key=lambda r: -(figure_of(r, r.before) or 0.0))[:_MOST]
    shown = [r for r in found if r in worst]
    if not shown:
        return []
    rows = math.ceil(len(shown) / 4)
    name = "Singular values" + (f", the {_MOST} worst kernels" if len(found) > _MOST else "")
    return [(name, 0.5 + 1.6 * rows, lambda f: _small_multiples(f, shown, rows))]


def _small_multiples(figure: Any, shown: Sequence[LayerRecord], rows: int) -> None:
    columns = min(len(shown), 4)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    for record, axes in zip(shown, grid, strict=False):
        for when, colour in (("before", _OLD), ("after", _NEW)):
            figures = getattr(record, when)
            if figures is not None and figures.spectrum:
                axes.plot(figures.spectrum, color=colour, label=when)
        _dressed(axes, printable(record.place)[-28:])
        axes.set_ylim(bottom=0)
        axes.set_xticks([])
    if any(r.after is not None for r in shown):
        _legend(grid[0])
