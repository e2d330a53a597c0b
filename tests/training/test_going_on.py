"""A run that was stopped goes on from its checkpoint to the same bits."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import orthwrap
from orthwrap.training.loop.interrupts import note_interrupts
from orthwrap.training.loop.watch import regularizers_in
from tests.conftest import steps_run_eagerly
from tests.support import models
from tests.support.run_helpers import (
    CtrlC,
    Spoil,
    arrays_of,
    classes,
    dropping,
    same,
    training_of,
    weights_of,
    with_validation,
)

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]


class Crash(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Ends the run as a power cut would, at a step."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__()
        self._place, self._epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self._epoch, batch) == self._place:
            raise RuntimeError("power cut")


@pytest.mark.slow
def test_model_in_place_is_as_it_was_where_it_is_not_trained() -> None:
    """Regularizers, frozen layers, compilation: of a model that cannot be copied there is one."""
    x, y = classes()
    model = dropping()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["acc"])
    model.get_layer("head").trainable = False
    model.fit(x, y, verbose=0)

    def state() -> Any:
        layers_of = [
            (layer.name, layer.trainable, getattr(layer, "kernel_regularizer", None))
            for layer in model._flatten_layers()
        ]
        variables = [(v.path, v.trainable, v.regularizer) for v in model.variables]
        return layers_of, variables, model.get_compile_config(), weights_of(model)

    before, optimizer = state(), model.optimizer
    words: dict[str, Any] = {"in_place": True, "unfreeze": "head", "learning_rate": 0.5}
    for more, said in (
        ({"data": (x, y + 9)}, "classes"),
        ({"data": (x, y), "monitor": "nothing"}, "is none of the figures"),
        ({"data": (x, y), "callbacks": [Crash(0, 0)]}, "power cut"),
    ):
        with pytest.raises(orthwrap.OrthwrapError, match=said):
            orthwrap.apply(model, epochs=1, **words, **more)
        now = state()
        assert now[:2] == before[:2]
        assert str(now[2]) == str(before[2])
        assert model.optimizer is optimizer
        if "callbacks" not in more:
            for a, b in zip(now[3], before[3], strict=True):
                np.testing.assert_array_equal(a, b)
    result = orthwrap.apply(model, data=(x, y), epochs=1, **words)
    assert result.model is model
    assert model.get_layer("head").kernel_regularizer is not None


RESUMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "random penalty": {"regularizer": "srip", "factor": 0.1},
    "sketched, now and then": {"options": {"estimate": "sketch", "every": 3}},
    "auto, schedule by step": {
        "factor": "auto",
        "schedule": "warmup:4, cosine:0.1",
        "schedule_by": "step",
    },
    "schedule by epoch, best kept": {"schedule": "0:1, 1:0.1, 3:0", "keep": "best"},
    "schedule by epoch, best for the task kept": {"schedule": "0:1, 1:0.1", "keep": "best-task"},
}


def all_at_once() -> dict[str, Any]:
    """Whatever a compiled step keeps count of, in one run, as compiling takes longest."""
    now_and_then = {"estimate": "sketch", "every": 3}
    rules = [
        orthwrap.Rule(target="wide", regularizer="srip", factor="auto"),
        orthwrap.Rule(target="head", factor="auto", options=now_and_then),
    ]
    schedule = {"schedule": "warmup:4, cosine:0.1", "schedule_by": "step"}
    return {**schedule, "rules": rules, "keep": "best"}


RESUMED["all at once, compiled"] = all_at_once()


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind,
            marks=[pytest.mark.slow] * (kind != "plain")
            + [pytest.mark.traced] * kind.endswith("compiled"),
        )
        for kind in RESUMED
    ],
)
def test_run_that_was_cut_short_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "data": with_validation(),
        "epochs": 4,
        "batch_size": 16,
        "seed": 3,
        "keep": "last",
        "measure": False,
        **RESUMED[kind],
    }
    whole = orthwrap.apply(dropping(), **words)
    folder = tmp_path / "checkpoints"
    for crash in ((0, 1), (1, 0), (3, 1)):
        with pytest.raises(orthwrap.OrthwrapError, match="power cut"):
            orthwrap.apply(
                dropping(),
                checkpoint_dir=folder,
                resume=True,
                callbacks=[Crash(*crash)],
                **words,
            )
    parts = orthwrap.apply(dropping(), checkpoint_dir=folder, resume=True, **words)
    assert same(whole.model, parts.model)
    one, other = training_of(whole), training_of(parts)
    assert one.history == other.history
    assert one.metrics_after == other.metrics_after
    assert one.kept_epoch == other.kept_epoch
    states = (arrays_of(r.model.optimizer.variables) for r in (whole, parts))
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(list(folder.glob("checkpoint-*.npz"))) == 1


@pytest.mark.slow
def test_run_that_had_ended_ends_with_the_same_factors(tmp_path: Path) -> None:
    words: dict[str, Any] = {"data": classes(), "seed": 3, "epochs": 3, "factor": 0.5}
    words.update(checkpoint_dir=tmp_path / "c", schedule="linear:0.1")
    results = [orthwrap.apply(dropping(), resume=resume, **words) for resume in (False, True)]
    for result in results:
        for record in result.report.layers:
            if record.regularizer is not None:
                assert record.regularizer.factor == pytest.approx(0.2)
        factors = [r.factor for r in regularizers_in(result.model)]
        assert factors == pytest.approx([0.2] * len(factors))
    one, other = (training_of(result) for result in results)
    assert one.metrics_after == pytest.approx(other.metrics_after)


@pytest.mark.slow
def test_more_epochs_may_follow_on_a_run_that_ended(tmp_path: Path) -> None:
    words: dict[str, Any] = {"data": classes(), "factor": 1e-3, "seed": 3}
    words["checkpoint_dir"] = tmp_path / "c"
    orthwrap.apply(dropping(), epochs=2, **words)
    more = orthwrap.apply(dropping(), epochs=5, resume=True, **words)
    words.pop("checkpoint_dir")
    assert same(more.model, orthwrap.apply(dropping(), epochs=5, **words).model)
    assert training_of(more).epochs == 5


STOPPED: dict[str, Any] = {"data": classes(), "seed": 3, "batch_size": 8, "epochs": 1}


STOPPED["factor"] = 1e-3


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run of one epoch."""
    folder = tmp_path_factory.mktemp("stopped") / "c"
    with steps_run_eagerly():
        orthwrap.apply(dropping(), **STOPPED, checkpoint_dir=folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 16}, "batch size 8; this one has 16"),
        ({"seed": 4}, "seed 3; this one has 4"),
        ({"data": classes(39)}, "data x 40×6"),
        ({"data": classes(40, 1)}, "a run with samples"),
        ({"data": (classes()[0], classes()[1][::-1])}, "a run with samples"),
        ({"learning_rate": 0.5}, "learning rate 0.001; this one has 0.5"),
        ({"optimizer": "sgd"}, "optimizer Adam; this one has SGD"),
        ({"freeze": "head"}, "a run with trained weights 6 .*; this one has 4 "),
        ({"target": "wide"}, "a run with regularizers"),
        ({"regularizer": "offdiag"}, "regularizers so .*; this one has offdiag"),
        ({"options": {"every": 2}}, "a run with regularizers"),
        ({"factor": 0.5}, "factors 0.001 to 0.001 .*; this one has 0.5 to 0.5"),
        (
            {"regularizer": "so", "constrain": "spectral:2"},
            r"constraints None; this one has spectral:2 \(",
        ),
        ({"schedule": "cosine:0.1"}, r"schedules \[\]; this one has \['cosine:0.1'\]"),
        (
            {"loss": keras.losses.SparseCategoricalCrossentropy(name="own_sparse_categorical")},
            "loss sparse_categorical_crossentropy; this one has own_sparse_categorical",
        ),
    ],
)
def test_checkpoint_of_another_run_is_refused(
    change: dict[str, Any], said: str, stopped: Path, tmp_path: Path
) -> None:
    words = {**STOPPED, "checkpoint_dir": shutil.copytree(stopped, tmp_path / "c")}
    with pytest.raises(orthwrap.ValueFault, match=said):
        orthwrap.apply(dropping(), **{**words, **change}, resume=True)


@pytest.mark.dear
@pytest.mark.parametrize("callbacks", [[], [keras.callbacks.EarlyStopping("loss")]])
def test_that_callbacks_start_afresh_is_a_warning_of_the_report(
    callbacks: list[Any], stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "c")
    words = {**STOPPED, "checkpoint_dir": tmp_path / "c", "progress": False}
    report = orthwrap.apply(dropping(), resume=True, callbacks=callbacks, **words).report
    told = [w for w in report.warnings if "callbacks start afresh" in w]
    assert len(told) == len(callbacks)


@pytest.mark.slow
def test_checkpoint_of_a_run_with_another_constraint_is_refused(tmp_path: Path) -> None:
    words: dict[str, Any] = {**STOPPED, "checkpoint_dir": tmp_path / "c", "regularizer": "so"}
    orthwrap.apply(dropping(), **words, constrain="spectral:2")
    for other, said in (("spectral:3", "has spectral:3"), (None, "has None")):
        with pytest.raises(
            orthwrap.ValueFault, match=rf"constraints spectral:2 .*; this one {said}"
        ):
            orthwrap.apply(dropping(), **words, constrain=other, resume=True)
    own = dropping()
    own.get_layer("head").bias_constraint = keras.constraints.MaxNorm(2)
    with pytest.raises(
        orthwrap.ValueFault, match=r"spectral:2 .*; this one has MaxNorm, spectral:2"
    ):
        orthwrap.apply(own, **words, constrain="spectral:2", resume=True)
    again = orthwrap.apply(dropping(), **words, constrain="spectral:2", resume=True)
    assert again.report.training is not None


def test_checkpoint_of_another_model_is_refused_and_none_is_replaced(stopped: Path) -> None:
    other = dropping()
    other.layers[0].kernel.assign(other.layers[0].kernel * 2)
    with pytest.raises(orthwrap.ValueFault, match="of a run with model"):
        orthwrap.apply(other, **STOPPED, checkpoint_dir=stopped, resume=True)
    with pytest.raises(orthwrap.FileFault, match="--resume, or give another folder"):
        orthwrap.apply(dropping(), **STOPPED, checkpoint_dir=stopped)


def test_dry_run_makes_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    models.dense().save(file)
    words: dict[str, Any] = {"data": classes(), "dry_run": True, "log": tmp_path / "log.csv"}
    for model in (models.dense(), file):
        folders: dict[str, Any] = {"checkpoint_dir": tmp_path / "c", "tensorboard": tmp_path / "b"}
        assert orthwrap.apply(model, **words, **folders).report.layers
    assert list(tmp_path.iterdir()) == [file]


def test_checkpoint_folder_that_cannot_be_is_found_before_training(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder, said in ((file, "is a file"), (file / "below", "cannot make folder")):
        with pytest.raises(orthwrap.FileFault, match=said):
            orthwrap.apply(dropping(), data=classes(), checkpoint_dir=folder)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ((0, 0), "interrupted in epoch 1, after step 1"),
        ((1, 1), "interrupted in epoch 2, after step 2"),
        ((1, 2), "interrupted after epoch 2"),
    ],
)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_interrupted_run_saves_what_it_has_and_replaces_nothing(
    suffix: str, place: tuple[int, int], said: str, tmp_path: Path
) -> None:
    out = tmp_path / f"out{suffix}"
    words: dict[str, Any] = {"data": classes(), "batch_size": 16, "epochs": 4, "seed": 0}
    aside = tmp_path / f"out{suffix}.interrupted"
    before = signal.getsignal(signal.SIGINT)
    for there, kept in ((out, b""), (aside, b"somebody's")):
        if kept:
            out.write_bytes(kept)
        with pytest.raises(orthwrap.Interrupted, match=f"{said}; {there} holds the model"):
            orthwrap.apply(dropping(), out, force=True, callbacks=[CtrlC(*place)], **words)
        if kept:
            assert out.read_bytes() == kept
            there = there.rename(tmp_path / f"again{suffix}")
        assert orthwrap.load_model(there).count_params() == dropping().count_params()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("keep", ["best", "last"])
def test_interrupted_run_says_of_which_epoch_its_model_is(keep: str, tmp_path: Path) -> None:
    out = tmp_path / "out.keras"
    words: dict[str, Any] = {"data": with_validation(), "batch_size": 8, "seed": 0, "keep": keep}
    words["factor"] = 1e-3
    with pytest.raises(orthwrap.Interrupted) as caught:
        orthwrap.apply(dropping(), out, epochs=4, callbacks=[CtrlC(1, 2)], **words)
    as_of = "as of epoch 1" if keep == "best" else "as it was then"
    assert (
        str(caught.value) == f"interrupted in epoch 2, after step 3; {out} holds the model {as_of}"
    )
    one = orthwrap.apply(dropping(), epochs=1, **words).model
    assert same(orthwrap.load_model(out), one) == (keep == "best")


@pytest.mark.slow
def test_error_of_a_run_without_an_output_has_the_model() -> None:
    words: dict[str, Any] = {"data": classes(), "batch_size": 8, "epochs": 4, "seed": 0}
    words["factor"] = 1e-3
    with pytest.raises(orthwrap.Interrupted, match="the error's `model` is the model as it") as c:
        orthwrap.apply(dropping(), callbacks=[CtrlC(1, 2)], **words)
    assert int(c.value.model.optimizer.iterations) == 5 + 3
    with pytest.raises(orthwrap.OrthwrapError, match="is the model as of epoch 2") as caught:
        orthwrap.apply(dropping(), callbacks=[Spoil(2, np.nan)], **words)
    assert same(caught.value.model, orthwrap.apply(dropping(), **{**words, "epochs": 2}).model)


def test_interrupt_that_was_swallowed_while_loading_is_not_lost() -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        note_interrupts()
        with contextlib.suppress(KeyboardInterrupt):  # as a hook of the garbage collector does
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            orthwrap.apply(dropping(), data=classes(), epochs=1)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_last_step_may_be_interrupted_too() -> None:
    words: dict[str, Any] = {"data": classes(), "batch_size": 8, "epochs": 2, "seed": 0}
    stopped = orthwrap.apply(dropping(), callbacks=[CtrlC(1, 4)], **words)
    assert same(stopped.model, orthwrap.apply(dropping(), **words).model)


class Swallowing(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """A library that loses a Ctrl-C in the midst of the first step, where none of ours waits."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            note_interrupts()
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        assert batch == 0, "it goes on"


def test_an_interrupt_that_was_swallowed_ends_a_run_after_its_step() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            orthwrap.apply(models.dense(), data=classes(), epochs=2, callbacks=[Swallowing()])
    finally:
        signal.signal(signal.SIGINT, before)
