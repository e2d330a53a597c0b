"""A run at a terminal, killed and interrupted, ends as one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import orthwrap
from tests.support.run_helpers import classes, dropping, same

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and data of a hundred batches."""
    folder = tmp_path_factory.mktemp("runs")
    model = dropping()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(folder / "m.keras")
    x, y = classes(400)
    np.savez(folder / "d.npz", x=x, y=y)
    return folder


# It sends itself a signal after so many steps; none where that is 0.
SIGNALLED = """
import os, sys
import wrapt
number, step = int(sys.argv.pop(1)), int(sys.argv.pop(1))

@wrapt.when_imported("keras")
def count(keras):
    done, plain = 0, keras.callbacks.CallbackList.on_train_batch_end
    def counted(*args, **words):
        nonlocal done
        plain(*args, **words)
        done += 1
        if done == step:
            os.kill(os.getpid(), number)
    keras.callbacks.CallbackList.on_train_batch_end = counted

from orthwrap_cli.main import main
main()
"""


def ran(place: Path, *words: str, number: int = 0, step: int = 0) -> tuple[int, str]:
    """The code that a run ends with, and all that it said."""
    common = ["apply", "m.keras", "--data", "d.npz", "--batch-size", "4", "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number)), str(step), *common, *words],
        cwd=place,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.dear
@pytest.mark.slow
def test_killed_and_interrupted_run_ends_bit_for_bit_as_one_that_was_not(place: Path) -> None:
    words = ("--epochs", "4", "--no-measure", "--regularizer", "srip", "--factor", "1e-3")
    code, said = ran(place, *words, "-o", "whole.keras")
    assert code == 0, said
    parts = (*words, "-o", "parts.keras", "--checkpoint-dir", "c")
    code, said = ran(place, *parts, number=signal.SIGKILL, step=230)
    assert code == -signal.SIGKILL, said
    code, said = ran(place, *parts, "--resume", number=signal.SIGINT, step=130)
    assert code == 130, said
    assert "go on with the same command and --resume" in said
    assert "Traceback" not in said
    code, said = ran(place, *parts, "--resume")
    assert code == 0, said
    assert "goes on in epoch 4, after step 31" in " ".join(said.split())
    first, second = (orthwrap.load_model(place / f"{n}.keras") for n in ("whole", "parts"))
    assert same(first, second)
