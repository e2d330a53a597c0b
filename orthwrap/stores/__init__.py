"""Where a model lives: each store reads its config and kernels, and writes an edited copy."""

from __future__ import annotations

from orthwrap.stores.files import open_file
from orthwrap.stores.store import Store, WeightRef

__all__ = ["Store", "WeightRef", "open_file"]
