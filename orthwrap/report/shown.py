"""What a command ends with can be shown on a screen, and saved."""

from __future__ import annotations

import importlib
import os
from typing import Any, ClassVar


class Shown:
    """Data that its own modules show and save."""

    kind: ClassVar[str]

    def __str__(self) -> str:
        """As the commands show it, at 100 columns."""
        return str(found("terminal").text_of(self))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves it, whole or not at all, in the form of the suffix.

        `.json`; a report on a model also as `.csv`, `.md`, or `.html` (with
        `pip install 'orthwrap[report]'`).

        Raises:
            ValueFault: another suffix, or packages that this form needs are not installed.
            FileFault: it cannot be written, or a file is there that is no such report.
        """
        found("exports").save(self, path)


def found(module: str) -> Any:
    """What shows or saves a report; found when that is done, for the data knows no screen."""
    return importlib.import_module(f"orthwrap.report.{module}")
