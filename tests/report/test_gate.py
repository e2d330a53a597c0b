"""`orthwrap check` and `compare --exit-code`: what passes, what does not, and how it is said."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import orthwrap
from orthwrap.report.gate import FIGURES
from orthwrap.report.gate_formats import as_github, as_junit
from orthwrap_cli.main import app
from tests.conftest import REPOSITORY
from tests.support.samples import small_file

LAYERS = {"conv1", "conv2", "classes"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(small_file(".h5"), tmp_path / "model.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str, code: int) -> tuple[str, str]:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "100"})
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout, result.stderr


def matrices(path: Path) -> dict[str, Any]:
    """Each layer's kernel as a matrix, read by h5py."""
    found = {}
    with h5py.File(path) as file:

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and name.endswith("kernel"):
                layer = name.split("/")[0]
                found[layer] = np.asarray(item, np.float64).reshape(-1, item.shape[-1])

        file["model_weights"].visititems(visit)
    return found


def residual(w: Any) -> float:
    smaller = w.T @ w if w.shape[1] <= w.shape[0] else w @ w.T
    return float(np.linalg.norm(smaller - np.eye(len(smaller))) / math.sqrt(len(smaller)))


def scaled(path: Path, layer: str, by: float) -> None:
    """Multiplies a layer's kernel."""
    with h5py.File(path, "a") as file:

        def visit(name: str, item: Any) -> None:
            if (
                isinstance(item, h5py.Dataset)
                and name.endswith("kernel")
                and name.startswith(f"{layer}/")
            ):
                item[...] = item[...] * by

        file["model_weights"].visititems(visit)


def test_what_exceeds_its_limit_fails_and_the_worst_comes_first(folder: Path) -> None:
    truth = {name: residual(w) for name, w in matrices(folder / "model.h5").items()}
    order = sorted(truth, key=lambda name: -truth[name])
    between = (truth[order[0]] + truth[order[1]]) / 2
    call("check", "model.h5", "--max", f"residual={max(truth.values()) * 1.001}", code=0)
    out, _ = call("check", "model.h5", "--max", f"residual={between}", "--json", "-", code=3)
    (failure,) = json.loads(out)["gate"]["failures"]
    assert failure["path"] == order[0]
    assert failure["value"] == pytest.approx(truth[order[0]], rel=1e-6)
    assert failure["limit"] == between
    out, _ = call("check", "model.h5", "--max", "residual=1e-3", "--json", "-", code=3)
    assert [f["path"] for f in json.loads(out)["gate"]["failures"]] == order
    out, _ = call("check", "model.h5", "--max", "residual=1e-3", code=3)
    places = [out.index(f"\n{name} ") for name in order]
    assert places == sorted(places)
    assert "3 of 3 kernels fail" in out


def test_patterns_are_split_at_the_last_signs(folder: Path) -> None:
    call("check", "model.h5", "--max", "class:Dense:residual=100", code=0)
    out, _ = call("check", "model.h5", "--max", "re:conv[1=]:scale=0", "--json", "-", code=3)
    gate = json.loads(out)["gate"]
    assert gate["limits"] == [{"figure": "scale", "most": 0.0, "pattern": "re:conv[1=]"}]
    assert gate["checked"] == ["conv1"]
    out, _ = call("check", "model.h5", "--target", "conv2", "--max", "scale=0", code=3)
    assert "1 of 1 kernel fails" in out
    out, _ = call("check", "model.h5", "--exclude", "conv?", "--max", "scale=0", code=3)
    assert "1 of 1 kernel fails" in out


def test_the_operator_is_measured_where_a_limit_asks_for_it(folder: Path) -> None:
    out, _ = call("check", "model.h5", "--max", "operator.norm=0.01", "--json", "-", code=3)
    told = json.loads(out)
    failures = {f["path"]: f["value"] for f in told["gate"]["failures"]}
    for layer in told["layers"]:
        assert failures[layer["path"]] == layer["before"]["operator"]["norm_upper"]
    out, _ = call("check", "model.h5", "--max", "residual=100", "--json", "-", code=0)
    assert "operator" not in json.loads(out)["layers"][0]["before"]


def test_a_figure_without_a_value_does_not_pass(folder: Path) -> None:
    scaled(folder / "model.h5", "conv1", 0.0)
    call("check", "model.h5", "--max", "conv2:condition=1e9", code=0)
    out, _ = call("check", "model.h5", "--max", "condition=1e9", "--json", "-", code=3)
    (failure,) = json.loads(out)["gate"]["failures"]
    assert (failure["path"], failure["value"]) == ("conv1", None)
    scaled(folder / "model.h5", "conv2", math.nan)
    for figure in ("residual", "sigma_max", "operator.norm"):
        out, _ = call("check", "model.h5", "--max", f"{figure}=1e9", "--json", "-", code=3)
        assert "conv2" in {f["path"] for f in json.loads(out)["gate"]["failures"]}


def test_no_report_replaces_the_baseline(folder: Path) -> None:
    """What is worse today would be what tomorrow is held against."""
    call("inspect", "model.h5", "--json", "old.json", "--quiet", code=0)
    before = (folder / "old.json").read_bytes()
    _, err = call("check", "model.h5", "--baseline", "old.json", "--json", "old.json", code=1)
    assert err.endswith(
        "is the baseline of this command, which it would replace: name another file\n"
    )
    assert (folder / "old.json").read_bytes() == before


def test_a_baseline(folder: Path) -> None:
    call("inspect", "model.h5", "--json", "old.json", "--quiet", code=0)
    call("check", "model.h5", "--baseline", "old.json", code=0)
    scaled(folder / "model.h5", "conv2", 3.0)
    before = json.loads((folder / "old.json").read_text())["layers"]
    was = next(r for r in before if r["path"] == "conv2")["before"]
    now = residual(matrices(folder / "model.h5")["conv2"])
    by = now / was["residual"] - 1
    assert by > 0.1
    out, _ = call("check", "model.h5", "--baseline", "old.json", "--json", "-", code=3)
    (failure,) = json.loads(out)["gate"]["failures"]
    assert (failure["path"], failure["baseline"]) == ("conv2", was["residual"])
    assert failure["value"] == pytest.approx(now, rel=1e-6)
    call("check", "model.h5", "--baseline", "old.json", "--worse-than", "0.05", code=3)
    for percent, code in ((by * 100 + 1, 0), (by * 100 - 1, 3)):
        words = ["--baseline", "old.json", "--worse-than", f"{percent}%"]
        call("check", "model.h5", *words, code=code)
    # What is named by a limit is held against the baseline in the residual's place.
    words = ["check", "model.h5", "--baseline", "old.json", "--max", "coherence=1"]
    call(*words, code=0)


def test_smaller_is_worse_of_what_should_be_large(folder: Path) -> None:
    report = orthwrap.inspect("model.h5")
    scaled(folder / "model.h5", "classes", 0.5)
    failed = orthwrap.check("model.h5", max={"sigma_min": 1e9}, baseline=report).gate
    assert failed is not None
    assert [f.place for f in failed.failures] == ["classes"]


def test_a_baseline_of_the_training_is_what_came_of_it(folder: Path) -> None:
    told = orthwrap.inspect("model.h5").to_json()
    for layer in told["layers"]:
        layer["after"] = {**layer["before"], "residual": 1e-9}
    (folder / "old.json").write_text(json.dumps(told))
    out, _ = call("check", "model.h5", "--baseline", "old.json", "--json", "-", code=3)
    assert len(json.loads(out)["gate"]["failures"]) == 3


def test_kernels_that_one_of_the_two_has(folder: Path) -> None:
    told = orthwrap.inspect("model.h5").to_json()
    told["layers"][0]["path"] = "gone"
    (folder / "old.json").write_text(json.dumps(told))
    out, _ = call("check", "model.h5", "--baseline", "old.json", code=0)
    assert "not in the baseline, so not held against it: conv1" in out
    assert "in the baseline, and not in the model: gone" in out
    for layer in told["layers"]:
        layer["path"] += "x"
    (folder / "old.json").write_text(json.dumps(told))
    _, err = call("check", "model.h5", "--baseline", "old.json", code=1)
    assert "has none of the kernels" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "needs max"),
        (["--worse-than", "5%", "--max", "scale=1"], 2, "is about a baseline"),
        (["--max", "residual"], 2, "is not FIGURE=X"),
        (["--max", "residual=low"], 2, "is not FIGURE=X"),
        (["--max", "=1"], 2, "is not FIGURE=X"),
        (["--max", "residul=1"], 1, "did you mean residual?"),
        (["--max", "conv1:=1"], 1, "figure '' is not known"),
        (["--max", ":residual=1"], 1, "no pattern before the colon"),
        (["--max", "residual=nan"], 1, "number of at least 0"),
        (["--max", "residual=-1"], 1, "number of at least 0"),
        (["--max", "nothing:residual=1"], 1, "matches no"),
        (["--max", "penalty=1"], 1, "none of the kernels that were chosen carries a regularizer"),
        (["--max", "operator.product_upper=1"], 1, "none of the kernels"),
        (["--max", "scale=1", "--format", "html"], 2, "one of text, github, junit"),
        (["--baseline", "absent.json"], 1, "absent.json: No such file"),
        (["--baseline", "."], 1, "not a regular file"),
        (["--baseline", "model.h5"], 1, "not the JSON of a report"),
        (["--baseline", "list.json"], 1, "expected JSON of schema orthwrap.report/1"),
        (["--baseline", "bare.json"], 1, "has no figures"),
        (
            ["--baseline", "old.json", "--max", "operator.norm=9"],
            1,
            "write it with orthwrap inspect --operator",
        ),
        (["--baseline", "old.json", "--worse-than", "much"], 2, "write it like 5%"),
        (["--baseline", "old.json", "--worse-than", "5"], 2, "may be 5% or 500%: write the sign"),
        (["--baseline", "old.json", "--worse-than", "-5%"], 1, "share of at least 0"),
        (["--baseline", "names.json"], 1, "names.json"),
    ],
)
def test_what_cannot_be_checked_is_one_line(
    folder: Path, words: list[str], code: int, said: str
) -> None:
    told = orthwrap.inspect("model.h5").to_json()
    (folder / "old.json").write_text(json.dumps(told))
    (folder / "list.json").write_text("[]")
    bare = orthwrap.strip("model.h5", dry_run=True).report
    (folder / "bare.json").write_text(json.dumps(bare.to_json()))
    told["layers"][0]["path"] = [1]
    (folder / "names.json").write_text(json.dumps(told))
    _, err = call("check", "model.h5", *words, code=code)
    assert said in err
    assert err.count("\n") == 1


def test_numbers_in_a_baseline_that_are_none(folder: Path) -> None:
    told = orthwrap.inspect("model.h5").to_json()
    told["layers"][0]["before"]["residual"] = "small"
    told["layers"][1]["before"]["residual"] = None
    (folder / "old.json").write_text(json.dumps(told))
    out, _ = call("check", "model.h5", "--baseline", "old.json", code=0)
    assert "residual has no value in the baseline: conv1, conv2" in out


def test_annotations_of_github(folder: Path) -> None:
    out, _ = call("check", "model.h5", "--max", "conv1:scale=0", "--format", "github", code=3)
    error, notice = out.splitlines()
    assert re.fullmatch(r"::error title=conv1::conv1: scale is [\d.]+, at most 0 is allowed", error)
    assert notice == "::notice title=orthwrap check::1 of 1 kernel fails"


def test_no_name_begins_an_annotation_of_its_own() -> None:
    told = orthwrap.inspect(small_file(".h5")).to_json()
    name = "a\n::error::b%0A,:<script>"
    failure = {"path": name, "slot": "kernel", "kernel": "kernel", "place": name, "figure": "scale"}
    told["gate"] = {
        "limits": [],
        "baseline": None,
        "worse_than": None,
        "checked": [name],
        "failures": [{**failure, "value": 1.0, "limit": 0.5, "baseline": None}],
    }
    report = orthwrap.Report.from_json(told)
    lines = as_github(report).splitlines()
    assert len(lines) == 2
    assert "%0A" not in lines[0].replace("%250A", "")
    case = ElementTree.fromstring(as_junit(report).partition("\n")[2])[0]
    assert "\n" not in case.attrib["name"]
    assert "<script>" in case.attrib["name"]


def test_xml_of_junit(folder: Path) -> None:
    out, _ = call("check", "model.h5", "--max", "scale=0", "--format", "junit", code=3)
    suite = ElementTree.fromstring(out.partition("\n")[2])
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("3", "3")
    assert {case.attrib["name"] for case in suite} == LAYERS
    out, _ = call("check", "model.h5", "--max", "conv1:scale=9", "--format", "junit", code=0)
    (case,) = ElementTree.fromstring(out.partition("\n")[2])
    assert len(case) == 0
    words = ["--max", "scale=0", "--format", "junit", "--json", "-"]
    out, err = call("check", "model.h5", *words, code=3)
    assert json.loads(out)["gate"]["failures"]
    assert err.startswith("<?xml")


def test_markdown_says_what_fails(folder: Path, tmp_path: Path) -> None:
    report = orthwrap.check("model.h5", max=["conv1:scale=0"])
    report.save(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "1 of 1 kernel fails." in text
    assert "\n- conv1: scale is " in text.replace("\\", "")


def test_a_check_comes_back_from_json(folder: Path) -> None:
    report = orthwrap.check("model.h5", max=["residual=0.5", "conv1:operator.norm=0.1"])
    told = json.loads(json.dumps(report.to_json()))
    back = orthwrap.Report.from_json(told)
    assert back.to_json() == told
    assert str(back) == str(report)


def test_every_figure_can_be_limited(folder: Path) -> None:
    orthwrap.apply("model.h5", "carrying.h5", target="conv1")
    for figure in FIGURES:
        if figure != "operator.product_upper":
            assert orthwrap.check("carrying.h5", max={figure: 1e12}).gate is not None


def test_singular_values_are_computed_where_they_are_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = orthwrap.check("model.h5", max=["residual=9"]).layers
    full = orthwrap.inspect("model.h5").layers
    for some, every in zip(plain, full, strict=True):
        for figure in ("residual", "coherence"):
            exact = getattr(every.before, figure)
            assert getattr(some.before, figure) == pytest.approx(exact, rel=1e-5)
        assert (some.before.sigma_max, some.before.condition) == (None, None)
    asked = orthwrap.check("model.h5", max=["condition=1e9"]).layers
    assert [r.before for r in asked] == [r.before for r in full]
    orthwrap.apply("model.h5", "carrying.h5", regularizer="srip")
    penalties = [r.before.penalty for r in orthwrap.check("carrying.h5", max=["scale=9"]).layers]
    assert penalties == [r.before.penalty for r in orthwrap.inspect("carrying.h5").layers]


def test_no_framework_is_loaded(folder: Path) -> None:
    code = (
        "import sys, orthwrap; orthwrap.check('model.h5', max=['operator.norm=1e9']); "
        "print([m for m in ('keras', 'tensorflow', 'jax', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_compare_has_an_exit_code(folder: Path) -> None:
    shutil.copy("model.h5", "same.h5")
    call("compare", "model.h5", "same.h5", "--exit-code", code=0)
    call("apply", "model.h5", "-o", "carrying.h5", "--quiet", code=0)
    call("compare", "model.h5", "carrying.h5", code=0)
    call("compare", "model.h5", "carrying.h5", "--exit-code", code=3)
    scaled(folder / "same.h5", "conv1", 1.0001)
    call("compare", "model.h5", "same.h5", "--exit-code", "--no-measure", code=3)


PAGE = (REPOSITORY / "docs/pipelines.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = re.findall(r"^\$ orthwrap (.*)$", PAGE, re.MULTILINE)
    steps = re.findall(r"^        run: orthwrap (.*)$", PAGE, re.MULTILINE)
    assert (len(lines), len(steps)) == (4, 2)
    for line in (*lines, *steps):
        call(*shlex.split(line), code=0)
    scaled(folder / "model.h5", "conv2", 100.0)
    for step in steps:
        out, _ = call(*shlex.split(step), code=3)
        assert out.startswith("::error title=conv2::conv2: residual is")
