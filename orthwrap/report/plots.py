"""A report drawn with matplotlib: training curves, residuals by depth, spectra before and after."""

from __future__ import annotations

import functools
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
_LONGEST = 23  # characters above a spectrum
_MOST = 12  # spectra in one figure; of more kernels, those whose residual is largest


Draw = Callable[[Any], None]
"""Draws into axes."""


@dataclass(frozen=True)
class Panel:
    """What is shown under one heading.

    Attributes:
        name: the heading.
        height: of one row, in inches.
        draws: each has axes of its own.
        columns: how many of them stand beside one another.
    """

    name: str
    height: float
    draws: Sequence[Draw]
    columns: int

    @property
    def rows(self) -> int:
        return math.ceil(len(self.draws) / self.columns)

    def draw(self, figure: Any) -> None:
        """All of them, in one figure."""
        grid = figure.subplots(self.rows, self.columns, squeeze=False).ravel()
        for axes in grid[len(self.draws) :]:
            axes.set_visible(False)
        for draw, axes in zip(self.draws, grid, strict=False):
            draw(axes)


def drawing_of(report: Report) -> Any:
    """All that there is to draw, one below the other; see `Report.plot`."""
    panels = [*panels_of(report), *_spectra(report)]
    if not panels:
        raise ValueFault("there is nothing to draw: no kernel was measured")
    heights = [panel.rows * panel.height for panel in panels]
    figure = _figure(9, sum(heights))
    parts: Any = figure.subfigures(len(panels), 1, height_ratios=heights)
    for panel, part in zip(panels, [parts] if len(panels) == 1 else parts, strict=True):
        part.suptitle(panel.name, x=0.01, ha="left", fontsize=10, fontweight="bold")
        panel.draw(part)
    return figure


def panels_of(report: Report) -> list[Panel]:
    """Training curves and residuals by depth, those of them that there are."""
    panels: list[Panel] = []
    training = report.training
    if training is not None and any(len(v) > 1 for v in training.history.values()):
        draws = _curves(training)
        panels.append(Panel("Training curves", 2.6, draws, len(draws)))
    measured = [r for r in report.layers if r.before is not None]
    if len(measured) > 1:
        panels.append(Panel("Residual by depth", 2.4, [lambda axes: _by_depth(axes, measured)], 1))
    return panels


def svgs_of(panel: Panel) -> list[str]:
    """An SVG element for each of its axes, with no size of its own, in the page's colour of text.

    Where there is little room, they can stand below one another.
    """
    return [_svg_of(draw, 9 / panel.columns, panel.height) for draw in panel.draws]


def _svg_of(draw: Draw, width: float, height: float) -> str:
    figure = _figure(width, height)
    draw(figure.subplots())
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


def _curves(training: Training) -> list[Draw]:
    """Task, penalty and residuals apart, and the first metric beside them."""
    history = training.history
    metrics = [n for n in history if f"val_{n}" in history and n not in _LOSSES]
    wanted = [n for n in ("task_loss", *metrics[:1]) if n in history]
    if any(history.get("penalty", ())):  # a pull leaves none in the loss
        wanted.insert(1, "penalty")
    draws: list[Draw] = [functools.partial(_lines, history=history, name=name) for name in wanted]
    if training.goal is not None and training.goal.epochs:
        draws.append(functools.partial(_residuals, goal=training.goal))

    def by_epoch(draw: Draw, axes: Any) -> None:
        draw(axes)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if training.kept_epoch:
            axes.axvline(training.kept_epoch, color=_OLD, linewidth=0.8, linestyle=":")
        _legend(axes)

    return [functools.partial(by_epoch, draw) for draw in draws]


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


def _lines(axes: Any, history: Mapping[str, Sequence[float]], name: str) -> None:
    validation = history.get(f"val_{name}")
    epochs = range(1, len(history[name]) + 1)
    label = "training" if validation else None
    axes.plot(epochs, history[name], color=_NEW, label=label, marker=".", markersize=4)
    if validation and name != "penalty":
        steps = range(1, len(validation) + 1)
        axes.plot(steps, validation, color=_ALSO, label="validation", marker=".", markersize=4)
    _dressed(axes, printable(name.replace("_", " ")), "epoch")
    if name == "penalty" and min(history[name]) > 0:
        _logarithmic(axes)


def _by_depth(axes: Any, measured: Sequence[LayerRecord]) -> None:
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
    name = "Singular values" + (f", the {_MOST} worst kernels" if len(found) > _MOST else "")
    columns = min(len(shown), 4)
    height = 1.6 + 0.5 / math.ceil(len(shown) / columns)
    trained = any(r.after is not None for r in shown)

    def draw(axes: Any, record: LayerRecord) -> None:
        _spectrum(axes, record)
        if trained and record is shown[0]:
            _legend(axes)

    draws = [functools.partial(draw, record=record) for record in shown]
    return [Panel(name, height, draws, columns)]


def _spectrum(axes: Any, record: LayerRecord) -> None:
    for when, colour in (("before", _OLD), ("after", _NEW)):
        figures = getattr(record, when)
        if figures is not None and figures.spectrum:
            axes.plot(figures.spectrum, color=colour, label=when)
    name = printable(record.place)
    _dressed(axes, name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}")
    axes.set_ylim(bottom=0)
    axes.set_xticks([])
