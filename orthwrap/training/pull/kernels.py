"""Which kernels of a model can be pulled, and how far each is from its goal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from orthwrap.constraints import OrthogonalityConstraint
from orthwrap.errors import ValueFault
from orthwrap.live.live_store import LiveStore
from orthwrap.model_config.layout import Layout
from orthwrap.penalties.attachment import Attachment
from orthwrap.penalties.figures import Matrices
from orthwrap.regularizers import OrthogonalityRegularizer
from orthwrap.report.record import place_of
from orthwrap.stores.store import as_float
from orthwrap.survey import survey

_DOUBLE = 1 << 10  # rows of a Gram matrix up to which it is computed in float64


@dataclass(frozen=True)
class KernelFigures:
    """A kernel as it is.

    Attributes:
        residual: what is driven. `residual` is √(Σ‖G−I‖_F² / (count·r)) of W, `scaled_residual`
            that of W over its scale as it is now, as in the report; of a penalty that leaves
            lengths free √(penalty / (count·r)).
        speed: how many times faster than a small residual, which is divided by e^(2β) at each
            step, that of W over the α that is carried falls when it is pulled. Above 1 where
            singular values are above α. A `scaled_residual` falls no faster.
    """

    residual: float
    speed: float


@dataclass(frozen=True)
class DrivenKernel:
    """A trained kernel with a penalty of ours.

    Attributes:
        place: layer and slot, `conv1`; of several kernels in a slot with its name, `mha/query`.
        path, slot: of the layer.
        variable: the kernel.
        regularizer: on it.
    """

    place: str
    path: str
    slot: str
    variable: Any
    regularizer: OrthogonalityRegularizer

    @property
    def driven(self) -> str:
        """Which residual the penalty drives: the name in a report, or the penalty's own."""
        attachment = self.regularizer.attachment
        if attachment.penalty is not None and attachment.penalty.own_residual:
            return attachment.name
        return "residual" if attachment.scale == "unit" else "scaled_residual"

    def residual(self) -> float:
        """What is driven, as it is now; see `figures`."""
        return self.figures().residual

    def figures(self) -> KernelFigures:
        """Of the kernel as it is now; NaN where it holds no finite numbers."""
        attachment = self.regularizer.attachment
        kernel = as_float(keras.ops.convert_to_numpy(self.variable))
        layout = self.regularizer.layout_for(kernel.shape)
        count, m, n = layout.matrices(kernel.shape)
        kernel = kernel.astype(np.float64 if min(m, n) <= _DOUBLE else np.float32, copy=False)
        with np.errstate(all="ignore"):
            if attachment.is_free and attachment.penalty is not None:
                entries = attachment.penalty.number_of_sigmas(layout, kernel.shape)
                alpha = math.sqrt(float(np.vdot(kernel, kernel)) / entries) or 1.0
                attachment = replace(attachment, alpha=alpha)
            square, speed = _square_and_speed(kernel, layout, attachment)
        if not (math.isfinite(square) and math.isfinite(speed)):
            return KernelFigures(math.nan, 1.0)
        return KernelFigures(math.sqrt(square / (count * min(m, n))), max(speed, 1.0))


def _square_and_speed(kernel: Any, layout: Layout, attachment: Attachment) -> tuple[float, float]:
    """Σ‖G−I‖_F², or the penalty of W/α where that is what it drives; and the speed."""
    penalty = attachment.penalty
    own = penalty if penalty is not None and penalty.own_residual else None
    if own is not None and own.of_kernel:
        found = own.figure(kernel / attachment.alpha, layout)
        if found is not None:
            return max(found, 0.0), 1.0
    w = layout.to_matrices(kernel, np)
    w = w if w.shape[2] <= w.shape[1] else np.swapaxes(w, 1, 2)
    gram = np.swapaxes(w, 1, 2) @ w
    pulled = gram / attachment.alpha**2
    if own is not None and not own.of_kernel:
        scaled = w / attachment.alpha
        matrices = Matrices(
            pulled, lambda: np.linalg.svd(scaled, compute_uv=False)[:, ::-1], w.shape[1]
        )
        found = own.figure(matrices, **own.words(attachment.options))
        if found is not None:
            return found, 1.0
    away = pulled - np.eye(gram.shape[1], dtype=gram.dtype)
    square = float(np.vdot(away, away))
    # The derivative of ‖G−I‖_F² along the pull is −4β·tr(G(G−I)²).
    speed = float(np.vdot(pulled @ away, away)) / square if square > 0 else 1.0
    if attachment.scale != "unit":  # as the report has it, against the scale of the moment
        alpha = math.sqrt(float(np.einsum("bii->", gram)) / (len(gram) * gram.shape[1])) or 1.0
        away = gram / alpha**2 - np.eye(gram.shape[1], dtype=gram.dtype)
        square = float(np.vdot(away, away))
    return square, speed


def driven_kernels(model: Any, regularizers: Iterable[Any] | None = None) -> list[DrivenKernel]:
    """The trained kernels that carry a penalty of ours, in the model's order.

    Args:
        regularizers: only those with one of these objects; None takes all.
    """
    wanted = None if regularizers is None else {id(r) for r in regularizers}
    trained = {id(v): v for v in model.trainable_variables}
    found = []
    for slot in survey(LiveStore(model)).slots:
        for kernel in slot.kernels:
            variable = None if kernel.weight is None else trained.pop(kernel.weight.key, None)
            regularizer = getattr(variable, "regularizer", None)
            if not isinstance(regularizer, OrthogonalityRegularizer):
                continue
            if wanted is not None and id(regularizer) not in wanted:
                continue
            place = place_of(kernel.layer.path, slot.name)
            if len(slot.kernels) > 1:
                place += f"/{kernel.spec.name}"
            path = slot.layer.path
            found.append(DrivenKernel(place, path, slot.name, variable, regularizer))
    return found


def check_pullable(model: Any, kernels: Iterable[DrivenKernel]) -> None:
    """ValueFault where a kernel cannot be pulled.

    Its penalty has no pull, a constraint holds it already, or its regularizer object serves a
    kernel that is not pulled.
    """
    kernels = list(kernels)
    for kernel in kernels:
        if not kernel.regularizer.has_pull:
            raise ValueFault(
                f"{kernel.place}: {kernel.regularizer.penalty} has no pull: leave it out and give "
                "it a factor, or attach so"
            )
        held = kernel.variable.constraint
        if isinstance(held, OrthogonalityConstraint) and held.constrained.to.low > 0:
            raise ValueFault(
                f"{kernel.place} is held {held.constrained} after each step, which leaves a pull "
                "nothing to do: leave constrain out for it, or goal and pull"
            )
    pulled = {id(k.variable) for k in kernels}
    serving = {id(k.regularizer): k for k in kernels}
    for variable in model.trainable_variables:
        serves = serving.get(id(variable.regularizer))
        if serves is not None and id(variable) not in pulled:
            raise ValueFault(
                f"{serves.place} shares one regularizer object with {variable.path}, which is not "
                "pulled: give each layer an object of its own"
            )
