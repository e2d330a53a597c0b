"""A kernel that is split over devices is nowhere gathered for its penalty, nor for its pull."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import orthwrap
from tests.conftest import PATIENCE_S, REPOSITORY
from tests.support.pages import blocks

# Not by importing, which takes seconds wherever tests are collected.
pytestmark = pytest.mark.skipif(
    find_spec("jax") is None,
    reason="`make test-backends` has it",
)


def on_four_devices(*words: str, folder: Path = REPOSITORY) -> str:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **flags},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found() -> Any:
    return json.loads(on_four_devices("-m", "tests.support.model_parallel"))


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("how", ["penalized", "pulled"])
def test_no_device_holds_a_whole_kernel(found: Any, how: str) -> None:
    moved = found[how]["moved"]
    assert moved
    for m, n in found["shapes"]:
        assert f"all-gather f32[{m},{n}]" not in moved
    assert any("all-to-all" in what for what in moved)  # the one that is split the other way
    for whole, split in zip(found[how]["whole"], found[how]["split"], strict=True):
        np.testing.assert_allclose(split, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_example_of_the_docs_splits_a_loaded_model(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, name="dense")])
    orthwrap.apply(model, tmp_path / "model-orth.keras", regularizer="so")
    page = (REPOSITORY / "docs" / "devices.md").read_text(encoding="utf-8")
    shown = "print(*{s.data.shape for s in model.layers[0].kernel.value.addressable_shards})"
    code = "\n".join([*blocks(page, "python"), shown])
    assert on_four_devices("-c", code, folder=tmp_path).split("\n")[-2] == "(8, 4)"
