"""The whole job on a real data set: train a plain network, make its convolutions orthogonal.

1. Trains a small convolutional network on scikit-learn's handwritten digits until it stops
   getting better, without any regularizer, and saves it as demo/model.h5.
2. Runs `orthwrap apply` on that file: attach, fine-tune, report.
3. Runs `orthwrap finetune` on the same file with the same settings and no penalty, as a control.

The test split is used in neither training. Run with `make demo`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from orthwrap_cli.quiet import without_chatter

FOLDER = Path("demo")
SEED = 7
TRAINING = [
    *("--epochs", "30", "--batch-size", "32", "--learning-rate", "1e-3", "--seed", str(SEED)),
    *("--keep", "last"),  # the best epoch would be chosen by the test split
]
console = Console(highlight=False)


def digits() -> dict[str, np.ndarray]:
    """1,797 handwritten digits, 8×8 pixels: 1,347 to train on, 450 to test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16.0).astype("float32")
    split = train_test_split(x, y, test_size=450, random_state=SEED, stratify=y)
    return dict(zip(("x", "x_val", "y", "y_val"), split, strict=True))


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


def orthwrap(*words: str, show: bool) -> dict:
    """Runs the command; gives back its report."""
    report = FOLDER / "report.json"
    command = ["orthwrap", *words, "--json", str(report)]
    if show:
        console.print(f"\n[bold]$ {' '.join(['orthwrap', *words])}[/bold]\n", soft_wrap=True)
    else:
        command.append("--quiet")
    subprocess.run(command, check=True)
    return json.loads(report.read_text(encoding="utf-8"))


def main() -> None:
    """Trains, applies, compares."""
    FOLDER.mkdir(exist_ok=True)
    model, data = FOLDER / "model.h5", FOLDER / "digits.npz"
    arrays = digits()
    np.savez(data, **arrays)
    with without_chatter(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is a legacy format, and what people have
        train_plain(arrays, model)

    ours = orthwrap(
        *("apply", str(model), "--target", "all-conv", "--factor", "3e-2"),
        *("--data", str(data), *TRAINING, "--force"),
        show=True,
    )
    control = orthwrap(
        *("finetune", str(model), "--data", str(data), *TRAINING, "--force"), show=False
    )

    accuracy = Table(show_header=False)
    rows = (
        ("the original", ours["training"]["metrics_before"]["accuracy"]),
        ("control: trained on, no penalty", control["training"]["metrics_after"]["accuracy"]),
        ("trained on with orthwrap", ours["training"]["metrics_after"]["accuracy"]),
    )
    console.print("\n[bold]Accuracy on 450 test digits, used in neither training[/bold]")
    for name, value in rows:
        accuracy.add_row(name, f"{value:.2%}")
    console.print(accuracy)

    convs = [x for x in ours["layers"] if x["decision"] == "regularized"]
    lower = [x["before"]["residual"] / x["after"]["residual"] for x in convs]
    drop = max(rows[0][1], rows[1][1]) - rows[2][1]
    console.print(
        f"every convolution's residual is at least {min(lower):.0f} times lower; accuracy is "
        f"{abs(drop) * 100:.2f} points {'under' if drop > 0 else 'over'} the better of the two",
        soft_wrap=True,
    )
    if min(lower) < 5 or drop > 0.005:
        sys.exit("error: the demo should lower every residual 5 times at a cost of 0.5 points")


if __name__ == "__main__":
    main()
