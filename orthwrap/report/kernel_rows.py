"""The kernels of a report as rows of a table: a page's, a notebook's, a screen's. Data alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orthwrap.penalties.conv_operator import OperatorFigures
from orthwrap.penalties.penalty import Meaning
from orthwrap.plan.decision import ALREADY, EXCLUDED, KEPT, NOT_SELECTED
from orthwrap.report.about import column_of, figure_of, tag_of
from orthwrap.report.record import Comparison, Deviation, LayerRecord, place_of

_TEXTS = ("layer", "shape", "weights", "regularizer", "spectrum", "why")
COMPARED = ("layer", "shape", "weights", "regularizer", "residual")
CHOOSE_NONE = ("inspect", "finetune", "check")  # commands that show what is there
NOTHING = "–"
SPARK = (96.0, 34.0)  # how wide and high a spectrum is drawn


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what it says; of a figure that moved, what it was.
        kind: its class.
        key: what it is sorted by; None where that is its text.
        name: what it is called where there is no heading.
        after: what the figure is now, and
        moved: `"down"` or `"up"`.
        lines: (class, path) of a drawing in place of a text.
    """

    text: str
    kind: str = ""
    key: Any = None
    name: str = ""
    after: str = ""
    moved: str = ""
    lines: tuple[tuple[str, str], ...] = field(default=())


def is_of_numbers(column: str) -> bool:
    """Whether a column of either kind of report holds numbers."""
    return column not in _TEXTS


def is_quiet(record: LayerRecord) -> bool:
    """Whether it was left alone, and nobody asked for its figures."""
    return record.decision in (NOT_SELECTED, EXCLUDED) and record.before is None


@dataclass(frozen=True)
class KernelTable:
    """A table with a row for each kernel.

    Attributes:
        command: whose report it is.
        figure: what the column of figures is.
        has_operator: whether somebody asked for figures of the operators.
    """

    command: str
    figure: Meaning
    has_operator: bool

    @classmethod
    def of(cls, layers: Sequence[LayerRecord], command: str) -> KernelTable:
        asked = any(r.before is not None and r.before.operator is not None for r in layers)
        return cls(command, column_of(layers), asked)

    @property
    def columns(self) -> tuple[str, ...]:
        operator = ["operator σ"] if self.has_operator else []
        numbers = [self.figure.word, "σ min … max", *operator, "condition", "coherence"]
        return ("layer", "shape", "regularizer", *numbers, "spectrum", "why")

    def cells(self, record: LayerRecord) -> Iterator[Cell]:
        """One for each column."""
        last = record.after or record.before
        yield Cell(record.kernel_place, "name", record.kernel_place)
        yield Cell(_shape(record.shape), name="shape")
        held = " ".join(words for words, _ in carried(record, self.command))
        yield Cell(held, "carried", name="regularizer" if held == NOTHING else "")
        before, after = (figure_of(record, f) for f in (record.before, record.after))
        moved, tag = _moved(self.figure.word, before, after), tag_of(record, self.figure)
        yield replace(moved, text=f"{tag} {moved.text}") if tag else moved
        yield _range("σ", None if last is None else last.sigma_max, sigma_range(last))
        if self.has_operator:
            found = None if last is None else last.operator
            high = None if found is None else found.norm_upper
            yield _range("operator σ", high, operator_range(found))
        yield _number("condition", None if last is None else last.worst_condition)
        yield _number("coherence", None if last is None else last.coherence)
        yield Cell("", "spectrum", key="", lines=_spectra(record))
        yield Cell(record.reason, "why")


def compared_cells_of(row: Comparison) -> Iterator[Cell]:
    """One for each of `COMPARED`."""
    yield Cell(place_of(row.path, row.slot), "name")
    yield Cell(_shape(row.shape_after or row.shape_before), name="shape")
    change = f" {row.weight_change:.2%}" if row.status == "changed" and row.weight_change else ""
    yield Cell(f"{row.status}{change}")
    yield Cell(" → ".join(dict.fromkeys(row.words)), "carried")
    yield _moved("residual", *row.residuals)


def carried(record: LayerRecord, command: str) -> list[tuple[str, str]]:
    """What a kernel carries, or what was decided instead.

    Returns:
        Pieces that stand beside one another, each with its kind: `"what"`, `"aside"` or `"frozen"`.
    """
    pieces = [(_decided(record, command), "what")]
    if record.regularizer is not None:
        r = record.regularizer
        pieces = [(f"{r.name} {r.factor:.3g}", "what")]
        pieces += [(r.words, "aside")] if r.words else []
        pieces += [(f"+ {r.combined_with}", "aside")] if r.combined_with else []
        if record.decision == ALREADY and command not in CHOOSE_NONE:
            pieces.append(("already", "aside"))
    if record.constraint is not None:
        pieces = pieces if record.regularizer is not None else []
        pieces.append((f"held {record.constraint}", "what"))
    if record.trainable:
        return pieces
    return [*(p for p in pieces if p[0] != NOTHING), ("frozen", "frozen")]


def _decided(record: LayerRecord, command: str) -> str:
    if command in CHOOSE_NONE and record.decision == NOT_SELECTED:
        return NOTHING
    if record.decision == KEPT and record.foreign is not None:
        return record.foreign if command in CHOOSE_NONE else f"kept {record.foreign}"
    return record.decision.replace("_", " ")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else "×".join(map(str, shape))


def _moved(name: str, before: float | None, after: float | None) -> Cell:
    if before is None or after is None:
        return _number(name, before)
    key, moved = f"{after:.6g}", "down" if after <= before else "up"
    return Cell(f"{before:.3g}", "n", key, name, f"{after:.3g}", moved)


def _range(name: str, high: float | None, text: str) -> Cell:
    return Cell(text, "n", f"{high:.6g}" if text else "", name)


def sigma_range(figures: Deviation | None) -> str:
    """The least and the largest singular value, to two digits; "" where there is none."""
    if figures is None or figures.sigma_max is None:
        return ""
    low = "?" if figures.sigma_min is None else f"{figures.sigma_min:.2f}"
    return f"{low} … {figures.sigma_max:.2f}"


def operator_range(operator: OperatorFigures | None) -> str:
    """The same of a convolution, whose upper end is a bound and stays one."""
    if operator is None or not math.isfinite(operator.norm_upper):
        return ""
    low = "?" if operator.sigma_min is None else f"{operator.sigma_min:.2f}"
    return f"{low} … {rounded_up(operator.norm_upper)}"


def rounded_up(bound: float) -> str:
    """To two digits behind the point, of a large one to four in all, and never below it."""
    digits = 2 if bound < 1e6 else 3 - math.floor(math.log10(bound))
    up = math.ceil(bound * 10.0**digits - 1e-3) / 10.0**digits
    return f"{up:.2f}" if digits == 2 else f"{up:.4g}"


def _number(name: str, value: float | None) -> Cell:
    if value is None:
        return Cell("", "n", key="", name=name)
    if math.isinf(value):
        return Cell("∞", "n", "Infinity", name)
    return Cell(f"{value:.3g}", "n", f"{value:.6g}", name)


def _spectra(record: LayerRecord) -> tuple[tuple[str, str], ...]:
    """Paths of the spectra, and of what they are driven to, from 0 at the foot."""
    sides: Mapping[str, Deviation | None] = {"old": record.before, "new": record.after}
    if record.after is None:
        sides = {"new": record.before}
    spectra = {kind: f.spectrum for kind, f in sides.items() if f is not None and f.spectrum}
    last = sides["new"]
    if last is None or not spectra or not all(map(math.isfinite, sum(spectra.values(), ()))):
        return ()
    width, height = SPARK
    aim = last.scale if record.driven == "scaled_residual" else 1.0
    top = max(aim, *map(max, spectra.values())) * 1.08

    def at(value: float) -> str:
        return f"{height * (1 - value / top):.1f}"

    paths = [("aim", f"M0 {at(aim)}H{width:.0f}")]
    for kind, spectrum in spectra.items():
        step = width / max(len(spectrum) - 1, 1)
        points = " ".join(f"{i * step:.1f} {at(v)}" for i, v in enumerate(spectrum))
        end = f"H{width:.0f}" if len(spectrum) == 1 else ""
        paths.append((kind, f"M{points}{end}"))
    return tuple(paths)
