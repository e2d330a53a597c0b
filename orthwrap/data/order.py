"""The order of samples: a pure function of seed and epoch, so that a run can go on anywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def order(samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The samples' numbers, shuffled, as epoch `epoch` (from 0) of a run with `seed` takes them."""
    return np.random.default_rng([seed, epoch]).permutation(samples)


def split(samples: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the samples to train on and to validate on, drawn by the seed; each ascending.

    `fraction` of them, rounded, at least one and not all, are to validate on.
    """
    drawn = np.random.default_rng([seed]).permutation(samples)
    held_out = min(max(round(samples * fraction), 1), samples - 1)
    return np.sort(drawn[held_out:]), np.sort(drawn[:held_out])
