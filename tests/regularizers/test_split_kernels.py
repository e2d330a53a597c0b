"""A kernel that is split over devices is nowhere gathered for its penalty, nor for its pull."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.conftest import PATIENCE_S, REPOSITORY

pytest.importorskip("jax")


@pytest.fixture(scope="module")
def found() -> Any:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.model_parallel"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **flags},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
