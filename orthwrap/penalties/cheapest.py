"""What is cheaper for a kernel: the penalty or its estimate, computing it or choosing not to."""

from __future__ import annotations

import sys

# The exact penalty is two products of 2·m·n·r operations each, the estimate about five passes over
# the m × n weights for each few probes. A pass is bound by memory, a product by arithmetic, of
# which an accelerator has much more for each byte that it reads.
_ON_PROCESSOR = 8
_ON_ACCELERATOR = 128


def exact_is_cheaper(m: int, n: int, probes: int, on_processor: bool) -> bool:
    """min(m, n) ≤ 8 · probes on a CPU, and ≤ 128 · probes on an accelerator."""
    return min(m, n) <= (_ON_PROCESSOR if on_processor else _ON_ACCELERATOR) * probes


def taken(m: int, n: int, probes: int) -> str:
    """`"exact"`, `"sketch"`, or `"auto"` where that depends on a device that is not known yet."""
    if exact_is_cheaper(m, n, probes, on_processor=True):
        return "exact"
    if not exact_is_cheaper(m, n, probes, on_processor=False):
        return "sketch"
    if "keras" not in sys.modules:
        return "auto"
    from orthwrap.penalties.tensors import on_processor

    return "sketch" if on_processor() else "exact"


# A choice within a compiled step of an accelerator waits for the host: 0.12 ms on an H200, in
# which that computes so many operations of products in TF32, which JAX and TensorFlow take there.
_CHOICE = 3e10


def choosing_pays(m: int, n: int) -> bool:
    """Whether a compiled step of an accelerator gains where it chooses not to compute a penalty.

    That is where 4·m·n·min(m, n) ≥ 3·10¹⁰, as of 1,960 × 1,960.
    """
    return 4 * m * n * min(m, n) >= _CHOICE
