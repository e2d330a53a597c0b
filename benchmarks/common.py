"""What the benchmarks share: their options, the machine's name, and the JSON they leave."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orthwrap.report.versions import cores, processor

_PACKAGES = ("tensorflow", "keras", "numpy", "h5py")
RESULTS = Path(__file__).parent / "results"


def parser(description: str, quick: str, output: str) -> argparse.ArgumentParser:
    """`--quick`, `--cores`, `--output`; the JSON goes to `results/<output>` by default."""
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    options.add_argument("--quick", action="store_true", help=quick)
    options.add_argument("--cores", type=int, default=2, help="bind to so many (default 2)")
    options.add_argument(
        "--output",
        type=Path,
        default=RESULTS / output,
        help="where the JSON goes",
    )
    return options


def bind(cores: int) -> None:
    """Keeps this process and its children on so many cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": processor(),
        "cores": cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES if find_spec(name) is not None},
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def verdict(met: bool | None) -> str:
    """A table's last cell."""
    return {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[met]


def write(path: Path, host: dict[str, Any], **results: Any) -> None:
    """The JSON, with the machine named."""
    result = {"schema": "orthwrap.benchmark/1", "machine": host, **results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(path)
