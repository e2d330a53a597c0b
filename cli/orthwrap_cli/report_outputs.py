"""Where a command's report goes: the options, and the files and streams behind them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthwrap.errors import Faults, FileFault, UsageError
from orthwrap.report.export import check_installed
from orthwrap.report.exports import EXPORTS, exports_of, opened_for
from orthwrap.stores.outputs import check_apart
from orthwrap.stores.replacing import descriptor_of

if TYPE_CHECKING:
    from orthwrap.report.export import Export
    from orthwrap.stores.replacing import TextOutput


def export_options(kind: str) -> list[inspect.Parameter]:
    """An option for each form that a kind of report has."""
    return [
        inspect.Parameter(
            export.word,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(
                    f"--{export.word}",
                    metavar="FILE",
                    help=f"{export.help}; - for standard output.",
                    rich_help_panel="Report",
                ),
            ],
        )
        for export in exports_of(kind)
    ]


@dataclass(frozen=True)
class ReportOutputs:
    """Each form that was asked for, with where it goes; None stands for standard output."""

    places: tuple[tuple[Export, TextOutput | None], ...]

    @classmethod
    def checked(cls, asked: Mapping[str, str | None], files: Mapping[str, Any]) -> ReportOutputs:
        """The outputs, found to be writable before anything is done.

        Args:
            asked: by word, what the user gave.
            files: the command's own, by word; no report may replace them.

        Raises:
            FileFault: a report could not be written in the end, or would replace another file.
            UsageError: two things would go to standard output.
        """
        given = {word: target for word, target in asked.items() if target is not None}
        log = files.get("log")
        streams = [word for word, target in given.items() if is_stdout(target)]
        streams += ["log"] if log is not None and descriptor_of(Path(log)) == 1 else []
        if len(streams) > 1:
            raise UsageError(
                f"--{streams[0]} and --{streams[1]} cannot both go to standard output: name a file "
                "for one"
            )
        others = {f"the {word} of this command": path for word, path in files.items()}
        places, faults = [], Faults()
        for word, target in given.items():
            places.append((EXPORTS[word], faults.of(_opened, EXPORTS[word], target, others)))
            others[f"the {word} of this command"] = target
        faults.raise_all()
        return cls(tuple(places))

    @property
    def take_stdout(self) -> bool:
        """Whether standard output carries a report, so that all else goes to standard error."""
        return any(output is None for _, output in self.places)

    def write(self, report: Any) -> None:
        """Writes each form of the report."""
        for export, output in self.places:
            text = export.text(report)
            if output is None:
                sys.stdout.write(text)
                sys.stdout.flush()  # here, where a reader that is gone is noticed
            else:
                output.write(text)


def is_stdout(target: str) -> bool:
    """Whether `-`, or a path as `/dev/stdout`, is the command's own standard output."""
    return target == "-" or descriptor_of(Path(target)) == 1


def _opened(export: Export, target: str, others: Mapping[str, Any]) -> TextOutput | None:
    word = f"--{export.word}"
    if is_stdout(target):
        check_installed(f"{word}: {export.name}", export.needs)
        if sys.__stdout__ is None:
            raise FileFault(f"{word} {target}: standard output is closed: name a file")
        return None
    check_apart(target, word, others)
    return opened_for(export, Path(target), word)
