"""Data of all kinds: what is found, in which order it comes, and what is said of faults."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import orthwrap
from orthwrap.data import Port, images, load
from orthwrap.data.order import order, split

Array = np.ndarray[Any, np.dtype[Any]]

ONE = [Port("image", (3,))], [Port("label", (2,))]
TWO = [Port("left", (3,)), Port("right", (None, 2))], [Port("kind", (4,)), Port("size", (1,))]


def numbered(samples: int, dtype: str = "float32") -> tuple[Array, Array]:
    """Samples whose x and y say which they are."""
    numbers = np.arange(samples)
    return np.repeat(numbers[:, None], 3, 1).astype(dtype), numbers


def batches(flow: Any) -> list[Any]:
    return list(flow.as_numpy_iterator())


def taken(flow: Any) -> list[list[int]]:
    """Which samples are in each batch; x and y must agree."""
    found = []
    for x, y in batches(flow):
        np.testing.assert_array_equal(x[:, 0], y)
        found.append([int(n) for n in y])
    return found


def joined(parts: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


def raises(kind: type[Exception], words: str) -> Any:
    return pytest.raises(kind, match=words)


# Order


def test_each_epoch_has_its_own_order_of_all_samples() -> None:
    orders = [order(50, 3, epoch).tolist() for epoch in range(4)]
    assert all(sorted(o) == list(range(50)) for o in orders)
    assert len({tuple(o) for o in orders}) == 4
    assert order(50, 4, 0).tolist() not in orders
    assert order(1, 0, 0).tolist() == [0]


@settings(max_examples=8, deadline=None)
@given(
    samples=st.integers(1, 20),
    batch_size=st.integers(1, 25),
    seed=st.integers(0, 2**32 - 1),
    start=st.tuples(st.integers(0, 2), st.integers(0, 20)),
)
def test_a_start_anywhere_goes_on_as_if_never_stopped(
    samples: int, batch_size: int, seed: int, start: tuple[int, int]
) -> None:
    data = load(numbered(samples), *ONE)
    steps = data.steps(batch_size)
    assert steps == -(-samples // batch_size)
    whole = taken(data.training(batch_size, seed, 0, 0, 3))
    assert len(whole) == 3 * steps
    for epoch in range(3):
        of_epoch = joined(whole[epoch * steps : (epoch + 1) * steps])
        assert of_epoch == order(samples, seed, epoch).tolist()
    epoch, step = start[0], min(start[1], steps)
    assert taken(data.training(batch_size, seed, epoch, step, 3)) == whole[epoch * steps + step :]


def test_what_does_not_shuffle_is_in_the_order_of_samples() -> None:
    data = load((*numbered(5), *numbered(3)), *ONE)
    assert taken(data.validation(2)) == taken(data.evaluation(2)) == [[0, 1], [2]]
    assert [x[:, 0].tolist() for (x,) in batches(data.inputs(4))] == [[0, 1, 2, 3], [4]]
    alone = load(numbered(5), *ONE)
    assert alone.validation(2) is None
    assert taken(alone.evaluation(9)) == [[0, 1, 2, 3, 4]]
    assert int(alone.evaluation(2).cardinality()) == 3


# Arrays


@pytest.mark.parametrize(
    ("given", "trained"),
    [
        ("float64", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("uint8", "uint8"),
        ("int64", "int64"),
        ("bool", "bool"),
    ],
)
def test_floats_are_trained_in_keras_own_and_others_as_they_are(given: str, trained: str) -> None:
    ((x, y),) = batches(load(numbered(2, given), *ONE).evaluation(4))
    assert (x.dtype, y.dtype) == (trained, "int64")


def test_parts_of_several_inputs_and_outputs_stay_together() -> None:
    n = np.arange(7)
    arrays = {
        "left": np.repeat(n[:, None], 3, 1),
        "right": np.broadcast_to(n[:, None, None], (7, 5, 2)),
        "kind": n,
        "size": n[:, None],
    }
    data = load(arrays, *TWO)
    assert data.describe() == "x0 7×3 int64, x1 7×5×2 int64, y0 7 int64, y1 7×1 int64"
    for (left, right), (kind, size) in batches(data.training(3, 0, 0, 0, 1)):
        for part in (left[:, 0], right[:, 4, 1], size[:, 0]):
            np.testing.assert_array_equal(part, kind)
    ((x,),) = batches(data.inputs(7))
    assert [a.shape for a in x] == [(7, 3), (7, 5, 2)]


def test_members_of_a_file_that_nobody_needs_are_not_read(tmp_path: Path) -> None:
    x, y = numbered(4)
    np.savez(tmp_path / "d.npz", x=x, y=np.array([{}] * 4), more=np.array([{}]))
    with raises(orthwrap.FileFault, "it holds objects"):
        load(tmp_path / "d.npz", *ONE)
    data = load(tmp_path / "d.npz", *ONE, labelled=False)
    assert data.labels == ()
    np.savez(tmp_path / "d.npz", x=x, y=y, more=np.array([{}]))
    assert load(tmp_path / "d.npz", *ONE).samples == 4


def test_arrays_are_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((1000, 3), "float32"))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = load((x, np.zeros(1000)), *ONE, validation_split=0.1)
    for part in (data.train, data.held_out):
        assert np.shares_memory(part.x.arrays[0], x)  # type: ignore[union-attr]


# Splits


@given(st.integers(2, 60), st.floats(0.001, 0.999), st.integers(0, 2**32 - 1))
def test_split_shares_the_samples_out(samples: int, fraction: float, seed: int) -> None:
    train, held_out = (part.tolist() for part in split(samples, fraction, seed))
    assert sorted([*train, *held_out]) == list(range(samples))
    assert train == sorted(train)
    assert held_out == sorted(held_out)
    assert train
    assert abs(len(held_out) - samples * fraction) <= 1


def test_split_is_drawn_by_the_seed() -> None:
    def held_out(seed: int) -> list[list[int]]:
        data = load(numbered(40), *ONE, validation_split=0.25, seed=seed)
        assert (data.samples, data.validation_samples) == (30, 10)
        assert data.labels[0].tolist() == joined(taken(data.train.ordered(7)))
        assert data.validation_labels[0].tolist() == joined(taken(data.validation(7)))
        together = joined(taken(data.training(8, 0, 0, 0, 1)) + taken(data.validation(8)))
        assert sorted(together) == list(range(40))
        return taken(data.validation(4))

    assert held_out(1) == held_out(1) != held_out(2)


def test_validation_is_a_source_of_its_own() -> None:
    data = load(numbered(5), *ONE, validation=numbered(3))
    assert data.validation_samples == 3
    assert data.describe() == "x 5×3 float32, y 5 int64; 3 more to validate"


@pytest.mark.parametrize(
    ("source", "options", "kind", "words"),
    [
        ((5,), {"validation_split": 0}, ValueError, "0 must be a number above 0 and below 1"),
        ((5,), {"validation_split": 1.0}, ValueError, "must be a number above 0"),
        ((5,), {"validation_split": "x"}, ValueError, "must be a number above 0"),
        ((1,), {"validation_split": 0.5}, ValueError, "one sample cannot be split"),
        ((5,), {"validation_split": 0.5, "validation": 1}, orthwrap.UsageError, "contradict"),
        ((5, 5), {"validation_split": 0.5}, orthwrap.UsageError, "has its own validation set"),
        ((5, 5), {"validation": numbered(2)}, orthwrap.UsageError, "leave validation out"),
        (
            (5,),
            {"validation": (*numbered(2), *numbered(2))},
            ValueError,
            "validation has two sets itself",
        ),
        ((5,), {"rescale": 0.5}, orthwrap.UsageError, "are about a folder of images"),
        ((5,), {"rescale": 0}, ValueError, "rescale 0 must be a number other than 0"),
        ((5,), {"rescale": "1/0"}, ValueError, "rescale '1/0' must"),
        ((5,), {"rescale": "a/b"}, ValueError, "rescale 'a/b' must"),
        ((5,), {"rescale": True}, ValueError, "rescale True must"),
        ((5,), {"rescale": "nan"}, ValueError, "rescale 'nan' must"),
        ((5,), {"preprocessing": "MobileNetV2"}, ValueError, "did you mean 'mobilenet_v2'"),
        (
            (5,),
            {"preprocessing": 7},
            ValueError,
            "takes the name of .*; got int",
        ),
        ((5,), {"image_size": "big"}, ValueError, "image size 'big' must be height and width"),
        ((5,), {"image_size": (1, 2, 3)}, ValueError, r"image size \(1, 2, 3\) must"),
        ((5,), {"image_size": True}, ValueError, "image size True must"),
        (
            (5,),
            {"rescale": 1, "preprocessing": "resnet"},
            orthwrap.UsageError,
            "contradict each other",
        ),
    ],
)
def test_options_at_fault(source: Any, options: Any, kind: type[Exception], words: str) -> None:
    arrays = sum((numbered(n) for n in source), ())
    with raises(kind, words) as caught:
        load(arrays, *ONE, **options)
    assert isinstance(caught.value, orthwrap.OrthwrapError)


# Other labels: a teacher's outputs


def test_targets_go_with_their_samples() -> None:
    data = load(numbered(9), *ONE, validation_split=0.3)
    ours, theirs = (labels[0] * 2.0 for labels in (data.labels, data.validation_labels))
    for relabelled in (
        data.with_targets([ours], [theirs]),
        data.relabelled(lambda x: x[:, 0] * 2.0, 4),
    ):
        for flow in (relabelled.training(2, 5, 0, 0, 2), relabelled.validation(2)):
            for x, y in batches(flow):
                np.testing.assert_array_equal(x[:, 0] * 2, y)
        assert relabelled.labels[0].tolist() == ours.tolist()
    kept = data.with_targets([ours])
    assert kept.validation_labels[0].tolist() == data.validation_labels[0].tolist()
    with raises(ValueError, "3 targets for 6 samples"):
        data.with_targets([ours[:3]])


def test_without_labels_x_is_enough() -> None:
    data = load({"x": numbered(4)[0], "x_val": numbered(2)[0]}, *ONE, labelled=False)
    assert data.describe() == "x 4×3 float32; 2 more to validate"
    assert [len(batch) for batch in batches(data.training(3, 0, 0, 0, 1))] == [1, 1]
    several = data.relabelled(lambda x: [x, x + 1], 3)
    for x, (same, more) in batches(several.validation(2)):
        np.testing.assert_array_equal(x, same)
        np.testing.assert_array_equal(x + 1, more)


# Streams of batches


class Numbered(keras.utils.PyDataset):  # type: ignore[misc]  # Keras is untyped
    def __init__(self, samples: int, batch_size: int, batches: int | None = None) -> None:
        super().__init__()
        self.x, self.y = numbered(samples)
        self.size = batch_size
        self._batches = -(-samples // batch_size) if batches is None else batches

    @property
    def num_batches(self) -> int:
        return self._batches

    def __getitem__(self, at: int) -> tuple[Array, Array]:
        part = slice(at * self.size, (at + 1) * self.size)
        return self.x[part], self.y[part]


def dataset(samples: int = 5, batch_size: int = 2) -> Any:
    return tf.data.Dataset.from_tensor_slices(numbered(samples)).batch(batch_size)


def loader(samples: int = 5, batch_size: int = 2) -> Any:
    torch = pytest.importorskip("torch", reason="`make test-backends` has it")
    x, y = map(torch.from_numpy, numbered(samples))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size)


def generator() -> Iterator[tuple[Array, Array]]:
    x, y = numbered(5)
    for at in range(0, 5, 2):
        yield x[at : at + 2], y[at : at + 2]


class Again:
    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return generator()


STREAMS: dict[str, tuple[Callable[[], Any], int | None]] = {
    "tf.data.Dataset": (dataset, 3),
    "PyDataset": (lambda: Numbered(5, 2), 3),
    "DataLoader": (loader, 3),
    "generator()": (lambda: generator, None),
    "Again": (Again, None),
}


@pytest.mark.dear
@pytest.mark.parametrize("kind", STREAMS)
def test_streams_are_taken_as_they_come(kind: str) -> None:
    make, steps = STREAMS[kind]
    data = load(make(), *ONE, validation=make())
    end = ", an epoch being all of it" if steps is None else ", 3 batches"
    assert data.describe() == (
        f"{kind}, first batch x 2×3 float32, y 2 int64{end}; more to validate"
    )
    assert (data.samples, data.steps(32), data.repeatable) == (None, steps, True)
    assert data.labels[0].tolist() == [0, 1, 2, 3, 4]
    assert taken(data.training(32, 0, 0, 1, 1)) == [[2, 3], [4]]
    assert [x[:, 0].tolist() for (x,) in batches(data.inputs(1))] == [[0, 1], [2, 3], [4]]
    taught = data.relabelled(lambda x: [x[:, 0] + 0.5, x], 1)
    assert taught.steps(1) == steps
    for flow in (taught.training(32, 0), taught.validation(32)):
        for _ in range(2):
            found = batches(flow)
            assert len(found) == 3
            for x, (half, same) in found:
                np.testing.assert_array_equal(x, same)
                np.testing.assert_array_equal(x[:, 0] + 0.5, half)
    with raises(ValueError, "samples that have no numbers"):
        data.with_targets([np.zeros(5)])
    with raises(orthwrap.UsageError, "cannot be split: give validation instead"):
        load(make(), *ONE, validation_split=0.5)
    if kind not in ("generator()", "Again"):
        native = make()
        assert load(native, *ONE).training(32, 0) is native


# Keras says so of all that does not know its length.
@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("kind", [*STREAMS, "arrays", "folder"])
def test_keras_trains_on_each_kind(kind: str, tmp_path: Path) -> None:
    write(tmp_path, {f"{'ab'[i % 2]}/{i}.png": png(i, size=(2, 1)) for i in range(5)})
    sources = {"arrays": numbered(5), "folder": tmp_path}
    made = sources[kind] if kind in sources else STREAMS[kind][0]()
    ports = image_ports(1, 1, 3) if kind == "folder" else ONE
    data = load(made, *ports)
    layers = [keras.Input(ports[0][0].shape), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    steps = data.steps(2)
    words = {"steps_per_epoch": steps, "shuffle": False, "verbose": 0}
    seen: list[int] = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda at, logs: seen.append(at))
    parts = [(0, 0, 2)] if steps is None else [(0, 1, 1), (1, 0, 3)]
    for epoch, step, end in parts:
        words["steps_per_epoch"] = None if steps is None else steps - step
        flow = data.training(2, 0, epoch, step, end)
        model.fit(flow, initial_epoch=epoch, epochs=end, callbacks=[count], **words)
    model.evaluate(data.evaluation(2), verbose=0)
    assert len(model.predict(data.inputs(2), verbose=0)) == 5
    assert seen == ([0, 1, 2] * 2 if steps is None else [0, 1, 0, 1, 2, 0, 1, 2])


def test_batches_of_several_parts_go_by_order_or_name() -> None:
    left, right, kind, size = np.ones((2, 3)), np.ones((2, 5, 2)), np.zeros(2), np.ones((2, 1))
    weights = np.ones(2)
    for batch in (
        ((left, right), (kind, size)),
        [[left, right], [kind, size], weights],
        ({"right": right, "left": left}, {"size": size, "kind": kind}),
        ({"right": right, "left": left, "more": 1}, (kind, size), weights),
    ):
        data = load(lambda batch=batch: iter([batch]), *TWO)
        assert [a.shape for a in data.labels] == [(2,), (2, 1)]
        ((first, *_),) = batches(data.inputs(1))
        assert [a.shape for a in first] == [(2, 3), (2, 5, 2)]
        ((x, y, *w),) = batches(data.training(1, 0))
        assert (len(x), len(y), len(w)) == (2, 2, len(batch) - 2)
        assert x[0].dtype == y[0].dtype == "float32"
    unlabelled = load(lambda: iter([{"left": left, "right": right}]), *TWO, labelled=False)
    assert unlabelled.labels == ()


@pytest.mark.parametrize(
    ("weights", "count"),
    [
        (None, 0),
        (np.ones(2), 1),
        ((np.ones(2), np.zeros(2)), 2),
        ([np.ones(2), np.zeros(2)], 2),
        ({"size": np.zeros(2), "kind": np.ones(2)}, 2),
    ],
    ids=["none", "one", "tuple", "list", "by name"],
)
def test_weights_come_as_keras_takes_them(weights: Any, count: int) -> None:
    x, y = (np.ones((2, 3)), np.ones((2, 5, 2))), (np.zeros(2), np.ones((2, 1)))
    data = load(lambda: iter([(x, y, weights)]), *TWO)
    ((_, _, *found),) = batches(data.training(1, 0))
    given = [] if not found else list(found[0]) if count > 1 else found
    assert len(given) == count
    for array, value in zip(given, (1, 0), strict=False):  # in the order of the outputs
        np.testing.assert_array_equal(array, np.full(2, value))


def test_open_axes_may_differ_from_batch_to_batch() -> None:
    def made() -> Iterator[Any]:
        for length in (5, 2):
            yield (np.ones((2, 3)), np.ones((2, length, 2))), (np.zeros(2), np.zeros(2))

    shapes = [x[1].shape for x, _ in batches(load(made, *TWO).training(1, 0))]
    assert shapes == [(2, 5, 2), (2, 2, 2)]


def test_stream_that_shuffles_says_so() -> None:
    shuffled = tf.data.Dataset.from_tensor_slices(numbered(50)).shuffle(50).batch(10)
    data = load(shuffled, *ONE)
    assert not data.repeatable
    assert "its first batch differs each time: a resumed run may see other" in data.describe()


def endless() -> Iterator[tuple[Array, Array]]:
    while True:
        yield numbered(2)


def unknown() -> Any:
    """A dataset that cannot say how long it is."""
    return dataset().filter(lambda x, y: True)


def iterable() -> Any:
    """A DataLoader of which PyTorch does not know the length."""
    data = pytest.importorskip("torch", reason="`make test-backends` has it").utils.data

    class Stream(data.IterableDataset):  # type: ignore[misc, name-defined]  # torch may be missing
        def __iter__(self) -> Iterator[Any]:
            yield from zip(*numbered(5), strict=True)

    return data.DataLoader(Stream(), 2)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "count"),
    [(lambda: endless, 1000), (unknown, 3), (iterable, 3)],
    ids=["endless", "unknown", "iterable"],
)
def test_what_need_not_end_is_looked_at_for_1000_batches(make: Any, count: int) -> None:
    data = load(make(), *ONE, validation=make())
    assert data.steps(2) is None
    assert len(batches(data.evaluation(2))) == len(batches(data.validation(2))) == count


def test_labels_of_a_stream_are_those_of_its_first_batches() -> None:
    assert len(load(dataset(100, 2), *ONE).labels[0]) == 16


OWN = """
import numpy as np
import tensorflow as tf
x, y = np.ones((4, 3)), np.arange(4)
def arrays(): return x, y
def four(): return x, y, x[:2], y[:2]
def mapping(): return {"image": x, "label": y, "x_val": x[:1], "y_val": y[:1]}
def pairs(): return (x, y), (x[:3], y[:3])
def datasets(): return [tf.data.Dataset.from_tensor_slices((x, y)).batch(2) for _ in range(2)]
def mixed(): return tf.data.Dataset.from_tensor_slices((x, y)).batch(2), {"x": x, "y": y}
def batches():
    for i in range(3): yield x, y
def alone(): return x
def path(): return "own.npz"
def function(): return arrays
def fails(): return 1 / 0
def late():
    yield x, y
    raise OSError("the disk is gone")
def empty(): return iter([])
def nothing(): pass
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_data.py").write_text(OWN)
    np.savez(tmp_path / "own.npz", x=np.ones((4, 3)), y=np.arange(4))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "samples", "held_out"),
    [
        ("arrays", 4, 0),
        ("four", 4, 2),
        ("mapping", 4, 1),
        ("pairs", 4, 3),
        ("datasets", None, None),
        ("mixed", None, 4),
        ("batches", None, 0),
        ("path", 4, 0),
        ("function", 4, 0),
    ],
)
@pytest.mark.usefixtures("own")
def test_function_of_ones_own_is_found_in_the_current_folder(
    name: str, samples: int | None, held_out: int | None
) -> None:
    for labelled in (True, False):
        data = load(f"own_data:{name}", *ONE, labelled=labelled)
        assert (data.samples, data.validation_samples) == (samples, held_out)
        assert batches(data.inputs(2))[0][0].shape[1:] == (3,)


@pytest.mark.usefixtures("own")
def test_function_that_fails_midway_is_quoted() -> None:
    data = load("own_data:alone", *ONE, labelled=False)
    assert data.samples == 4
    flow = load("own_data:batches", *ONE)
    assert flow.explain(ValueError("another")) is None

    calls: list[int] = []

    def worse() -> Iterator[Any]:
        calls.append(0)
        yield numbered(2)
        if len(calls) > 2:
            raise OSError("the disk is gone")

    data = load(worse, *ONE)
    with pytest.raises(tf.errors.OpError) as caught:
        batches(data.training(1, 0))
    fault = data.explain(caught.value)
    assert str(fault) == "reading a batch of worse() failed: OSError: the disk is gone"


def one_batch(*parts: Any) -> Callable[[], Any]:
    return lambda: iter([parts])


X, Y = np.ones((2, 3)), np.zeros(2)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("own_data:nobody", "module 'own_data' has no function 'nobody'"),
        ("own_data:fail", "has no function 'fail' .*; nearest: fails"),
        ("own_data:number", "'number' of module 'own_data' is no function but of type int"),
        ("no_such_data:f", "cannot import 'no_such_data' for data"),
        ("own_data:fails", r"data function fails\(\) failed: ZeroDivisionError: division by zero"),
        ("own_data:late", r"reading a batch of late\(\) failed: OSError: the disk is gone"),
        ("own_data:empty", r"empty\(\) gave no batches"),
        ("own_data:nothing", r"nothing\(\) returned None: let it return the data"),
        ("own_data:alone", r"what alone\(\) returned: data must be .*; got a single array"),
        (lambda: dataset().repeat(), "tf.data.Dataset never ends.*leave repeat"),
        (lambda: dataset().unbatch(), "gives single samples of shape 3: let it give batches"),
        (lambda: dataset().take(0), "tf.data.Dataset gave no batches"),
        (lambda: Numbered(0, 2), "PyDataset gave no batches"),
        (one_batch(X), "gives batches without labels; expected"),
        (one_batch(X, Y, Y, Y), "gives batches of 4 parts"),
        (one_batch((X, X), Y), "gives 2 arrays as x; the model has 1: image"),
        (one_batch({"a": X}, Y), "gives x with the keys a; expected image"),
        (one_batch(X, {}), r"gives y with the keys \(none\); expected label"),
        (one_batch(X[:, :2], Y), "x has samples of shape 2; input 'image' of the model takes 3"),
        (one_batch(X, Y[:1]), r"a batch of .*: x has 2, y has 1 samples"),
        (one_batch(X, Y, Y[:1]), "not as many weights as samples"),
        (one_batch(X, Y, {"a": Y}), "gives weights with the keys a; expected label"),
        (one_batch(X, Y, (Y, Y)), "gives 2 arrays as weights"),
        (one_batch(X, np.array(["a", "b"])), "y is a <U1 array"),
        (one_batch([[1, 2], [3]], Y), "gives 2 arrays as x"),
        (((n, n) for n in range(0)), "an iterator ends for good; got generator: give the function"),
        (iter([(X, Y)]), "got list_iterator"),
        ((dataset(), (numbered(2)[0],)), "got a tuple of 1"),
        ((dataset(), (*numbered(2), *numbered(2))), "a pair of sources must be"),
        (lambda: [dataset(), dataset(), dataset()], "got a list of 3"),
    ],
)
@pytest.mark.usefixtures("own")
def test_streams_at_fault(source: Any, words: str) -> None:
    with raises(ValueError, words) as caught:
        load(source, *ONE)
    assert isinstance(caught.value, orthwrap.OrthwrapError)
    assert "\n" not in str(caught.value)


def test_preprocessing_is_named_where_its_function_was_given() -> None:
    with raises(ValueError, "a keras.applications family, such as 'mobilenet'; got a function"):
        load(numbered(5), *ONE, preprocessing=keras.applications.mobilenet.preprocess_input)  # type: ignore[arg-type]  # what is at fault


def test_words_that_name_no_file_may_have_meant_a_function() -> None:
    for words in ("own_data", "own_data.number"):
        with raises(orthwrap.FileFault, f"{words} does not exist: .*folder of images, or module:f"):
            load(words, *ONE)


def test_one_number_is_height_and_width() -> None:
    assert {images.pixels(image_size=s).size for s in (16, "16", [16], "16x16")} == {(16, 16)}


def test_pydataset_must_end() -> None:
    class Endless(keras.utils.PyDataset):  # type: ignore[misc]  # Keras is untyped
        def __getitem__(self, at: int) -> tuple[Array, Array]:
            return X, Y

    class Counted(Endless):
        num_batches = None

    for kind in (Endless, Counted):
        with raises(ValueError, "PyDataset never ends.*let num_batches say"):
            load(kind(), *ONE)


# Folders of images


def bmp(image: Array) -> bytes:
    """A Windows bitmap of 24 bits: the rows from below, blue first, padded to four bytes."""
    height, width, _ = image.shape
    rows = [row[:, ::-1].tobytes() for row in image[::-1]]
    body = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in rows)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(body), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + header + body


# One red pixel.
GIF = bytes.fromhex(
    "47494638396101000100800000ff0000ffffff21f90400000000002c00000000010001000002024401003b"
)


def picture(seed: int, channels: int = 3, size: tuple[int, int] = (9, 7)) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), np.uint8)


def png(seed: int = 0, channels: int = 3, size: tuple[int, int] = (9, 7)) -> bytes:
    return bytes(tf.io.encode_png(picture(seed, channels, size)).numpy())


def jpeg(seed: int = 0, channels: int = 3) -> bytes:
    return bytes(tf.io.encode_jpeg(picture(seed, channels)).numpy())


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def image_ports(*shape: int | None, classes: int | None = 2) -> tuple[list[Port], list[Port]]:
    return [Port("image", shape)], [Port("kind", (classes,))]


RGB = image_ports(6, 5, 3)
MIXED = {
    "b/2.png": png(2, 3, (30, 20)),
    "b/10.JPG": jpeg(10),
    "a/żółw 1.bmp": bmp(picture(1)),
    "a/deep/er/x.jpeg": jpeg(3, 1),
    "a/1.gif": GIF,
    "a/rgba.png": png(4, 4),
    "a/notes.txt": b"no image",
}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_are_those_of_keras(channels: int, tmp_path: Path) -> None:
    """Files, classes, order, pixels; Keras reads no GIF or BMP as gray, no JPEG as RGBA."""
    write(tmp_path, MIXED)
    data = load(tmp_path, *image_ports(6, 5, channels))
    assert data.class_names == ("a", "b")
    assert data.describe() == (f"images 6×6×5×{channels} (0–255, not rescaled), 2 classes: a, b")
    mode = {1: "grayscale", 3: "rgb", 4: "rgba"}[channels]
    expected = keras.utils.image_dataset_from_directory(
        str(tmp_path), image_size=(6, 5), color_mode=mode, shuffle=False, verbose=False
    )
    ((x, y),) = batches(data.evaluation(10))
    assert x.shape == (6, 6, 5, channels)
    assert x.dtype == "float32"
    assert y.tolist() == data.labels[0].tolist() == [0, 0, 0, 0, 1, 1]
    names = [Path(p).name for p in expected.file_paths]
    theirs = {1: [".gif", ".bmp"], 3: [], 4: [".gif", ".jpeg", ".jpg"]}[channels]
    compared = 0
    for name, ours, path in zip(names, x, expected.file_paths, strict=True):
        if Path(path).suffix.lower() in theirs:
            continue
        image = tf.image.decode_image(
            tf.io.read_file(path), channels=channels, expand_animations=False
        )
        np.testing.assert_array_equal(ours, tf.image.resize(image, (6, 5)), err_msg=name)
        compared += 1
    assert compared == 6 - {1: 2, 3: 0, 4: 3}[channels]
    if channels == 3:
        ((images, labels),) = batches(expected)
        np.testing.assert_array_equal(images, x)
        np.testing.assert_array_equal(labels, y)
    red = x[names.index("1.gif"), 0, 0].tolist()
    assert red == {1: [76.0], 3: [255.0, 0, 0], 4: [255.0, 0, 0, 255.0]}[channels]


def test_images_come_in_the_order_of_the_seed(tmp_path: Path) -> None:
    write(tmp_path, {f"{'ab'[i % 2]}/{i}.png": png(i) for i in range(7)})
    data = load(tmp_path, *RGB, rescale="1/255")
    assert "(0–1, rescaled)" in data.describe()
    ((images, labels),) = batches(data.evaluation(7))
    assert 0.5 < images.max() <= 1

    def positions(flow: Any) -> list[int]:
        found = []
        for x, y in batches(flow):
            for image, label in zip(x, y, strict=True):
                (at,) = np.flatnonzero((images == image).all((1, 2, 3)))
                assert labels[at] == label
                found.append(int(at))
        return found

    expected = [*order(7, 5, 0), *order(7, 5, 1)]
    assert positions(data.training(3, 5, 0, 0, 2)) == expected
    assert positions(data.training(3, 5, 0, 2, 2)) == expected[6:]
    parts = load(tmp_path, *RGB, rescale="1/255", validation_split=0.4, seed=1)
    together = positions(parts.training(2, 0, 0, 0, 1)) + positions(parts.validation(2))
    assert sorted(together) == list(range(7))
    one_hot = data.with_targets([np.eye(2)[data.labels[0]]])
    for (x, y), (_, hot) in zip(
        batches(data.training(4, 1)), batches(one_hot.training(4, 1)), strict=True
    ):
        np.testing.assert_array_equal(np.argmax(hot, 1), y)
        assert hot.dtype == x.dtype


@pytest.mark.parametrize("name", ["mobilenet_v2", "vgg16", "densenet", "efficientnet"])
def test_preprocessing_is_that_of_keras_applications(name: str, tmp_path: Path) -> None:
    write(tmp_path, {f"{'ab'[i % 2]}/{i}.png": png(i) for i in range(3)})
    ((plain, _),) = batches(load(tmp_path, *RGB).evaluation(3))
    data = load(tmp_path, *RGB, preprocessing=name)
    ((x, _),) = batches(data.evaluation(3))
    module = getattr(keras.applications, name)
    np.testing.assert_allclose(x, module.preprocess_input(plain.copy()), rtol=1e-6)
    assert f"(preprocessed as for {name})" in data.describe()
    first = load(tmp_path, *image_ports(3, 6, 5), preprocessing=name)
    ((turned, _),) = batches(first.evaluation(3))
    np.testing.assert_allclose(turned, np.moveaxis(x, 3, 1), rtol=1e-6)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_train_and_validation_folders_are_the_two_sets(name: str, tmp_path: Path) -> None:
    files = {
        f"{part}/{c}/{i}.png": png(i) for part in ("train", name) for c in "ab" for i in (0, 1)
    }
    write(tmp_path, files | {"read.me": b"", "train/a/2.png": png(), ".git/x/y.png": png()})
    data = load(str(tmp_path), *RGB)
    assert (data.samples, data.validation_samples) == (5, 4)
    assert data.describe().endswith("classes: a, b; 4 more to validate")
    unlabelled = load(tmp_path, *RGB, labelled=False)
    assert (unlabelled.samples, unlabelled.labels, unlabelled.class_names) == (5, (), ())
    either = load(tmp_path / "train", *RGB, validation=tmp_path / name)
    assert (either.samples, either.validation_samples) == (5, 4)
    with raises(orthwrap.UsageError, "has its own validation set"):
        load(tmp_path, *RGB, validation_split=0.5)
    (tmp_path / "test" / "a").mkdir(parents=True)
    with raises(ValueError, f"holds test, train, {name}: expected train and val alone"):
        load(tmp_path, *RGB)


def test_train_may_be_a_class(tmp_path: Path) -> None:
    write(tmp_path, {f"{c}/1.png": png() for c in ("bus", "train")})
    assert load(tmp_path, *RGB).class_names == ("bus", "train")


def test_two_classes_fit_one_unit(tmp_path: Path) -> None:
    write(tmp_path, {f"{c}/1.png": png() for c in "ab"})
    assert load(tmp_path, *image_ports(6, 5, 3, classes=1)).samples == 2
    assert load(tmp_path, *image_ports(6, 5, 3, classes=None)).samples == 2


def test_open_size_is_given(tmp_path: Path) -> None:
    write(tmp_path, {f"{c}/1.png": png() for c in "ab"})
    open_ports = image_ports(None, None, 3)
    for size in ("4x8", (4, 8), "4×8"):
        ((x, _),) = batches(load(tmp_path, *open_ports, image_size=size).evaluation(2))
        assert x.shape == (2, 4, 8, 3)
    assert load(tmp_path, *RGB, image_size=(6, 5)).samples == 2


def test_a_flat_folder_is_enough_without_labels(tmp_path: Path) -> None:
    write(tmp_path, {f"{i}.png": png(i) for i in range(3)})
    data = load(tmp_path, *RGB, labelled=False)
    assert data.samples == 3
    ((x,),) = batches(data.inputs(5))
    assert x.shape == (3, 6, 5, 3)
    taught = data.relabelled(lambda x: x.mean((1, 2, 3)), 2)
    for x, y in batches(taught.training(2, 0, 0, 0, 1)):
        np.testing.assert_allclose(x.mean((1, 2, 3)), y, rtol=1e-5)


TWO_CLASSES = {"a/1.png": png(1), "b/2.png": png(2)}


@pytest.mark.parametrize(
    ("files", "ports", "kind", "words"),
    [
        ({"1.png": png()}, RGB, orthwrap.FileFault, "is a folder without class folders"),
        ({}, RGB, orthwrap.FileFault, "is a folder without class folders"),
        ({"a/1.webp": b"", "b/x": b""}, RGB, orthwrap.FileFault, "holds no images .*webp"),
        (TWO_CLASSES | {"c/1.tif": b""}, RGB, orthwrap.FileFault, "c holds no images .* .tif;"),
        (TWO_CLASSES | {"a/0.jpg": b""}, RGB, orthwrap.FileFault, "0.jpg is no JPEG.*it is empty"),
        (
            TWO_CLASSES | {"a/ö.jpg": b"<html>", "b/ö.png": b"?"},
            RGB,
            orthwrap.FileFault,
            "ö.jpg is no JPEG.*<html>.*1 more",
        ),
        (TWO_CLASSES, image_ports(6, 5, 3, classes=7), ValueError, "has 2 classes.*'kind'.* has 7"),
        (TWO_CLASSES, image_ports(6, 5, 2), ValueError, "takes 6×5×2: an image has 1, 3 or 4"),
        (TWO_CLASSES, image_ports(6), ValueError, "one image input; it takes 'image' 6"),
        (TWO_CLASSES, image_ports(None, 5, 3), ValueError, "give an image size, like 224x224"),
        (TWO_CLASSES, (TWO[0], RGB[1]), ValueError, "one image input; it takes 'left' 3, 'right'"),
        (TWO_CLASSES, (RGB[0], TWO[1]), ValueError, "the model has 2 outputs"),
        (
            {"train/a/1.png": png(), "train/b/1.png": png(), "val/a/1.png": png()},
            image_ports(6, 5, 3, classes=None),
            ValueError,
            "different classes: b in only one",
        ),
        ({"train/1.png": png(), "val/1.png": png()}, RGB, orthwrap.FileFault, "train is a folder"),
    ],
)
def test_folders_at_fault(
    files: dict[str, bytes], ports: Any, kind: type[Exception], words: str, tmp_path: Path
) -> None:
    write(tmp_path, files)
    with raises(kind, words) as caught:
        load(tmp_path, *ports)
    assert isinstance(caught.value, orthwrap.OrthwrapError)
    assert "\n" not in str(caught.value)


@pytest.mark.dear
@pytest.mark.parametrize(
    "content",
    [jpeg()[:80], png(0, 3, (90, 90))[:900], b"\xff\xd8\xff nothing more", b"RIFF    "],
    ids=["cut jpeg", "cut png", "jpeg", "webp"],
)
def test_broken_image_is_named(content: bytes, tmp_path: Path) -> None:
    write(tmp_path, {f"{'ab'[i % 2]}/{i:02}.png": png(i) for i in range(20)})
    write(tmp_path, {"b/07.png": content})
    data = load(tmp_path, *RGB, validation_split=0.2)
    with pytest.raises(tf.errors.OpError) as caught:
        batches(data.train.ordered(4).concatenate(data.validation(4)))
    fault = data.explain(caught.value)
    assert isinstance(fault, orthwrap.FileFault)
    assert str(fault).startswith(f"image {tmp_path / 'b' / '07.png'} cannot be decoded")
    assert data.explain(ValueError("another")) is None
    write(tmp_path, {"b/07.png": png()})
    assert data.explain(caught.value) is None
