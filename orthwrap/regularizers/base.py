"""What orthwrap's regularizers have in common, and how Keras comes to know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import keras
from keras import ops

from orthwrap import keras_inside
from orthwrap.model_config.tree import PACKAGE
from orthwrap.penalties.attachment import MODULE, Attachment
from orthwrap.regularizers.known import regularizer_of
from orthwrap.regularizers.multiplier import Multiplier
from orthwrap.regularizers.shares import tell

Tensor = Any


class _Regularizer(keras.regularizers.Regularizer):  # type: ignore[misc]  # Keras is untyped
    """What ours have in common: a factor, and the foreign regularizer beside or under them."""

    _foreign: Callable[[Tensor], Tensor] | None
    _base: Attachment  # whose factor a compiled step holds as a constant
    _multiplier: Multiplier | None = None  # which moves it, while a schedule runs
    _lora_factors: Mapping[int, Any] = MappingProxyType({})  # by their ids

    def _adopt(self, attachment: Attachment) -> None:
        self._base = attachment
        beside = attachment.combined_with
        self._foreign = None if beside is None else regularizer_of(beside)

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
        if self._is_on_lora(x):
            value = ops.zeros((), keras.backend.standardize_dtype(x.dtype))
            return value if self._foreign is None else self._foreign(x)
        value = self._value(x)
        if self._multiplier is not None:
            value = value * ops.cast(self._multiplier.state, value.dtype)
        other = None if self._foreign is None else self._foreign(x)
        loss = value if other is None else value + other
        tell(self, loss, value, other)
        return loss

    def _is_on_lora(self, x: Tensor) -> bool:
        """Whether it is a factor of LoRA, which Keras gives the regularizer of the frozen kernel.

        Compiled steps on JAX hand over bare arrays. Keras asks for their shapes first, with the
        variables themselves; those that are factors are known by then.
        """
        if is_lora_factor(x):
            self._lora_factors = {**self._lora_factors, id(x): x}
            return True
        return bool(self._lora_factors) and keras_inside.key_in_scope(x) in self._lora_factors

    def _value(self, x: Tensor) -> Tensor:
        """The regularizer's own part, with the factor and without its multiplier."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.attachment.to_node()["config"]
        return config

    def __repr__(self) -> str:
        return f"<orthwrap {self.attachment}>"


def is_lora_factor(x: Any) -> bool:
    """Whether it is one of the variables that LoRA trains in place of a kernel."""
    return isinstance(x, keras.Variable) and x.name.startswith("lora_")


def register(cls: type[_Regularizer]) -> Any:
    """Known to Keras as `orthwrap>Name`, and in files as of `orthwrap.regularizers`."""
    cls.__module__ = MODULE
    return keras.saving.register_keras_serializable(package=PACKAGE)(cls)
