"""Training as it goes: bars on a terminal, elsewhere a line per epoch and per minute of one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from orthwrap.report.training_rows import in_order
from orthwrap.report.verdict import division
from orthwrap.text import printable

_EVERY = 60.0  # seconds of an epoch after which a line says that it goes on
_EVERY_HERE = 0.5  # seconds after which a line that is written over says it


class MeasuringProgress:
    """Shows how far the figures of operators are, which may take minutes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.contextmanager
    def measuring(
        self, total: int, title: str = "operators", of: str = "kernels"
    ) -> Iterator[Callable[[str], None]]:
        """Gives whom to tell of each kernel, or whatever there is a `total` of, that is done."""
        bars = Progress(
            TextColumn(title, style="bold"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}", style="dim", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        task, shown_at, done = bars.add_task("", total=total), time.monotonic(), 0

        def tell(place: str) -> None:
            nonlocal shown_at, done
            done += 1
            bars.update(task, advance=1, description=printable(place))
            if not self._console.is_terminal and time.monotonic() - shown_at > _EVERY:
                shown_at = time.monotonic()
                line = f"{title} of {done} of {total} {of}"
                self._console.print(line, style="dim", soft_wrap=True)

        with bars:
            yield tell


class TrainingProgress(MeasuringProgress):
    """Shows epochs and steps with task loss, penalty and metrics apart."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars: Progress | None = None
        self._epochs: TaskID | None = None
        self._steps: TaskID | None = None
        self._total = 0
        self._shown_at = 0.0  # when the last line was written
        self._steps_of: int | None = None  # of an epoch
        self._over = ""  # what the next line is written over, in a notebook

    def start(self, choices: tuple[str, ...], epochs: int, steps: int | None) -> None:
        for choice in choices:
            self._console.print(choice, style="dim", soft_wrap=True)
        self._total = epochs
        self._shown_at = time.monotonic()
        self._steps_of, self._of = steps, "" if steps is None else f"/{steps:,}"
        if self._console.is_jupyter or not self._console.is_terminal:
            return
        self._bars = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[logs]}", style="dim", markup=False),
            console=self._console,
            transient=True,
        )
        self._epochs = self._bars.add_task("epoch", total=epochs, logs="")
        self._steps = self._bars.add_task("step", total=steps, logs="")
        self._bars.start()

    def step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None:
        if self._bars is not None and self._steps is not None:
            self._bars.update(self._steps, completed=step, logs=_line(logs, short=True))
            return
        every = _EVERY_HERE if self._console.is_jupyter else _EVERY
        if time.monotonic() - self._shown_at <= every:
            return
        self._shown_at = time.monotonic()
        line = f"epoch {epoch + 1}, step {step:,}"
        if self._console.is_jupyter:
            bar = "" if self._steps_of is None else _bar(step / self._steps_of) + "  "
            self._write_over(f"{bar}{line}{self._of}  {_line(logs, short=True)}")
        else:
            self._console.print(f"{line}  {_line(logs, short=True)}", style="dim", soft_wrap=True)

    def _write_over(self, line: str) -> None:
        """In place of the last line, as Keras's bar does: notebooks know a carriage return."""
        file = self._console.file
        file.write(f"\r{printable(line).ljust(len(self._over))}")
        file.flush()
        self._over = line

    def epoch(self, epoch: int, logs: Mapping[str, float]) -> None:
        epochs = self._total
        width = len(str(epochs))
        line = f"epoch {epoch + 1:>{width}}/{epochs}  {_line(logs)}"
        if self._bars is not None and self._epochs is not None:
            self._bars.update(self._epochs, completed=epoch + 1)
        if self._over:
            self._write_over("")
            self._console.file.write("\r")
        self._console.print(line, soft_wrap=True)
        self._shown_at = time.monotonic()

    def stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()


_WIDTH = 24  # of a bar, as on a terminal


def _bar(share: float) -> str:
    done = round(_WIDTH * min(share, 1.0))
    return "█" * done + "░" * (_WIDTH - done)


_SHORT = {"task_loss": "task", "sparse_categorical_accuracy": "accuracy"}


def _line(logs: Mapping[str, float], short: bool = False) -> str:
    """`task 0.133 (val 0.149)  penalty 0.0824  accuracy 0.978 (val 0.971)`."""
    # The sum of task loss and penalty is left out: both stand there.
    names = [n for n in in_order(logs) if n != "loss" and not n.startswith("val_")]
    names = [n for n in names if n not in _COURSE]
    is_pulled = short or "least_division" in logs
    if is_pulled and not logs.get("penalty", 0.0):  # which is not in the loss then
        names = [n for n in names if n != "penalty"]
    if short:
        names = [n for n in names if n in ("task_loss", "penalty")]
    words = []
    for name in names:
        word = f"{_SHORT.get(name, name.replace('_', ' '))} {logs[name]:.3g}"
        if f"val_{name}" in logs and name != "penalty":
            word += f" (val {logs[f'val_{name}']:.3g})"
        words.append(word)
    return "  ".join(words if short else [*words, *_how_it_went(logs)])


# How an epoch went, beside its figures.
_COURSE = ("factor", "factor_min", "factor_max", "learning_rate", "least_division", "seconds")


def _how_it_went(logs: Mapping[str, float]) -> Iterator[str]:
    """`residuals ÷3.2 at least`, `factor 0.001`, `rate 0.0001`, `12 s`."""
    if "least_division" in logs:
        yield f"residuals {division(logs['least_division'])} at least"
    if "factor" in logs:
        yield f"factor {logs['factor']:.3g}"
    if "factor_min" in logs:
        yield f"factors {logs['factor_min']:.3g} to {logs['factor_max']:.3g}"
    if "learning_rate" in logs:
        yield f"rate {logs['learning_rate']:.3g}"
    if "seconds" in logs:
        yield f"{logs['seconds']:.0f} s" if logs["seconds"] >= 10 else f"{logs['seconds']:.1f} s"
