"""Fine-tune a pretrained network on a folder of images, its convolutions kept orthogonal.

    python examples/image_folder.py photos/ --weights imagenet --size 224 --epochs 10

`photos/` holds one folder per class, as `keras.utils.image_dataset_from_directory` takes it. A
fifth of the images is held out to validate on. A run that was cut short goes on where it stood:

    python examples/image_folder.py photos/ --weights imagenet --size 224 --epochs 10 --resume

Writes photos.keras, and photos.checkpoints, which a new run wants removed first or another --output
instead; `orthwrap strip photos.keras` makes a plain Keras file of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import keras

import orthwrap


def network(classes: int, size: int, alpha: float, weights: str | None) -> keras.Model:
    """A MobileNet without its own head, and a new head for the folder's classes."""
    shape = (size, size, 3)
    backbone = keras.applications.MobileNet(
        shape, alpha, include_top=False, weights=weights, pooling="avg", name="backbone"
    )
    images = keras.Input(shape, name="images")
    x = keras.layers.Dropout(0.2, name="dropout")(backbone(images))
    return keras.Model(images, keras.layers.Dense(classes, activation="softmax", name="head")(x))


def main() -> None:
    """Reads the options, builds the network, fine-tunes it and shows what changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="one folder of images per class")
    parser.add_argument("--output", type=Path, help="default: the folder's name, as .keras")
    parser.add_argument("--weights", help="imagenet, or a file; default: none, from scratch")
    parser.add_argument("--size", type=int, default=128, help="height and width (default: 128)")
    parser.add_argument("--alpha", type=float, default=1.0, help="MobileNet's width (default: 1)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args()
    if not args.folder.is_dir():
        parser.error(f"{args.folder} is no folder")
    output = args.output or Path(f"{args.folder.resolve().name}.keras")

    # The new head is drawn from it too, so that --resume meets the network it left.
    keras.utils.set_random_seed(args.seed)
    classes = [f for f in args.folder.iterdir() if f.is_dir() and not f.name.startswith(".")]
    model = network(len(classes), args.size, args.alpha, args.weights)

    result = orthwrap.apply(
        model,
        output,
        target="all-conv",
        scale="preserve",  # what was pretrained keeps the size of its weights
        factor="auto",  # as strong as the task, measured on the first batches
        schedule="cosine:0.1",  # and at the end a tenth as strong
        data=args.folder,
        validation_split=0.2,
        preprocessing="mobilenet",
        freeze="conv1*",  # the first convolution and its normalisation stay as they are
        epochs=args.epochs,
        learning_rate=args.learning_rate,
        seed=args.seed,
        checkpoint_dir=output.with_suffix(".checkpoints"),
        resume=args.resume,
        force=True,  # an output of an earlier run is replaced
        progress=True,
    )
    print(result.report)


if __name__ == "__main__":
    try:
        main()
    except orthwrap.OrthwrapError as e:
        sys.exit(f"error: {e}")
