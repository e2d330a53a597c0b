"""What stands for the task while kernels become orthogonal, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from orthwrap import keras_inside
from orthwrap.errors import ValueFault
from orthwrap.report.goal_progress import TaskStanding
from orthwrap.training.goal.compiling import loss_of_each
from orthwrap.training.goal.distillation import agreement_of_each
from orthwrap.training.goal.inputs_outputs import native, outputs_of, ports
from orthwrap.training.loop.monitor import is_lower_better

Array = NDArray[Any]

MARGIN = 0.005  # of accuracy and the like
LOSS_MARGIN = 0.05  # the share of a loss or an error

_CLEARLY = 2.0  # standard errors
_WELL_KNOWN = 0.95  # of accuracy: where fewer are right, few are known by heart

RECOVERED = 0.05  # of what a loss has risen by, that comes back in an epoch worth waiting for

TASK_LOSS = "task_loss"


@dataclass(frozen=True)
class Measured:
    """The task's figure on some samples.

    Attributes:
        value: the figure, the mean of `each` where there is a figure of each sample.
        each: of the samples, or None.
        losses: of the samples, as the model was compiled; None where they are not known.
    """

    value: float
    each: Array | None = None
    losses: Array | None = None

    def with_more(self, other: Measured) -> Measured:
        """The figure over both ones' samples, which both have a figure of each."""
        assert self.each is not None
        assert other.each is not None
        each = np.concatenate([self.each, other.each])
        return Measured(float(each.mean(dtype=np.float64)), each)


@dataclass(frozen=True)
class Task:
    """The figure that stands for the task.

    Attributes:
        name: of the metric, or `task_loss`.
        lower_is_better: of it.
        measure: the figure of the model as it is, on the same samples each time.
        margin: what may be lost; None takes `MARGIN`, or `LOSS_MARGIN` of what is no share.
        measure_trained: the figure on samples that are trained on, or None. They are more, and
            asked where the others are too few to tell.
        is_split: whether both are parts of what was given to train on.
    """

    name: str
    lower_is_better: bool
    measure: Callable[[], Measured]
    margin: float | None = None
    measure_trained: Callable[[], Measured] | None = None
    is_split: bool = False

    def may_have_known(self, held_out: Measured, trained: Measured) -> bool:
        """Whether the original may have been trained on the samples that are held out.

        They are split off from what it trains on, it is right on nearly all, and no worse than on
        the others, chance aside. What it then forgets of them, as it trains on the others alone,
        need not be lost elsewhere. Of a loss nothing is known: how low is low differs.
        """
        if not self.is_split or held_out.each is None or trained.each is None:
            return False
        if not (self.is_share(held_out.value) and held_out.value >= _WELL_KNOWN):
            return False
        error = math.hypot(_error(held_out.each), _error(trained.each))
        return trained.value - held_out.value <= _CLEARLY * error

    def is_by_heart(self, held_out: TaskStanding, trained: TaskStanding) -> bool:
        """Whether samples that are not trained on any more lost more than those that are."""
        error = math.hypot(held_out.standard_error, trained.standard_error)
        return held_out.worse_by - trained.worse_by > _CLEARLY * error

    def is_share(self, value: float) -> bool:
        """Whether a figure is one of accuracy and the like."""
        return not self.lower_is_better and 0 <= value <= 1

    def allowed(self, original: float) -> float:
        """What may be lost, in the figure's own unit."""
        if self.is_share(original):
            return MARGIN if self.margin is None else self.margin
        return (LOSS_MARGIN if self.margin is None else self.margin) * abs(original)

    def worse_by(self, reference: Measured, now: Measured) -> tuple[float, float]:
        """By how much it is worse now, and the standard error of that; 0 where it is not known.

        Of shares such as accuracy the error is what it would be if one sample more were lost and
        one more gained: that none of a hundred changed sides says little of the next hundred.
        """
        sign = 1.0 if self.lower_is_better else -1.0
        if reference.each is None or now.each is None:
            return sign * (now.value - reference.value), 0.0
        worse_by, error = _mean_gap(sign * now.each, sign * reference.each)
        if self.is_share(reference.value):
            count = len(now.each)
            error = math.sqrt(error**2 * (count - 1) / count + 2 / count**2)
        return worse_by, error

    def better_of(self, one: Measured, other: Measured) -> Measured:
        return other if self.worse_by(one, other)[0] < 0 else one

    def standing(
        self, original: float, reference: Measured, now: Measured, before: Measured | None = None
    ) -> TaskStanding:
        """How it stands now; what is trained on is not asked.

        Args:
            before: after the epoch before; None where there was none.
        """
        worse_by, error = self.worse_by(reference, now)
        allowed, recovers = self.allowed(original), _recovers(reference, before, now)
        loss = None if now.losses is None else float(now.losses.mean(dtype=np.float64))
        return TaskStanding(
            now.value, reference.value, worse_by, error, allowed, None, recovers, loss
        )


def _recovers(first: Measured, before: Measured | None, now: Measured) -> bool:
    """Whether the loss is above what it was first, and a part of that came back, by no chance."""
    if before is None or first.losses is None or before.losses is None or now.losses is None:
        return False
    risen, error = _mean_gap(now.losses, first.losses)
    fallen, error_of_fall = _mean_gap(before.losses, now.losses)
    return risen > error and fallen > max(error_of_fall, RECOVERED * risen)


def _mean_gap(values: Array, others: Array) -> tuple[float, float]:
    """The mean of the paired differences, and its standard error."""
    gaps = values.astype(np.float64) - others
    return float(gaps.mean()), _error(gaps)


def _error(values: Array) -> float:
    """The standard error of their mean."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def task_of(
    model: Any,
    batches: Callable[[], Iterable[Any]],
    margin: float | None = None,
    kinds: Sequence[str] = (),
    trained: Callable[[], Iterable[Any]] | None = None,
) -> Task:
    """The first compiled metric with a direction, else the task loss.

    Args:
        model: compiled, and trained or evaluated at least once.
        batches: (x, y) or (x, y, sample weights), the same samples in the same order each time.
        margin: what may be lost.
        kinds: of the outputs, where it learns to give a teacher's: the agreement, then.
        trained: some of what is trained on, as `batches`. A loss there says nothing of one
            elsewhere, so that only accuracy and the like are taken there too.

    Several outputs are held by their weighted loss.
    """
    if kinds:
        agree = _Each(lambda y, p, w: agreement_of_each(y, p, kinds))
        there = None if trained is None else lambda: agree.measure(model, trained)
        return Task("agreement", False, lambda: agree.measure(model, batches), margin, there)
    _, outputs = ports(model)
    if keras_inside.has_metrics(model) and not keras_inside.compiled_metrics(model):
        x, y, *_ = next(iter(batches()))  # Keras makes them for a first batch
        keras_inside.build_for(model, (x, y))
    metric = _metric(model) if len(outputs) == 1 else None
    losses = _Losses.of(model)
    if metric is None:
        return Task(TASK_LOSS, True, lambda: losses.measure(model, batches), margin)
    lower = is_lower_better(model, metric.name)
    each = keras_inside.function_of_each(metric)
    if each is not None:
        figure = lambda y, p, w: _mean_of_each(each(y[0], p[0]), len(p[0]))  # noqa: E731
        has_own = type(model).compute_loss is not keras.Model.compute_loss
        counted = _Each(figure, None if has_own else losses.of_each)
        there = None if trained is None or lower else lambda: counted.measure(model, trained)
        return Task(metric.name, lower, lambda: counted.measure(model, batches), margin, there)
    return Task(metric.name, lower, lambda: Measured(_whole(metric, model, batches)), margin)


def _metric(model: Any) -> Any:
    """The first metric that was compiled in and says, or whose name says, which way is better."""
    for metric in keras_inside.compiled_metrics(model):
        if isinstance(metric, keras.metrics.Metric):
            try:
                is_lower_better(model, metric.name)
            except ValueFault:
                continue
            return metric
    return None


def _whole(metric: Any, model: Any, batches: Callable[[], Iterable[Any]]) -> float:
    """A figure that is no mean over samples, by another metric of the same config."""
    own = type(metric).from_config(metric.get_config())
    call = outputs_of(model)
    for x, y, *_ in batches():
        own.update_state(keras.tree.flatten(y)[0], call(x)[0])
    return float(keras.ops.convert_to_numpy(own.result()))


@dataclass(frozen=True)
class _Each:
    """A figure of each sample: (labels, outputs, weights) → (samples,)."""

    figure: Callable[[list[Any], Sequence[Any], Any], Any]
    loss: Callable[[list[Any], Sequence[Any], Any], Any] | None = None

    def measure(self, model: Any, batches: Callable[[], Iterable[Any]]) -> Measured:
        call = outputs_of(model)
        found, losses = [], []
        for x, y, *weights in batches():
            labels = [native(a) for a in keras.tree.flatten(y)]
            given = None if not weights or weights[0] is None else np.asarray(weights[0])
            outputs = call(x)
            values = self.figure(labels, outputs, given)
            found.append(np.asarray(keras.ops.convert_to_numpy(values), np.float32))
            if self.loss is not None:
                losses.append(np.asarray(self.loss(labels, outputs, given), np.float32))
        each = np.concatenate(found)
        of_each = np.concatenate(losses) if losses else None
        return Measured(float(each.mean(dtype=np.float64)), each, of_each)


@dataclass(frozen=True)
class _Losses:
    """The weighted loss of each sample."""

    losses: Sequence[Any]
    weights: Sequence[float]

    @classmethod
    def of(cls, model: Any) -> _Losses:
        _, outputs = ports(model)
        given = keras_inside.compile_arguments(model).get("loss_weights")
        weights = loss_of_each(1.0 if given is None else given, outputs)
        losses = [
            None if loss is None else keras.losses.get(loss)
            for loss in loss_of_each(model.loss, outputs)
        ]
        return cls(losses, [1.0 if w is None else float(w) for w in weights])

    def measure(self, model: Any, batches: Callable[[], Iterable[Any]]) -> Measured:
        found = _Each(self.of_each).measure(model, batches)
        return replace(found, losses=found.each)

    def of_each(self, labels: list[Any], outputs: Sequence[Any], given: Any) -> Any:
        total = np.zeros(len(outputs[0]))
        parts = zip(self.losses, self.weights, labels, outputs, strict=False)
        for loss, weight, y, output in parts:
            if loss is None:
                continue
            is_own = isinstance(loss, keras.losses.Loss)
            values = loss.call(y, output) if is_own else loss(y, output)
            total += weight * np.asarray(_mean_of_each(values, len(output)))
        return total if given is None else total * given.reshape(len(total), -1).mean(1)


def _mean_of_each(values: Any, samples: int) -> Array:
    """(samples, …) → (samples,); one number for all stays that for each."""
    array = np.asarray(keras.ops.convert_to_numpy(values))
    if array.ndim == 0 or len(array) != samples:
        return np.full(samples, array.mean())
    return np.asarray(array.reshape(samples, -1).mean(axis=1))
