"""What a report was made with: versions, for whoever wants to make it again."""

from __future__ import annotations

import platform
import sys

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
