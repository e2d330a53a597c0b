"""Inputs from grammars, by the thousand: a success or one line of orthwrap's, and nothing else.

In `make test`, each kind has a few seconds of CPU time; `ORTHWRAP_FUZZ=20` tries 10,000 inputs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.samples import small_file

TIMES = int(os.environ.get("ORTHWRAP_FUZZ", "1"))
KINDS = (*("model_configs", "training_configs", "checkpoints", "toml_rules", "zips", "structures"),)
COUNT = 85 * TIMES  # of each kind
SECONDS = 3.0 if TIMES == 1 else 1e9
# How a crash inside a library ends a process. What takes too long is ended by SIGXCPU.
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


@dataclass
class Outcome:
    """What came of many inputs: how many there were, those with a fault, those that crashed."""

    done: int = 0
    accepted: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)


def tried(kind: str, first: int, count: int, seconds: float) -> Outcome:
    """Tries inputs in processes of their own: after one that dies, the next goes on."""
    outcome = Outcome()
    end = first + count
    while first < end and len(outcome.faults) < 20:
        seed, code = _batch(kind, first, end - first, seconds, outcome)
        if code == 0:
            break
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        told = outcome.crashes if -code in CRASHES else outcome.faults
        told.append(f"{how}; again with: {_command(kind, seed)}")
        first = seed + 1
    return outcome


def _batch(kind: str, first: int, count: int, seconds: float, outcome: Outcome) -> tuple[int, int]:
    """The last seed that was tried, and how the process ended."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.worker", kind, str(first), str(count), str(seconds)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "ORTHWRAP_SAMPLES": str(small_file(".h5").parent)},
        check=False,
    )
    seed = first
    for line in run.stdout.splitlines():
        told = json.loads(line)
        if "seed" in told:
            seed = told["seed"]
            outcome.done += 1
        elif "said" in told:
            outcome.refused += any(told["said"])
            outcome.accepted += not all(told["said"])
        else:
            outcome.faults.append(f"{told['fault']}\nagain with: {_command(kind, seed)}")
    if run.returncode:
        assert "seed" in run.stdout, run.stderr
    return seed, run.returncode


def _command(kind: str, seed: int) -> str:
    return f"python -m tests.fuzz.worker {kind} {seed} 1"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_input_is_read_or_refused_in_one_line(kind: str) -> None:
    small_file(".keras")  # beside the other
    outcome = tried(kind, 0, COUNT, SECONDS)
    print(f"{kind}: {outcome.done} inputs, {outcome.accepted} read, {outcome.refused} refused")
    shown = [*outcome.faults[:3], *(" ".join(f.splitlines()[-3:]) for f in outcome.faults[3:])]
    assert not shown, "\n\n".join(shown)
    # A crash inside the HDF5 library is not promised to be impossible; of other kinds it is one
    # of ours.
    if outcome.crashes and kind != "structures":
        pytest.fail("\n".join(outcome.crashes))
    assert outcome.done >= min(COUNT, 10)
    assert outcome.accepted  # a grammar whose every input is refused at once tries nothing
    assert outcome.refused


@pytest.mark.dear
@pytest.mark.slow
def test_the_worker_sees_what_it_is_to_see(tmp_path: Path) -> None:
    """A verb that fails, one that opens a device, one that never ends, and one that is greedy."""
    code = """
import sys
import tests.fuzz.trial as trial
from tests.fuzz import worker
worker.CPU, worker.MEMORY = 1, 200 << 20
def bad(path, out):
    if kind == "raise":
        raise KeyError("x")
    if kind == "device":
        open("/dev/zero", "rb")
    if kind == "import":
        import antigravity
    if kind == "greedy":
        bytearray(1 << 30)
    while kind == "endless":
        pass
    return [""]
trial.KINDS["toml_rules"] = (trial.KINDS["toml_rules"][0], bad)
kind = ""
held = worker.prepare
def prepare():
    global kind
    held()
worker.prepare = prepare
attempt = trial.attempt
def later(name, seed, *rest):
    global kind
    kind = sys.argv[1] if seed >= 0 else ""
    return attempt(name, seed, *rest)
trial.attempt = later
worker.main("toml_rules", 0, 1, None)
"""
    for kind, word in (
        ("raise", "KeyError"),
        ("device", "/dev/zero"),
        ("import", "antigravity"),
        ("greedy", "MemoryError"),
    ):
        run = subprocess.run(
            [sys.executable, "-c", code, kind],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "ORTHWRAP_SAMPLES": str(small_file(".h5").parent)},
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert word in run.stdout
        assert '"fault"' in run.stdout
    endless = subprocess.run(
        [sys.executable, "-c", code, "endless"],
        capture_output=True,
        cwd=REPOSITORY,
        env={**os.environ, "ORTHWRAP_SAMPLES": str(small_file(".h5").parent)},
        check=False,
    )
    assert endless.returncode == -signal.SIGXCPU
