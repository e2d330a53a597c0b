"""`factor="auto"`: a factor at which the penalty's gradient is as large as the task's.

What a weight moves by is its gradient, so the two are weighed against each other there, kernel
by kernel: factor = ρ · ‖∇ task‖ / ‖∇ penalty‖. Norms are root mean squares, of the task over
batches and of a randomly estimated penalty over its draws, which is the size that a single step
sees.

A copy that learns the original's outputs begins where these are its own, and the task's gradient
is 0. There it is taken after each kernel has moved a little way down its penalty: as strongly as
it is then pulled back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from orthwrap.errors import OrthwrapError, is_own
from orthwrap.live.live_store import LiveStore, variable_of
from orthwrap.plan.reasons import AUTO_FACTOR, Reason, about_anew
from orthwrap.regularizers import Attached, OrthogonalityRegularizer
from orthwrap.report.record import LayerRecord, Report, place_of
from orthwrap.survey import survey
from orthwrap.text import error_summary, listed
from orthwrap.training.factors.gradients import penalty_gradients, task_gradients

# Where the penalty's gradient is a smaller share of the task's, the kernel is orthonormal already
# and a factor would be a quotient of rounding errors.
LEAST_SHARE = 1e-6

# How far kernels are moved where the task's gradient would be 0: each by this share of its norm,
# over the square root of their number. Many small steps take a deep network as far as one large.
MOVED = 0.2

Array = NDArray[np.float64]

# So many factors are told one by one.
_FEW = 6

# What names a kernel's regularizer: the layer's path and the slot.
Place = tuple[str, str]


# From norms to factors


@dataclass(frozen=True)
class Norms:
    """The two gradients of one regularizer's kernels.

    Attributes:
        place: of the regularizer.
        task, penalty: norms over all its kernels, the penalty's with factor 1.
        default: the factor it has where none can be found.
        trainable: False where every kernel is frozen.
    """

    place: Place
    task: float
    penalty: float
    default: float
    trainable: bool = True

    @property
    def problem(self) -> str:
        """Why no factor follows from them; "" where one does."""
        if not self.trainable:
            return "frozen"
        if not math.isfinite(self.task):
            return f"the task's gradient is {self.task:g}"
        if self.task == 0:
            return "the task's gradient is 0"
        if not math.isfinite(self.penalty):
            return f"the penalty's gradient is {self.penalty:g}"
        if self.penalty < LEAST_SHARE * self.task:
            return "the penalty's gradient is next to nothing"
        return ""


@dataclass(frozen=True)
class Resolved:
    """A factor that was found, or that had to be the default.

    Attributes:
        place: layer path and slot.
        factor: what the regularizer now has.
        task, penalty: norms of the gradients, the penalty's with factor 1; None where frozen.
        problem: why `factor` is the default; "" where it was found.
    """

    place: Place
    factor: float
    task: float | None
    penalty: float | None
    problem: str = ""

    @property
    def name(self) -> str:
        """As `training.factors` names it: `conv1`, or `lstm@recurrent`."""
        return place_of(*self.place)

    @property
    def why(self) -> str:
        """One clause for the user."""
        if self.problem:
            return f"factor auto: {self.factor:g}, the default, as {self.problem}"
        return (
            f"factor auto: {self.factor:.3g} (gradient of the task {self.task:.3g}, of the penalty "
            f"{self.penalty:.3g})"
        )


def factors_from(norms: Sequence[Norms], rho: float, over: str) -> tuple[Resolved, ...]:
    """A factor for each of `norms`, in their order. Pure.

    Args:
        rho: the penalty's gradient norm over the task's, with the factor; above 0.
        over: `"kernel"`: each by its own norms. `"all"`: one factor from the norms of all kernels
            together; a kernel whose own gradients give none (frozen, not finite) is left out and
            keeps the default.
    """
    if over == "kernel":
        return tuple(_resolved(n, n, rho) for n in norms)
    usable = [
        n for n in norms if n.trainable and math.isfinite(n.task) and math.isfinite(n.penalty)
    ]
    together = Norms(
        ("", ""),
        math.hypot(*(n.task for n in usable)),
        math.hypot(*(n.penalty for n in usable)),
        0.0,
        trainable=bool(usable),
    )
    return tuple(_resolved(n, together if n in usable else n, rho) for n in norms)


def _resolved(own: Norms, norms: Norms, rho: float) -> Resolved:
    problem = norms.problem
    task, penalty = (own.task, own.penalty) if own.trainable else (None, None)
    if problem:
        return Resolved(own.place, own.default, task, penalty, problem)
    factor = rho * norms.task / norms.penalty
    if not (math.isfinite(factor) and factor > 0):
        return Resolved(own.place, own.default, task, penalty, f"the quotient is {factor:g}")
    return Resolved(own.place, factor, task, penalty)


# From a model to norms


@dataclass(frozen=True)
class Chosen:
    """A slot that carries orthwrap's regularizer, on a live model.

    Attributes:
        place: of the slot.
        paths: of the layers whose kernels it holds; both directions may share a slot.
        variables: the kernels. Each has the slot's regularizer, as one object or as several alike.
    """

    place: Place
    paths: tuple[str, ...]
    variables: tuple[Any, ...]

    @property
    def factor(self) -> float:
        return float(self.variables[0].regularizer.factor)


def chosen_of(model: Any, places: Iterable[Place] | None = None) -> tuple[Chosen, ...]:
    """The live regularizers at these places; None takes every kernel's that is orthwrap's.

    Args:
        places: layer path and slot; what a plan's `auto` decisions name.
    """
    wanted = None if places is None else set(places)
    store = LiveStore(model)
    found = []
    for slot in survey(store).slots:
        place = (slot.layer.path, slot.name)
        if wanted is not None and place not in wanted:
            continue
        variables = tuple(variable_of(store.object_of(k.layer), k.spec) for k in slot.kernels)
        if variables and all(_carries_ours(v) for v in variables):
            paths = tuple(k.layer.path for k in slot.kernels)
            found.append(Chosen(place, paths, variables))
    return tuple(found)


def _carries_ours(variable: Any) -> bool:
    held = getattr(variable, "regularizer", None)
    return isinstance(held, (OrthogonalityRegularizer, Attached))


def resolve(
    model: Any,
    batches: Iterable[Sequence[Any]],
    chosen: Sequence[Chosen],
    rho: float = 1.0,
    over: str = "kernel",
    *,
    moved: float = 0.0,
) -> tuple[Resolved, ...]:
    """The factor of each regularizer, from the gradients on a few batches. Changes nothing.

    Args:
        model: compiled, with the regularizers attached.
        batches: `(x, y)` or `(x, y, sample_weight)`, each as `fit` takes it; at least one.
        chosen: from `chosen_of`.
        rho, over: as in `factors_from`.
        moved: where the task's gradient is taken: with n trainable kernels, moved/√n of each
            one's norm away, down its penalty. `MOVED` for a model where that gradient is 0.

    Raises:
        OrthwrapError: the model's loss has no gradient on these batches.
    """
    trainable = {id(v) for v in model.trainable_variables}
    free = [[v for v in c.variables if id(v) in trainable] for c in chosen]
    flat = [v for group in free for v in group]
    drawn = [list(penalty_gradients(v.regularizer, v)) for v in flat]
    penalties = {id(v): _mean_square(d) for v, d in zip(flat, drawn, strict=True)}
    share = moved / math.sqrt(max(len(flat), 1))
    at = [_moved(v, d, share) for v, d in zip(flat, drawn, strict=True)] if share else None
    tasks: dict[int, float] = {}
    try:
        if flat:
            found = zip(*task_gradients(model, batches, flat, at), strict=True)
            tasks = {id(v): _mean_square(g) for v, g in zip(flat, found, strict=True)}
    except Exception as e:  # the model's own loss may be anyone's
        if is_own(e):
            raise
        raise OrthwrapError(
            f"factor auto: the gradient of the model's loss could not be taken "
            f"({error_summary(e)}): give a number as factor"
        ) from e
    norms = [
        Norms(
            c.place,
            math.sqrt(sum(tasks[id(v)] for v in variables)),
            math.sqrt(sum(penalties[id(v)] for v in variables)),
            c.factor,
            trainable=bool(variables),
        )
        for c, variables in zip(chosen, free, strict=True)
    ]
    return factors_from(norms, rho, over)


def _mean_square(gradients: Iterable[Array]) -> float:
    return float(np.mean([np.sum(np.square(g)) for g in gradients]))


def _moved(variable: Any, drawn: Sequence[Array], share: float) -> Array:
    """The kernel's values, moved by a share of their norm against the penalty's gradient."""
    values = np.asarray(keras.ops.convert_to_numpy(variable.value)).astype(np.float64)
    direction = np.mean(drawn, axis=0)
    size = np.linalg.norm(direction)
    if not (np.isfinite(size) and size > 0):
        return values
    moved: Array = values - share * np.linalg.norm(values) / size * direction
    return moved


# From factors to model and report


def resolved_in_words(resolved: Sequence[Resolved]) -> tuple[str, ...]:
    """What was found, in a few lines however many kernels there are."""
    found = [r for r in resolved if not r.problem]
    if len(resolved) <= _FEW:
        return tuple(f"{r.name}: {r.why}" for r in resolved)
    lines = []
    if found:
        low, high = (pick(r.factor for r in found) for pick in (min, max))
        lines.append(f"factor auto: {low:.3g} to {high:.3g} over {len(found)} kernels")
    for problem in dict.fromkeys(r.problem for r in resolved if r.problem):
        names = [r.name for r in resolved if r.problem == problem]
        lines.append(f"factor auto: the default for {listed(names)}, as {problem}")
    return tuple(lines)


def apply_resolved(chosen: Sequence[Chosen], resolved: Sequence[Resolved]) -> None:
    """Gives each live regularizer its factor. Steps that Keras compiled before keep the old one."""
    for c, r in zip(chosen, resolved, strict=True):
        for variable in c.variables:
            held = variable.regularizer
            held.attachment = replace(held.attachment, factor=r.factor)


def with_resolved(report: Report, chosen: Sequence[Chosen], resolved: Sequence[Resolved]) -> Report:
    """The report with the factors found, and how they came about in each reason."""
    found = {
        (path, c.place[1]): r for c, r in zip(chosen, resolved, strict=True) for path in c.paths
    }

    def changed(record: LayerRecord) -> LayerRecord:
        r = found.get((record.path, record.slot))
        if r is None or record.regularizer is None:
            return record
        return replace(
            record,
            reasons=about_anew(record.reasons, AUTO_FACTOR, Reason(r.why, AUTO_FACTOR)),
            regularizer=replace(record.regularizer, factor=r.factor),
        )

    return replace(report, layers=tuple(changed(record) for record in report.layers))
