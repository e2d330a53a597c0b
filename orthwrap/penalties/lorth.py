"""`lorth`: orthogonality of the convolution itself, ‖K⋆K−I_r0‖_F² − (M−C·S^d)⁺.

See `conv_gram` for how the convolution of a kernel with itself becomes a sum of Gram matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from orthwrap.model_config.layout import Layout
from orthwrap.penalties.conv_gram import Array, ConvGeometry, half_spectrum, taps_of
from orthwrap.penalties.penalty import Meaning, Penalty, probe_shape
from orthwrap.penalties.so import so

Tensor = Any

_LARGEST_TABLE = 1 << 24  # frequencies × taps; 51 × 51 taps have 0.8 of it
_LAYOUTS = ("dense", "conv", "conv_transpose", "pointwise")


def lorth(
    kernel: Tensor,
    strides: Sequence[int] | None = None,
    groups: int = 1,
    probes: Tensor | None = None,
) -> Tensor:
    """Σ over groups of ‖K⋆K−I_r0‖_F² − (M−C·S^d)⁺.

    Args:
        kernel: of shape (*k, C/groups, M), the last axis group-major: that of a Conv layer, and
            also that of a Conv*DTranspose layer, whose (*k, out, in) is the convolution it is the
            adjoint of. A Dense kernel has no spatial axes, and its `lorth` is `so`.
        strides: one per spatial axis; None is 1.
        probes: signs of `lorth_probe_shape(…)`, for an estimate.

    The minimum is 0 where `why_none_exists` knows no reason against it.
    """
    from keras import ops

    from orthwrap.penalties import tensors as t

    geometry = _geometry(kernel.shape, strides, groups)
    shape = (groups, geometry.rows, geometry.filters)
    taps = _taps(kernel, geometry)
    if prod(geometry.taps) == 1:
        return so(ops.reshape(taps, shape), probes) + geometry.constant
    zero = ops.reshape(ops.sum(taps, 0), shape)
    real, imaginary = (
        ops.reshape(table @ taps, (-1, *shape[1:])) for table in _tables(geometry, kernel.dtype)
    )
    if probes is None:
        total = so(zero) + 2 * t.differentiable(_complex_so, real, imaginary)
    else:
        rest = t.differentiable(_complex_so_sketch, real, imaginary, constants=(probes[groups:],))
        total = so(zero, probes[:groups]) + 2 * rest
    return total / prod(geometry.points) + geometry.constant


def lorth_pull(
    kernel: Tensor, strides: Sequence[int] | None = None, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """A quarter of the gradient of `lorth`, and a bound of the σ² at any frequency.

    Arguments as of `lorth`.
    """
    from keras import ops

    from orthwrap.penalties import tensors as t

    geometry = _geometry(kernel.shape, strides, groups)
    shape = (groups, geometry.rows, geometry.filters)
    taps = _taps(kernel, geometry)
    direction, bound = t.towards(ops.reshape(ops.sum(taps, 0), shape), 1.0)
    direction, bound = ops.reshape(direction, (1, -1)), ops.max(bound)
    if prod(geometry.taps) > 1:
        tables = [*_tables(geometry, kernel.dtype)]
        a, b = (ops.reshape(table @ taps, (-1, *shape[1:])) for table in tables)
        real, imaginary = _complex_deviation(a, b)
        rows = ops.sum(ops.abs(real + t.eye_like(a)) + ops.abs(imaginary), -1)
        bound = ops.maximum(bound, ops.max(rows))
        for table, part in zip(tables, _complex_times(a, b, real, imaginary), strict=True):
            part = ops.reshape(part, (table.shape[0], -1))
            direction = direction + 2 * ops.transpose(table) @ part
        direction = direction / prod(geometry.points)
    return _from_taps(direction, kernel.shape, geometry), bound


def _tables(geometry: ConvGeometry, dtype: Any) -> Iterator[Tensor]:
    """Taps → real and imaginary part at one of every pair of mirrored frequencies."""
    from keras import ops

    for table in half_spectrum(geometry.taps):
        yield ops.convert_to_tensor(table, dtype=dtype)


def _taps(kernel: Tensor, geometry: ConvGeometry) -> Tensor:
    """The kernel with its phases apart, one row a tap: (taps, groups · rows · filters)."""
    from keras import ops

    widths = [(0, extra) for extra in geometry.padding] + [(0, 0), (0, 0)]
    padded = ops.pad(kernel, widths) if any(geometry.padding) else kernel
    split = ops.transpose(ops.reshape(padded, geometry.split_shape), geometry.split_order)
    return ops.reshape(split, (prod(geometry.taps), -1))


def _from_taps(taps: Tensor, shape: Sequence[int], geometry: ConvGeometry) -> Tensor:
    """The inverse of `_taps`, for a kernel of `shape`."""
    from keras import ops

    split, order = geometry.split_shape, geometry.split_order
    phases = ops.reshape(taps, tuple(split[a] for a in order))
    phases = ops.transpose(phases, tuple(order.index(a) for a in range(len(order))))
    sizes = [q * p for q, p in zip(geometry.taps, geometry.phases, strict=True)]
    padded = ops.reshape(phases, (*sizes, *shape[-2:]))
    return padded[tuple(slice(k) for k in geometry.kernel_size)]


def _geometry(shape: Sequence[int], strides: Sequence[int] | None, groups: int) -> ConvGeometry:
    return ConvGeometry.of(shape, strides or (1,) * (len(shape) - 2), groups)


def lorth_probe_shape(
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None,
    groups: int,
    probes: int,
) -> tuple[int, ...]:
    """The shape of the probes that `lorth` takes for this kernel: own ones at each frequency."""
    geometry = _geometry(kernel_shape, strides, groups)
    frequencies = (prod(geometry.points) + 1) // 2
    return probe_shape((frequencies * groups, geometry.rows, geometry.filters), probes)


def why_none_exists(
    kernel_size: Sequence[int],
    strides: Sequence[int],
    in_channels: int,
    out_channels: int,
    groups: int = 1,
) -> str | None:
    """Why no orthogonal convolution of this geometry exists, or None where one does.

    From Achour et al. 2022: with M ≤ C·S^d output channels one exists iff M ≤ C·k^d, with
    M ≥ C·S^d iff S ≤ k. Both say that the kernel's min(k, S) taps per axis that can be told
    apart by the stride must span the smaller of the two sides; written so, it holds for
    non-square kernels and strides too. `in_channels` and `out_channels` are those of the whole
    layer, for a transposed convolution those of the convolution whose adjoint it is.
    """
    c, m = in_channels // groups, out_channels // groups
    reachable = c * prod(min(k, s) for k, s in zip(kernel_size, strides, strict=True))
    full = c * prod(strides)
    if min(m, full) <= reachable:
        return None
    size = "×".join(map(str, kernel_size))
    stride = "×".join(map(str, strides))
    if m >= full:
        return (
            f"no orthogonal convolution exists: stride {stride} skips inputs that a {size} "
            f"kernel never sees, with {m} output channels for {c} input channels"
        )
    return (
        f"no orthogonal convolution exists: {m} output channels exceed the {reachable} "
        f"independent inputs of a {size} kernel with stride {stride} on {c} input channels"
    )


# K̂ = A + iB. Its Gram matrix K̂ᴴK̂ (K̂K̂ᴴ on the wide side) is R ± iJ with R = AᵀA + BᵀB
# symmetric and J = AᵀB − BᵀA antisymmetric: real products only, for the backends' sake.


def _complex_so(a: Tensor, b: Tensor) -> tuple[Tensor, Any]:
    from keras import ops

    real, imaginary = _complex_deviation(a, b)
    value = ops.sum(ops.square(real)) + ops.sum(ops.square(imaginary))

    def pullback(upstream: Tensor) -> tuple[Tensor, Tensor]:
        return _complex_times(a, b, (4 * upstream) * real, (4 * upstream) * imaginary)

    return value, pullback


def _complex_deviation(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """R − I and J."""
    from orthwrap.penalties import tensors as t

    cross = t.cross(a, b, t.is_tall(a))
    return t.gram(a) + t.gram(b) - t.eye_like(a), cross - t.transposed(cross)


def _complex_times(a: Tensor, b: Tensor, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
    """(A + iB)(R + iJ) when tall, its transpose's counterpart when wide.

    By three products instead of four.
    """
    from orthwrap.penalties import tensors as t

    imaginary = imaginary if t.is_tall(a) else -imaginary
    first = t.multiplied(a + b, real)
    second = t.multiplied(a, imaginary - real)
    third = t.multiplied(b, real + imaginary)
    return first - third, first + second


def _complex_so_sketch(a: Tensor, b: Tensor, probes: Tensor) -> tuple[Tensor, Any]:
    from keras import ops

    from orthwrap.penalties import tensors as t

    long_a, long_b = t.to_long(a, probes), t.to_long(b, probes)
    real = t.to_short(a, long_a) + t.to_short(b, long_b) - probes
    imaginary = t.to_short(a, long_b) - t.to_short(b, long_a)
    count = probes.shape[-2 if t.is_tall(a) else -1]
    value = (ops.sum(ops.square(real)) + ops.sum(ops.square(imaginary))) / count

    def pullback(upstream: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (2 * upstream / count) * real, (2 * upstream / count) * imaginary
        # ⟨x, dR v⟩ + ⟨y, dJ v⟩, gathered by what multiplies dA and dB.
        mixed_a = t.to_long(a, x) - t.to_long(b, y)
        mixed_b = t.to_long(b, x) + t.to_long(a, y)
        return (
            t.outer(a, [(long_a, x), (long_b, y), (mixed_a, probes)]),
            t.outer(b, [(long_b, x), (-long_a, y), (mixed_b, probes)]),
        )

    return value, pullback


def lorth_value(
    kernel: npt.ArrayLike, strides: Sequence[int] | None = None, groups: int = 1
) -> float:
    """`lorth` of one kernel, by NumPy in float64. Shapes as for `lorth`."""
    k = np.asarray(kernel, np.float64)
    geometry = _geometry(k.shape, strides, groups)
    taps = taps_of(k, geometry)
    cos, sin = half_spectrum(geometry.taps)
    spectrum = np.tensordot(cos + 1j * sin, taps, 1)
    mirrored = sum(_square_deviation(matrices) for matrices in spectrum)
    total = _square_deviation(taps.sum(0)) + 2.0 * mirrored
    return total / prod(geometry.points) + geometry.constant


def _square_deviation(w: npt.NDArray[np.complex128] | Array) -> float:
    """Σ ‖G−I‖² over a batch, with G the smaller Gram matrix."""
    if w.shape[-1] > w.shape[-2]:
        w = w.swapaxes(-1, -2)
    gram = w.conj().swapaxes(-1, -2) @ w
    gram[..., np.arange(gram.shape[-1]), np.arange(gram.shape[-1])] -= 1
    return float(np.sum(np.square(gram.real)) + np.sum(np.square(gram.imag)))


def _exact(kernel: Tensor, layout: Layout) -> Tensor:
    return lorth(kernel, layout.strides or None, layout.parts)


def _pull(kernel: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    return lorth_pull(kernel, layout.strides or None, layout.parts)


def _sketch(kernel: Tensor, layout: Layout, draw: Any, probes: int) -> Tensor:
    strides, groups = layout.strides or None, layout.parts
    shape = lorth_probe_shape(kernel.shape, strides, groups, probes)
    return lorth(kernel, strides, groups, draw(shape))


def _figure(kernel: Array, layout: Layout) -> float | None:
    """None for a kernel of so many taps that their frequencies alone would fill the memory."""
    strides, groups = layout.strides or None, layout.parts
    if _geometry(kernel.shape, strides, groups).table > _LARGEST_TABLE:
        return None
    return lorth_value(kernel, strides, groups)


def _problem(layout: Layout, shape: tuple[int, ...]) -> str:
    if layout.name not in _LAYOUTS:
        return f"lorth is a penalty of convolutions, not of a {layout.name} kernel: use so"
    *kernel_size, channels, filters = shape
    strides, groups = layout.strides or (1,) * len(kernel_size), layout.parts
    why = why_none_exists(kernel_size, strides, channels * groups, filters, groups)
    return "" if why is None else f"{why}: use so"


OPERATOR_RESIDUAL = Meaning(
    "operator residual",
    "operator",
    "how far the convolution itself is from orthogonal, what lorth drives to 0; below 0.1 is close",
)


def _entries(layout: Layout, shape: tuple[int, ...]) -> int:
    """Those of the operator at one of its places: of each group, min(M, C·S^d)."""
    groups = layout.parts
    return groups * min(shape[-1] // groups, shape[-2] * prod(layout.strides))


PENALTY = Penalty(
    name="lorth",
    formula="‖K⋆K−I_r0‖²_F − (M−C·S^d)⁺",
    minimum="0",
    class_name="LOrth",
    doc="Orthogonality of the convolution itself (Wang et al. 2020; Achour et al. 2022).",
    source=(
        'Wang, Chen, Chakraborty, Yu 2020, "Orthogonal Convolutional Neural Networks", '
        'arXiv:1911.12207; Achour, Malgouyres, Mamalet 2022, "Existence, Stability and '
        'Scalability of Orthogonal Convolutional Neural Networks", arXiv:2108.05623'
    ),
    convention="squared, no ½, summed over groups",
    of_kernel=True,
    exact=_exact,
    sketch=_sketch,
    figure=_figure,
    problem=_problem,
    pull=_pull,
    meaning=OPERATOR_RESIDUAL,
    own_residual=True,
    by_products=True,
    entries=_entries,
)
