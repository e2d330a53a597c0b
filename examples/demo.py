"""The whole job on a real data set: train a plain network, make its convolutions orthogonal.

1. Trains a small convolutional network on scikit-learn's handwritten digits until it stops
   getting better, without any regularizer, and saves it as demo/model.h5.
2. Runs `orthwrap apply` on that file with a goal: attach, fine-tune until every residual is a
   tenth of what it was, report. A control is trained equally without it.

What the goal is held against are digits held out of the training; the test split is used in
neither. Run with `make demo`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
from rich.console import Console

from orthwrap_cli.quiet import without_chatter

FOLDER = Path("demo")
SEED = 7
GOAL = ["--goal", "10x", "--control", "--epochs", "20", "--seed", str(SEED)]
console = Console(highlight=False)


def digits() -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """1,797 handwritten digits, 8×8 pixels: 1,077 to train on, 270 held out, 450 to test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16.0).astype("float32")
    x, x_test, y, y_test = train_test_split(x, y, test_size=450, random_state=SEED, stratify=y)
    split = train_test_split(x, y, test_size=270, random_state=SEED, stratify=y)
    return dict(zip(("x", "x_val", "y", "y_val"), split, strict=True)), (x_test, y_test)


def train_plain(data: dict[str, np.ndarray], path: Path) -> None:
    """Keras's default initialisers, no regularizer, until the loss no longer falls."""
    import keras

    keras.utils.set_random_seed(SEED)
    layers = [keras.Input((8, 8, 1))]
    for number, filters in enumerate((16, 32, 64, 64), 1):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{number}"),
            keras.layers.BatchNormalization(name=f"norm{number}"),
            keras.layers.ReLU(name=f"relu{number}"),
        ]
        if number == 2:
            layers.append(keras.layers.MaxPooling2D(name="pool"))
    layers += [
        keras.layers.GlobalAveragePooling2D(name="average"),
        keras.layers.Dense(10, activation="softmax", name="classes"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    plateau = keras.callbacks.EarlyStopping("loss", min_delta=1e-3, patience=8)
    history = model.fit(
        data["x"], data["y"], batch_size=32, epochs=200, callbacks=[plateau], verbose=0
    )
    epochs = len(history.history["loss"])
    console.print(f"trained a plain network for {epochs} epochs, until its loss stayed level")
    model.save(path)


def orthwrap(*words: str) -> dict:
    """Runs the command; gives back its report."""
    report = FOLDER / "report.json"
    console.print(f"\n[bold]$ {' '.join(['orthwrap', *words])}[/bold]\n", soft_wrap=True)
    subprocess.run(["orthwrap", *words, "--json", str(report)], check=True)
    return json.loads(report.read_text(encoding="utf-8"))


def accuracy(path: str, test: tuple[np.ndarray, np.ndarray]) -> float:
    """On the test split."""
    from orthwrap import load_model

    loaded = load_model(path)
    return float(loaded.evaluate(*test, verbose=0, return_dict=True)["accuracy"])


def main() -> None:
    """Trains, applies, compares."""
    FOLDER.mkdir(exist_ok=True)
    model, data = FOLDER / "model.h5", FOLDER / "digits.npz"
    arrays, test = digits()
    np.savez(data, **arrays)
    with without_chatter(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is a legacy format, and what people have
        train_plain(arrays, model)

    words = ("apply", str(model), "--target", "all-conv", "--data", str(data), *GOAL, "--force")
    report = orthwrap(*words)
    with without_chatter(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = (accuracy(str(path), test) for path in (model, report["output"]))

    console.print(
        f"\non 450 test digits that no training has seen: accuracy {before:.4f} → {after:.4f}",
        soft_wrap=True,
    )
    verdict = report["training"]["verdict"]
    if verdict["reached"] < len(verdict["kernels"]) or before - after > 0.015:
        sys.exit("error: the demo should divide every residual by 10 at a cost of 1.5 points")


if __name__ == "__main__":
    main()
