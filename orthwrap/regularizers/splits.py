"""On JAX, a kernel that is split over devices: its products stay split.

Split along the larger side of its matrix, its Gram matrix is a sum of one small matrix from each
device. Split along the smaller, each device would need all of it, so it is split along the other
side first: each weight moves once, and no device holds them all.
"""

from __future__ import annotations

from math import prod
from typing import Any

import keras

from orthwrap import keras_inside
from orthwrap.penalties.tensors import BACKEND

Tensor = Any
Split = Any  # a jax.sharding.NamedSharding


class Splits:
    """How the kernels are split that a regularizer is on.

    Compiled steps hand over bare arrays, which do not say. Keras asks for their shapes first, with
    the variables themselves; how those are split is known by then.
    """

    def __init__(self) -> None:
        self._known: dict[int | None, Split] = {}  # by the variables' ids

    def of(self, x: Any) -> Split | None:
        """Of a variable, or of the value of one that was seen; None for what is not split."""
        if BACKEND != "jax":
            return None
        if not isinstance(x, keras.Variable):
            return self._known.get(keras_inside.key_in_scope(x)) if self._known else None
        found = _split_of(x.value)
        if found is not None:
            self._known = {**self._known, id(x): found}
        return self._known.get(id(x))


def _split_of(value: Any) -> Split | None:
    import jax

    if isinstance(value, jax.core.Tracer):
        return None
    sharding = getattr(value, "sharding", None)
    is_split = isinstance(sharding, jax.sharding.NamedSharding) and _axes(sharding)
    return sharding if is_split else None


def _axes(split: Split) -> tuple[str, ...]:
    """The axes of the mesh over which it is split."""
    parts = [(p,) if isinstance(p, str) else tuple(p or ()) for p in split.spec]
    return tuple(axis for part in parts for axis in part)


def along_larger_side(w: Tensor, split: Split | None) -> Tensor:
    """A matrix (m, n) or (1, m, n), split along its larger side where its kernel is split at all.

    Left as it is: several matrices, which may be split by matrix; and a side that cannot be shared
    out evenly.
    """
    if split is None or (len(w.shape) == 3 and w.shape[0] != 1):
        return w
    import jax

    axes = _axes(split)
    larger = len(w.shape) - (2 if w.shape[-1] <= w.shape[-2] else 1)
    if w.shape[larger] % prod(split.mesh.shape[axis] for axis in axes):
        return w
    spec = [axes if i == larger else None for i in range(len(w.shape))]
    wanted = jax.sharding.NamedSharding(split.mesh, jax.sharding.PartitionSpec(*spec))
    return jax.lax.with_sharding_constraint(w, wanted)
