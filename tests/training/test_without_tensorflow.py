"""Training on JAX and PyTorch where TensorFlow cannot be imported, and the batches it gets."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from orthwrap.data import Data, Port, images, load, samples, streams
from orthwrap.errors import OrthwrapError
from orthwrap.training.loop import logs
from tests.conftest import REPOSITORY

Array = np.ndarray[Any, np.dtype[Any]]


# Where TensorFlow cannot be imported

HIDDEN = """
import sys
from importlib.machinery import PathFinder
class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        is_hidden = name.partition(".")[0] in ("tensorflow", "tf_keras")
        return None if is_hidden else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Others
"""

# The loss of what learns falls; kernels under a strong penalty come closer to orthonormal.
TRAINING = """
import pathlib
import keras
import numpy as np
from keras import layers
from PIL import Image
import orthwrap

rng = np.random.default_rng(0)
x = rng.normal(size=(64, 6)).astype("float32")
y = np.argmax(x[:, :3], axis=1)

class Set(keras.utils.PyDataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return x[16 * i : 16 * i + 16], y[16 * i : 16 * i + 16]

def generator():
    return (Set()[i] for i in range(4))

def compiled(*inner):
    model = keras.Sequential([*inner, layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    return model

def check(result, falls=True, closer=False):
    training = result.report.training
    before, after = training.metrics_before, training.metrics_after
    assert np.isfinite(after["loss"])
    assert not falls or after["task_loss"] < before["task_loss"], (before, after)
    kernels = [k for k in result.report.layers if k.regularizer]
    assert kernels
    assert not closer or all(k.after.residual < k.before.residual for k in kernels)
    return result.model

words = dict(batch_size=16, seed=1, progress=False)
dense = compiled(layers.Input((6,)), layers.Dense(8))
model = check(orthwrap.apply(dense, factor="auto", data=(x, y), epochs=2, **words))
model = check(orthwrap.finetune(model, data=Set(), epochs=1, **words))
check(orthwrap.finetune(model, data=generator, epochs=3, steps_per_epoch=3, **words))
taught = orthwrap.apply(dense, factor=1.0, distill=True, data=generator, epochs=1, **words)
check(taught, falls=False, closer=True)  # it agrees with itself to begin with

if keras.backend.backend() == "torch":
    from torch.utils.data import DataLoader
    check(orthwrap.finetune(model, data=DataLoader(list(zip(x, y)), 16), epochs=1, **words))

for number, name in enumerate(("a.png", "b.jpg", "c.bmp")):
    folder = pathlib.Path(name[0])
    folder.mkdir()
    for i in range(4):
        pixels = rng.integers(80 * number, 80 * number + 80, (9, 7 + i, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}{name}")
seen = compiled(layers.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D())
check(orthwrap.apply(seen, factor=0.1, data=".", rescale="1/255", epochs=3, **words))
assert "tensorflow" not in sys.modules
"""


def process(code: str, backend: str, place: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(REPOSITORY / p) for p in ("", "cli"))
    return subprocess.run(
        [sys.executable, "-c", HIDDEN + code],
        cwd=place,
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_kind_of_data_trains_without_tensorflow(backend: str, tmp_path: Path) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = process(TRAINING, backend, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.dear
@pytest.mark.parametrize(
    ("backend", "what"), [("tensorflow", "is not installed here"), ("theano", "is none of Keras's")]
)
def test_backend_that_is_not_there_is_said_in_one_line(
    backend: str, what: str, tmp_path: Path
) -> None:
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save(tmp_path / "m.keras")
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 2)), y=np.zeros((4, 2)))
    there = [name for name in ("jax", "torch") if find_spec(name) is not None]
    code = "sys.argv[1:] = ['apply', 'm.keras', '--data', 'd.npz']; import orthwrap.__main__"
    code += "; orthwrap.__main__.main()"
    done = process(code, backend, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"error: Keras's backend is {backend}, which {what}" in done.stderr
    assert (f"installed: {', '.join(there)}" if there else "install one of") in done.stderr
    with pytest.raises(FileNotFoundError):
        (tmp_path / "m-orth.keras").stat()


# Batches are those of tf.data

TF = pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is the oracle")
PORTS = [Port("image", (8, 6, 3))], [Port("class", (2,))]


def numbers(samples: int = 11) -> tuple[Array, Array]:
    return np.arange(samples * 3.0).reshape(samples, 3), np.arange(samples)


def in_batches() -> Iterator[tuple[Array, Array]]:
    x, y = numbers()
    return ((x[i : i + 4], y[i : i + 4]) for i in range(0, 11, 4))


def arrays() -> Data:
    return load(numbers(), [Port("x", (3,))], [Port("y", (1,))])


def stream() -> Data:
    return load(in_batches, [Port("x", (3,))], [Port("y", (1,))])


TAKEN: dict[str, Callable[[], Any]] = {
    "epochs": lambda: arrays().training(4, 3, epochs=3),
    "from a step on": lambda: arrays().training(4, 3, 1, 2, 3),
    "fewer steps": lambda: arrays().with_steps(2, 4).training(4, 3, epochs=2),
    "shared": lambda: arrays().shared_by(2).training(4, 3, epochs=2),
    "in order": lambda: arrays().evaluation(4),
    "x alone": lambda: arrays().inputs(4),
    "some": lambda: arrays().some_trained(5, 2),
    "stream": lambda: stream().training(4, 3),
    "stream from a step on": lambda: stream().training(4, 3, 0, 1),
    "stream over its end": lambda: stream().with_steps(2, 4).training(4, 3, 1, 1, 4),
    "stream relabelled": lambda: stream().relabelled(lambda x: x * 2, 4).evaluation(4),
}


@TF
@pytest.mark.parametrize("name", TAKEN)
def test_batches_are_those_of_tensorflow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(TAKEN[name]().as_numpy_iterator())
    hide_tensorflow(monkeypatch)
    found = TAKEN[name]()
    for _ in range(2):  # anew each time
        again = list(found)
        assert len(again) == len(expected) > 0
        for ours, theirs in zip(again, expected, strict=True):
            assert len(ours) == len(theirs)
            for part, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(part, other)
                assert part.dtype == other.dtype


def hide_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (samples, streams, images, logs):
        monkeypatch.setattr(module, "has_tensorflow", lambda: False)


def test_batches_left_midway_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_tensorflow(monkeypatch)
    first = next(iter(arrays().evaluation(4)))
    np.testing.assert_array_equal(first[1], [0, 1, 2, 3])


# Images are those of TensorFlow


def encoded(kind: str, mode: str, size: tuple[int, int]) -> bytes:
    rng = np.random.default_rng(0)
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "P": 3, "I;16": 1}[mode]
    top, dtype = (65536, np.uint16) if mode == "I;16" else (256, np.uint8)
    image = Image.fromarray(rng.integers(0, top, (*size, channels), dtype).squeeze())
    file = io.BytesIO()
    (image.convert("P") if mode == "P" else image).save(file, kind)
    return file.getvalue()


@TF
@pytest.mark.parametrize("size", [(8, 6), (21, 5), (3, 40)])
@pytest.mark.parametrize(
    ("kind", "mode", "channels", "apart"),
    [
        ("PNG", "RGB", 3, 1e-3),
        ("PNG", "RGBA", 3, 1e-3),
        ("PNG", "RGBA", 4, 1e-3),
        ("PNG", "RGB", 4, 1e-3),
        ("PNG", "L", 3, 1e-3),
        ("PNG", "L", 1, 1e-3),
        ("PNG", "P", 3, 1e-3),
        ("PNG", "I;16", 1, 1e-3),
        ("BMP", "RGB", 3, 1e-3),
        ("GIF", "P", 3, 1e-3),
        ("JPEG", "L", 1, 2),
        ("JPEG", "RGB", 3, 4),  # of 255: another rounding of what a JPEG keeps
    ],
)
def test_images_are_those_of_tensorflow(
    kind: str,
    mode: str,
    channels: int,
    apart: float,
    size: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"1.{kind.lower()}").write_bytes(encoded(kind, mode, size))
    ports = [Port("image", (8, 6, channels))], PORTS[1]

    def taken() -> Any:
        return load(tmp_path, *ports).evaluation(2)

    ((theirs, classes),) = taken().as_numpy_iterator()
    hide_tensorflow(monkeypatch)
    ((ours, own_classes),) = taken()
    np.testing.assert_array_equal(own_classes, classes)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, atol=apart)


@TF
@pytest.mark.parametrize("words", [{"rescale": "1/255"}, {"preprocessing": "vgg16"}])
@pytest.mark.parametrize("shape", [(8, 6, 3), (3, 8, 6)])
def test_pixels_become_what_they_become_with_tensorflow(
    words: dict[str, str],
    shape: tuple[int, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encoded("PNG", "RGB", (9, 7)))

    def taken() -> Any:
        return load(tmp_path, [Port("image", shape)], PORTS[1], **words).evaluation(2)  # type: ignore[arg-type]

    ((theirs, _),) = taken().as_numpy_iterator()
    hide_tensorflow(monkeypatch)
    ((ours, _),) = taken()
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_broken_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_tensorflow(monkeypatch)
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encoded("PNG", "RGB", (9, 7)))
    (tmp_path / "b" / "2.png").write_bytes(encoded("PNG", "RGB", (9, 7))[:60])
    with pytest.raises(OrthwrapError, match=r"b.2\.png cannot be decoded .*mend it or remove it"):
        list(load(tmp_path, *PORTS).evaluation(2))


# What is missing is named before anything runs


def test_images_and_tensorboard_say_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_tensorflow(monkeypatch)
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    (tmp_path / "a").mkdir()
    with pytest.raises(OrthwrapError, match="pip install pillow"):
        load(tmp_path, *PORTS)
    with pytest.raises(OrthwrapError, match="pip install tensorboard"):
        logs.check_board(tmp_path)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_tensorboard_writes_scalars_by_itself(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = logs._WithTensorBoard(tmp_path)
    for step in (1, 2):
        writer.write(step, {"residual/dense": 0.5 / step})
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = [(e.step, e.tensor_proto.float_val[0]) for e in events.Tensors("residual/dense")]
    assert found == [(1, 0.5), (2, 0.25)]
