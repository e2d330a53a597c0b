"""compare: two models, kernel by kernel."""

from __future__ import annotations

from typing import Any

from orthwrap._version import __version__
from orthwrap.opening import opened
from orthwrap.report.comparing import compare_kernel, kernels_of
from orthwrap.report.record import CompareReport
from orthwrap.rules.custom_objects import CustomObjects, custom_objects_of


def compare(
    before: Any, after: Any, *, measure: bool = True, custom_objects: CustomObjects | None = None
) -> CompareReport:
    """Two models, kernel by kernel: figures, weights, regularizers, constraints.

    Args:
        before: a path or a `keras.Model`.
        after: another one. Kernels are joined by layer path and name.
        measure: False skips the figures.
        custom_objects: as in `inspect`.
    """
    custom_objects_of(custom_objects)
    with opened(before) as first, opened(after) as second:
        here, there = (kernels_of(side.store) for side in (first, second))
        rows = tuple(
            compare_kernel(key, here.get(key), there.get(key), measure)
            for key in dict.fromkeys((*here, *there))
        )
        for side in (first, second):
            side.check_unchanged()
        return CompareReport(first.store.record, second.store.record, rows, __version__)
