"""Which figure a regularizer is about, and what each figure means in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orthwrap.penalties.table import PENALTIES
from orthwrap.report.record import Deviation, LayerRecord


@dataclass(frozen=True)
class Meaning:
    """A figure in plain words.

    Attributes:
        word: what a table calls it.
        tag: the same, where a row has another figure than its column.
        text: what it is, and what a good value is.
    """

    word: str
    tag: str
    text: str


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
    "with preserve and free the residual is that of W/α, α being the kernel's RMS singular value",
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
OPERATOR_RESIDUAL = Meaning(
    "operator residual",
    "operator",
    "how far the convolution itself is from orthogonal, what lorth drives to 0; below 0.1 is close",
)
_ABOUT = {
    "lorth": OPERATOR_RESIDUAL,
    "offdiag": Meaning(
        "off-diagonal residual",
        "off-diagonal",
        "the residual without the lengths of the columns; 0 is at right angles",
    ),
    "mc": Meaning("largest deviation", "largest", "the largest entry of |G−I|; 0 is orthonormal"),
    "srip": Meaning(
        "spectral deviation", "spectral", "the largest |σ²−1|, as srip finds it; 0 is orthonormal"
    ),
    "cosine": Meaning(
        "mean |cos|", "mean |cos|", "between pairs of columns; 0 is at right angles, 1 is parallel"
    ),
    "spectral": Meaning(
        "(σ_max−t)²", "(σ_max−t)²", "how far the largest singular value is from its target, squared"
    ),
    "band": Meaning(
        "outside band", "band", "Σ max(0, |σ²−1|−ε)²; 0: each singular value lies within its band"
    ),
}


def meaning_of(record: LayerRecord) -> Meaning:
    """The figure that a kernel's regularizer is about; the residual where it carries none."""
    if _own(record, record.before or record.after) is not None:
        assert record.regularizer is not None
        return _ABOUT[record.regularizer.name]
    return SCALED_RESIDUAL if record.driven == "scaled_residual" else RESIDUAL


def figure_of(record: LayerRecord, figures: Deviation | None) -> float | None:
    """The value of that figure."""
    if figures is None:
        return None
    own = _own(record, figures)
    value: float = getattr(figures, record.driven) if own is None else own
    return value


def _own(record: LayerRecord, figures: Deviation | None) -> float | None:
    """The value of a regularizer that is about something else than the residual."""
    name = None if record.regularizer is None else record.regularizer.name
    if name not in _ABOUT or figures is None or figures.penalty is None or record.matrices is None:
        return None
    count, m, n = record.matrices
    if not PENALTIES[name].own_residual:
        return figures.penalty / count
    r = _operator_rank(record, m, n) if PENALTIES[name].of_kernel else min(m, n)
    return math.sqrt(max(figures.penalty, 0.0) / (count * r))


def _operator_rank(record: LayerRecord, m: int, n: int) -> int:
    """min(out, in·S^d), of one group."""
    taps = math.prod(record.shape[:-2]) if record.shape is not None else 1
    return min(n, m // taps * math.prod(record.strides))


def legend(meanings: Iterable[Meaning]) -> Iterator[tuple[str, str]]:
    """(word, text) of each, once."""
    yield from dict.fromkeys((meaning.word, meaning.text) for meaning in meanings)
