"""The constraint: what Keras calls on a kernel after each optimizer step, and keeps in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from orthwrap import keras_inside
from orthwrap.constraints.projections import below, clipped, polar
from orthwrap.constraints.updates import at_updates
from orthwrap.model_config.layers import layout_for
from orthwrap.model_config.layout import Layout
from orthwrap.model_config.tree import PACKAGE
from orthwrap.penalties.constrained import CONSTRAINTS, Constrained
from orthwrap.penalties.tensors import unbatched, widened, xp
from orthwrap.rules.constrain import Constrain

Tensor = Any


class OrthogonalityConstraint(keras.constraints.Constraint):  # type: ignore[misc]  # Keras is untyped
    """Holds the singular values of a layer's kernel(s), seen as a batch of matrices.

        keras.layers.Conv2D(32, 3, kernel_constraint=orthwrap.OrthogonalityConstraint("orthogonal"))

    Keras calls it after each optimizer step on the kernels that have a gradient. With gradient
    accumulation it acts at the updates alone. Where the optimizer averages weights (`use_ema`), the
    averages are held as well, at each step.

    Args:
        constrain: `"orthogonal"`, the nearest orthogonal kernel; `"spectral:C"`, W/max(1, σ_max/C);
            or `"band:A,B"`, singular values clipped to A and B.
        scale: `"unit"`, or `"preserve"`: singular values are in units of `alpha`.
        alpha: α for `"preserve"`, the RMS singular value of the kernel at attach time.
        every: act at one update in so many, by the optimizer's own count. Called outside of a
            Keras optimizer it acts at each call.
        layout: how the kernel becomes matrices (a `Layout` or its config). None: by the kernel's
            rank, 2 axes as Dense and 3 to 5 as Conv with one group.
        replaced: kept for `orthwrap.strip` alone.
        absent: the same.

    Call with a kernel of the layout's shape, any float dtype; returns one like it. float16 and
    bfloat16 are computed in float32. What is lacking in a kernel, see `projections.polar`.

    Raises:
        ValueFault: a value out of range; a kernel the layout does not describe.
    """

    def __init__(
        self,
        constrain: str | Constrain,
        scale: str = "unit",
        alpha: float = 1.0,
        every: int = 1,
        layout: Layout | Mapping[str, Any] | None = None,
        replaced: Any = None,
        absent: bool = False,
    ) -> None:
        given = {"scale": scale, "alpha": alpha, "every": every, "layout": layout}
        self.constrained = Constrained.from_config(
            {"constrain": constrain, **given, "replaced": replaced, "absent": absent}
        )

    def __call__(self, w: Tensor) -> Tensor:
        optimizer = keras_inside.optimizer_at_work()
        average = keras_inside.average_of(optimizer, w)
        if average is not None:
            average.assign(self.project(ops.convert_to_tensor(average)))
        return at_updates(self.project, ops.convert_to_tensor(w), optimizer, self.constrained.every)

    def project(self, w: Tensor) -> Tensor:
        """The kernel with its singular values held."""
        return project(w, self.constrained)

    def get_config(self) -> dict[str, Any]:
        return self.constrained.to_config()

    def __repr__(self) -> str:
        return f"<orthwrap {self.constrained}>"


def project(kernel: Tensor, constrained: Constrained) -> Tensor:
    """A kernel, of any float dtype, with its singular values held, whatever `every` is."""
    layout = layout_for(constrained.layout, tuple(kernel.shape))
    w = unbatched(layout.to_matrices(widened(kernel), xp))
    to, alpha = constrained.to, constrained.alpha
    if to.low == to.high:
        w = (alpha * to.high) * polar(w)
    elif to.low == 0:
        w = below(w, alpha * to.high)
    else:
        w = clipped(w, alpha * to.low, alpha * to.high)
    return ops.cast(layout.from_matrices(w, kernel.shape, xp), kernel.dtype)


# As users' files have it, wherever in this room the class stands.
OrthogonalityConstraint.__module__ = CONSTRAINTS
keras.saving.register_keras_serializable(package=PACKAGE)(OrthogonalityConstraint)
