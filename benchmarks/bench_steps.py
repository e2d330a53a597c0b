"""What each penalty costs beside a training step: `orthwrap bench` on models of known size.

    KERAS_BACKEND=jax python benchmarks/bench_steps.py resnet50 [--batch 128] [--whole] [--small]

On whatever device the backend has, without TensorFlow on the others; `benchmarks/gpu.sh` does all.
The report goes to results/steps-BACKEND-MODEL.json, and `cost_page.py` makes docs/cost.md of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def resnet50(small: bool) -> Any:
    """54 kernels, 25.5 M weights."""
    import keras

    size = 64 if small else 224
    return keras.applications.ResNet50(weights=None, input_shape=(size, size, 3))


def vit_b(small: bool) -> Any:
    """A vision transformer: 12 blocks of width 768."""
    import keras
    from keras import layers

    size, blocks = (32, 2) if small else (224, 12)
    x = inputs = layers.Input((size, size, 3))
    x = layers.Conv2D(768, 16, strides=16)(x)
    x = layers.Reshape((-1, 768))(x)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(12, 64)(y, y)])
        y = layers.Dense(3072, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(768)(y)])
    outputs = layers.Dense(1000)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, outputs)


def wide(small: bool) -> Any:
    """14 large kernels, 405 M weights."""
    import keras

    n = 256 if small else 5376
    dense = [keras.layers.Dense(n, activation="relu") for _ in range(14)]
    return keras.Sequential([keras.Input((n,)), *dense])


MODELS = {"resnet50": resnet50, "vit_b": vit_b, "wide": wide}
TARGETS: dict[str, Any] = {"vit_b": ("all-conv", "all-dense", "all-attention")}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("model", choices=MODELS)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--policy", default="mixed_bfloat16", help="dtype policy")
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--whole", action="store_true")
    options.add_argument("--small", action="store_true", help="a small model of the kind")
    options.add_argument("--regularizer", "-r", nargs="*")
    options.add_argument("--output", type=Path, default=RESULTS)
    given = options.parse_args()

    import keras

    import orthwrap

    keras.config.set_dtype_policy(given.policy)
    keras.utils.set_random_seed(0)
    report = orthwrap.bench(
        MODELS[given.model](given.small),
        batch=given.batch,
        target=TARGETS.get(given.model),
        regularizer=given.regularizer,
        whole=given.whole,
        seconds=given.seconds,
    )
    print(report)
    names = ["steps", keras.backend.backend(), given.model]
    names += ["small"] * given.small + ["whole"] * given.whole
    given.output.mkdir(parents=True, exist_ok=True)
    report.save(given.output / f"{'-'.join(names)}.json")


if __name__ == "__main__":
    main()
