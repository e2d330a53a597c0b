"""What a run leaves for other programs to read: a CSV file, and TensorBoard's event files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orthwrap.data.batches import has_tensorflow
from orthwrap.errors import FileFault, OrthwrapError, is_installed
from orthwrap.live.live_store import LiveStore
from orthwrap.report.make import figures
from orthwrap.report.record import place_of
from orthwrap.stores.outputs import check_replaceable
from orthwrap.stores.replacing import TextOutput, make_folder
from orthwrap.stores.written import note
from orthwrap.survey import survey
from orthwrap.text import csv_cell, printable

_FIRST = "epoch,"  # what a log begins with


def open_log(path: Path | None) -> TextOutput | None:
    """Where the log goes; FileFault where it could not be written, before anything is done."""
    if path is None:
        return None
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"needs the folder {path.parent}, which is not"
        raise FileFault(f"log {path} {what}: name a CSV file in a folder that exists")
    check_replaceable(path, "log", "a log of an earlier run", _FIRST)
    return TextOutput(path)


def check_board(path: Path | None) -> None:
    """FileFault where TensorBoard's folder is a file, or would be within one."""
    if path is None:
        return
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        raise FileFault(f"tensorboard {path}: {there} is a file; name a folder")
    if not has_tensorflow() and not is_installed("tensorboard"):
        raise OrthwrapError(
            "tensorboard needs TensorFlow or the package tensorboard, and neither is installed "
            "here: pip install tensorboard"
        )


def csv_of(
    history: Mapping[str, Sequence[float]], course: Mapping[int, Mapping[str, float]] | None = None
) -> str:
    """A line for each epoch so far, a column for each figure.

    Args:
        history: of each figure, the values of all epochs.
        course: of epochs that this process has trained, counted from 1, how they went.
    """
    course = course or {}
    beside = list(dict.fromkeys(name for figures in course.values() for name in figures))
    epochs = max(map(len, history.values()), default=0)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["epoch", *map(csv_cell, history), *beside])
    for i in range(epochs):
        figures = [v[i] if i < len(v) else None for v in history.values()]
        figures += [course.get(i + 1, {}).get(name) for name in beside]
        writer.writerow([i + 1, *("" if f is None else _shortest(f) for f in figures)])
    return text.getvalue()


def _shortest(value: float) -> str:
    """The shortest text of a number; of a float32, as most figures are, the one that gives it."""
    if abs(value) > float(np.finfo(np.float32).max):
        return repr(value)
    narrow = np.float32(value)
    return str(narrow) if narrow == value else repr(value)


class Board:
    """Scalars for TensorBoard: the figures of each epoch, and of each regularized kernel.

    Tags are `epoch/task_loss`, …, and `residual/<path>`, `sigma_min/<path>`, `sigma_max/<path>`,
    `penalty/<path>` (without the factor); what is not printable in a name is escaped.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder)
        self._writer = _WithTensorFlow(folder) if has_tensorflow() else _WithTensorBoard(folder)

    def epoch(self, done: int, logs: Mapping[str, float], model: Any) -> None:
        """Writes what holds after `done` epochs."""
        values = {f"epoch/{name}": value for name, value in logs.items()} | _figures(model)
        self._writer.write(done, {printable(tag): value for tag, value in values.items()})
        note(self._folder)

    def close(self) -> None:
        self._writer.close()


class _WithTensorFlow:
    """Scalars into an event file, by TensorFlow."""

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf

        try:
            self._writer = tf.summary.create_file_writer(str(folder))
        except (OSError, tf.errors.OpError) as e:
            raise _unwritable(folder, e) from e
        # TensorBoard's own function for this asks for TensorBoard; its format does not.
        self._metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        import tensorflow as tf

        with self._writer.as_default(step=step):
            for tag, value in values.items():
                tf.summary.write(tag, tf.constant(value, tf.float32), metadata=self._metadata)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WithTensorBoard:
    """The same, by the package TensorBoard alone."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary import Writer

        try:
            self._writer = Writer(str(folder))
        except OSError as e:
            raise _unwritable(folder, e) from e

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, np.float32(value), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _unwritable(folder: Path, error: Exception) -> FileFault:
    return FileFault(f"cannot write TensorBoard's files into {folder}: {error}")


def _figures(model: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for slot in survey(LiveStore(model)).slots:
        if slot.current is None:
            continue
        for kernel in slot.kernels:
            deviation = figures(kernel, slot.current)
            place = place_of(kernel.layer.path, slot.name)
            if len(slot.kernels) > 1:
                place += f"/{kernel.spec.name}"
            for name in ("residual", "sigma_min", "sigma_max", "penalty"):
                value = getattr(deviation, name, None)
                if value is not None:
                    found[f"{name}/{place}"] = value
    return found
