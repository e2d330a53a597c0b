"""The commands as a user runs them: exit codes, one-line errors, JSON, the look of the tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from orthwrap.penalties.table import PENALTIES
from orthwrap_cli.main import app
from tests.support.samples import nested_file, small_file

runner = CliRunner()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and data, to stand in."""
    (tmp_path / "model.h5").write_bytes(small_file(".h5").read_bytes())
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz",
        x=rng.normal(size=(40, 8, 8, 1)).astype("float32"),
        y=np.arange(40) % 10,
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str, code: int = 0) -> tuple[str, str]:
    result = runner.invoke(app, list(words), env={"COLUMNS": "100"})
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout, result.stderr


def test_apply_writes_beside_the_input_and_shows_each_layer(folder: Path) -> None:
    out, err = call("apply", "model.h5", "--target", "all-conv")
    assert (folder / "model-orth.h5").exists()
    assert "conv1" in out
    assert "so 0.001" in out
    assert "2 of 3 kernels" in out
    assert err == ""


REPORT_KEYS = {
    "schema", "orthwrap_version", "command", "model", "output", "upgrades", "warnings",
    "summary", "training", "layers", "command_line", "versions",
}  # fmt: skip
LAYER_KEYS = {
    "path", "class_name", "slot", "kernel", "shape", "layout", "matrices", "decision", "reason",
    "trainable", "rule", "regularizer", "before", "after",
}  # fmt: skip
FIGURE_KEYS = {
    "residual", "scaled_residual", "scale", "sigma_min", "sigma_max", "condition", "coherence",
    "penalty", "spectrum",
}  # fmt: skip
REGULARIZER_KEYS = {"name", "factor", "scale", "alpha", "estimate", "every", "combined_with"}
SUMMARY_KEYS = {
    "layers", "kernels", "regularized", "regularized_parameters", "penalty_before",
    "penalty_after", "weighted_penalty_before", "weighted_penalty_after",
}  # fmt: skip


@pytest.mark.parametrize("command", ["inspect", "apply", "strip"])
def test_the_json_has_the_schema(folder: Path, command: str) -> None:
    out, err = call(command, "model.h5", "--json", "-")
    report = json.loads(out)
    assert set(report) == REPORT_KEYS
    assert report["schema"] == "orthwrap.report/1"
    assert report["command"] == command
    assert set(report["model"]) == {"path", "format", "keras_version", "parameters"}
    assert report["model"]["parameters"] == 8 * 9 + 8 + 8 * 72 + 8 + 80 + 10
    assert set(report["summary"]) == SUMMARY_KEYS
    assert report["summary"]["layers"] == 5
    assert report["summary"]["kernels"] == 3
    for layer in report["layers"]:
        assert set(layer) == LAYER_KEYS
        assert layer["before"] is None or set(layer["before"]) == FIGURE_KEYS
        assert layer["regularizer"] is None or set(layer["regularizer"]) == REGULARIZER_KEYS
    assert "orthwrap" in err, "the table goes to standard error"


def test_json_replaces_reports_alone(folder: Path) -> None:
    for command in (["inspect", "model.h5"], ["compare", "model.h5", "model.h5"], ["regularizers"]):
        for _ in range(2):
            call(*command, "--json", "report.json", "--quiet")
    (folder / "keep.py").write_text("import os")
    _, err = call("inspect", "model.h5", "--json", "keep.py", code=1)
    assert "--json keep.py exists and is not JSON of an earlier command" in err
    assert (folder / "keep.py").read_text() == "import os"


def test_json_goes_to_a_file_and_quiet_says_nothing(folder: Path) -> None:
    out, err = call("apply", "model.h5", "--json", "report.json", "--quiet")
    assert (out, err) == ("", "")
    assert json.loads((folder / "report.json").read_text("utf-8"))["output"] == "model-orth.h5"


def test_the_penalty_is_the_sum_of_factor_times_penalty(folder: Path) -> None:
    out, _ = call("apply", "model.h5", "--factor", "0.25", "--json", "-")
    report = json.loads(out)
    total = sum(x["regularizer"]["factor"] * x["before"]["penalty"] for x in report["layers"])
    assert report["summary"]["penalty_before"] == pytest.approx(total)


@pytest.mark.slow
def test_training_shows_task_loss_and_penalty_apart(folder: Path) -> None:
    out, _ = call(
        *("apply", "model.h5", "--data", "data.npz", "--epochs", "2", "--seed", "1"),
        *("--factor", "0.1", "--json", "report.json"),
    )
    assert "epoch 2/2" in out
    assert "task" in out
    assert "penalty" in out
    assert "sparse_categorical_crossentropy" in out, "what was chosen is said"
    training = json.loads((folder / "report.json").read_text("utf-8"))["training"]
    assert set(training["history"]) >= {"loss", "task_loss", "penalty", "accuracy"}
    for total, task, penalty in zip(
        *(training["history"][k] for k in ("loss", "task_loss", "penalty")), strict=True
    ):
        assert total == pytest.approx(task + penalty, rel=1e-5)


@pytest.mark.slow
def test_finetune_goes_on_with_a_regularized_file(folder: Path) -> None:
    call("apply", "model.h5", "--quiet", "--factor", "0.1")
    out, _ = call("finetune", "model-orth.h5", "--data", "data.npz", "--epochs", "1")
    assert (folder / "model-orth-tuned.h5").exists()
    assert "→" in out


def test_rules_from_a_file(folder: Path) -> None:
    (folder / "rules.toml").write_text(
        '[[rule]]\ntarget = ["conv1"]\nregularizer = "srip"\noptions = { steps = 3 }\n'
        "[[rule]]\ntarget = ['all-dense']\nfactor = 0.5\n"
    )
    out, _ = call("apply", "model.h5", "--rules", "rules.toml", "--json", "-", "--quiet")
    found = {x["path"]: x["regularizer"] for x in json.loads(out)["layers"]}
    assert found["conv1"]["name"] == "srip"
    assert found["conv2"] is None
    assert found["classes"]["factor"] == 0.5


@pytest.mark.dear
@pytest.mark.slow
def test_a_function_of_ones_own_is_found_in_the_current_folder(folder: Path, run) -> None:
    (folder / "mine.py").write_text(
        "import keras\n\ndef squares(w):\n    return keras.ops.sum(w * w)\n"
    )
    done = run("apply", "model.h5", "-r", "mine:squares", "--json", "-", cwd=folder)
    assert done.returncode == 0, done.stderr
    names = {x["regularizer"]["name"] for x in json.loads(done.stdout)["layers"]}
    assert names == {"mine:squares"}
    loading = subprocess.run(
        [sys.executable, "-c", _LOADED_BY_NAME], cwd=folder, capture_output=True, text=True
    )
    assert loading.returncode == 0, loading.stderr


_LOADED_BY_NAME = """
import orthwrap
for number in range(2):
    try:
        orthwrap.load_model("model-orth.h5")
    except orthwrap.OrthwrapError as e:
        assert "give --custom-objects package.module:Name" in str(e), e
    else:
        raise AssertionError(number)
    import mine  # that it happens to be imported is no authority
orthwrap.load_model("model-orth.h5", custom_objects="mine:squares")
"""


def test_factor_for_splits_at_the_last_equals_sign(folder: Path) -> None:
    out, _ = call(
        "apply", "model.h5", "--factor-for", "re:(?=conv1).*=0.5", "--json", "-", "--quiet"
    )
    found = {x["path"]: x["regularizer"]["factor"] for x in json.loads(out)["layers"]}
    assert found == {"conv1": 0.5, "conv2": 1e-3, "classes": 1e-3}


FAULTS = [
    # words, exit code, part of the message
    (["apply", "missing.h5"], 1, "does not exist"),
    (["apply", "model.h5", "--target", "convv1"], 1, "conv1"),
    (["apply", "model.h5", "--target", "pool"], 1, "only layers without a kernel"),
    (["apply", "model.h5", "--regularizer", "ortho"], 1, "did you mean"),
    (["apply", "model.h5", "--factor=-1"], 1, "at least 0"),
    (["apply", "model.h5", "--factor", "nan"], 1, "finite"),
    (["apply", "model.h5", "-o", "model.h5", "--force"], 1, "is the input"),
    (["apply", "model.h5", "--option", "steps=2"], 1, "takes no option"),
    (["apply", "model.h5", "--regularizer", "no.such:function"], 1, "cannot import"),
    (["apply", "model.h5", "--regularizer", "math:nothing"], 1, "no function"),
    (["apply", "model.h5", "--rules", "missing.toml"], 1, "cannot be read"),
    (["apply", "model.h5", "--json", "no/such/r.json"], 1, "does not exist"),
    (["apply", "model.h5", "--data", "missing.npz"], 1, "does not exist"),
    (["apply", "model.h5", "--data", "model.h5"], 1, "is no .npz file"),
    (["apply", "model.h5", "--data", "nowhere"], 1, "a folder of images, or module:function"),
    (["apply", "model.h5", "--data", "data.npz", "--batch-size", "0"], 1, "batch size 0 must be"),
    (["apply", "model.h5", "--data", "data.npz", "--tensorboard", "data.npz"], 1, "is a file"),
    (["apply", "model.h5", "--data", "data.npz", "--monitor", "f1"], 1, "none of the figures"),
    (["apply", "model.h5", "--data", "data.npz", "--resume"], 2, "needs a checkpoint dir"),
    (["apply", "model.h5", "--data", "data.npz", "--epochs", "0"], 1, "at least 1"),
    (["apply", "model.h5", "--data", "data.npz", "--learning-rate=-1"], 1, "above 0"),
    (["apply", "model.h5", "--factor", "auto"], 2, "auto"),
    (["apply", "model.h5", "--factor", "big"], 2, "not a number"),
    (["apply", "model.h5", "--factor-for", "x"], 2, "PATTERN=F"),
    (["apply", "model.h5", "--option", "steps"], 2, "KEY=VALUE"),
    (["apply", "model.h5", "--epochs", "3"], 2, "data"),
    (
        ["apply", "model.h5", "--rules", "r.toml", "--target", "x"],
        2,
        "rules come instead of target",
    ),
    (["apply", "model.h5", "--on", "activity", "--scale", "preserve"], 2, "preserve"),
    (["apply", "model.h5", "--scale", "huge"], 2, "unit"),
    (["apply", "model.h5", "--nonsense"], 2, "--nonsense"),
    (["apply"], 2, "MODEL"),
    (["frobnicate"], 2, "frobnicate"),
    (["finetune", "model.h5"], 2, "--data"),
    (["compare", "model.h5"], 2, "AFTER"),
]


@pytest.mark.parametrize(("words", "code", "message"), FAULTS, ids=[" ".join(f[0]) for f in FAULTS])
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    folder: Path, words: list[str], code: int, message: str
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    out, err = call(*words, code=code)
    assert message in err
    assert "Traceback" not in out + err
    if code == 1:
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


DATA_FAULTS = [
    ({"x": np.ones((4, 9, 9, 1)), "y": np.zeros(4)}, ["9×9×1", "8×8×1"]),
    ({"x": np.ones((4, 8, 8, 1)), "y": np.array([0, 1, 2, 12])}, ["12", "10 classes"]),
    ({"x": np.ones((4, 8, 8, 1)), "y": np.array([0, 1, 2, -1])}, ["-1", "10 classes"]),
    ({"x": np.ones((4, 8, 8, 1)), "y": np.zeros(3)}, ["x has 4, y has 3 samples"]),
    ({"x": np.ones((4, 8, 8, 1))}, ["expected y"]),
    ({"y": np.ones(4)}, ["expected x"]),
    ({"x": np.ones((0, 8, 8, 1)), "y": np.zeros(0)}, ["no samples"]),
    ({"x": np.ones((4, 8, 8, 1)), "y": np.array(["a"] * 4)}, ["expected numbers"]),
    ({"x": np.ones((4, 8, 8, 1)), "y": np.array([None] * 4)}, ["plain arrays"]),
]


@pytest.mark.parametrize(("arrays", "words"), DATA_FAULTS)
def test_data_that_does_not_fit_is_named(folder: Path, arrays, words) -> None:
    np.savez(folder / "bad.npz", **arrays)
    _, err = call("apply", "model.h5", "--data", "bad.npz", code=1)
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(w in err for w in words), err
    assert not (folder / "model-orth.h5").exists()


def test_debug_shows_the_traceback(folder: Path) -> None:
    _, err = call("inspect", "missing.h5", "--debug", code=1)
    assert "Traceback" in err


def test_the_list_of_regularizers() -> None:
    out, _ = call("regularizers", "--json", "-", "--quiet")
    assert [row["name"] for row in json.loads(out)] == list(PENALTIES)
    assert all(row["source"] and row["formula"] for row in json.loads(out))


def test_compare_is_json_too(folder: Path) -> None:
    call("apply", "model.h5", "--quiet")
    out, _ = call("compare", "model.h5", "model-orth.h5", "--json", "-", "--quiet")
    assert json.loads(out)["schema"] == "orthwrap.compare/1"


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize(
    "words", [["inspect"], ["apply", "-t", "all", "--dry-run"], ["regularizers"]]
)
def test_no_line_is_wider_than_the_terminal(width: int, words: list[str]) -> None:
    if words != ["regularizers"]:
        words = [*words, str(nested_file(".keras"))]
    result = runner.invoke(app, words, env={"COLUMNS": str(width)})
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= width


# Start-up: what must stay fast must not load what is slow.

_WATCH = """
import sys, runpy
sys.argv = ["orthwrap", *sys.argv[1:]]
try:
    runpy.run_module("orthwrap", run_name="__main__")
except SystemExit as e:
    code = e.code
loaded = [m for m in ("tensorflow", "keras", "torch", "jax") if m in sys.modules]
print("LOADED", *loaded, file=sys.stderr)
sys.exit(code)
"""


def loaded_by(folder: Path, *words: str) -> list[str]:
    """Which of the heavy packages a command has loaded, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, *words], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1].split()[1:]


@pytest.mark.dear
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["apply", "--help"],
        ["inspect", "model.h5"],
        ["apply", "model.h5", "-t", "all"],
        ["apply", "model.h5", "-r", "l2", "--scale", "unit"],
        ["strip", "model.h5"],
        ["compare", "model.h5", "model.h5"],
        ["regularizers"],
    ],
    ids=" ".join,
)
def test_neither_keras_nor_tensorflow_is_loaded(folder: Path, words: list[str]) -> None:
    assert loaded_by(folder, *words) == []


@pytest.mark.dear
@pytest.mark.slow
def test_the_test_above_can_fail(folder: Path) -> None:
    assert "keras" in loaded_by(folder, "apply", "model.h5", "-o", "model.keras")


def test_importing_orthwrap_loads_neither() -> None:
    code = "import orthwrap, sys; assert not {'keras', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_json_replaces_no_file_of_the_command(run, tmp_path: Path) -> None:
    model = tmp_path / "model.h5"
    model.write_bytes(small_file(".h5").read_bytes())
    then = model.read_bytes()
    for words in (
        ("inspect", "model.h5"),
        ("apply", "model.h5"),
        ("apply", "other.h5", "-o", "model.h5", "--force"),
        ("strip", "model.h5"),
        ("upgrade", "model.h5"),
        ("compare", "model.h5", "model.h5"),
    ):
        done = run(*words, "--json", "./model.h5")
        assert done.returncode == 1
        assert "which it would replace" in done.stderr
    assert model.read_bytes() == then


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("command", ["apply", "finetune"])
def test_choices_are_on_the_screen_once(folder: Path, command: str) -> None:
    out, _ = call(command, "model.h5", "--data", "data.npz", "--epochs", "1", "--json", "r.json")
    choice = "data: x 40×8×8×1 float32, y 40 int64"
    assert out.count(choice) == 1
    assert choice in json.loads((folder / "r.json").read_text())["training"]["choices"]
