"""Where a verb writes, checked before anything is done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, overload

from orthwrap.errors import UsageError
from orthwrap.stores.outputs import PathLike, check_apart, check_output, output_for


def refuse_in_place(in_place: bool) -> None:
    if in_place:
        raise UsageError("in_place changes a live model; a file is never changed: leave it out")


@overload
def target_of(
    model: PathLike,
    output: PathLike | None,
    command: str,
    store: Any,
    force: bool,
    dry_run: bool = False,
    weights: PathLike | None = None,
) -> Path: ...


@overload
def target_of(
    model: Any,
    output: PathLike | None,
    command: str,
    store: Any,
    force: bool,
    dry_run: bool = False,
    weights: PathLike | None = None,
) -> Path | None: ...


def target_of(
    model: Any,
    output: PathLike | None,
    command: str,
    store: Any,
    force: bool,
    dry_run: bool = False,
    weights: PathLike | None = None,
) -> Path | None:
    """Where a verb writes, checked before anything is done; None for a model without an output."""
    source = Path(model) if isinstance(model, (str, os.PathLike)) else None
    if source is None and output is None:
        return None
    target = output_for(source or Path(), output, command, store.format)
    if source is None or not dry_run:
        check_target(target, source, force or dry_run, weights)
    return target


def check_target(
    target: Path, source: Path | None, force: bool, weights: PathLike | None = None
) -> None:
    """FileFault where an output may not be written: it exists, or is an input."""
    check_output(target, source, force)
    check_apart(target, "output", {} if weights is None else {"the file of weights": weights})
