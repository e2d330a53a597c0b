"""Training on several devices, and in several processes, equals training on one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import orthwrap
from orthwrap.errors import UsageError
from tests.conftest import PATIENCE_S, REPOSITORY

# Not by importing, which takes seconds wherever tests are collected.
pytestmark = pytest.mark.skipif(
    find_spec("jax") is None or find_spec("torch") is None,
    reason="`make test-backends` has it",
)

SUPPORT = REPOSITORY / "tests" / "support"
BACKENDS = ("tensorflow", "jax")
FAST = "--xla_backend_optimization_level=0"  # compiling takes most of the time

Array = np.ndarray[Any, np.dtype[Any]]


def write_models(folder: Path) -> None:
    """A model with and one without BatchNormalization; samples that two can share, and others."""
    rng = np.random.default_rng(0)
    for name, samples in (("even", 28), ("odd", 29), ("one", 1)):
        x = rng.normal(size=(samples, 4, 4, 2)).astype("float32")
        np.savez(folder / f"{name}.npz", x=x, y=rng.integers(0, 3, samples))
    for name in ("plain", "norm"):
        keras.utils.set_random_seed(0)
        norm = [layers.BatchNormalization(momentum=0.5)] if name == "norm" else []
        model = keras.Sequential(
            [
                layers.Input((4, 4, 2)),
                layers.Conv2D(4, 3, activation="relu", name="conv"),
                *norm,
                layers.Flatten(),
                layers.Dense(3, activation="softmax", name="head"),
            ]
        )
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.save(folder / f"{name}.keras")
        x = np.zeros((8, 4, 4, 2), "float32")  # of which all outputs are a third, as they shall be
        np.savez(folder / "still.npz", x=x, y=np.full((8, 3), 1 / 3, "float32"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("devices")
    write_models(made)
    return made


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Any]:
    """What `several_devices.py` tells, on each backend; both run at once."""
    started = {}
    for backend in BACKENDS:
        own = folder / backend
        own.mkdir()
        for file in folder.glob("*.*"):
            (own / file.name).write_bytes(file.read_bytes())
        started[backend] = subprocess.Popen(
            [sys.executable, SUPPORT / "several_devices.py", own],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": FAST},
        )
    found = {}
    for backend, process in started.items():
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err[-3000:]
        found[backend] = json.loads(out.splitlines()[-1])
    return found


def assert_same(first: Any, second: Any, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(first["weights"], second["weights"], atol=tolerance)
    for part in ("history", "factors", "before", "after"):
        assert set(first[part]) == set(second[part])
        for name, value in first[part].items():
            np.testing.assert_allclose(value, second[part][name], rtol=1e-4, atol=1e-6)


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["auto", "sketch", "distilled", "goal"])
def test_two_devices_train_as_one_does(runs: dict[str, Any], backend: str, name: str) -> None:
    two, one = runs[backend][name]
    assert_same(two, one)
    assert any(choice.startswith("on 2 devices") for choice in two["choices"])
    assert not any(choice.startswith("on ") for choice in one["choices"])


@pytest.mark.slow
def test_the_penalty_counts_once(runs: dict[str, Any], folder: Path) -> None:
    model = keras.models.load_model(folder / "plain.keras")
    moved = []
    for layer in (model.get_layer("conv"), model.get_layer("head")):
        k = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float64)
        w = k.reshape(-1, k.shape[-1])
        moved.append((w - 0.1 * 4 * w @ (w.T @ w - np.eye(w.shape[1]))).ravel())
    for backend in BACKENDS:
        np.testing.assert_allclose(runs[backend]["step"][0], np.concatenate(moved), atol=1e-5)


@pytest.mark.slow
def test_jax_takes_the_statistics_of_the_whole_batch(runs: dict[str, Any]) -> None:
    assert_same(*runs["jax"]["norm"])


@pytest.mark.slow
def test_tensorflow_takes_the_statistics_of_each_share(runs: dict[str, Any]) -> None:
    two, one = runs["tensorflow"]["norm"]
    assert two["before"] == pytest.approx(one["before"], rel=1e-5)
    difference = np.abs(np.subtract(two["weights"], one["weights"])).max()
    assert 1e-4 < difference < 0.5
    # Outputs are seen by shares too; their penalty is no stronger for that.
    two, one = runs["tensorflow"]["activity"]
    np.testing.assert_allclose(two["weights"], one["weights"], atol=0.01)
    assert two["history"]["penalty"] == pytest.approx(one["history"]["penalty"], rel=0.1)


@pytest.mark.slow
def test_a_run_on_two_devices_goes_on(runs: dict[str, Any]) -> None:
    assert_same(*runs["tensorflow"]["resumed"], tolerance=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_devices_cannot_be(runs: dict[str, Any], backend: str) -> None:
    errors = runs[backend]["errors"]
    assert errors["uneven"] == (
        "ValueFault: batch size 7 cannot be shared out evenly over 2 devices: give a multiple of 2"
    )
    assert errors["too many"].startswith(
        "OrthwrapError: devices 4: the backend was started with 2 CPU devices already; call "
    )
    assert errors["few samples"] == "ValueFault: 1 samples cannot be shared out over 2 devices"


def test_devices_train_a_copy() -> None:
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2)])
    data = (np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(UsageError, match="devices share a copy of the model: leave in_place out"):
        orthwrap.apply(model, data=data, in_place=True, devices=2)


def command(folder: Path, *words: object, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "orthwrap", *map(str, words)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "120", "XLA_FLAGS": FAST, **env},
    )


@pytest.mark.dear
@pytest.mark.slow
def test_pytorch_has_no_devices(folder: Path) -> None:
    words = ("apply", "plain.keras", "--data", "even.npz", "-o", "torch.keras", "--devices", 2)
    done = command(folder, *words, KERAS_BACKEND="torch")
    _, err = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 2
    assert (
        err.splitlines()[-1] == "error: devices works on TensorFlow and JAX; the backend is torch"
    )


@pytest.mark.dear
@pytest.mark.slow
def test_the_command_takes_devices_and_a_legacy_file(folder: Path) -> None:
    model = keras.models.load_model(folder / "plain.keras")
    keras.src.legacy.saving.legacy_h5_format.save_model_to_hdf5(model, folder / "plain.h5")
    words = ("--data", "even.npz", "--batch-size", 8, "--epochs", 1, "--devices", 2)
    done = command(folder, "apply", "plain.h5", *words, KERAS_BACKEND="tensorflow")
    out, err = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 0, err
    assert "on 2 devices, each with its share of a batch" in out
    assert (folder / "plain-orth.h5").exists()


# Several processes


@pytest.mark.dear
@pytest.mark.slow
def test_two_processes_train_as_one_does(folder: Path, runs: dict[str, Any]) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    own = folder / "two"
    own.mkdir()
    words = ["apply", folder / "plain.keras", "-o", "out.keras", "--no-measure", "--log", "log.csv"]
    words += ["--data", folder / "even.npz", "--validation", folder / "odd.npz", "--factor", 0.1]
    words += ["--option", "estimate=sketch", "--option", "every=2", "--batch-size", 8]
    words += ["--schedule", "0:1, 6:0.2", "--schedule-by", "step", "--epochs", 2, "--seed", 1]
    words += ["--optimizer", "sgd", "--learning-rate", 0.05, "--checkpoint-dir", "kept"]
    started = []
    for i in range(2):
        (own / str(i)).mkdir()
        started.append(
            command(
                own / str(i),
                *words,
                KERAS_BACKEND="jax",
                KERAS_DISTRIBUTION_JOB_ADDRESSES=address,
                KERAS_DISTRIBUTION_NUM_PROCESSES="2",
                KERAS_DISTRIBUTION_PROCESS_ID=str(i),
            )
        )
    told = []
    try:
        for process in started:
            out, err = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, err[-2000:]
            told.append(out)
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)  # JAX itself waits for the others
                process.communicate()
    assert "on 2 devices of 2 processes, each with its share of a batch" in told[0]
    assert told[1].splitlines()[-1] == "process 1: trained; process 0 has model and report"
    assert sorted(p.name for p in (own / "0").iterdir()) == ["kept", "log.csv", "out.keras"]
    assert not list((own / "1").iterdir())
    weights = keras.models.load_model(own / "0" / "out.keras").get_weights()
    one = runs["jax"]["sketch"][1]["weights"]
    # `keep` is best, by validation, in both.
    np.testing.assert_allclose(np.concatenate([w.ravel() for w in weights]), one, atol=2e-6)


SPOILING = """
import numpy as np

def make():
    rng = np.random.default_rng(0)
    for number in range(400):
        if number == {fails}:
            raise RuntimeError("the disk is gone")
        yield rng.normal(size=(8, 4, 4, 2)).astype("float32"), rng.integers(0, 3, 8)
"""


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("how", ["begins not", "fails", "interrupted"])
def test_none_waits_for_a_process_that_ends(folder: Path, how: str, tmp_path: Path) -> None:
    """The second one has no model, or no data in mid-epoch, or its user presses Ctrl-C."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    started = []
    for i in range(2):
        own = tmp_path / str(i)
        own.mkdir()
        fails = 40 if (i, how) == (1, "fails") else -1
        (own / "spoiling.py").write_text(SPOILING.format(fails=fails))
        words = [
            "apply",
            "missing.keras" if (i, how) == (1, "begins not") else folder / "plain.keras",
            "-o",
            "out.keras",
            "--no-measure",
            "--factor",
            0.1,
        ]
        words += ["--data", "spoiling:make", "--validation", folder / "even.npz", "--seed", 1]
        words += ["--epochs", 5000 if how == "interrupted" else 1, "--log", "log.csv"]
        words += ["--steps-per-epoch", 5 if how == "interrupted" else 200]
        env = {
            "KERAS_BACKEND": "jax",
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            "KERAS_DISTRIBUTION_PROCESS_ID": str(i),
        }
        started.append(command(own, *words, **env))
    try:
        if how == "interrupted":
            log = tmp_path / "0" / "log.csv"  # a line of it says that both are training
            while not (log.exists() and "\n1," in log.read_text()):
                assert all(process.poll() is None for process in started)
                time.sleep(0.1)  # what they need is the processor
            started[1].send_signal(signal.SIGINT)
        said = [process.communicate(timeout=PATIENCE_S)[1] for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.communicate()
    first, second = (process.returncode for process in started)
    assert second == (130 if how == "interrupted" else 1)
    assert first not in (0, None)
    if how == "begins not":
        assert "error: missing.keras does not exist" in said[1]
        assert "error: process 0 of 2 lost another one" in said[0]
        assert "that one's own last line says why it ended" in said[0]
    if how == "fails":
        assert "reading a batch of make() failed: RuntimeError: the disk is gone" in said[1]
    assert not (tmp_path / "0" / "out.keras").exists()


@pytest.mark.dear
@pytest.mark.slow
def test_several_processes_work_on_jax(folder: Path) -> None:
    words = ("apply", "plain.keras", "--data", "even.npz", "-o", "never.keras")
    env = {"KERAS_BACKEND": "tensorflow", "KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}
    done = command(folder, *words, **env)
    _, err = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 2
    assert err.splitlines()[-1] == (
        "error: several processes (KERAS_DISTRIBUTION_NUM_PROCESSES) work on JAX; the backend is "
        "tensorflow: set KERAS_BACKEND=jax"
    )
