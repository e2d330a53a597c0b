"""What a report was made with: versions, for whoever wants to make it again."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

_ALWAYS = ("orthwrap", "numpy", "h5py")
# What Keras may compute with, by the package that brings it.
_WITH_KERAS = ("keras", "tensorflow", "jax", "torch")


def versions() -> dict[str, str]:
    """By name: Python's and those of the packages that read and measure.

    Keras and its backends are among them where this process has loaded them; reading does not.
    """
    names = [*_ALWAYS, *(name for name in _WITH_KERAS if name in sys.modules)]
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout on the path, which nobody installed
            found[name] = "unknown"
    return found
