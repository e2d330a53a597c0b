"""Files that other people trained and published. Skipped where they are not at hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import orthwrap
from orthwrap.stores.files import open_file
from tests.conftest import REAL_MODELS

pytestmark = pytest.mark.skipif(not REAL_MODELS.exists(), reason="the real models are not here")

# Files that Keras 3 loads as they are.
LOADABLE = ["fer_minixception.hdf5", "sudoku_cnn.h5", "mmsplice_donor.h5", "deeplc_k333.keras"]
MODELS = (
    sorted(
        p.name
        for p in REAL_MODELS.iterdir()
        if p.suffix in (".h5", ".hdf5", ".keras") and p.name[:2] not in ("W_", "X_")
    )
    if REAL_MODELS.exists()
    else []
)
OTHERS = [
    ("W_deepcut_weights.h5", "weights only"),
    ("W_har_model_save", "weights only"),
    ("X_dl4j_not_keras_inputs_outputs.h5", "no Keras model"),
]


@pytest.mark.parametrize("name", MODELS)
def test_inspect_measures_every_kernel(name: str) -> None:
    report = orthwrap.inspect(REAL_MODELS / name)
    json.dumps(report.to_json(), allow_nan=False)
    kernels = [r for r in report.layers if r.kernel is not None]
    measured = [r for r in kernels if r.before is not None]
    assert measured == [r for r in kernels if r.decision != "unsupported"]
    assert report.model.parameters > 0
    for record in measured:
        assert record.before.sigma_max >= record.before.sigma_min


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_strip_undoes_apply(name: str, tmp_path: Path) -> None:
    source = REAL_MODELS / name
    out, plain = tmp_path / f"out{source.suffix}", tmp_path / f"plain{source.suffix}"
    report = orthwrap.apply(source, out, target="*").report
    orthwrap.strip(out, plain)
    assert report.summary["regularized"] > 0
    assert all(c.status == "same" for c in orthwrap.compare(source, plain).layers)
    if not report.upgrades:
        assert open_file(plain).root == open_file(source).root


@pytest.mark.dear
@pytest.mark.parametrize("name", LOADABLE)
def test_keras_gives_the_published_outputs_after_apply(name: str, tmp_path: Path) -> None:
    source = REAL_MODELS / name
    out = tmp_path / f"out{source.suffix}"
    report = orthwrap.apply(source, out).report
    model = orthwrap.load_model(out, compile=False)
    with np.load(REAL_MODELS / "expected" / f"{name}.npz") as expected:
        x = [expected[f"x{i}"] for i in range(sum(k.startswith("x") for k in expected))]
        y = [expected[f"y{i}"] for i in range(sum(k.startswith("y") for k in expected))]
    found = model(x[0] if len(x) == 1 else x, training=False)
    for want, got in zip(y, found if isinstance(found, (list, tuple)) else [found], strict=True):
        np.testing.assert_allclose(np.asarray(got), want, rtol=1e-5, atol=1e-5)
    # The kernels' penalties, and what the layers brought with them.
    assert len(model.losses) >= report.summary["regularized"]


@pytest.mark.parametrize(("name", "words"), OTHERS)
def test_what_is_no_model_is_explained(name: str, words: str) -> None:
    with pytest.raises(orthwrap.FileFault, match=words):
        orthwrap.inspect(REAL_MODELS / name)
