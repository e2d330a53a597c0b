"""Epochs of so many steps, of data that may never end; labels of streams as the loss takes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import orthwrap

pytestmark = pytest.mark.usefixtures("eagerly")

BACKEND = keras.backend.backend()
Array = np.ndarray[Any, np.dtype[Any]]
WORDS: dict[str, Any] = {"factor": 0.0, "keep": "last", "measure": False, "progress": False}


def batch(number: int) -> tuple[Array, Array]:
    """Eight samples that no other batch has."""
    x = np.random.default_rng(number).normal(size=(8, 6)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1)


def endless() -> Iterator[tuple[Array, Array]]:
    return map(batch, itertools.count())


class FiveBatches:
    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return map(batch, range(5))


class Endless(keras.utils.PyDataset):  # type: ignore[misc]  # Keras is untyped
    num_batches = None

    def __getitem__(self, number: int) -> tuple[Array, Array]:
        return batch(number)


class Five(keras.utils.PyDataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 5

    def __getitem__(self, number: int) -> tuple[Array, Array]:
        return batch(number)


def dataset() -> Any:
    import tensorflow as tf

    x, y = (np.concatenate(part) for part in zip(*map(batch, range(5)), strict=True))
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


ON, ROUND = [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 0]
SOURCES: dict[str, tuple[Callable[[], Any], list[int]]] = {
    "endless generator": (lambda: endless, ON),
    "endless PyDataset": (Endless, ON),
    "iterable": (FiveBatches, ROUND),
    "PyDataset": (Five, ROUND),
    "tf.data": (dataset, ROUND),
    "endless tf.data": (lambda: dataset().repeat(), ROUND),
}


def model(loss: str = "sparse_categorical_crossentropy") -> Any:
    keras.utils.set_random_seed(3)
    made = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.Dense(3, "softmax", name="head")]
    )
    made.compile(keras.optimizers.SGD(0.5), loss)
    return made


def weights(model: Any) -> list[Array]:
    return [np.array(ops.convert_to_numpy(v)) for v in model.weights]


def after(numbers: list[int]) -> list[Array]:
    """What plain Keras makes of these batches."""
    plain = model()
    for number in numbers:
        plain.train_on_batch(*batch(number))
    return weights(plain)


@pytest.mark.dear
@pytest.mark.parametrize("name", SOURCES)
def test_epochs_go_on_where_the_last_one_ended(name: str) -> None:
    make, numbers = SOURCES[name]
    result = orthwrap.apply(model(), data=make(), epochs=2, steps_per_epoch=3, **WORDS)
    training = result.report.training
    assert training is not None
    assert training.epochs == 2
    for found, right in zip(weights(result.model), after(numbers), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-6)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("name", ["endless generator", "endless tf.data", "PyDataset"])
def test_a_resumed_run_goes_on_with_the_next_batch(name: str, tmp_path: Path) -> None:
    make, numbers = SOURCES[name]
    words: dict[str, Any] = {"steps_per_epoch": 3, "checkpoint_dir": tmp_path / "c", **WORDS}
    orthwrap.apply(model(), data=make(), epochs=1, **words)
    result = orthwrap.apply(model(), data=make(), epochs=2, resume=True, **words)
    for found, right in zip(weights(result.model), after(numbers), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_copy_imitates_the_original_on_endless_data() -> None:
    words: dict[str, Any] = {"distill": True, "steps_per_epoch": 3, "epochs": 2, **WORDS}
    for source in (endless, Endless(), dataset().repeat()):
        result = orthwrap.apply(model(), data=source, **words)
        assert int(result.model.optimizer.iterations) == 6
        training = result.report.training
        assert training is not None
        assert training.metrics_after["agreement"] == 1.0


def test_epochs_of_arrays_take_other_samples_each() -> None:
    x, y = (np.concatenate(part) for part in zip(*map(batch, range(5)), strict=True))
    words: dict[str, Any] = {"batch_size": 8, "epochs": 3, **WORDS}
    result = orthwrap.apply(model(), data=(x, y), steps_per_epoch=2, **words)
    assert int(result.model.optimizer.iterations) == 6
    with pytest.raises(orthwrap.ValueFault, match="40 samples are 5 batches of 8"):
        orthwrap.apply(model(), data=(x, y), steps_per_epoch=6, **words)


class Counted(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Optimizer steps that each epoch has had."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.steps.append(int(self.model.optimizer.iterations) - sum(self.steps))


@pytest.mark.parametrize(("at_once", "taken"), [(4, 2), (5, 1), (12, 6)])
def test_several_steps_at_once_end_with_their_epoch(at_once: int, taken: int) -> None:
    x, y = (np.concatenate(part) for part in zip(*map(batch, range(6)), strict=True))
    original = model()
    original.compile(
        keras.optimizers.SGD(0.5), original.loss, run_eagerly=False, steps_per_execution=at_once
    )
    counted = Counted()
    result = orthwrap.apply(
        original, data=(x, y), batch_size=8, epochs=3, callbacks=[counted], **WORDS
    )
    assert counted.steps == [6, 6, 6]
    assert original.steps_per_execution == at_once
    assert result.model.steps_per_execution == (1 if BACKEND == "torch" else at_once)
    training = result.report.training
    assert training is not None
    why = f"{taken}, as an epoch has 6 steps"
    if BACKEND == "torch":
        why = "1, as Keras has no more on PyTorch"
    said = f"steps_per_execution {at_once}: {why}"
    assert said in training.choices


def test_what_never_ends_names_the_option() -> None:
    for source in (Endless(), dataset().repeat()):
        with pytest.raises(orthwrap.ValueFault, match=r"never ends.*give steps per epoch, or "):
            orthwrap.apply(model(), data=source, epochs=1, **WORDS)


def test_validation_has_to_end_all_the_same() -> None:
    with pytest.raises(orthwrap.ValueFault, match="never ends"):
        orthwrap.apply(
            model(), data=endless, validation=Endless(), steps_per_epoch=2, epochs=1, **WORDS
        )


# Labels


def one_hot(number: int) -> tuple[Array, Array]:
    x, y = batch(number)
    return x, np.eye(3, dtype="float32")[y]


def hot_dataset() -> Any:
    import tensorflow as tf

    return dataset().map(lambda x, y: (x, tf.one_hot(y, 3)))


STREAMS: dict[str, tuple[Callable[[], Any], str]] = {
    "one-hot generator": (lambda: lambda: map(one_hot, range(5)), "sparse_"),
    "one-hot tf.data": (hot_dataset, "sparse_"),
    "class generator": (lambda: lambda: map(batch, range(5)), ""),
    "class tf.data": (dataset, ""),
}


@pytest.mark.dear
@pytest.mark.parametrize("name", STREAMS)
def test_labels_of_streams_become_what_the_loss_takes(name: str) -> None:
    make, kind = STREAMS[name]
    given = model(f"{kind}categorical_crossentropy")
    x, y = (np.concatenate(part) for part in zip(*map(batch, range(5)), strict=True))
    chances = np.asarray(ops.convert_to_numpy(given(x)), "float64")
    right = -np.log(chances[np.arange(len(y)), y]).mean()
    result = orthwrap.apply(given, data=make(), validation=make(), epochs=1, **WORDS)
    training = result.report.training
    assert training is not None
    assert training.metrics_before["task_loss"] == pytest.approx(right, rel=1e-4)
    assert any("between class numbers and one-hot" in choice for choice in training.choices)
    for found, expected in zip(weights(result.model), after([0, 1, 2, 3, 4]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_batch_of_other_labels_is_one_line() -> None:
    def mixed() -> Iterator[Any]:
        yield from map(one_hot, range(9))
        x, y = one_hot(9)
        yield x, 0.5 * y

    with pytest.raises(orthwrap.ValueFault, match="no such classes as the first batches") as caught:
        orthwrap.apply(model(), data=mixed, epochs=1, **WORDS)
    assert "\n" not in str(caught.value)
