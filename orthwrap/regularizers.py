"""The Keras regularizers: layout + penalty + factor + scale, registered under `orthwrap>…`.

A file that carries one of these classes loads wherever orthwrap is imported, in either order with
Keras; `orthwrap.strip` makes a plain Keras file of it again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import keras
from keras import ops

from orthwrap import activity, nodes, penalties, references
from orthwrap.catalog import PENALTIES
from orthwrap.clock import Clock, TickSeed
from orthwrap.errors import UsageError, ValueFault
from orthwrap.layouts import Layout, by_config
from orthwrap.multiplier import Multiplier
from orthwrap.nodes import Attachment
from orthwrap.plan import template
from orthwrap.records import SCALES, Rule, check_factor

Tensor = Any


class _Regularizer(keras.regularizers.Regularizer):  # type: ignore[misc]  # Keras is untyped
    """What ours have in common: a factor, and the foreign regularizer beside or under them."""

    _foreign: Callable[[Tensor], Tensor] | None
    _base: Attachment  # whose factor a compiled step holds as a constant
    _multiplier: Multiplier | None = None  # which moves it, while a schedule runs

    def _adopt(self, attachment: Attachment) -> None:
        self._base = attachment
        beside = attachment.combined_with
        self._foreign = None if beside is None else references.regularizer_of(beside)

    @property
    def attachment(self) -> Attachment:
        """What a config keeps, with the factor of this moment."""
        if self._multiplier is None:
            return self._base
        return replace(self._base, factor=self._base.factor * self._multiplier.value)

    @attachment.setter
    def attachment(self, attachment: Attachment) -> None:
        self._base = attachment

    @property
    def factor(self) -> float:
        """The coefficient λ; while a schedule runs, that of this moment."""
        return self.attachment.factor

    @property
    def multiplier(self) -> Multiplier | None:
        """What multiplies the factor while a schedule runs, else None."""
        return self._multiplier

    def follow(self, multiplier: Multiplier, factor: float) -> None:
        """The value is factor × multiplier × penalty from now on, also in compiled steps.

        Steps that were compiled before are to be forgotten.
        """
        self._base = replace(self._base, factor=factor)
        self._multiplier = multiplier

    def settle(self) -> None:
        """The factor of this moment becomes the regularizer's own, and moves no more."""
        self._base, self._multiplier = self.attachment, None

    def __call__(self, x: Tensor) -> Tensor:
        value = self._value(x)
        if self._multiplier is not None:
            value = value * ops.cast(self._multiplier.state, value.dtype)
        return value if self._foreign is None else value + self._foreign(x)

    def _value(self, x: Tensor) -> Tensor:
        """The regularizer's own part, with the factor and without its multiplier."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.attachment.to_node()["config"]
        return config

    def __repr__(self) -> str:
        return f"<orthwrap {self.attachment}>"


class OrthogonalityRegularizer(_Regularizer):
    """factor × penalty of a layer's kernel(s), seen as a batch of matrices.

    Args:
        factor: λ, at least 0; None takes the penalty's default (see `orthwrap regularizers`).
        scale: `"unit"`: the value is P(W), which pulls singular values to 1. `"preserve"`: P(W/α).
        alpha: α for `"preserve"`, the RMS singular value of the kernel at attach time.
        layout: how the kernel becomes matrices (a `Layout` or its config). None: by the kernel's
            rank, 2 axes as Dense and 3 to 5 as Conv with one group and stride 1.
        on: `"kernel"`, or `"activity"` for a layer's outputs.
        combined_with: another regularizer to add, as Keras takes it (a name, a config, an object).
        replaced: a regularizer's config that is only kept, for `orthwrap.strip`.
        **options: `estimate`, `probes`, `seed`, `steps`, `every`, as the penalty takes them.

    Call with a kernel of the layout's shape, any float dtype; returns a scalar. float16 and
    bfloat16 are computed in float32.

    Raises:
        ValueFault: a value out of range, an unknown option, a kernel the layout does not describe.
    """

    penalty: ClassVar[str] = ""

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
        if isinstance(layout, Mapping):
            layout = Layout.from_config(layout)
        if scale not in SCALES:
            raise ValueFault(f"scale={scale!r} is not known; choose one of: {', '.join(SCALES)}")
        if not alpha > 0:
            raise ValueFault(f"alpha={alpha!r} must be above 0")
        checked = nodes.check_options(self.penalty, options)
        if factor is None:
            factor = PENALTIES[self.penalty].default_factor
        self._adopt(
            Attachment(
                name=self.penalty,
                factor=check_factor(factor),
                scale=scale,
                alpha=float(alpha),
                options=checked,
                layout=layout,
                on=on,
                combined_with=_node_of(combined_with),
                replaced=_node_of(replaced),
                absent=absent,
            )
        )
        self._seed: int = 0
        self.reseed(random.getrandbits(31))
        self._every: int = self.attachment.option("every")
        self._sketch = self.attachment.option("estimate") == "sketch"
        if on == "activity" and (self._sketch or self.penalty == "lorth" or scale != "unit"):
            raise UsageError("on activity there is no lorth, no sketch and no scale preserve")
        self._clock = Clock() if self._every > 1 or self._sketch or self.penalty == "srip" else None

    def reseed(self, seed: int) -> None:
        """Draws from this seed, unless the option `seed` names one."""
        own = self.attachment.option("seed")
        self._seed = seed % 2**31 if own is None else own

    @property
    def state(self) -> dict[str, int]:
        """What its random draws and `every` go on from: `seed` and the `count` of its calls."""
        count = 0 if self._clock is None else self._clock.count
        return {"seed": self._seed, "count": count}

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes on from a `state`; before training, as compiled steps hold the seed."""
        self._seed = int(state["seed"])
        if self._clock is not None:
            self._clock.count = int(state["count"])

    def _value(self, x: Tensor) -> Tensor:
        x = ops.convert_to_tensor(x)
        if keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16"):
            x = ops.cast(x, "float32")
        count = None if self._clock is None else self._clock.tick()
        if self._every == 1:
            return self._base.factor * self._penalty_of(x, count)
        # Paid for at one call in `every`, and so many times as strong there.
        return ops.cond(
            ops.equal(ops.convert_to_tensor(count) % self._every, 0),
            lambda: self._base.factor * self._every * self._penalty_of(x, count),
            lambda: 0 * ops.reshape(x, (-1,))[0],  # a zero that still has a gradient
        )

    def _penalty_of(self, x: Tensor, count: Any) -> Tensor:
        """The penalty without its factor, of a float32 or float64 tensor."""
        if self.attachment.on == "activity":
            g, rows = activity.gram(x)
            if self.penalty == "srip":
                start = self._signs((g.shape[-1], 1), count, x.dtype)
                value = activity.srip(g, rows, start, self.attachment.option("steps"))
            else:
                value = activity.PENALTIES[self.penalty](g, rows)
            return value / _replicas()
        layout = self._layout_for(tuple(x.shape))
        if self.attachment.alpha != 1.0:
            x = x / self.attachment.alpha
        if self.penalty == "lorth":
            return self._lorth(x, layout, count)
        w = layout.to_matrices(x, ops)
        if self.penalty == "srip":
            start = self._signs(penalties.probe_shape(w.shape, 1), count, w.dtype)
            return penalties.srip(w, start, self.attachment.option("steps"))
        function = penalties.FUNCTIONS[self.penalty]
        if not self._sketch:
            return function(w)
        shape = penalties.probe_shape(w.shape, self.attachment.option("probes"))
        return function(w, self._signs(shape, count, w.dtype))

    def _lorth(self, kernel: Tensor, layout: Layout, count: Any) -> Tensor:
        strides = layout.strides or None
        if not self._sketch:
            return penalties.lorth(kernel, strides, layout.parts)
        shape = penalties.lorth_probe_shape(
            kernel.shape, strides, layout.parts, self.attachment.option("probes")
        )
        return penalties.lorth(
            kernel, strides, layout.parts, self._signs(shape, count, kernel.dtype)
        )

    def _signs(self, shape: tuple[int, ...], count: Any, dtype: Any) -> Tensor:
        """Independent random signs, other ones at each call."""
        name = keras.backend.standardize_dtype(dtype)
        return penalties.rademacher(shape, TickSeed(self._seed, count), name)

    def _layout_for(self, shape: tuple[int, ...]) -> Layout:
        layout = self.attachment.layout
        if layout is not None:
            return layout.for_shape(shape)
        by_rank = by_config({}, shape)
        if isinstance(by_rank, str):
            raise ValueFault(f"{by_rank}; got shape {shape}: give the regularizer a layout")
        return by_rank


def _replicas() -> int:
    """Over how many devices TensorFlow shares a batch.

    Keras divides a penalty of outputs by the samples of a device, which are fewer by as much.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def _register(cls: type[_Regularizer]) -> Any:
    return keras.saving.register_keras_serializable(package=nodes.PACKAGE)(cls)


@_register
class SO(OrthogonalityRegularizer):
    """Soft orthogonality, ‖G−I‖_F² (Bansal et al. 2018), on the smaller Gram matrix."""

    penalty = "so"


@_register
class DSO(OrthogonalityRegularizer):
    """Double soft orthogonality, ‖WᵀW−I‖_F² + ‖WWᵀ−I‖_F² (Bansal et al. 2018)."""

    penalty = "dso"


@_register
class MC(OrthogonalityRegularizer):
    """Mutual coherence, max |G−I| (Bansal et al. 2018)."""

    penalty = "mc"


@_register
class SRIP(OrthogonalityRegularizer):
    """Spectral restricted isometry, σ_max(G−I) (Bansal et al. 2018), by power iteration.

    `steps` products with G−I (default 2) from a random start: an estimate from below.
    """

    penalty = "srip"


@_register
class LOrth(OrthogonalityRegularizer):
    """Orthogonality of the convolution itself (Wang et al. 2020; Achour et al. 2022)."""

    penalty = "lorth"


@_register
class OffDiag(OrthogonalityRegularizer):
    """‖G⊙(1−I)‖_F²: columns orthogonal, lengths free (Brock et al. 2019, BigGAN)."""

    penalty = "offdiag"


@_register
class Cosine(OrthogonalityRegularizer):
    """Mean |cos| over pairs of columns (rows where n > m), as Keras's OrthogonalRegularizer."""

    penalty = "cosine"


@_register
class Frobenius(OrthogonalityRegularizer):
    """‖G−I‖_F, unsquared: the classic "|WᵀW − I|"."""

    penalty = "frobenius"


CLASSES: dict[str, type[OrthogonalityRegularizer]] = {
    cls.penalty: cls for cls in (SO, DSO, MC, SRIP, LOrth, OffDiag, Cosine, Frobenius)
}


@_register
class Attached(_Regularizer):
    """factor × a regularizer that is not orthwrap's, attached by orthwrap.

    Args:
        regularizer: a Keras regularizer (object, name or config), a callable, or
            `"package.module:function"`. A reference is resolved only if the user named it in this
            process, or the function is registered with Keras or among the custom objects.
        factor: its coefficient; the regularizer's own coefficients stay as they are.
        name: what reports call it.
    """

    def __init__(
        self,
        regularizer: Any,
        factor: float = 1.0,
        name: str | None = None,
        on: str = "kernel",
        combined_with: Any = None,
        replaced: Any = None,
        absent: bool = False,
    ) -> None:
        node = _node_of(regularizer)
        if node is None:
            raise ValueFault("a regularizer is a name, a config or a callable; got None")
        self._adopt(
            Attachment(
                name=name or _shown(node),
                factor=check_factor(factor),
                on=on,
                foreign=node,
                combined_with=_node_of(combined_with),
                replaced=_node_of(replaced),
                absent=absent,
            )
        )
        is_object = callable(regularizer) and not isinstance(regularizer, (str, Mapping))
        self._function = regularizer if is_object else references.regularizer_of(node)

    def _value(self, x: Tensor) -> Tensor:
        value, factor = self._function(x), self._base.factor
        return value if factor == 1.0 else factor * value


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


def import_reference(reference: Any) -> None:
    """Imports `"package.module:function"`, which the user named; files may refer to it then.

    Raises:
        ValueFault: there is no such module, or no such function in it.
    """
    if isinstance(reference, str):
        references.remember(reference, references.imported(reference, "regularizer"))


def _shown(node: Any) -> str:
    """What a foreign regularizer is called: its reference without an address."""
    return nodes.without_address(node) if isinstance(node, str) else nodes.describe(node)


def _node_of(value: Any) -> Any:
    """A regularizer as it stands in a config: None, a name, a node, or a reference.

    An object is the user's own, so that files may refer to it from then on.
    """
    if value is None or isinstance(value, (str, Mapping)):
        return value
    if isinstance(value, keras.regularizers.Regularizer):
        cls = type(value)
        references.remember(f"{cls.__module__}:{cls.__name__}", cls)
        return keras.saving.serialize_keras_object(value)
    if not callable(value):
        raise ValueFault(f"a regularizer is a name, a config or a callable; got {value!r}")
    reference = references.reference_of(value)
    references.remember(reference, value)
    return reference


def check_callable(function: Any, shape: tuple[int, ...], where: str, name: str) -> None:
    """Calls a regularizer once, eagerly and traced, on a kernel of `shape`.

    Raises:
        ValueFault: it gives no scalar tensor, or no gradient, as with `np.linalg.norm`.
    """
    import numpy as np

    hint = "use keras.ops, and return one number per kernel"
    kernel = np.random.default_rng(0).normal(size=shape).astype("float32")
    variable = keras.Variable(kernel)
    try:
        value = function(variable)
        fault = _value_fault(value)
        if fault is None:
            fault = _trace_fault(function, variable)
    except Exception as e:  # the user's function may raise anything
        first = (str(e).splitlines() or [""])[0]
        fault = f"raised {type(e).__name__}: {first}"
    if fault is not None:
        raise ValueFault(f"regularizer {name!r} on {where} of shape {shape} {fault}; {hint}")


def _value_fault(value: Any) -> str | None:
    if not keras.ops.is_tensor(value):
        return f"returned {type(value).__name__}, not a scalar tensor"
    if tuple(value.shape) != ():
        return f"returned a tensor of shape {tuple(value.shape)}, not a scalar"
    if not keras.backend.is_float_dtype(value.dtype):
        return f"returned {keras.backend.standardize_dtype(value.dtype)}, not a float"
    return None


def _trace_fault(function: Any, variable: Any) -> str | None:
    """What goes wrong only inside a compiled step, or without a gradient."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        gradients = []

        def step() -> None:
            with tf.GradientTape() as tape:
                value = function(variable)
            gradients.append(tape.gradient(value, variable.value))

        # Traced and not run: calls would make TensorFlow warn of retracing.
        tf.function(step, autograph=False).get_concrete_function()
        has_one = gradients[0] is not None
        return None if has_one else "has no gradient with respect to the kernel"
    if backend == "jax":
        import jax

        jax.make_jaxpr(jax.grad(lambda x: function(x)))(variable.value)
        return None
    value = function(variable)
    return None if value.requires_grad else "has no gradient with respect to the kernel"


assert set(CLASSES) == set(PENALTIES)
