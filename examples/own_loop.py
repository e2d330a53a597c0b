"""Your own training loop (TensorFlow), with orthwrap's regularizers and a factor that moves.

    python examples/own_loop.py --epochs 10

Trains a small network on scikit-learn's handwritten digits, one `tf.function` per step, and shows
the task's loss and the penalty apart. Writes digits-loop.keras.
"""

from __future__ import annotations

import argparse

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import orthwrap


def network() -> keras.Model:
    """Two hidden Dense layers; the last one gives logits."""
    layers = [keras.Input((64,))]
    layers += [keras.layers.Dense(64, activation="relu", name=f"hidden{i}") for i in (1, 2)]
    return keras.Sequential([*layers, keras.layers.Dense(10, name="logits")])


def main() -> None:
    """Attaches, trains step by step, and shows how orthogonal each kernel has become."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--factor", type=float, default=1e-2, help="λ at its most (default: 1e-2)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    samples = tf.data.Dataset.from_tensor_slices(((x / 16).astype("float32"), y))
    data = samples.shuffle(len(x), seed=args.seed).batch(args.batch_size)

    model = orthwrap.apply(network(), target="hidden*", factor=args.factor).model
    before = orthwrap.inspect(model)
    optimizer = keras.optimizers.Adam(1e-3)
    task_loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    # Takes hold of the regularizers; before the first step, which is traced with them.
    schedule = orthwrap.FactorSchedule("warmup:20, cosine:0.1", by="step")
    schedule.start(model, total=args.epochs * len(data))

    @tf.function
    def train_step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            task = task_loss_of(labels, model(images, training=True))
            penalty = tf.add_n(model.losses)  # each regularizer's, factor included
            loss = task + penalty
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return task, penalty

    step = 0
    for epoch in range(args.epochs):
        figures = []
        for images, labels in data:
            schedule.at(step)
            figures.append(train_step(images, labels))
            step += 1
        task, penalty = tf.reduce_mean(figures, axis=0).numpy()
        print(f"epoch {epoch + 1}  task loss {task:.4f}  penalty {penalty:.4f}")
    schedule.stop()  # the last factor is the regularizers' own now, and what a file keeps

    for old, new in zip(before.layers, orthwrap.inspect(model).layers, strict=True):
        if old.carries:
            print(f"{old.path}  residual {old.before.residual:.3f} → {new.before.residual:.3f}")
    model.save("digits-loop.keras")


if __name__ == "__main__":
    main()
