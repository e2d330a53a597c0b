"""The examples run as they stand, on small data, and do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import orthwrap
from tests.conftest import PATIENCE_S, REPOSITORY

EXAMPLES = REPOSITORY / "examples"
# What TensorFlow and its compilers write to standard error by themselves.
NOT_OURS = re.compile(r"WARNING: All log messages before absl|[IW]\d{4} |.*(?:NUMA|XLA|cuda)")


def ran(folder: Path, script: str, *words: object) -> str:
    """Runs an example in an empty folder, any Python warning being an error; what it printed."""
    done = subprocess.run(
        # Keras 3's variables have a signature that NumPy 2 announces the end of.
        [
            *(sys.executable, "-W", "error", "-W", "ignore:__array__:DeprecationWarning"),
            *(EXAMPLES / script, *map(str, words)),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stderr.splitlines() if not NOT_OURS.match(line)]
    assert not said, done.stderr
    return done.stdout


def changes(printed: str) -> list[tuple[float, float]]:
    """The residual of each kernel before and after."""
    pairs = re.findall(r"(?:residual|preserve|frozen) +([\d.]+) → ([\d.]+)", printed)
    return [(float(before), float(after)) for before, after in pairs]


def outputs(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    import keras

    images = np.random.default_rng(0).uniform(size=shape).astype("float32")
    return np.asarray(keras.models.load_model(path, compile=False).predict(images, verbose=0))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty handwritten digits, of three classes, as PNG files in class folders."""
    import tensorflow as tf
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("data") / "digits"
    x, y = load_digits(n_class=3, return_X_y=True)
    for i, (image, label) in enumerate(zip(x[:60], y[:60], strict=True)):
        path = folder / f"class{label}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (image.reshape(8, 8, 1) * 15.9).astype("uint8")
        path.write_bytes(tf.io.encode_png(pixels).numpy())
    return folder


@pytest.mark.dear
@pytest.mark.slow
def test_a_folder_of_images(tmp_path: Path, digits: Path) -> None:
    words = (digits, "--size", 32, "--alpha", 0.25, "--learning-rate", 1e-2, "--epochs", 1)
    printed = ran(tmp_path, "image_folder.py", *words)
    assert "3 classes: class0, class1, class2; 12 more to validate" in printed
    assert "factor auto" in printed
    assert outputs(tmp_path / "digits.keras", (2, 32, 32, 3)).shape == (2, 3)
    (frozen, same), *trained = changes(printed)
    assert frozen == same
    assert len(trained) == 13
    assert all(after < before for before, after in trained)

    # The new head is the one that the checkpoint knows, and there is nothing left to do.
    again = ran(tmp_path, "image_folder.py", *words, "--resume")
    assert "goes on after epoch 1" in again
    assert changes(again) == changes(printed)


@pytest.mark.dear
@pytest.mark.slow
def test_a_fit_of_ones_own(tmp_path: Path) -> None:
    printed = ran(tmp_path, "own_fit.py", "--epochs", 4, "--factor", 0.1)
    found = changes(printed)
    assert len(found) == 3
    assert all(after < before * 0.8 for before, after in found)
    assert "task_loss" in printed
    assert "val_penalty" in printed

    regularized, plain = tmp_path / "digits-orth.keras", tmp_path / "digits.keras"
    shape = (2, 8, 8, 1)
    np.testing.assert_array_equal(outputs(regularized, shape), outputs(plain, shape))
    carrying = {r.path: r.regularizer.factor for r in orthwrap.inspect(regularized).layers[:3]}
    # cosine:0.1 at the last of four epochs
    wanted = 0.1 * (0.1 + 0.9 * (1 + np.cos(np.pi * 3 / 4)) / 2)
    assert list(carrying.values()) == pytest.approx([wanted] * 3)
    assert not any(r.carries for r in orthwrap.inspect(plain).layers)
    without = "import keras; keras.models.load_model('digits.keras')"
    subprocess.run([sys.executable, "-c", without], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.dear
@pytest.mark.slow
def test_a_loop_of_ones_own(tmp_path: Path) -> None:
    printed = ran(tmp_path, "own_loop.py", "--epochs", 3)
    found = changes(printed)
    assert len(found) == 2
    assert all(after < before * 0.8 for before, after in found)
    figures = re.findall(r"task loss ([\d.]+)  penalty ([\d.]+)", printed)
    task, penalty = zip(*((float(t), float(p)) for t, p in figures), strict=True)
    assert task[2] < task[0]
    assert penalty[2] < penalty[0]
    assert outputs(tmp_path / "digits-loop.keras", (2, 64)).shape == (2, 10)


@pytest.mark.dear
@pytest.mark.slow
def test_the_demo_keeps_its_promise(tmp_path: Path) -> None:
    here = Path(sys.executable).parent  # where the command is that it runs
    done = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    training = json.loads((tmp_path / "demo" / "report.json").read_text())["training"]
    found = training["verdict"]["kernels"]
    assert len(found) == 4
    assert all(kernel["before"] / kernel["after"] >= 10 for kernel in found)
    assert "all 4 kernels 10x more orthogonal" in done.stdout
    assert training["control"]["metrics"]["accuracy"] > 0.9


def test_the_readme_mentions_every_example() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in EXAMPLES.glob("*.py")} - {"demo.py"}  # `make demo`
    assert {name for name in names if f"`{name}`" in readme} == names
