"""Data as arrays: which goes where, in which shapes, and what is said where none fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import orthwrap
from orthwrap.data import Port, load

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


ONE = [Port("image", (4, 3))], [Port("label", (5,))]


TWO = [Port("left", (4,)), Port("right", (None, 2))], [Port("kind", (3,)), Port("size", (1,))]


def zeros(*shape: int) -> Array:
    return np.zeros(shape)


@pytest.mark.parametrize(
    ("ports", "given"),
    [
        (ONE, {"x": zeros(6, 4, 3), "y": zeros(6)}),
        (ONE, {"image": zeros(6, 4, 3), "label": zeros(6, 5)}),
        (ONE, {"x0": zeros(6, 4, 3), "y0": zeros(6, 5)}),
        (ONE, {"x": zeros(6, 4, 3), "label": zeros(6, 5), "more": np.array("text")}),
        (ONE, (zeros(6, 4, 3), zeros(6))),
        (ONE, [zeros(6, 4, 3).tolist(), [0] * 6]),
        (
            TWO,
            {"left": zeros(6, 4), "right": zeros(6, 9, 2), "kind": zeros(6), "size": zeros(6)},
        ),
        (TWO, {"x0": zeros(6, 4), "x1": zeros(6, 1, 2), "y0": zeros(6), "y1": zeros(6, 1)}),
        (TWO, {"left": zeros(6, 4), "right": zeros(6, 9, 2), "y0": zeros(6), "y1": zeros(6)}),
    ],
)
def test_arrays_are_found_by_x_and_y_by_name_and_by_number(ports: Any, given: Any) -> None:
    inputs, outputs = ports
    data = load(given, inputs, outputs)
    assert data.samples == 6
    (batch,) = data.inputs(6)
    assert len(batch) == 1
    assert len(batch[0] if len(inputs) > 1 else batch) == len(inputs)
    assert len(data.labels) == len(outputs)
    assert data.held_out is None


def test_order_is_the_models_and_not_the_mappings() -> None:
    inputs, outputs = TWO
    given = {"right": zeros(6, 9, 2), "left": zeros(6, 4), "size": zeros(6, 1), "kind": zeros(6)}
    data = load(given, inputs, outputs)
    ((x, y),) = data.evaluation(6)
    assert [tuple(a.shape) for a in x] == [(6, 4), (6, 9, 2)]
    assert [tuple(a.shape) for a in y] == [(6,), (6, 1)]


def test_validation_arrays_end_in_val() -> None:
    given = {"x": zeros(6, 4, 3), "y": zeros(6), "x_val": zeros(2, 4, 3), "y_val": zeros(2)}
    for source in (given, tuple(given.values())):
        data = load(source, *ONE)
        assert data.validation_samples == 2
        assert data.describe() == "x 6×4×3 float64, y 6 float64; 2 more to validate"


def test_name_of_an_output_may_end_in_val() -> None:
    ports = [Port("x", (4,))], [Port("policy", (3,)), Port("state_val", (1,))]
    given = {"x": zeros(6, 4), "policy": zeros(6), "state_val": zeros(6, 1)}
    assert load(given, *ports).held_out is None
    more = {f"{key}_val": array[:2] for key, array in given.items()}
    assert load(given | more, *ports).validation_samples == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "has the keys (none); expected x or image or x0"),
        ({"a": zeros(6, 4, 3)}, "has the keys a; expected x or image or x0"),
        (
            {"x": zeros(6, 4, 3)},
            "has the keys x; expected y or label or y0; without labels, distill",
        ),
        ({"x": zeros(6, 4, 3), "y": zeros(6), "y_val": zeros(2)}, "expected x_val or image_val"),
        ({"x": zeros(6, 4, 3), "y": zeros(6), "x_val": zeros(2, 4, 3)}, "expected y_val"),
        (
            (zeros(6, 3, 4), zeros(6)),
            "x has samples of shape 3×4; input 'image' of",
        ),
        ((zeros(6), zeros(6)), "x has samples of shape (); input 'image' of the model takes 4×3"),
        ((zeros(6, 4, 3), zeros(5)), "data: x has 6, y has 5 samples: x and y must have as many"),
        (
            (zeros(6, 4, 3), zeros(6), zeros(2, 4, 3), zeros(3)),
            "x_val has 2, y_val has 3 samples",
        ),
        ((zeros(0, 4, 3), zeros(0)), "no samples: x is empty"),
        ((zeros(6, 4, 3), zeros(6), zeros(0, 4, 3), zeros(0)), "no samples: x_val is empty"),
        ((zeros(6, 4, 3), np.array(["a"] * 6)), "y is a <U1 array of shape (6,); expected numbers"),
        ((zeros(6, 4, 3), np.array(3)), "y is a int64 array of shape (); expected numbers"),
        ((zeros(6, 4, 3).astype("object"), zeros(6)), "x is a object array"),
        ((zeros(6, 4, 3) * 1j, zeros(6)), "x is a complex128 array"),
        (([[1, 2], [3]], zeros(2)), "x is no array"),
        ((zeros(6, 4, 3),), "function that returns one of these; got a tuple of 1"),
        (7, "got int"),
        (iter(()), "got tuple_iterator"),
    ],
)
def test_data_that_does_not_fit_says_what_was_found_and_expected(given: Any, words: str) -> None:
    with pytest.raises(orthwrap.ValueFault) as caught:
        load(given, *ONE)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def npz_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no `.npz` of plain arrays, and what is said of them."""
    good = folder / "good.npz"
    np.savez_compressed(good, x=np.random.default_rng(0).normal(size=(60, 4, 3)), y=zeros(60))
    content = good.read_bytes()
    made = {
        "pickled": "is not a .npz of plain arrays (it holds objects)",
        "single": "holds a single array",
        "text": "is no .npz file: give a .npz with x and y (np.savez), a folder of images",
        "empty": "is no .npz file",
        "cut": "is not a .npz",
        "flipped": "is not a .npz",
    }
    np.savez(folder / "pickled.npz", x=np.array([{}, 1], dtype=object), y=zeros(2))
    with (folder / "single.npz").open("wb") as f:
        np.save(f, zeros(3))
    (folder / "text.npz").write_text("hello")
    (folder / "empty.npz").write_bytes(b"")
    (folder / "cut.npz").write_bytes(content[: len(content) // 2])
    middle = len(content) // 2
    (folder / "flipped.npz").write_bytes(content[:middle] + b"\xff" * 40 + content[middle + 40 :])
    return {name: (folder / f"{name}.npz", words) for name, words in made.items()}


def test_files_that_are_no_npz_are_named(tmp_path: Path) -> None:
    for path, words in npz_files(tmp_path).values():
        with pytest.raises(orthwrap.FileFault) as caught:
            load(path, *ONE)
        assert words in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    for path, words in ((tmp_path / "no.npz", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(orthwrap.FileFault, match=words):
            load(str(path), *ONE)
    assert load(tmp_path / "good.npz", *ONE).samples == 60
