"""A Keras class for each penalty, registered under `orthwrap>…`; and one of them by its name."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import keras
from keras import ops

from orthwrap.errors import ValueFault
from orthwrap.model_config.layers import layout_for
from orthwrap.model_config.layout import Layout, in_filter_groups, why_no_filter_groups
from orthwrap.penalties import activity
from orthwrap.penalties.attachment import Attachment
from orthwrap.penalties.cheapest import choosing_pays, exact_is_cheaper
from orthwrap.penalties.options import (
    CENTER,
    ESTIMATE,
    EVERY,
    FILTER_GROUPS,
    GRAM,
    PRECISION,
    PROBES,
    SEED,
    SHAPE,
    SIDE,
    checked,
    sides_of,
)
from orthwrap.penalties.penalty import Penalty
from orthwrap.penalties.place import check_place
from orthwrap.penalties.table import PENALTIES, with_each_penalty
from orthwrap.penalties.template import template
from orthwrap.penalties.tensors import (
    BACKEND,
    across,
    at_least_one,
    computed_in,
    differentiable,
    gaussian,
    lesser,
    no_penalty,
    on_processor,
    over_own_scale,
    own_scale,
    per_matrix,
    products_in,
    rademacher,
    tensor_of,
    unbatched,
    widened,
    xp,
)
from orthwrap.regularizers.base import _Regularizer, register
from orthwrap.regularizers.clock import Clock, Key, Moment, before, is_turn, of_kernel
from orthwrap.regularizers.foreign import Attached, _node_of, import_reference
from orthwrap.regularizers.splits import Split, Splits, along_larger_side
from orthwrap.rules.rule import FREE, SCALES, Rule
from orthwrap.rules.words import check_factor

Tensor = Any

# Within 1/this … this, α⁴ and what is divided by it are far from the ends of float32.
_FOLDED = 1e4


@dataclass(frozen=True)
class _Reading:
    """How a kernel of one shape is read, and what is computed of it.

    Attributes:
        matrix: (m, n), where the kernel is one matrix with its entries in order; else None.
        own_sigmas: of how many singular values α is the RMS, where it is that of the moment.
        draws: whether each call draws at random.
        is_sketched: whether the penalty is estimated by probes.
        folds_alpha: whether the penalty takes α and the factor into its own operations.
        at_once: factor × penalty of those matrices, where nothing else is decided at each call.
    """

    layout: Layout
    matrix: tuple[int, int] | None
    own_sigmas: int | None
    draws: bool
    is_sketched: bool
    folds_alpha: bool
    at_once: Callable[[Tensor], Tensor] | None

    def matrices_of(self, x: Tensor) -> Tensor:
        """(count, m, n), or the only one as (m, n)."""
        if self.matrix is None:
            return self.layout.to_matrices(x, xp)
        return xp.reshape(x, self.matrix) if len(x.shape) > 2 else x


class OrthogonalityRegularizer(_Regularizer):
    """factor × penalty of a layer's kernel(s), seen as a batch of matrices.

    Args:
        factor: λ, at least 0; None takes the penalty's default (see `orthwrap regularizers`).
        scale: `"unit"`: the value is P(W), which pulls singular values to 1. `"preserve"`: P(W/α).
            `"free"`: P(W/α) with α the RMS singular value of the kernel as it is at each call.
        alpha: α for `"preserve"`, the RMS singular value of the kernel at attach time.
        layout: how the kernel becomes matrices (a `Layout` or its config). None: by the kernel's
            rank, 2 axes as Dense and 3 to 5 as Conv with one group and stride 1.
        on: `"kernel"`, or `"activity"` for a layer's outputs.
        combined_with: another regularizer to add, as Keras takes it (a name, a config, an object).
        replaced: a regularizer's config that is only kept, for `orthwrap.strip`.
        **options: `estimate`, `probes`, `seed`, `steps`, `every`, …, as the penalty takes them.

    Call with a kernel of the layout's shape, any float dtype; returns a scalar. float16 and
    bfloat16 are computed in float32. One that draws at random or counts its calls (`every`) is
    also a `keras.random.SeedGenerator`, whose state the layer that has it as an attribute tracks.

    Raises:
        ValueFault: a value out of range, an unknown option, a kernel the layout does not describe.
        UsageError: something of kernels with `on="activity"`, or of outputs without.
    """

    penalty: ClassVar[str] = ""
    # What it is made of where it draws or counts: the same, and a clock.
    _counting: ClassVar[type[OrthogonalityRegularizer] | None] = None
    # While its kernels are pulled after each step, it adds nothing to the loss.
    is_pulled = False
    # While its kernels' penalty is measured from the weights, it adds nothing either.
    is_aside = False
    # While it is paid for at each call, whatever `every` says, and of outputs without chance.
    is_at_each_call = False

    def __new__(cls, *words: Any, **options: Any) -> OrthogonalityRegularizer:
        penalty = PENALTIES.get(cls.penalty)
        counts = penalty is not None and (
            penalty.draws
            or options.get(EVERY.name, 1) != 1
            or options.get(ESTIMATE.name, "exact") != "exact"
        )
        made: OrthogonalityRegularizer = super().__new__((counts and cls._counting) or cls)
        return made

    def __init__(
        self,
        factor: float | None = None,
        scale: str = "unit",
        alpha: float = 1.0,
        layout: Layout | Mapping[str, Any] | None = None,
        on: str = "kernel",
        combined_with: Any = None,
        replaced: Any = None,
        absent: bool = False,
        **options: Any,
    ) -> None:
        if not self.penalty:
            raise TypeError("OrthogonalityRegularizer is a base class: use one such as orthwrap.SO")
        layout = Layout.from_config(layout) if isinstance(layout, Mapping) else layout
        _check_scale(scale, alpha)
        penalty = PENALTIES[self.penalty]
        taken = checked(self.penalty, penalty.options, options)
        if layout is not None and FILTER_GROUPS.name in taken:
            layout = in_filter_groups(layout, taken.pop(FILTER_GROUPS.name))
        self._adopt(
            Attachment(
                name=self.penalty,
                factor=check_factor(penalty.default_factor if factor is None else factor),
                scale=scale,
                alpha=1.0 if scale == FREE else float(alpha),
                options=taken,
                layout=layout,
                on=on,
                combined_with=_node_of(combined_with),
                replaced=_node_of(replaced),
                absent=absent,
            )
        )
        self._descriptor = penalty
        self._words = penalty.words(taken)
        self._every: int = self.attachment.option(EVERY)
        self._estimate: str = self.attachment.option(ESTIMATE)
        self._precision: str | None = self.attachment.option(PRECISION)
        check_place(self.attachment, on)
        self._splits = Splits()
        self._read_for: Attachment | None = None
        self._readings: dict[tuple[int, ...], _Reading] = {}
        self._clock = self if isinstance(self, Clock) else None
        if isinstance(self, Clock):
            Clock.__init__(self, self._own_seed(random.getrandbits(31)))

    @property
    def is_random(self) -> bool:
        """Whether each call draws anew, or may."""
        return self._estimate != "exact" or self._descriptor.draws

    @property
    def has_chance(self) -> bool:
        """Whether a single call may give other than the penalty: an estimate, or `every`."""
        return self._clock is not None

    def _is_sketched(self, shape: tuple[int, ...]) -> bool:
        """Whether the penalty of such a kernel is estimated by probes."""
        if self._estimate != "auto":
            return self._estimate == "sketch"
        return not exact_is_cheaper(*self._sides(shape), self._base.option(PROBES), on_processor())

    def _sides(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(m, n) of what its penalty multiplies."""
        return self._base.sides(self.layout_for(shape), shape)

    def _own_seed(self, seed: int) -> int:
        """This seed, unless the option `seed` names one."""
        own = self.attachment.option(SEED)
        return int(seed % 2**31 if own is None else own)

    def reseed(self, seed: int) -> None:
        """Draws from this seed, unless the option `seed` names one; the count stays."""
        if self._clock is not None:
            self._clock.set(self._own_seed(seed), self._clock.read()[1])

    @property
    def moment(self) -> dict[str, int]:
        """What its random draws and `every` go on from: `seed` and the `count` of its calls."""
        seed, count = (0, 0) if self._clock is None else self._clock.read()
        return {"seed": seed, "count": count}

    def restore(self, moment: Mapping[str, int]) -> None:
        """Goes on from a `moment`; outside of a traced step."""
        if self._clock is not None:
            self._clock.set(int(moment["seed"]), int(moment["count"]))

    def _value(self, x: Tensor) -> Tensor:
        split = self._splits.of(x)
        if self.is_pulled or self.is_aside:
            return ops.zeros((), computed_in(x))
        x = tensor_of(x)
        takes_turns = self._every > 1 and self._choosing_pays(x)
        moment = self._clock.tick() if self._clock is not None and takes_turns else None
        if moment is None or self.is_at_each_call:
            # Where nobody keeps the count, and where choosing costs more than it saves, each call
            # is paid for, and none stronger than it is.
            return self._penalty_of(x, moment, self._base.factor, split)
        # Paid for at one call in `every`, and so many times as strong there.
        turn = is_turn(before(moment), self._every)
        if isinstance(turn, bool):
            return self._stronger(x, moment, split) if turn else left_out(x)
        return ops.cond(turn, lambda: self._stronger(x, moment, split), lambda: left_out(x))

    def _choosing_pays(self, x: Tensor) -> bool:
        if BACKEND == "torch" or self._base.on == "activity" or on_processor():
            return True
        return choosing_pays(*self._sides(tuple(x.shape)))

    def _stronger(self, x: Tensor, moment: Moment, split: Split | None) -> Tensor:
        return self._penalty_of(x, moment, self._base.factor * self._every, split)

    def _penalty_of(
        self, x: Tensor, moment: Moment | None, factor: float, split: Split | None
    ) -> Tensor:
        """factor × the penalty, in float32 or float64."""
        alpha, words = self._base.alpha, self._words
        x = widened(x)
        if self._base.on == "activity":
            drawn = {"draw": partial(self._drawn, moment, x)} if self._descriptor.draws else {}
            return factor * self._of_outputs(x, {**words, **drawn})
        reading = self._reading_of(tuple(x.shape))
        if reading.at_once is not None and split is None and factor == self._base.factor:
            return reading.at_once(reading.matrices_of(x))
        if reading.draws:
            words = {**words, "draw": partial(self._drawn, moment, x)}
        if reading.own_sigmas is not None:
            x = over_own_scale(x, reading.own_sigmas)
        if reading.folds_alpha:
            words = {**words, "alpha": alpha, "factor": factor}
            return self._exact_or_not(x, words, reading, split)
        value = self._exact_or_not(x if alpha == 1.0 else x / alpha, words, reading, split)
        return value if factor == 1.0 else factor * value

    def _exact_or_not(
        self, x: Tensor, words: Mapping[str, Any], reading: _Reading, split: Split | None
    ) -> Tensor:
        """The penalty or its estimate."""
        penalty = self._descriptor
        if penalty.of_kernel:
            given: tuple[Any, ...] = (x, reading.layout)
        else:
            given = (reading.matrices_of(x),)
        if reading.is_sketched:
            assert penalty.sketch is not None
            return penalty.sketch(*given, **words, probes=self._base.option(PROBES))
        if split is not None and not penalty.of_kernel:
            given = (along_larger_side(given[0], split),)
        if self._precision is None:
            return penalty.exact(*given, **words)
        with products_in(self._precision):
            return penalty.exact(*given, **words)

    def _reading_of(self, shape: tuple[int, ...]) -> _Reading:
        """What is decided for a kernel of this shape, once: on PyTorch that costs at each call."""
        base = self._base
        if self._read_for is not base:
            self._read_for, self._readings = base, {}
        if shape not in self._readings:
            self._readings[shape] = self._read(shape)
        return self._readings[shape]

    def _read(self, shape: tuple[int, ...]) -> _Reading:
        penalty, base, layout = self._descriptor, self._base, self.layout_for(shape)
        count, m, n = layout.matrices(shape)
        is_one = penalty.takes_alpha and count == 1 and layout.is_in_order
        is_sketched = penalty.sketch is not None and self._is_sketched(shape)
        draws = penalty.draws or is_sketched
        folds_alpha = penalty.takes_alpha and 1 / _FOLDED <= base.alpha <= _FOLDED
        is_plain = folds_alpha and not (draws or base.is_free or self._precision)
        at_once = partial(penalty.exact, **self._words, alpha=base.alpha, factor=base.factor)
        return _Reading(
            layout=layout,
            matrix=(m, n) if is_one else None,
            own_sigmas=penalty.number_of_sigmas(layout, shape) if base.is_free else None,
            draws=draws,
            is_sketched=is_sketched,
            folds_alpha=folds_alpha,
            at_once=at_once if is_plain else None,
        )

    def _of_outputs(self, x: Tensor, words: Mapping[str, Any]) -> Tensor:
        """The penalty of a batch, or the sum over its samples: Keras divides by their number."""
        penalty, attachment = self._descriptor, self.attachment
        on_outputs = penalty.on_outputs
        if self.is_at_each_call and penalty.measured_on_outputs is not None:
            on_outputs = penalty.measured_on_outputs
        assert on_outputs is not None
        if attachment.option(GRAM) == "batch":
            g, rows = activity.gram(x, attachment.option(CENTER))
            return on_outputs(g, rows, **words) / _replicas()
        shape = sides_of(attachment.option(SHAPE))
        g, rows, per_sample = activity.grams_of_samples(x, attachment.option(SIDE), shape)
        values = on_outputs(g, rows, **words)
        if len(values.shape) != 1:
            raise ValueFault(
                f"penalty {penalty.name!r} gives one value for several Gram matrices (count, n, n),"
                " and gram=sample needs one for each: its on_outputs must give (count,)"
            )
        return ops.sum(values) / per_sample

    @property
    def has_pull(self) -> bool:
        """Whether its penalty has a form in which kernels are pulled instead."""
        return self._descriptor.pull is not None and self.attachment.on == "kernel"

    def split_of(self, x: Tensor) -> Split | None:
        """How a kernel is split over devices, for `pulled`; None where it is not."""
        return self._splits.of(x)

    def pulled(self, x: Tensor, rate: Tensor, split: Split | None = None) -> Tensor:
        """The kernel after one pull, W/α ← W/α − min(β, 1/(2·max(1, b)))·direction.

        With scale `free` the step is at right angles to W, so that it leaves α as it is.

        Args:
            x: the kernel. float16 and bfloat16 are computed in float32.
            rate: β, a scalar.
            split: of the kernel.
        """
        penalty, layout = self._descriptor, self.layout_for(tuple(x.shape))
        assert penalty.pull is not None
        scaled = widened(tensor_of(x))
        entries = penalty.number_of_sigmas(layout, tuple(x.shape))
        is_free, alpha = self.attachment.is_free, self.attachment.alpha
        if is_free:
            alpha = own_scale(scaled, entries)
        scaled = scaled / alpha if is_free or alpha != 1.0 else scaled
        w = scaled if penalty.of_kernel else unbatched(layout.to_matrices(scaled, xp))
        given = (w, layout) if penalty.of_kernel else (along_larger_side(w, split),)
        with products_in(self._precision):
            direction, bound = penalty.pull(*given, **self._words)
        beta = lesser(ops.cast(rate, w.dtype), 0.5 / at_least_one(bound))
        step = (beta if penalty.of_kernel else per_matrix(beta)) * direction
        if not penalty.of_kernel:
            step = layout.from_matrices(step, x.shape, xp)
        if is_free:
            step = across(step, scaled, entries)
        if is_free or alpha != 1.0:
            step = alpha * step
        return x - (step if step.dtype == x.dtype else ops.cast(step, x.dtype))

    def _drawn(
        self, moment: Moment | None, x: Tensor, shape: tuple[int, ...], kind: str = "signs"
    ) -> Tensor:
        """Independent random signs or, as `"normal"`, numbers; other ones at each call."""
        assert self._clock is not None
        if moment is None:  # so that only what draws counts
            moment = self._clock.tick()
        key = Key(of_kernel(self._clock, x) if moment is None else moment)
        draw = gaussian if kind == "normal" else rademacher
        return draw(shape, key, keras.backend.standardize_dtype(x.dtype))

    def layout_for(self, shape: tuple[int, ...]) -> Layout:
        """By which it reads a kernel of this shape; ValueFault where it does not describe it."""
        own = self._base.layout
        layout = layout_for(own, shape)
        groups = self._base.option(FILTER_GROUPS)
        if own is not None or groups == 1:
            return layout
        problem = why_no_filter_groups(layout, shape, groups)
        if problem:
            raise ValueFault(f"{problem}; got shape {shape}")
        return in_filter_groups(layout, groups)


def left_out(x: Tensor) -> Tensor:
    """A zero; on PyTorch, where a gradient of zeros would take its time, it has none."""
    if BACKEND == "torch":
        return widened(x.new_zeros(()))
    return differentiable(no_penalty, x)


def _check_scale(scale: str, alpha: float) -> None:
    if scale not in SCALES:
        raise ValueFault(f"scale={scale!r} is not known; choose one of: {', '.join(SCALES)}")
    if not alpha > 0:
        raise ValueFault(f"alpha={alpha!r} must be above 0")


def _replicas() -> int:
    """Over how many devices TensorFlow shares a batch.

    Keras divides a penalty of outputs by the samples of a device, which are fewer by as much.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


CLASSES: dict[str, type[OrthogonalityRegularizer]] = {}


def _add_class(penalty: Penalty) -> None:
    """Two classes of one name, of which `__new__` takes the one that is to be made."""
    words = {"penalty": penalty.name, "__doc__": penalty.doc or penalty.formula}
    made: Any = type(penalty.class_name, (OrthogonalityRegularizer,), words)
    where = {"__qualname__": f"{penalty.class_name}._counting"}  # where pickle finds it
    counting = type(penalty.class_name, (made, Clock), where)
    register(counting)
    made._counting = counting
    CLASSES[penalty.name] = register(made)


with_each_penalty(_add_class)


def regularizer(name: Any, factor: float | None = None, **options: Any) -> _Regularizer:
    """A regularizer by name, ready for `kernel_regularizer=` or for `orthwrap.apply`.

    Args:
        name: a penalty (`"so"`, `"srip"`, …), one of Keras's (`"l2"`), a reference
            (`"package.module:function"`, which is imported), or an object.
        factor: λ; None takes the default.
        **options: as the class takes them: `scale`, `layout`, `estimate`, `every`, ….

    Raises:
        ValueFault: an unknown name (the nearest is named), factor or option.
    """
    if isinstance(name, type):
        raise ValueFault(f"regularizer {name.__name__} is a class: give an object of it")
    if isinstance(name, str) and name in CLASSES:
        return CLASSES[name](factor, **options)
    if isinstance(name, str):
        attachment = template(Rule(regularizer=name, factor=factor, options=options))
        import_reference(attachment.foreign)
        return Attached(attachment.foreign, attachment.factor, attachment.name)
    if options or (factor is not None and isinstance(name, _Regularizer)):
        raise ValueFault(f"options go with a regularizer's name; set them on the object {name!r}")
    if isinstance(name, _Regularizer):
        return name
    return Attached(name, 1.0 if factor is None else factor)


def attachment_of(value: Any, factor: float | None = None) -> Attachment:
    """The attachment, without layout, that an object stands for."""
    if isinstance(value, _Regularizer):
        own = value.attachment
        return own if factor is None else replace(own, factor=check_factor(factor))
    return regularizer(value, factor).attachment


def from_attachment(attachment: Attachment, function: Any = None) -> _Regularizer:
    """The live object for an attachment; `function` stands in for a reference that has none."""
    config = attachment.to_node()["config"]
    if attachment.is_penalty:
        return CLASSES[attachment.name](**config)
    if function is not None:
        made = Attached(function, **{k: v for k, v in config.items() if k != "regularizer"})
        made.attachment = attachment
        return made
    return Attached(**config)
