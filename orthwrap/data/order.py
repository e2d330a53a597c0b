"""The order of samples: a pure function of seed and epoch, so that a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def order(samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The samples' numbers, shuffled, as epoch `epoch` (from 0) of a run with `seed` takes them."""
    return np.random.default_rng([seed, epoch]).permutation(samples)


def classes_in(labels: Sequence[NDArray[Any]]) -> NDArray[Any] | None:
    """The class of each sample, of one output's class numbers or one-hot rows; else None."""
    if len(labels) != 1:
        return None
    y = labels[0].reshape(len(labels[0]), -1)
    if y.shape[1] > 1 and not (np.all((y == 0) | (y == 1)) and np.all(y.sum(axis=1) == 1)):
        return None
    classes = y[:, 0] if y.shape[1] == 1 else np.argmax(y, axis=1)
    return classes if len(np.unique(classes)) <= len(classes) / 10 else None


def split(
    samples: int, fraction: float, seed: int, classes: NDArray[Any] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the samples to train on and to validate on, drawn by the seed; each ascending.

    `fraction` of them, rounded, at least one and not all, are to validate on: of each class as
    large a part, where the class of each sample is given.
    """
    drawn = np.random.default_rng([seed]).permutation(samples)
    held_out = min(max(round(samples * fraction), 1), samples - 1)
    if classes is not None:  # every class is spread evenly over the order that is cut
        rank = np.empty(samples)
        for value in np.unique(classes):
            own = drawn[classes[drawn] == value]
            rank[own] = (np.arange(len(own)) + 0.5) / len(own)
        drawn = drawn[np.argsort(rank[drawn], kind="stable")]
    return np.sort(drawn[held_out:]), np.sort(drawn[:held_out])
