"""Scale auto, the default: each kernel's RMS singular value decides, and the report says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import orthwrap
from orthwrap.errors import UsageError
from orthwrap.penalties.table import PENALTIES
from orthwrap.plan.decide import plan
from orthwrap.report.record import Report
from orthwrap.rules.rule import Rule
from orthwrap.survey import survey
from tests.support.dict_store import node, store

DENSE = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 4)))[0]  # RMS singular value 1


def decided(kernel: Any, **words: Any) -> tuple[str, float, str]:
    """(scale, α, reason) of one Dense kernel."""
    source = store(node("Dense", "d"), d=kernel)
    (decision,) = plan(survey(source), [Rule(target="d", **words)]).decisions
    return decision.attachment.scale, decision.attachment.alpha, decision.reason


@pytest.mark.parametrize(
    ("times", "scale", "why"),
    [
        (0.79, "preserve", "scale preserve: RMS singular value 0.79, outside 0.8 to 1.25"),
        (0.81, "unit", "scale unit: RMS singular value 0.81, within 0.8 to 1.25"),
        (1.0, "unit", "scale unit: RMS singular value 1, within 0.8 to 1.25"),
        (1.24, "unit", "scale unit: RMS singular value 1.24, within 0.8 to 1.25"),
        (1.26, "preserve", "scale preserve: RMS singular value 1.26, outside 0.8 to 1.25"),
        (12.0, "preserve", "scale preserve: RMS singular value 12, outside 0.8 to 1.25"),
        (0.0, "unit", "scale unit: RMS singular value 1, within 0.8 to 1.25"),  # α = 0 counts as 1
    ],
)
def test_the_singular_values_decide(times: float, scale: str, why: str) -> None:
    found, alpha, reason = decided(DENSE * times)
    assert (found, reason) == (scale, f"matches d; {why}")
    assert alpha == pytest.approx(times if scale == "preserve" else 1.0)


@given(st.floats(1e-3, 1e3), st.integers(0, 99))
def test_the_band_is_that_of_the_rms_singular_value(times: float, seed: int) -> None:
    kernel = np.random.default_rng(seed).normal(size=(5, 3)) * times
    rms = float(np.sqrt(np.mean(np.linalg.svd(kernel, compute_uv=False) ** 2)))
    if min(abs(rms - 0.8), abs(rms - 1.25)) < 1e-9:
        return
    assert decided(kernel)[0] == ("unit" if 0.8 < rms < 1.25 else "preserve")


@pytest.mark.parametrize("scale", ["unit", "preserve"])
def test_a_scale_that_was_said_is_kept(scale: str) -> None:
    for times in (1.0, 5.0):
        found, _, reason = decided(DENSE * times, scale=scale)
        assert (found, reason) == (scale, "matches d")


def test_penalties_say_whether_the_scale_concerns_them() -> None:
    """Oracle: a kernel at its minimum, and the same kernel scaled, which is still at it or not."""
    for penalty in PENALTIES.values():
        object_ = orthwrap.regularizer(penalty.name, factor=1.0)
        if penalty.name == "lorth":  # of a Dense kernel it is so
            object_ = orthwrap.regularizer("so", factor=1.0)
        values = [float(object_(keras.ops.convert_to_tensor(DENSE * s, "float32"))) for s in (1, 3)]
        least = 2.0 if penalty.name == "dso" else 0.0  # |m − n|
        assert values[0] == pytest.approx(least, abs=1e-4)
        assert penalty.concerns_alpha == (abs(values[1] - least) > 1e-3), penalty.name
        if not penalty.concerns_alpha:
            scale, alpha, reason = decided(DENSE * 3, regularizer=penalty.name)
            assert (scale, alpha) == ("unit", 1.0)
            assert reason.endswith(f"scale unit: the minimum of {penalty.name} is the same at any")


def test_a_target_of_its_own_is_not_in_units_of_the_kernels_scale() -> None:
    found = decided(DENSE * 5, regularizer="spectral", options={"target": 2})
    assert found == ("unit", 1.0, "matches d; scale unit: spectral has a target of its own")
    scale, alpha, _ = decided(DENSE * 5, regularizer="spectral", scale="preserve")
    assert scale == "preserve"
    assert alpha == pytest.approx(5.0)


def test_an_object_keeps_the_scale_it_has() -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="d")])
    model.layers[-1].kernel.assign(DENSE * 5)
    own = orthwrap.regularizer("so", factor=1e-2)
    assert own.attachment.scale == "unit"
    assert orthwrap.apply(model, regularizer=own).report.layers[0].regularizer.scale == "unit"
    said = orthwrap.apply(model, regularizer=own, scale="preserve").report.layers[0]
    assert said.regularizer.scale == "preserve"
    assert said.regularizer.alpha == pytest.approx(5.0, rel=1e-5)


def test_a_kernel_that_holds_no_numbers_gets_unit() -> None:
    scale, alpha, reason = decided(np.full((6, 4), np.nan))
    assert (scale, alpha) == ("unit", 1.0)
    assert reason.endswith("scale unit: the kernel's RMS singular value is no finite number")


def test_outputs_get_unit_and_refuse_preserve() -> None:
    source = store(node("Dense", "d", activity_regularizer=None), d=DENSE * 9)
    planned = plan(survey(source), [Rule(target="d", on="activity")])
    (decision,) = planned.changes
    assert decision.attachment.scale == "unit"
    assert decision.reason == "matches d; scale unit: of outputs"
    with pytest.raises(UsageError, match="scale preserve works on kernels"):
        plan(survey(source), [Rule(target="d", on="activity", scale="preserve")])


def two_scales() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4, name="near", use_bias=False),
            keras.layers.Dense(3, name="far", use_bias=False),
        ]
    )
    rng = np.random.default_rng(1)
    model.layers[0].kernel.assign(DENSE)
    model.layers[1].kernel.assign(rng.normal(size=(4, 3)) * 7)
    return model


def test_the_report_shows_the_residual_that_is_driven() -> None:
    report = orthwrap.apply(two_scales()).report
    near, far = report.layers
    kernel = np.asarray(two_scales().layers[1].kernel, np.float64)
    sigma = np.linalg.svd(kernel, compute_uv=False)
    scaled = np.sqrt(np.mean((sigma**2 / np.mean(sigma**2) - 1) ** 2))
    assert (near.driven, far.driven) == ("residual", "scaled_residual")
    assert far.before.scaled_residual == pytest.approx(scaled, rel=1e-5)
    shown = str(report)
    assert f"{scaled:.3g}" in shown
    assert f"{far.before.residual:.3g}" not in shown
    assert "with preserve the residual is that of W/α" in shown
    assert str(Report.from_json(json.loads(json.dumps(report.to_json())))) == shown
    all_preserve = orthwrap.apply(two_scales(), scale="preserve").report
    assert "scaled residual" in str(all_preserve)
    assert "with preserve" not in str(all_preserve)
    assert "scaled" not in str(orthwrap.apply(two_scales(), scale="unit").report)


def test_file_and_model_decide_alike_and_twice_is_already(tmp_path: Path) -> None:
    path, out = tmp_path / "m.keras", tmp_path / "o.keras"
    two_scales().save(path)
    done = orthwrap.apply(path, out).report
    live = orthwrap.apply(two_scales()).report
    for a, b in zip(done.layers, live.layers, strict=True):
        assert a.regularizer.scale == b.regularizer.scale
        assert a.regularizer.alpha == pytest.approx(b.regularizer.alpha)
    again = orthwrap.apply(out, tmp_path / "again.keras").report
    assert [r.decision for r in again.layers] == ["already", "already"]
    assert all("scale " in r.reason for r in again.layers)


def test_a_file_of_old_with_its_own_scale_keeps_it(tmp_path: Path) -> None:
    """`unit` on a kernel whose singular values are far from 1, as 0.1 attached it."""
    path = tmp_path / "m.h5"
    orthwrap.apply(two_scales(), scale="unit").model.save(path)
    carried = orthwrap.inspect(path).layers[1]
    assert carried.regularizer.scale == "unit"
    with h5py.File(path) as f:
        config = json.loads(f.attrs["model_config"])
    (far,) = (x for x in config["config"]["layers"] if x["config"]["name"] == "far")
    assert far["config"]["kernel_regularizer"]["config"]["scale"] == "unit"
    loaded = orthwrap.load_model(path)
    assert loaded.layers[-1].kernel.regularizer.attachment.scale == "unit"


def test_rules_and_files_of_rules_take_it(tmp_path: Path) -> None:
    from orthwrap.rules.file import read_rules

    path = tmp_path / "r.toml"
    path.write_text('[[rule]]\ntarget = "near"\nscale = "preserve"\n[[rule]]\ntarget = "far"\n')
    report = orthwrap.apply(two_scales(), rules=read_rules(path)).report
    assert [r.regularizer.scale for r in report.layers] == ["preserve", "preserve"]
    path.write_text('[[rule]]\ntarget = "all-dense"\nscale = "auto"\n')
    report = orthwrap.apply(two_scales(), rules=read_rules(path)).report
    assert [r.regularizer.scale for r in report.layers] == ["unit", "preserve"]
