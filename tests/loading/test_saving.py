"""What saving leaves as it was."""

from __future__ import annotations

from pathlib import Path

import keras

import orthwrap


def test_an_h5_does_not_cost_a_later_keras_file_its_optimizer(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.optimizer.build(model.trainable_variables)
    copy = orthwrap.apply(model, tmp_path / "copy.h5", target="all").model
    copy.save(tmp_path / "later.keras")
    optimizer = keras.models.load_model(tmp_path / "later.keras").optimizer
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert float(optimizer.learning_rate) == float(model.optimizer.learning_rate)
