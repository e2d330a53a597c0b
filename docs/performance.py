"""Writes performance.md and its chart from the benchmarks' JSON: `make bench`, then this.

What is not measured is not on the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_suffix(".md")
CHART = PAGE.parent / "images" / "performance.svg"
KEPT = PAGE.with_name("performance.json")
RESULTS = PAGE.parents[1] / "benchmarks" / "results"
FILES = ("files.json", "penalties.json")
