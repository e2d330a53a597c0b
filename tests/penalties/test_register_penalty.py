"""A penalty of the user's own, from a module outside of orthwrap, works wherever `so` does."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import orthwrap
from orthwrap.penalties.penalty import Penalty
from orthwrap.penalties.table import PENALTIES
from orthwrap_cli.main import app
from tests.conftest import REPOSITORY
from tests.support import models
from tests.support.samples import small_file

TOY = '''
"""Σ (σ²−1)⁴: as `so`, and dearer far out."""

import numpy as np
import orthwrap
from orthwrap.penalties.options import Option


def toy(w, power):
    from keras import ops

    tall = w.shape[-1] <= w.shape[-2]
    w = w if tall else ops.swapaxes(w, -1, -2)
    deviation = ops.swapaxes(w, -1, -2) @ w - ops.eye(w.shape[-1], dtype=w.dtype)
    square = deviation @ deviation
    return ops.sum(square * square) * power / 2


def on_outputs(g, rows, power):
    from keras import ops

    return power * ops.sum(g * g)


PENALTY = orthwrap.register_penalty(
    orthwrap.Penalty(
        name="toy",
        formula="‖(G−I)²‖²_F",
        minimum="0",
        source="nobody, nowhere",
        default_factor=0.25,
        own_options=(Option("power", 2.0, float),),
        exact=toy,
        on_outputs=on_outputs,
        figure=lambda m, power: power / 2 * float(np.sum((m.singular_values**2 - 1) ** 4)),
        meaning=orthwrap.Meaning("far-outness", "far out", "dearer far out; 0 is orthonormal"),
    )
)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the module `toy_module` stands, and a small model."""
    (tmp_path / "toy_module.py").write_text(TOY, encoding="utf-8")
    for suffix in (".h5", ".keras"):
        (tmp_path / f"model{suffix}").write_bytes(small_file(suffix).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Penalty]:
    """The penalty, registered while the test runs."""
    from orthwrap.regularizers import CLASSES

    monkeypatch.syspath_prepend(folder)
    penalty = importlib.import_module("toy_module").PENALTY
    yield penalty
    forget()
    CLASSES.pop("toy", None)


def forget() -> None:
    """As if the toy had never been there."""
    from orthwrap.regularizers import CLASSES

    for name in [n for n in (*PENALTIES,) if n == "toy"]:
        del PENALTIES[name]
    CLASSES.pop("toy", None)
    keras.saving.get_custom_objects().pop("orthwrap>Toy", None)
    sys.modules.pop("toy_module", None)


def expected(w: Any) -> float:
    sigma = np.linalg.svd(np.asarray(w, "float64"), compute_uv=False)
    return float(np.sum((sigma**2 - 1) ** 4))


def test_by_name_by_class_and_by_node(toy: Penalty) -> None:
    w = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    made = orthwrap.regularizer("toy")
    assert float(made(w)) == pytest.approx(0.25 * expected(w), rel=1e-4)
    assert type(made) is orthwrap.Toy is orthwrap.regularizers.Toy  # type: ignore[attr-defined]
    assert made.get_config()["factor"] == 0.25
    node = keras.saving.serialize_keras_object(orthwrap.regularizer("toy", 0.5, power=4, every=3))
    assert node["module"] == "orthwrap.regularizers"
    assert node["registered_name"] == "orthwrap>Toy"
    assert (node["config"]["power"], node["config"]["every"]) == (4.0, 3)
    again = keras.saving.deserialize_keras_object(node)
    assert again.attachment == orthwrap.regularizer("toy", 0.5, power=4, every=3).attachment
    halves = [float(orthwrap.regularizer("toy", 1.0, power=p)(w)) for p in (2, 4)]
    assert halves[1] == pytest.approx(2 * halves[0], rel=1e-5)


def test_on_a_model_with_its_figures_saved_and_stripped(toy: Penalty, tmp_path: Path) -> None:
    model = models.dense()
    result = orthwrap.apply(model, regularizer="toy", factor=0.5)
    carried = [r for r in result.report.layers if r.carries]
    assert carried
    for record in carried:
        layer = result.model.get_layer(record.path)
        assert record.regularizer is not None
        assert record.before is not None
        assert record.regularizer.name == "toy"
        assert record.before.penalty == pytest.approx(expected(layer.kernel), rel=1e-5)
    shown = str(result.report)
    assert re.search(r"far-outness +dearer far out; 0 is orthonormal", shown)
    largest = max(r.before.penalty or 0.0 for r in carried if r.before is not None)
    assert f"far-outness at most {largest:.3g}" in shown
    fourth = orthwrap.apply(models.dense(), regularizer="toy", options={"power": 4}).report
    for once, twice in zip(result.report.layers, fourth.layers, strict=True):
        assert once.before is not None
        assert twice.before is not None
        if once.carries:
            assert twice.before.penalty == pytest.approx(2 * (once.before.penalty or 0))
    total = sum(0.5 * expected(result.model.get_layer(r.path).kernel) for r in carried)
    assert float(sum(result.model.losses)) == pytest.approx(total, rel=1e-4)

    path = tmp_path / "saved.keras"
    result.model.save(path)
    assert float(sum(orthwrap.load_model(path).losses)) == pytest.approx(total, rel=1e-4)
    plain = orthwrap.strip(result.model).model
    assert plain.get_config() == model.get_config()


def test_on_outputs(toy: Penalty) -> None:
    outputs = np.random.default_rng(1).normal(size=(6, 3)).astype("float32")
    gram = outputs.T @ outputs / 6
    made = orthwrap.regularizer("toy", 1.0, on="activity")
    assert float(made(outputs)) == pytest.approx(2 * np.sum(gram**2), rel=1e-5)
    result = orthwrap.apply(models.dense(), regularizer="toy", on="activity", target="wide")
    assert [r.slot for r in result.report.layers if r.carries] == ["activity"]


def test_a_sum_over_the_samples_is_not_taken_for_a_value_of_each(toy: Penalty) -> None:
    made = orthwrap.regularizer("toy", 1.0, on="activity", gram="sample")
    with pytest.raises(orthwrap.ValueFault, match=r"'toy' .* must give \(count,\)"):
        made(np.ones((2, 3, 4), "float32"))


def test_what_it_does_not_have_is_refused_in_one_line(toy: Penalty) -> None:
    refused = [
        lambda: orthwrap.regularizer("toy", estimate="sketch"),
        lambda: orthwrap.regularizer("toy", power="much"),
        lambda: orthwrap.regularizer("toi"),
    ]
    words = ["'toy' takes no option 'estimate'; it takes: power, every", "power='much'", "'toy'?"]
    for make, word in zip(refused, words, strict=True):
        with pytest.raises(orthwrap.ValueFault) as caught:
            make()
        assert word in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_list_shows_it_and_it_may_be_registered_anew(toy: Penalty) -> None:
    out = CliRunner().invoke(app, ["regularizers", "--json", "-", "--quiet"]).stdout
    row = next(row for row in json.loads(out) if row["name"] == "toy")
    assert (row["factor"], row["options"]) == (0.25, ["power", "every"])
    assert row["source"] == "nobody, nowhere"
    other = Penalty("toy", "1", "1", "–", exact=lambda w: 1.0, figure=lambda matrices: 1.0)
    orthwrap.register_penalty(other)
    assert float(orthwrap.regularizer("toy", 2.0)(np.ones((2, 2), "float32"))) == 2.0


@pytest.mark.parametrize("words", [{"name": "so"}, {"name": "l2"}, {"class_name": "DSO"}])
def test_a_name_that_is_taken_is_refused(words: dict[str, str]) -> None:
    given = {"name": "mine", "class_name": "", **words}
    penalty = Penalty(
        formula="", minimum="", source="", exact=lambda w: w, figure=lambda m: 0.0, **given
    )
    with pytest.raises(orthwrap.ValueFault, match="is there already"):
        orthwrap.register_penalty(penalty)


def test_a_name_must_be_one_that_can_be_written() -> None:
    with pytest.raises(orthwrap.ValueFault, match="lower-case letters"):
        Penalty("My:toy", "", "", "", exact=lambda w: w, figure=lambda m: 0.0)


def command(*words: str, code: int = 0) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "orthwrap", *words], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
def test_on_a_file_by_the_commands(folder: Path) -> None:
    """Each in a process of its own, where only `--custom-objects` names the module."""
    own = ["--custom-objects", "toy_module"]
    unknown = command("apply", "model.h5", "--regularizer", "toy", code=1).stderr
    assert unknown.startswith("error: unknown regularizer 'toy'")
    command("apply", "model.h5", "--regularizer", "toy", *own, "--json", "report.json")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    carried = [r for r in report["layers"] if r["decision"] == "regularized"]
    assert {r["regularizer"]["name"] for r in carried} == {"toy"}
    assert all(r["before"]["penalty"] > 0 for r in carried)

    given = ("inspect", "model-orth.h5", *own, "--json", "-", "--quiet")
    shown = json.loads(command(*given).stdout)
    assert [r["before"] for r in shown["layers"]] == [r["before"] for r in report["layers"]]
    command("compare", "model-orth.h5", "model-orth.h5", *own)
    assert "toy" in command("regularizers", *own).stdout
    command("strip", "model-orth.h5", *own)
    plain = json.loads(command("inspect", "model-orth-plain.h5", "--json", "-", "-q").stdout)
    assert {r["regularizer"] for r in plain["layers"]} == {None}


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_where_it_is_not_registered_one_line_says_how(
    folder: Path, suffix: str, toy: Penalty
) -> None:
    name, ours = f"model{suffix}", f"model-orth{suffix}"
    orthwrap.apply(name, regularizer="toy")
    shown = orthwrap.inspect(ours)
    assert {r.regularizer.name for r in shown.layers if r.regularizer} == {"toy"}
    stripped = orthwrap.strip(ours).output
    assert {r.regularizer for r in orthwrap.inspect(stripped).layers} == {None}
    forget()
    for words in (["inspect", ours], ["strip", ours, "--force"], ["compare", name, ours]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 1
        assert done.stderr.count("\n") == 1
        assert "'Toy' whose penalty is not registered here" in done.stderr
        assert "--custom-objects" in done.stderr


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_file_loads_only_where_it_is_registered(folder: Path, suffix: str, toy: Penalty) -> None:
    output = orthwrap.apply(folder / f"model{suffix}", regularizer="toy").output
    assert output is not None
    losses = [float(x) for x in orthwrap.load_model(output).losses]
    assert losses
    forget()
    with pytest.raises(orthwrap.OrthwrapError) as caught:
        orthwrap.load_model(output)
    assert "orthwrap>Toy" in str(caught.value)
    assert "--custom-objects" in str(caught.value)
    assert "\n" not in str(caught.value)
    given = orthwrap.load_model(output, custom_objects="toy_module")
    assert [float(x) for x in given.losses] == pytest.approx(losses)


@pytest.mark.dear
@pytest.mark.slow
def test_the_example_of_the_docs_runs(folder: Path) -> None:
    page = (REPOSITORY / "docs" / "regularizers.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (line,) = re.findall(r"^\$ orthwrap (.*my_penalties.*)$", page, re.MULTILINE)
    (folder / "my_penalties.py").write_text(code, encoding="utf-8")
    command(*line.split(), "--json", "report.json")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    loss = (
        "import orthwrap, my_penalties\n"
        "print(sum(float(x) for x in orthwrap.load_model('model-orth.h5').losses))"
    )
    done = subprocess.run([sys.executable, "-c", loss], capture_output=True, text=True, check=True)
    expected = report["summary"]["penalty_before"]
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, rel=1e-4)
