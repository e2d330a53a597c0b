"""The descriptor of a penalty: all else that is said and done of it follows from these fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orthwrap.errors import ValueFault
from orthwrap.model_config.layout import Layout
from orthwrap.penalties.options import (
    COMMON,
    ESTIMATE,
    FILTER_GROUPS,
    OF_OUTPUTS,
    PRECISION,
    PROBES,
    SEED,
    Option,
    checked,
)

Tensor = Any

SQUARED = "squared, no ½, summed over a kernel's matrices"
NOT_SQUARED = "not squared, summed over a kernel's matrices"

# What stands beside the options in a config or in a call.
_TAKEN = (
    *("factor", "scale", "alpha", "layout", "on", "combined_with", "replaced", "absent", "draw"),
    *(o.name for o in (ESTIMATE, PROBES, PRECISION, SEED, *COMMON, FILTER_GROUPS, *OF_OUTPUTS)),
)


@dataclass(frozen=True)
class Meaning:
    """A figure of a report in plain words.

    Attributes:
        word: what a table calls it.
        tag: the same, where a row has another figure than its column.
        text: what it is, and what a good value is.
    """

    word: str
    tag: str
    text: str


@dataclass(frozen=True)
class Penalty:
    """A penalty, as commands, rules, reports, files and docs know it.

    Its tensor forms return a scalar in the dtype of what they are given, float32 or float64, and
    have a finite gradient everywhere. They take matrices `w` of shape (count, m, n), fan-in ×
    fan-out, over whose batch they sum. Every form, and each figure, takes the penalty's own
    options by keyword.

    Attributes:
        name: lower-case letters, digits and `_`.
        formula, minimum: in signs, G being the smaller Gram matrix of W, r × r.
        source: who defined it, with the number by which arXiv has the paper.
        exact: `exact(w)`, the penalty itself.
        figure: its exact value in a report, in NumPy: `figure(matrices)`, of `figures.Matrices`;
            None where it would take too much.
        class_name: of its Keras class, `orthwrap>…` in files; made from the name where empty.
        doc: what `help` says of that class.
        default_factor: the coefficient λ where none is given.
        convention: squared or not, summed or averaged, ½ or not. A published factor transfers only
            where that is the same.
        own_options: the options that it alone takes.
        sketch: `sketch(w, draw=…, probes=…)`, an unbiased estimate from random probes; None where
            there is none. `draw(shape)` gives independent random signs, `draw(shape, "normal")`
            standard normal numbers.
        on_outputs: `on_outputs(g, rows)`, its form on a layer's outputs, seen as A = (rows,
            features) over √rows with G = AᵀA, features × features; None where it has none. With
            `gram=sample` g is (count, n, n), and it gives a value for each of them, (count,).
        draws: `exact` and `on_outputs` take `draw=…` as well.
        measured_on_outputs: what `on_outputs` estimates, without chance, for figures on validation
            data: `measured_on_outputs(g, rows)`; None where `on_outputs` gives that itself.
        of_kernel: `exact`, `sketch`, `figure` and `pull` take `(kernel, layout)` in place of
            matrices.
        figure_from_so: `figure_from_so(so, count, m, n)`, its value in a report where the matrices
            are so large that Σ ‖G−I‖_F² can only be estimated; None leaves it out.
        concerns_alpha: whether W and W/α have their minimum at other kernels. Where not, scale
            `preserve` is the penalty times a number, and `auto` takes `unit`.
        says_scale: an option of its own says what scale singular values are driven to: scale `auto`
            takes `unit`, and with `preserve` that is in units of α.
        problem: `problem(layout, shape)`, why a kernel cannot have it, or `""`.
        pull: `pull(w)` → (direction, b), what stands for it where kernels are pulled after each
            optimizer step instead, W ← W − β·direction: a direction in the shape of w, and for each
            matrix (of a kernel: for all) a bound b ≥ σ², by which β is limited to 1/(2·max(1, b)).
            None where it has no such form.
        meaning: of the figure that reports show for it, penalty / count; None where they show the
            residual.
        own_residual: what it drives is √(penalty / (count·r)) of W/α, not the residual of W/α,
            which leaves it free what it does not concern; it is then what `meaning` is of.
        entries: `entries(layout, shape)`, of how many singular values α is the RMS at its minimum;
            None: of all of a kernel's matrices, count·r.
        takes_alpha: `exact` and `sketch` take `alpha=…` and `factor=…`, and give factor × the
            penalty of W/α without making W/α; their `w` may also be a single matrix (m, n).
        by_products: `exact` and `pull` are products of matrices for the most part, all by
            `tensors.cross` and `tensors.multiplied`, so that it has the option `precision`.
    """

    name: str
    formula: str
    minimum: str
    source: str
    exact: Callable[..., Tensor]
    figure: Callable[..., float | None]
    class_name: str = ""
    doc: str = ""
    default_factor: float = 1e-3
    convention: str = SQUARED
    own_options: tuple[Option, ...] = ()
    sketch: Callable[..., Tensor] | None = None
    on_outputs: Callable[..., Tensor] | None = None
    draws: bool = False
    measured_on_outputs: Callable[..., Tensor] | None = None
    of_kernel: bool = False
    figure_from_so: Callable[..., float] | None = None
    concerns_alpha: bool = True
    says_scale: bool = False
    problem: Callable[[Layout, tuple[int, ...]], str] = lambda layout, shape: ""
    pull: Callable[..., tuple[Tensor, Tensor]] | None = None
    meaning: Meaning | None = None
    own_residual: bool = False
    entries: Callable[[Layout, tuple[int, ...]], int] | None = None
    takes_alpha: bool = False
    by_products: bool = False

    def __post_init__(self) -> None:
        if not (self.name.isidentifier() and self.name == self.name.lower()):
            raise ValueFault(
                f"a penalty's name is lower-case letters, digits and _; got {self.name!r}"
            )
        for option in self.own_options:
            if option.name in _TAKEN:
                raise ValueFault(
                    f"penalty {self.name!r}: an option cannot be called {option.name!r}, which "
                    "means something else already"
                )
        if not self.class_name:
            class_name = "".join(part.capitalize() for part in self.name.split("_"))
            object.__setattr__(self, "class_name", class_name)

    @property
    def special_options(self) -> tuple[Option, ...]:
        """What it takes beside what every penalty takes."""
        sketch = () if self.sketch is None else (ESTIMATE, PROBES)
        seed = (SEED,) if self.sketch is not None or self.draws else ()
        precision = (PRECISION,) if self.by_products else ()
        return (*sketch, *precision, *self.own_options, *seed)

    @property
    def options(self) -> tuple[Option, ...]:
        of_matrices = () if self.of_kernel else (FILTER_GROUPS,)
        of_outputs = () if self.on_outputs is None else OF_OUTPUTS
        return (*self.special_options, *COMMON, *of_matrices, *of_outputs)

    def number_of_sigmas(self, layout: Layout, shape: tuple[int, ...]) -> int:
        """Of how many singular values a kernel's own scale is the RMS."""
        if self.entries is not None:
            return self.entries(layout, shape)
        count, m, n = layout.matrices(shape)
        return count * min(m, n)

    def words(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its own options among those given, checked, and the others at their default."""
        own = {o.name: given[o.name] for o in self.own_options if o.name in given}
        defaults = {o.name: o.default for o in self.own_options}
        return defaults | checked(self.name, self.own_options, own)


def probe_shape(w_shape: Sequence[int], probes: int) -> tuple[int, ...]:
    """For matrices (…, m, n): (…, probes, n) if n ≤ m, else (…, m, probes)."""
    *count, m, n = w_shape
    return (*count, probes, n) if n <= m else (*count, m, probes)


def by_probes(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function(w, probes)` as the form `sketch` of a descriptor."""
    return lambda w, draw, probes, **words: function(w, draw(probe_shape(w.shape, probes)), **words)
