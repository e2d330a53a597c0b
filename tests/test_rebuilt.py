"""Whatever can be rebuilt is rebuilt, and the original keeps every bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from test_live import assert_same_outputs, numpy

import orthwrap


@pytest.fixture(autouse=True)
def _clean_session() -> None:
    keras.utils.clear_session(free_memory=False)


def series(*layer: Any, batch: int | None = 2) -> Any:
    """A model of layers that take and give series of 3 steps of 4 numbers."""
    x = inputs = layers.Input(batch_shape=(batch, 3, 4))
    for each in layer:
        x = each(x)
    return models.randomized(keras.Model(inputs, layers.Dense(2, name="head")(x)))


class Counts(layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Each call is another one: a weight, a list, a dict, a bare variable and a number count."""

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.listed = [self.add_weight(shape=(), initializer="zeros", trainable=False)]
        self.named = {"n": self.add_weight(shape=(), initializer="zeros", trainable=True)}
        self.hidden = (keras.Variable(0.0, trainable=False),)
        self.calls = 0

    def call(self, inputs: Any) -> Any:
        for v in (self.weight, self.listed[0], self.named["n"], self.hidden[0]):
            v.assign(v + 1.0)
            inputs = inputs + v
        self.calls += 1
        return inputs


class Draws(layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Random numbers at inference too, with a seed of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(7)

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.normal(ops.shape(inputs), seed=self.generator)


class Measured(layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """A metric that goes on at each call."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, inputs: Any) -> Any:
        self.seen.update_state(inputs)
        return inputs + self.seen.result()


class Costs(layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Adds a loss at each call."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(ops.mean(inputs))
        return inputs


STATEFUL: dict[str, Callable[[], Any]] = {
    "LSTM": lambda: series(layers.LSTM(4, stateful=True, return_sequences=True)),
    "GRU": lambda: series(layers.GRU(4, stateful=True, return_sequences=True)),
    "two directions": lambda: series(
        layers.Bidirectional(layers.LSTM(3, return_sequences=True, stateful=True))
    ),
    "cells": lambda: series(
        layers.RNN([layers.GRUCell(4), layers.LSTMCell(4)], stateful=True, return_sequences=True)
    ),
    "within": lambda: series(
        keras.Sequential(
            [
                layers.Input(batch_shape=(2, 3, 4)),
                layers.SimpleRNN(4, stateful=True, return_sequences=True),
            ]
        )
    ),
    "counts": lambda: series(Counts()),
    "draws": lambda: series(Draws()),
    "measured": lambda: series(Measured()),
    "norm": lambda: series(layers.BatchNormalization(), layers.Dropout(0.5, seed=3)),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_copy_goes_on_from_the_state_that_the_original_is_in(name: str) -> None:
    original = STATEFUL[name]()
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    original(x, training=True)
    original(x)
    result = orthwrap.apply(original)
    assert result.report.warnings == ()
    for _ in range(2):  # each call moves both alike
        assert_same_outputs(original, result.model, x)


def test_counts_and_losses_of_the_original_are_not_those_of_a_check() -> None:
    original = series(Counts(name="counts"), Costs())
    original(np.ones((2, 3, 4), "float32"))
    counts = original.get_layer("counts")
    loss = numpy(original.losses[0])
    copy = orthwrap.apply(original).model
    assert counts.calls == 2  # the graph was made with one, and it was called once
    assert [numpy(v) for v in original.losses] == [loss]
    assert len(copy.losses) == 1  # the penalty of its head


def test_numbers_without_a_seed_come_as_if_nothing_had_been_called() -> None:
    keras.utils.set_random_seed(3)
    inputs = layers.Input((4,))
    noisy = layers.Lambda(lambda x: x + 0 * keras.random.normal((1,)))(inputs)
    original = keras.Model(inputs, layers.Dense(2, kernel_initializer="ones")(noisy))
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        keras.random.normal((2,))
        if drawn:
            orthwrap.apply(original)
        drawn.append(numpy(keras.random.normal((3,))))
    np.testing.assert_array_equal(*drawn)
