"""A comparison shows the residual that what is carried drives, as the report of `apply` does."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import orthwrap
from orthwrap.report import as_markdown, terminal
from orthwrap.report.kernel_rows import compared_cells_of
from tests.support.samples import small_file

MEANING = "with preserve the residual is that of W/α"


def scaled_residual(path: Path) -> float:
    """Of the kernel of `conv1`, by NumPy: of W over its RMS singular value."""
    with h5py.File(path) as file:
        layer = file["model_weights/conv1"]
        (name,) = (name for name in layer.attrs["weight_names"] if "kernel" in str(name))
        kernel = np.asarray(layer[name], np.float64)
    w = kernel.reshape(-1, kernel.shape[-1])
    w /= math.sqrt((w**2).sum() / min(w.shape))
    gram = w.T @ w if w.shape[1] <= w.shape[0] else w @ w.T
    return float(np.linalg.norm(gram - np.eye(len(gram))) / math.sqrt(len(gram)))


@pytest.mark.parametrize("given", [{"scale": "preserve"}, {"constrain": "orthogonal"}])
def test_it_is_of_what_the_scale_drives(tmp_path: Path, given: dict[str, str]) -> None:
    model, other = tmp_path / "m.h5", tmp_path / "other.h5"
    shutil.copy(small_file(".h5"), model)
    orthwrap.apply(model, other, target="conv1", **{"scale": "preserve", **given})
    report = orthwrap.compare(model, other)
    row = next(row for row in report.layers if row.path == "conv1")
    assert row.before is not None
    assert row.residuals[0] == pytest.approx(scaled_residual(model), 1e-5)
    assert row.residuals[1] is None  # nothing moved
    shown = f"{scaled_residual(model):.3g}"
    assert shown != f"{row.before.residual:.3g}"
    line = next(t for t in terminal.text_of(report).splitlines() if t.startswith("conv1"))
    assert shown in line
    assert MEANING in " ".join(terminal.text_of(report).split())
    assert shown in as_markdown.text_of(report)
    assert [cell.text for cell in compared_cells_of(row)][-1] == shown


def test_without_such_a_scale_it_is_of_the_kernel(tmp_path: Path) -> None:
    report = orthwrap.compare(small_file(".h5"), small_file(".h5"))
    for row in report.layers:
        assert row.before is not None
        assert row.residuals == (row.before.residual, None)
    assert MEANING not in " ".join(terminal.text_of(report).split())
