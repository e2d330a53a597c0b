"""What an optimizer knows besides its config: what it keeps of variables, passes over, averages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from orthwrap.training.goal.optimizers import follow_variables
from tests.support import models
from tests.support.run_helpers import CtrlC, arrays_of, classes

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


def compiled(optimizer: Any) -> Any:
    model = models.dense()
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


# What it keeps of each variable


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: keras.optimizers.Adam(1e-2),
    "adam, amsgrad": lambda: keras.optimizers.Adam(1e-2, amsgrad=True),
    "adam, averages": lambda: keras.optimizers.Adam(1e-2, use_ema=True),
    "momentum": lambda: keras.optimizers.SGD(1e-2, momentum=0.9),
    "averages": lambda: keras.optimizers.SGD(1e-2, use_ema=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(1e-2, momentum=0.5, centered=True),
    "lion": lambda: keras.optimizers.Lion(1e-3),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_each_variable_keeps_its_own_state(kind: str) -> None:
    square = [layers.Dense(6, use_bias=False, name=f"square{i}") for i in range(4)]
    model = keras.Sequential([layers.Input((6,)), *square])  # all of one shape, so names must tell
    model.compile(OPTIMIZERS[kind](), "mse")
    x, _ = classes()
    model.fit(x, x[::-1].copy(), epochs=2, verbose=0)
    known = {v.path.split("/")[-1]: a for v, a in named(model.optimizer)}
    square[0].trainable = False
    assert follow_variables(model) == ()
    now = {v.path.split("/")[-1]: a for v, a in named(model.optimizer)}
    assert set(now) == {name for name in known if "square0" not in name}
    assert any(np.any(a) for name, a in now.items() if "square1" in name)
    for name, array in now.items():
        np.testing.assert_array_equal(array, known[name], err_msg=name)


def named(optimizer: Any) -> list[tuple[Any, Array]]:
    return list(zip(optimizer.variables, arrays_of(optimizer.variables), strict=True))


# What weight decay passes over


def decayed(model: Any) -> list[str]:
    found = [v for v in model.trainable_variables if model.optimizer._use_weight_decay(v)]
    return ["/".join(v.path.split("/")[-2:]) for v in found]


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("by", ["name", "variable"])
@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize(
    "words",
    [{}, {"learning_rate": 1e-2}, {"freeze": "head"}],
    ids=["as it is", "learning rate", "freeze"],
)
def test_weight_decay_still_passes_over_what_it_did(
    words: dict[str, Any], is_trained: bool, by: str
) -> None:
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.5)
    model = compiled(optimizer)
    wide = model.get_layer("wide")
    if by == "name":
        optimizer.exclude_from_weight_decay(var_names=["kernel"])
        left = ["wide/bias", "head/bias"]
    else:
        optimizer.exclude_from_weight_decay(var_list=[wide.kernel])
        left = ["wide/bias", "head/kernel", "head/bias"]
    if is_trained:
        model.fit(*classes(), epochs=1, verbose=0)
    copy = orthwrap.apply(model, data=classes(), epochs=1, **words).model
    assert decayed(copy) == [
        name for name in left if "head" not in words.values() or "wide" in name
    ]
    assert decayed(model) == left  # what was given stays as it was


# Averages of the weights


def averaging() -> Any:
    return compiled(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.9))


@pytest.mark.slow
def test_averages_are_what_is_left_whichever_epoch_is_kept() -> None:
    x, y = classes()
    words: dict[str, Any] = {"data": (x, y, x, y), "epochs": 3, "seed": 0, "factor": 0.0}
    own = averaging()
    kept = {k: orthwrap.apply(own, keep=k, **words) for k in ("best-task", "last")}
    training = kept["best-task"].report.training
    assert training is not None
    assert training.kept_epoch == 3  # of a loss that falls: both are of the same epoch
    assert "weights: at the end their averages over the steps, as use_ema asks" in training.choices
    for a, b in zip(*(arrays_of(r.model.weights) for r in kept.values()), strict=True):
        np.testing.assert_array_equal(a, b)
    averages = [
        array
        for variable, array in named(kept["last"].model.optimizer)
        if variable.name.endswith("average")
    ]
    for a, b in zip(averages, arrays_of(kept["last"].model.trainable_variables), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 4])
def test_run_with_averages_goes_on_as_if_never_stopped(step: int, tmp_path: Path) -> None:
    words: dict[str, Any] = {"data": classes(), "epochs": 3, "batch_size": 8, "seed": 0}
    whole = orthwrap.apply(averaging(), **words)
    words["checkpoint_dir"] = tmp_path
    with pytest.raises(orthwrap.Interrupted):
        orthwrap.apply(averaging(), callbacks=[CtrlC(0, step)], **words)
    parts = orthwrap.apply(averaging(), resume=True, **words)
    for a, b in zip(arrays_of(whole.model.weights), arrays_of(parts.model.weights), strict=True):
        np.testing.assert_array_equal(a, b)
