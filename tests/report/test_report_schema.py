"""What every command writes with --json is what the published schema says, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import orthwrap
from orthwrap_cli.main import app
from tests.conftest import REPOSITORY
from tests.support import models
from tests.support.samples import nested_file, small_file

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = json.loads((REPOSITORY / "orthwrap/report.schema.json").read_text(encoding="utf-8"))


def strict(schema: Any) -> Any:
    """The schema with no key allowed that it does not list."""
    if isinstance(schema, list):
        return [strict(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "required" in schema:
        made["additionalProperties"] = False
    return made


STRICT = jsonschema.Draft202012Validator(strict(SCHEMA))


def check(told: Any) -> None:
    told = json.loads(json.dumps(told, allow_nan=False))
    jsonschema.Draft202012Validator(SCHEMA).validate(told)
    name = told["schema"].partition(".")[2].partition("/")[0] if isinstance(told, dict) else ""
    one = STRICT.evolve(schema={**STRICT.schema, "oneOf": [{"$ref": f"#/$defs/{name}"}]})
    (one if name else STRICT).validate(told)  # against one alone, so that a fault is named


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.h5").write_bytes(small_file(".h5").read_bytes())
    (tmp_path / "nested.keras").write_bytes(nested_file(".keras").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told_by(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words, "--json", "-"])
    assert result.exit_code == code, (result.stdout, result.exception)
    return json.loads(result.stdout)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.slow
def test_every_command_without_data(folder: Path) -> None:
    for words in (
        ["inspect", "model.h5"],
        ["inspect", "nested.keras", "--operator"],
        ["inspect", "model.h5", "--no-measure"],
        ["apply", "model.h5", "--regularizer", "lorth", "--target", "all-conv"],
        ["apply", "nested.keras", "--on", "activity", "--factor", "1e-4"],
        ["apply", "model.h5", "--constrain", "band:0.9,1.1", "--force"],
        ["inspect", "model-orth.h5"],
        ["strip", "model-orth.h5"],
        ["upgrade", "model.h5"],
        ["compare", "model.h5", "model-orth.h5"],
        ["compare", "model.h5", "nested.keras", "--no-measure"],
        ["check", "model.h5", "--max", "residual=1e9"],
        ["regularizers"],
    ):
        check(told_by(*words))
    failing = told_by("check", "model.h5", "--max", "residual=0", "--max", "conv*:scale=0", code=3)
    assert failing["gate"]["failures"]
    check(failing)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("words", [{"factor": 0.1}, {"goal": "2x", "control": True}])
def test_training(words: dict[str, Any]) -> None:
    model = models.dense()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, model.input_shape[-1])).astype("float32")
    y = np.arange(32) % model.output_shape[-1]
    report = orthwrap.apply(
        model, data=(x, y), epochs=2, seed=0, loss="sparse_categorical_crossentropy", **words
    ).report
    assert report.training is not None
    check(report.to_json())


def test_a_later_version_may_add(folder: Path) -> None:
    told = told_by("inspect", "model.h5")
    told["mood"] = told["layers"][0]["depth"] = 1
    jsonschema.Draft202012Validator(SCHEMA).validate(told)
    with pytest.raises(jsonschema.ValidationError):
        check(told)


def test_a_regularizer_is_the_same_object_in_report_and_comparison(folder: Path) -> None:
    report = told_by("apply", "model.h5", "--target", "conv1", "--regularizer", "srip")
    compared = told_by("compare", "model.h5", "model-orth.h5")
    own = {(r["path"], r["slot"]): r["regularizer"] for r in report["layers"]}
    assert [row["regularizer"] for row in compared["layers"]] == [
        {"before": None, "after": own[row["path"], row["slot"]]} for row in compared["layers"]
    ]
    assert any(own.values())


def test_penalties_with_and_without_factor_have_names_of_their_own(folder: Path) -> None:
    report = told_by("apply", "model.h5", "--factor", "0.25")
    bare = [r["before"]["penalty"] for r in report["layers"]]
    summary = report["summary"]
    assert summary["weighted_penalty_before"] == pytest.approx(0.25 * sum(bare))
    assert summary["penalty_before"] == summary["weighted_penalty_before"]
    assert summary["weighted_penalty_after"] is None
