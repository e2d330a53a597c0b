"""What a report was made with: versions and the machine, for whoever wants to make it again."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from orthwrap._version import __version__

_PACKAGES = ("numpy", "h5py", "keras", "tensorflow", "jax", "torch")


def versions() -> dict[str, str]:
    """By name: Python's, orthwrap's, and those of the packages that this process has loaded.

    Keras and its backends are among them where they were needed; no file is opened to look.
    """
    loaded = {name: sys.modules[name] for name in _PACKAGES if name in sys.modules}
    found = {name: getattr(module, "__version__", None) for name, module in loaded.items()}
    own = {"python": platform.python_version(), "orthwrap": __version__}
    return own | {name: str(version) for name, version in found.items() if version is not None}


def processor() -> str:
    """What the system calls the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def cores() -> int:
    """So many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
