"""Where a model lives: each store reads its config and kernels, and writes an edited copy."""

from __future__ import annotations

from orthwrap.stores.base import Store, WeightRef
from orthwrap.stores.files import open_file

__all__ = ["Store", "WeightRef", "open_file"]
