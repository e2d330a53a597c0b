"""Which figure a regularizer is about, and what each figure means in plain words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orthwrap.penalties.penalty import Meaning, Penalty
from orthwrap.penalties.table import PENALTIES
from orthwrap.report.record import Deviation, LayerRecord
from orthwrap.text import listed

RESIDUAL = Meaning(
    "residual",
    "residual",
    "how far a kernel's matrices are from orthonormal, √(‖G−I‖²/r); 0 is orthonormal, below 0.1 "
    "close to it; trained without a regularizer it is often 1 and more",
)
SCALED_RESIDUAL = Meaning(
    "scaled residual",
    "scaled",
    "the residual of W/α, α being the kernel's RMS singular value: how unequal its singular values "
    "are; 0 is all equal, below 0.1 nearly",
)
PRESERVED = Meaning(
    "",
    "",
    "with preserve the residual is that of W/α, α being the kernel's RMS singular value, and with "
    "free too",
)
SIGMAS = Meaning(
    "σ min … max",
    "",
    "by what the kernel as a matrix stretches a vector at least and at most; 1 … 1 is orthonormal",
)
COHERENCE = Meaning(
    "coherence", "", "the largest |cos| between two columns; 0 is at right angles, 1 is parallel"
)
OPERATOR_SIGMAS = Meaning(
    "operator σ",
    "",
    "by what the layer itself, the convolution, stretches an input of any size; 1 … 1 is "
    "orthogonal. The upper end is never below the truth; the lower is the smallest that was found, "
    "below which small inputs with zero padding may lie",
)


def meaning_of(record: LayerRecord) -> Meaning:
    """The figure that a kernel's regularizer is about; the residual where it carries none."""
    penalty = _penalty_of(record)
    if penalty is not None and _own(penalty, record, record.before or record.after) is not None:
        assert penalty.meaning is not None
        return penalty.meaning
    return SCALED_RESIDUAL if record.driven == "scaled_residual" else RESIDUAL


def figure_of(record: LayerRecord, figures: Deviation | None) -> float | None:
    """The value of that figure."""
    if figures is None:
        return None
    penalty = _penalty_of(record)
    own = None if penalty is None else _own(penalty, record, figures)
    value: float = getattr(figures, record.driven) if own is None else own
    return value


def column_of(records: Iterable[LayerRecord]) -> Meaning:
    """What most figures are that the regularizers are about; other rows are tagged."""
    found = Counter(meaning_of(r) for r in records if r.before is not None)
    if not found or set(found) == {RESIDUAL, SCALED_RESIDUAL}:
        return RESIDUAL  # and a line below says of which rows it is the scaled one
    return found.most_common(1)[0][0]


def tag_of(record: LayerRecord, column: Meaning) -> str:
    """Which figure stands in a row, where it is another than its column's; else ""."""
    meaning, alike = meaning_of(record), (RESIDUAL, SCALED_RESIDUAL)
    if record.before is None or meaning == column or (meaning in alike and column in alike):
        return ""
    return meaning.tag


def brought_up(command: str) -> str:
    """What stands above `upgrade_words`."""
    changes_none = command in ("inspect", "check")
    return "Would be brought up to Keras 3" if changes_none else "Brought up to Keras 3"


def upgrade_words(upgrade: Mapping[str, Any]) -> tuple[str, str, str]:
    """(what was old, in which versions, the layers) of one of a report's upgrades."""
    vintage = re.sub(r"-(?=\d)", "–", upgrade["vintage"])  # of a range; not in `2.3.0-tf`
    return upgrade["name"], vintage, listed(list(upgrade.get("layers", ())))


def _penalty_of(record: LayerRecord) -> Penalty | None:
    return None if record.regularizer is None else PENALTIES.get(record.regularizer.name)


def _own(penalty: Penalty, record: LayerRecord, figures: Deviation | None) -> float | None:
    """The value of a penalty that is about something else than the residual."""
    if penalty.meaning is None or figures is None or figures.penalty is None:
        return None
    if record.matrices is None:
        return None
    count, m, n = record.matrices
    if not penalty.own_residual:
        return figures.penalty / count
    r = _operator_rank(record, m, n) if penalty.of_kernel else min(m, n)
    return math.sqrt(max(figures.penalty, 0.0) / (count * r))


def _operator_rank(record: LayerRecord, m: int, n: int) -> int:
    """min(out, in·S^d), of one group."""
    taps = math.prod(record.shape[:-2]) if record.shape is not None else 1
    return min(n, m // taps * math.prod(record.strides))


def meanings_of(records: Iterable[LayerRecord]) -> list[Meaning]:
    """What the figures are that the records' regularizers are about, each once.

    One column holds residuals and scaled ones alike; a line then says which are which.
    """
    found = list(dict.fromkeys(meaning_of(r) for r in records if r.before is not None))
    if RESIDUAL in found and SCALED_RESIDUAL in found:
        others = [m for m in found if m not in (RESIDUAL, SCALED_RESIDUAL)]
        return [RESIDUAL, PRESERVED, *others]
    return found


def legend(meanings: Iterable[Meaning]) -> Iterator[tuple[str, str]]:
    """(word, text) of each, once."""
    yield from dict.fromkeys((meaning.word, meaning.text) for meaning in meanings)
