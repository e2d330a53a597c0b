"""Whether each sample of a layer's outputs is a matrix, or several."""

from __future__ import annotations

import math
from collections.abc import Sequence


def why_no_matrices(outputs: Sequence[int | None], shape: tuple[int, int] | None) -> str:
    """Why outputs of this shape (samples, …) are no matrices for gram=sample; "" where they are.

    Args:
        outputs: None stands for a length that is not known.
        shape: (a, b) of the matrices that each sample is cut into; None: positions × features.
    """
    sizes = outputs[1:]
    named = f"outputs of shape {('batch', *sizes)}".replace("'", "")
    if shape is None:
        if len(sizes) > 1:
            return ""
        return (
            f"{named} are one vector a sample, and gram=sample is of matrices: say shape=3x3, or "
            "leave gram out"
        )
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes) or (known and math.prod(known) % math.prod(shape) == 0):
        return ""
    return (
        f"{named} are no matrices of {shape[0]} × {shape[1]}: say a shape whose entries are as "
        "many as a sample has"
    )
