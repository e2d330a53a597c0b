"""Where a command writes, and whether it may: all is checked before anything is done.

Every command knows these checks before it does anything, so what reads files is imported where it
is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orthwrap.errors import FileFault
from orthwrap.stores.replacing import check_folder, check_place, check_regular, is_stream

PathLike = str | os.PathLike[str]

SUFFIXES = {"apply": "-orth", "finetune": "-tuned", "strip": "-plain", "upgrade": "-keras3"}


def output_for(path: Path, output: PathLike | None, command: str, format: str) -> Path:
    """The output as given, or beside the input with the command's suffix.

    Args:
        path: the input.
        output: what the user named, or None.
        command: apply, finetune, strip or upgrade.
        format: the input's, for names without an extension.
    """
    if output is not None:
        target = as_path(output)
        if str(output) == "-":
            raise FileFault(
                "a model cannot be written to standard output: give a file name with -o"
            )
        format_of(target)
        return target
    from orthwrap.stores import formats, pair

    known = path.suffix in formats.suffixes()
    suffix = path.suffix if known and not path.is_dir() else formats.new_suffix(format)
    stem = path.stem if known or path.suffix == pair.SUFFIX else path.name or path.resolve().name
    if not path.name:  # `.`: what lies beside it is not called by its name
        path = path.resolve()
    return path.with_name(f"{stem}{SUFFIXES[command]}{suffix}")


def as_path(output: PathLike) -> Path:
    """The path a user gave; FileFault for anything else."""
    if not isinstance(output, (str, os.PathLike)):
        raise FileFault(f"output {output!r} is no path: give a file name")
    return Path(output)


def format_of(target: Path) -> str:
    """The format that a suffix says; FileFault where it says none."""
    from orthwrap.stores import formats

    known = formats.suffixes()
    if target.suffix not in known:
        raise FileFault(
            f"output {target} must end in {formats.suffix_list()}, which says the format to write"
        )
    return known[target.suffix]


def check_output(target: Path, source: Path | None, force: bool) -> None:
    """FileFault where the output must not be written.

    Args:
        target: the output.
        source: the input, which is never the output; None for a model in memory.
        force: an existing output may be replaced.
    """
    if source is not None and _same_file(target, source):
        raise FileFault(f"output {target} is the input, which is never changed: name another file")
    if target.is_dir():
        raise FileFault(f"output {target} is a folder: name a file")
    check_regular(target)
    if target.exists() and not force:
        raise FileFault(
            f"output {target} exists: name another file, or use --force (force=True in Python)"
        )
    check_folder(target.parent)
    check_place(target)


def check_apart(path: PathLike | None, word: str, others: Mapping[str, Any]) -> None:
    """FileFault where a file that is written besides the output would replace another.

    Args:
        path: where it goes; None where it is not written.
        word: what it is, `"log"` or `"json"`.
        others: by what they are, the paths that it must not be; what is no path is passed over.
    """
    if path is None or is_stream(Path(path)):
        return
    for kind, other in others.items():
        if isinstance(other, (str, os.PathLike)) and _same_file(Path(path), Path(other)):
            raise FileFault(f"{word} {path} is {kind}, which it would replace: name another file")


def check_replaceable(path: Path, word: str, what: str, *marks: str) -> None:
    """FileFault where a file is there already that was not written by an earlier run.

    Args:
        word: what is to be written, `"log"` or `"--json"`.
        what: what may be replaced, in words.
        marks: one of which that has within its first 200 characters.
    """
    if is_stream(path) or not path.is_file():
        return
    with path.open("rb") as f:
        start = f.read(200)
    if start and not any(mark.encode() in start for mark in marks):
        raise FileFault(f"{word} {path} exists and is not {what}: remove it, or name another file")


def _same_file(a: Path, b: Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b) or (
        a.exists() and b.exists() and os.path.samefile(a, b)
    )
