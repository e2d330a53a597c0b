"""Your own `model.fit`, with orthwrap's regularizers and the callback that moves their factor.

    python examples/own_fit.py --epochs 20

Trains a small network on scikit-learn's handwritten digits. Writes digits-orth.keras, which holds
the regularizers, and digits.keras, which any Keras loads without orthwrap.
"""

from __future__ import annotations

import argparse

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import orthwrap


def network() -> keras.Model:
    """Three convolutions, each with a normalisation, and a Dense layer."""
    layers = [keras.Input((8, 8, 1))]
    for number, filters in enumerate((16, 32, 32), 1):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{number}"),
            keras.layers.BatchNormalization(momentum=0.9, name=f"norm{number}"),
            keras.layers.ReLU(name=f"relu{number}"),
        ]
    layers += [
        keras.layers.GlobalAveragePooling2D(name="average"),
        keras.layers.Dense(10, activation="softmax", name="classes"),
    ]
    return keras.Sequential(layers)


def main() -> None:
    """Attaches, compiles, fits, and takes the regularizers off again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--factor", type=float, default=1e-2, help="λ at the start (default: 1e-2)")
    parser.add_argument("--schedule", default="cosine:0.1", help="default: cosine:0.1")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1) / 16
    x, x_test, y, y_test = train_test_split(x, y, test_size=450, random_state=args.seed, stratify=y)

    # A new model: the callback below moves the factor of what is attached here.
    model = orthwrap.apply(network(), target="all-conv", factor=args.factor).model
    before = orthwrap.inspect(model)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        x,
        y,
        validation_data=(x_test, y_test),
        epochs=args.epochs,
        callbacks=[orthwrap.FactorSchedule(args.schedule)],
        verbose=2,
    ).history  # with task_loss and penalty beside loss, their sum
    after = orthwrap.inspect(model)

    for old, new in zip(before.layers, after.layers, strict=True):
        if old.carries:
            # Of W, or of W/α where the kernel keeps its own scale.
            was, now = (getattr(record.before, record.driven) for record in (old, new))
            print(f"{old.path}  residual {was:.3f} → {now:.3f}")
    print(f"task loss {history['task_loss'][-1]:.4f}, penalty {history['penalty'][-1]:.4f}")

    model.save("digits-orth.keras")  # loads wherever orthwrap is imported
    plain = orthwrap.strip(model).model
    plain.save("digits.keras")  # loads everywhere


if __name__ == "__main__":
    main()
