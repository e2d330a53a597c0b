"""Distillation: the copy learns to give the original model's outputs; labels are not needed.

The original is the teacher (Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural
Network"). What its outputs are decides how the copy's are held against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from orthwrap import keras_inside
from orthwrap.errors import OrthwrapError
from orthwrap.live.compiled import compiled_state, set_compiled_state
from orthwrap.training.goal.compiling import activations_of, loss_of_each
from orthwrap.training.goal.inputs_outputs import native, outputs_of, ports
from orthwrap.training.settings import DEFAULT_LEARNING_RATE, DEFAULT_TEMPERATURE

Array = NDArray[Any]
Tensor = Any

# What an output is: probabilities of classes that exclude each other, their logits, independent
# probabilities, their logits, or any other numbers.
SOFTMAX, LOGITS, SIGMOID, SIGMOID_LOGITS, NUMBERS = KINDS = (
    "softmax",
    "logits",
    "sigmoid",
    "sigmoid logits",
    "numbers",
)

# Batch normalisation is spoken of where it leaves less agreement; small batches alone cost some.
_MUCH = 0.8

# The probability that stands for 0, whose logarithm float32 has.
_LEAST = 1e-30


def kinds_of(model: Any) -> tuple[str, ...]:
    """What each output is, from its activation and from what the model's own loss says of it."""
    _, outputs = ports(model)
    own = loss_of_each(getattr(model, "loss", None), outputs)
    return tuple(
        _kind(activation, loss, port.shape)
        for activation, loss, port in zip(
            activations_of(model, len(outputs)), own, outputs, strict=True
        )
    )


def _kind(activation: str | None, loss: Any, shape: tuple[int | None, ...]) -> str:
    if activation == "softmax" and shape and shape[-1] != 1:
        return SOFTMAX
    if activation == "sigmoid":
        return SIGMOID
    if getattr(loss, "from_logits", False):
        return SIGMOID_LOGITS if isinstance(loss, _OF_BITS) else LOGITS
    return NUMBERS


_OF_BITS = (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy)


# The losses


class SoftTargets(keras.losses.Loss):  # type: ignore[misc]  # Keras is untyped
    """T²·KL of two distributions over classes, both softened by the temperature T.

    Without the entropy of the teacher, so that 0 says that both agree.

    Args:
        temperature: T, above 0; at 2 what the teacher holds possible counts more than at 1.
        from_logits: the outputs are logits; else probabilities, of which 0 is taken as 1e-30.
    """

    def __init__(
        self, temperature: float = DEFAULT_TEMPERATURE, from_logits: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**{"name": "distillation", **kwargs})
        self.temperature = temperature
        self.from_logits = from_logits

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        teacher, student = (self._log_softened(y) for y in (y_true, y_pred))
        divergence = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
        return self.temperature**2 * divergence

    def _log_softened(self, outputs: Tensor) -> Tensor:
        logits = outputs if self.from_logits else ops.log(ops.maximum(outputs, _LEAST))
        return ops.log_softmax(logits / self.temperature, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "from_logits": self.from_logits,
        }


class SoftBits(keras.losses.Loss):  # type: ignore[misc]  # Keras is untyped
    """Binary cross-entropy with the teacher's probabilities, averaged over the last axis."""

    def __init__(self, from_logits: bool = False, **kwargs: Any) -> None:
        super().__init__(**{"name": "distillation", **kwargs})
        self.from_logits = from_logits

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        teacher = ops.sigmoid(y_true) if self.from_logits else y_true
        return ops.mean(
            ops.binary_crossentropy(teacher, y_pred, from_logits=self.from_logits), axis=-1
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits}


def distillation_losses(
    model: Any, temperature: float = DEFAULT_TEMPERATURE
) -> tuple[list[Any], tuple[str, ...]]:
    """A loss for each output, by what it is; and a line of each for the user.

    softmax, or logits where the model's own loss says so: `SoftTargets`. sigmoid: `SoftBits`.
    Anything else: the mean squared error.

    Raises:
        OrthwrapError: the model computes its loss in its own way.
    """
    cls = type(model)
    if (
        cls.compute_loss is not keras.Model.compute_loss
        or cls.train_step is not keras.Model.train_step
    ):
        raise OrthwrapError(
            f"model {model.name!r} ({cls.__name__}) computes its loss in its own way, which "
            "distillation would replace: train it on labels"
        )
    _, outputs = ports(model)
    kinds = kinds_of(model)
    lines = [
        f"{f'{port.name}: ' if len(kinds) > 1 else ''}distilled as {kind}: "
        f"{_how(kind, temperature)}"
        for port, kind in zip(outputs, kinds, strict=True)
    ]
    if _noise_in(model):
        lines.append("dropout and other noise: off while the copy imitates the original")
    return [_loss(kind, temperature) for kind in kinds], tuple(lines)


def _loss(kind: str, temperature: float) -> Any:
    if kind in (SOFTMAX, LOGITS):
        return SoftTargets(temperature, from_logits=kind == LOGITS)
    if kind in (SIGMOID, SIGMOID_LOGITS):
        return SoftBits(from_logits=kind == SIGMOID_LOGITS)
    return keras.losses.MeanSquaredError(name="distillation")


def _how(kind: str, temperature: float) -> str:
    if kind in (SOFTMAX, LOGITS):
        return f"KL divergence from the original's outputs at temperature {temperature:g}"
    if kind in (SIGMOID, SIGMOID_LOGITS):
        return "binary cross-entropy with the original's outputs"
    return "mean squared error from the original's outputs"


class imitating:
    """While active, the model is compiled to imitate; afterwards it is as it was compiled before.

    Dropout and other noise is off meanwhile: to an exact copy it is the whole of the gradient, and
    leads a deep network away from its teacher within a few steps.
    It is trained by its own optimizer, which goes on from the state it has; without one by Adam.
    Of the training, the optimizer alone stays, and only where the model was compiled: a file
    that is saved afterwards names none of the losses here.

    Args:
        losses: from `distillation_losses`.
        optimizer: instead of the model's own.
    """

    def __init__(self, model: Any, losses: Sequence[Any], optimizer: Any = None) -> None:
        self._model = model
        self._losses = list(losses)
        self._optimizer = optimizer

    def __enter__(self) -> None:
        model = self._model
        self._noise = [(layer, name, getattr(layer, name)) for layer, name in _noise_in(model)]
        for layer, name, _ in self._noise:
            setattr(layer, name, 0.0)
        self._before = compiled_state(model)
        own = getattr(model, "optimizer", None)
        optimizer = self._optimizer or own or keras.optimizers.Adam(DEFAULT_LEARNING_RATE)
        keras_inside.forget_metrics(model)
        keras.Model.compile(
            model,
            optimizer=optimizer,
            loss=self._losses[0] if len(self._losses) == 1 else self._losses,
            run_eagerly=model.run_eagerly,
            jit_compile=model.jit_compile if model.compiled else "auto",
            auto_scale_loss=optimizer is not own,  # its own is scaled already where it has to be
        )

    def __exit__(self, *error: object) -> None:
        model = self._model
        for layer, name, strength in self._noise:
            setattr(layer, name, strength)
        state = dict(self._before)
        if state.get("optimizer") is not None:
            state["optimizer"] = model.optimizer
        set_compiled_state(model, state)


def _noise_in(model: Any) -> list[tuple[Any, str]]:
    """The layers that add noise in training, and what says how much."""
    found = []
    for layer in keras_inside.every_layer(model):
        if isinstance(layer, _DROPOUTS):
            found.append((layer, "rate"))
        elif isinstance(layer, keras.layers.GaussianNoise):
            found.append((layer, "stddev"))
        elif keras_inside.is_recurrent_dropout(layer) or isinstance(layer, keras.layers.Attention):
            names = ("dropout", "recurrent_dropout")
            found += [(layer, name) for name in names if getattr(layer, name, 0)]
    return found


_DROPOUTS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
)


# The teacher's outputs, and how near the copy's are


def teacher_outputs(model: Any, batches: Iterable[Any]) -> tuple[Array, ...]:
    """The model's outputs on batches of inputs, one array per output.

    Args:
        batches: of x, as the model takes it; each may be alone in a tuple.
    """
    call = outputs_of(model)
    batchwise = [
        call(batch[0] if isinstance(batch, tuple) and len(batch) == 1 else batch)
        for batch in batches
    ]
    return tuple(np.concatenate(parts) for parts in zip(*batchwise, strict=True))


def told_of_batch_statistics(model: Any, batches: Iterable[Any], kinds: Sequence[str]) -> str:
    """What batch normalisation alone does to the agreement, where that is much; else "".

    While it is trained, it takes the statistics of each batch instead of its own. Where the data
    are unlike those of the first training, this alone makes another function of the model.

    Args:
        batches: (x, y) as `fit` takes them, y being the model's own outputs.
        kinds: of the outputs.
    """
    layers = keras_inside.every_layer(model)
    if not any(v.trainable for v in layers if isinstance(v, keras.layers.BatchNormalization)):
        return ""
    weights = [
        [v.value for v in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    own, found = [], []
    for x, y, *_ in batches:
        x = keras.tree.map_structure(lambda a: ops.convert_to_tensor(native(a)), x)
        outputs, _ = model.stateless_call(*weights, x, training=True)  # statistics stay as they are
        own.append([np.asarray(a) for a in keras.tree.flatten(y)])
        found.append([ops.convert_to_numpy(a) for a in keras.tree.flatten(outputs)])
    teacher, student = (
        [np.concatenate(part) for part in zip(*side, strict=True)] for side in (own, found)
    )
    share = agreement(teacher, student, kinds)
    if share >= _MUCH:
        return ""
    return (
        f"batch normalisation by the statistics of each batch leaves {share:.0%} agreement, before "
        "any kernel moves: on data unlike those of its first training, freeze batchnorm"
    )


def agreement(teacher: Sequence[Array], student: Sequence[Array], kinds: Sequence[str]) -> float:
    """How far two models agree, from 0 to 1; the mean over the outputs.

    softmax, logits: the share of samples (and places) of the same class. sigmoid: of numbers on
    the same side of an even chance. Other outputs: 1 − ‖student − teacher‖ / ‖teacher‖, at least
    0. What is not finite agrees with nothing.
    """
    shares = [
        _agreement(np.asarray(t, np.float64), np.asarray(s, np.float64), kind)
        for t, s, kind in zip(teacher, student, kinds, strict=True)
    ]
    return float(np.mean(shares))


def agreement_of_each(
    teacher: Sequence[Array], student: Sequence[Array], kinds: Sequence[str]
) -> Array:
    """The same of each sample, by the mean size of the teacher's outputs where they are numbers."""
    found = []
    for t, s, kind in zip(teacher, student, kinds, strict=True):
        t, s = np.asarray(t, np.float64), np.asarray(s, np.float64)
        if kind in (SOFTMAX, LOGITS):
            same = (np.argmax(t, axis=-1) == np.argmax(s, axis=-1)).astype(np.float64)
        elif kind in (SIGMOID, SIGMOID_LOGITS):
            even = 0.5 if kind == SIGMOID else 0.0
            same = ((t > even) == (s > even)).astype(np.float64)
        else:
            size = np.sqrt(np.mean(np.square(t))) or 1.0
            same = np.maximum(0.0, 1.0 - np.abs(s - t) / size)
        found.append(same.reshape(len(same), -1).mean(axis=1))
    return np.asarray(np.mean(found, axis=0))


def _agreement(teacher: Array, student: Array, kind: str) -> float:
    if kind in (SOFTMAX, LOGITS):
        same = np.argmax(teacher, axis=-1) == np.argmax(student, axis=-1)
        return float(np.mean(same & np.all(np.isfinite(student), axis=-1)))
    if kind in (SIGMOID, SIGMOID_LOGITS):
        even = 0.5 if kind == SIGMOID else 0.0
        return float(np.mean(((teacher > even) == (student > even)) & np.isfinite(student)))
    if not np.all(np.isfinite(student)):
        return 0.0
    distance, size = np.linalg.norm(student - teacher), np.linalg.norm(teacher)
    if size == 0:
        return float(distance == 0)
    return max(0.0, 1.0 - float(distance / size))
