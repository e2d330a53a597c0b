"""Inputs one after another in a process of its own, under limits and watched.

`python -m tests.fuzz.worker KIND FIRST COUNT [SECONDS]` tries `COUNT` inputs of a kind from seed
`FIRST` on; with `SECONDS`, it ends after so much CPU time. It prints a line of JSON before each
input, and one for whatever went wrong. A process that dies tells by its last line on which input.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import stat
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

CPU = 20  # seconds for one input, all verbs together; beyond it the system ends the process
MEMORY = 800 << 20  # bytes of address space that one input may add; two threads take 150 MB of it
FORBIDDEN = (
    *("marshal.", "pickle.", "exec", "compile", "import", "ctypes.", "socket.", "subprocess."),
    *("os.system", "os.exec", "os.spawn", "os.fork", "os.posix_spawn", "urllib.", "shutil.unpack"),
    *("code.__new__", "function.__new__"),
)
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.chmod")
# What Python, NumPy and orthwrap import where they first need it.
IMPORTED = (
    *("concurrent.futures.thread", "difflib", "tomllib", "ml_dtypes", "encodings.unicode_escape"),
    *("encodings.utf_16", "encodings.utf_32", "encodings.idna", "encodings.cp437"),
)


class Touched(BaseException):
    """A file that is none of the input's, or no regular one, was about to be opened."""


class Watch:
    """An audit hook that notes what no file may bring about."""

    def __init__(self, place: Path) -> None:
        self.active = False
        self.seen: list[str] = []
        samples = os.environ["ORTHWRAP_SAMPLES"]
        self._places = tuple(os.path.realpath(p) for p in (place, samples))
        self._known = (os.devnull, f"/proc/{os.getpid()}/statm")
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        self.active = True
        try:
            yield
        finally:
            self.active = False

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event.startswith(FORBIDDEN) and not _is_literal(event, args):
            self.seen.append(f"{event} {args!r:.200}")
        elif event in ("open", *CHANGES) and isinstance(args[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(args[0]))
            is_relative = event != "open" and not os.path.isabs(os.fsdecode(args[0]))
            if is_relative or path in self._known:  # removed by its name within an open folder
                return
            if not path.startswith(self._places) or _is_special(path):
                self.seen.append(f"{event} {path}")
                raise Touched(path)


def _is_literal(event: str, args: tuple[Any, ...]) -> bool:
    """NumPy reads a header as a literal, which is parsed and not run; that it is not is watched."""
    return event == "compile" and args[1] == "<unknown>"


def _is_special(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def prepare() -> None:
    """What orthwrap itself imports is there before a file is looked at."""
    import orthwrap.render

    import orthwrap.stores
    import orthwrap.upgrades

    for name in IMPORTED:
        importlib.import_module(name)
    for package in (orthwrap.render, orthwrap.stores, orthwrap.upgrades):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not module.name.endswith((".live", ".compiled", "_worker", ".functions")):
                importlib.import_module(module.name)


def limited() -> None:
    """The next input's share of CPU time and memory."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (spent + CPU, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", "rb") as f:
        pages = int(f.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def tell(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(kind: str, first: int, count: int, seconds: float | None) -> None:
    from tests.fuzz.trial import KINDS, attempt

    assert kind in KINDS
    with tempfile.TemporaryDirectory(prefix="orthwrap-fuzz-") as folder:
        tempfile.tempdir = folder  # scratch folders of a process that dies are gone with it
        base = Path(folder, "base")
        watch = Watch(Path(folder))
        prepare()
        for seed in range(-20, 0):  # whatever else is imported on the way
            with contextlib.suppress(Exception):
                attempt(kind, seed, base, contextlib.nullcontext)
        start = sum(os.times()[:2])
        for seed in range(first, first + count):
            if seconds is not None and sum(os.times()[:2]) - start > seconds:
                return
            tell(seed=seed)
            watch.seen.clear()
            limited()
            try:
                said = attempt(kind, seed, base, watch.watching)
                tell(said=[line[:100] for line in said])
            except (Exception, Touched):
                tell(fault=traceback.format_exc())
            if watch.seen or {"keras", "tensorflow"} & set(sys.modules):
                tell(fault=f"touched: {watch.seen}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:5] or [1e9]))
