"""The table of penalties, and where an orthogonal convolution can exist.

Nothing here imports Keras or NumPy, so that listing the penalties and checking names, options
and layers stays instant.

Default factors are meant for *these* definitions: squared norms where the formula has a square,
no ½, summed (not averaged) over a layer's matrices and over layers. Coefficients published for
other conventions do not transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

SKETCH_OPTIONS = ("estimate", "probes", "seed")


@dataclass(frozen=True)
class Penalty:
    """What is known of a penalty without computing it."""

    name: str
    formula: str
    minimum: str
    source: str
    default_factor: float = 1e-3
    options: tuple[str, ...] = ()

    @property
    def sketchable(self) -> bool:
        """Whether random probes can replace the Gram matrix."""
        return "estimate" in self.options


_BANSAL = (
    'Bansal, Chen, Wang 2018, "Can We Gain More from Orthogonality Regularizations in '
    'Training Deep CNNs?"'
)

PENALTIES: dict[str, Penalty] = {
    penalty.name: penalty
    for penalty in (
        Penalty(
            name="so",
            formula="‖G−I‖²_F",
            minimum="0",
            source=f"{_BANSAL} (SO; here on the smaller Gram matrix, so that 0 is reachable)",
            options=SKETCH_OPTIONS,
        ),
        Penalty(
            name="dso",
            formula="‖WᵀW−I‖²_F + ‖WWᵀ−I‖²_F",
            minimum="|m−n|",
            source=f"{_BANSAL} (DSO)",
        ),
        Penalty(
            name="mc",
            formula="max |G−I|",
            minimum="0",
            source=f"{_BANSAL} (MC, mutual coherence)",
        ),
        Penalty(
            name="srip",
            formula="σ_max(G−I)",
            minimum="0",
            source=f"{_BANSAL} (SRIP; the published code squares it)",
            options=("steps", "seed"),
        ),
        Penalty(
            name="lorth",
            formula="‖K⋆K−I_r0‖²_F − (M−C·S^d)⁺",
            minimum="0",
            source=(
                'Wang, Chen, Chakraborty, Yu 2020, "Orthogonal Convolutional Neural Networks"; '
                'Achour, Malgouyres, Mamalet 2022, "Existence, Stability and Scalability of '
                'Orthogonal Convolutional Neural Networks"'
            ),
            options=SKETCH_OPTIONS,
        ),
        Penalty(
            name="offdiag",
            formula="‖G⊙(1−I)‖²_F",
            minimum="0",
            source=(
                'Brock, Donahue, Simonyan 2019, "Large Scale GAN Training for High Fidelity '
                'Natural Image Synthesis" (BigGAN; there 1e-4)'
            ),
            default_factor=1e-4,
            options=SKETCH_OPTIONS,
        ),
        Penalty(
            name="cosine",
            formula="mean |cos(wᵢ, wⱼ)|, i ≠ j",
            minimum="0",
            source=(
                "keras.regularizers.OrthogonalRegularizer (mode=columns for n ≤ m, rows above; "
                "there 0.01)"
            ),
            default_factor=1e-2,
        ),
        Penalty(
            name="frobenius",
            formula="‖G−I‖_F",
            minimum="0",
            source=(
                'the classic |WᵀW−I|; cf. Brock, Lim, Ritchie, Weston 2017, "Neural Photo '
                'Editing with Introspective Adversarial Networks"'
            ),
        ),
    )
}


def lorth_exists(
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
