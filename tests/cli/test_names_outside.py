"""Names from a stranger's file do not act in JSON, in spreadsheets, or in TensorBoard either."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import h5py
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from orthwrap.text import json_text
from orthwrap.training.loop.logs import Board, csv_of
from orthwrap_cli.main import app
from tests.support.samples import small_file

runner = CliRunner()

# Escape sequences, the bidi override, line separators, half a character, a formula, a byte of a
# name that is not UTF-8.
HOSTILE = [
    "\x1b[2J", "\x9b31m", "a\u202eb", "a\u2028b", "\ud800", "=cmd|'/C calc'!A0", "\udcff", "\x7f",
    "a\nb", "\r=1", "\t@x", "\u200b", "\ufeff=1", "é→卷", '"; drop', "\x00",
]  # fmt: skip
NAMES = st.text(st.characters(exclude_categories=()), max_size=20)


@given(NAMES)
@example("".join(HOSTILE))
def test_json_is_plain_and_says_the_same(name: str) -> None:
    data = {name: [name, {"name": name}], "factor": -0.5}
    text = json_text(data)
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == data


def with_name(path: Path, name: str) -> None:
    """A copy of the small model in which one layer, and its class, have another name."""
    path.write_bytes(small_file(".h5").read_bytes())
    with h5py.File(path, "r+") as f:
        config = json.loads(f.attrs["model_config"])
        layer = next(n for n in config["config"]["layers"] if n["config"]["name"] == "conv1")
        layer["config"]["name"] = name
        layer["class_name"] = f"{name}Conv"
        f.attrs["model_config"] = json.dumps(config)


@pytest.mark.parametrize("name", [n for n in HOSTILE if "\x00" not in n], ids=ascii)
def test_a_command_prints_names_of_layers_and_files_that_do_not_act(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(name.replace("/", "_") + ".h5")
    try:
        with_name(path, name)
    except (OSError, UnicodeError):
        path = Path("m.h5")  # no such name on this system
        with_name(path, name)
    words = ["inspect", str(path), "--no-measure", "--json"]
    result = runner.invoke(app, [*words, "-"])
    assert result.exit_code == 0, result.output
    for text in (result.stdout, result.stderr):
        assert text.replace("\n", "").isprintable()
    result_file = runner.invoke(app, [*words, "r.json"])
    assert result_file.exit_code == 0, result_file.output
    for text in (result.stdout, Path("r.json").read_text("ascii")):
        report = json.loads(text)
        assert report["model"]["path"] == str(path)
        assert name in [layer["path"] for layer in report["layers"]]


def begins_a_formula(cell: str) -> bool:
    """As spreadsheets have it, in each way that a line may be cut into cells."""
    return any(c.strip().startswith(tuple("=+-@＝＋－＠\t\r")) for c in cell.split(";"))


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
@example(HOSTILE)
@example(["=1", "+1", "-1", "@x", " =1", "a;=1", "＝1", "-0.5"])
def test_no_cell_of_a_log_acts(names: list[str]) -> None:
    text = csv_of({name: [-0.5, 2.0] for name in names})
    text.encode("utf-8")
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header[0] == "epoch"
    assert len(header) == len(names) + 1
    for cell in header:
        assert cell.isprintable()
        assert not begins_a_formula(cell)
    assert rows == [["1", *["-0.5"] * len(names)], ["2", *["2.0"] * len(names)]]
    assert text.startswith("epoch,")  # as a later run knows it again


def test_plain_names_stay_as_they_are() -> None:
    names = ["task_loss", "val_accuracy", "mean absolute error", "f1-score", "größe", "a=b"]
    text = csv_of({name: [0.0] for name in names})
    assert next(csv.reader(io.StringIO(text))) == ["epoch", *names]


def test_tags_of_tensorboard_do_not_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from orthwrap.training.loop import logs

    name = "".join(HOSTILE)
    monkeypatch.setattr(logs, "_figures", lambda model: {f"residual/{name}": 1.0})
    board = Board(tmp_path)
    board.epoch(1, {name: 0.5}, None)
    board.close()
    (file,) = tmp_path.iterdir()
    tags: list[Any] = []
    for record in tf.data.TFRecordDataset(os.fspath(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        tags += [value.tag for value in event.summary.value]
    assert len(tags) == 2
    assert all(tag.isprintable() for tag in tags)
    assert tags[0].startswith("epoch/\\x1b[2J\\x9b31ma\\u202eb")
