"""Fixtures that several tests share."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.originals import VERBS, keeping_bits

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On by default on most processors, not on all; without it TensorFlow's CPU lacks NCHW convolutions.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# A process a core: threads that spin while they wait for one another take twenty times what small
# matrices do. Read as NumPy and TensorFlow are imported, which is later.
for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
    os.environ.setdefault(_threads, "1")

# Where Python is forbidden to keep what it compiles, each worker would compile all tests anew, and
# each of a thousand children all of orthwrap, as no user's second command does.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Started in the background of a shell, a run inherits that Ctrl-C is ignored, and so would all that
# tests start and send it to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_MODELS = REPOSITORY.parent / "shared" / "models"

# Nothing here depends on how fast the machine is, or on who else is at work on it. This only ends
# what would hang for ever.
PATIENCE_S = 1800

settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

# Of minutes, whole trainings and all of Keras 2: left to `make test-rest`, and first there, as at
# the end one worker would wait for the other.
LONG = ("test_upgrades_vintages.py", "test_real_training.py")


# Of tests that take next to no time, `make test-fast` runs every variant; of others the first.
QUICK = ("penalties", "rules", "model_config")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)
    tests, quick_ones = set(), set()
    for item in items:
        test, variant, _ = item.nodeid.partition("[")
        further = item.get_closest_marker("dear") is not None and (test in tests or not variant)
        if further or item.path.name in LONG:
            item.add_marker("rest")
        tests.add(test)
        if item.path.parent.name not in QUICK and item.get_closest_marker("slow") is None:
            if test in quick_ones:
                item.add_marker("slow")
            quick_ones.add(test)


def needs_keras(wanted: str, what: str) -> None:
    """Skips the test where Keras is older: `needs_keras("3.10", "writes shards")`."""
    installed, least = (tuple(map(int, v.split(".")[:2])) for v in (version("keras"), wanted))
    if installed < least:
        pytest.skip(f"Keras {what} since {wanted}; this is {version('keras')}")


@pytest.fixture(autouse=True)
def _originals_keep_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test is about, the models that it gives to a verb stay as they are."""
    for verb in VERBS:
        monkeypatch.setattr(f"orthwrap.{verb}", keeping_bits(verb), raising=False)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `orthwrap …` as a user would, in an empty folder."""

    def call(*words: object, cwd: Path = tmp_path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orthwrap", *map(str, words)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, "COLUMNS": "80", **env},
        )

    return call


@contextlib.contextmanager
def steps_run_eagerly() -> Iterator[None]:
    """Steps run as under `run_eagerly`, and no model's config says so.

    TensorFlow traces three functions for each model, which takes longer than all that a short run
    does. Tests of what surrounds the steps do without.
    """
    import keras

    with pytest.MonkeyPatch.context() as patch:
        if keras.backend.backend() == "tensorflow":
            for name, value in (("run_eagerly", True), ("jit_compile", False)):
                held = property(lambda model, v=value: v, lambda model, given: None)
                patch.setattr(keras.Model, name, held)
        yield


@pytest.fixture
def eagerly(request: pytest.FixtureRequest) -> Iterator[None]:
    """`steps_run_eagerly`, but for tests that are marked `traced`."""
    is_traced = request.node.get_closest_marker("traced") is not None
    with contextlib.nullcontext() if is_traced else steps_run_eagerly():
        yield
