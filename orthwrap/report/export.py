"""A form in which a report goes to other programs and to people: one row of `EXPORTS`."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Export:
    """One form of reports, from which its option, `report.save` and its documentation follow.

    Attributes:
        word: the option, `--WORD FILE`.
        name: what it is called: `JSON`.
        help: what the option does, in a clause.
        suffixes: of the files that `report.save` writes so.
        marks: one of which stands in the first 200 characters of every such file, and by which it
            is told from a file of somebody else's, which is not replaced.
        kinds: of the reports that have this form: `report`, `compare`, `bench`, `regularizers`.
        renderer: `module:function`, a report of one of these kinds → text; imported when called.
        needs: packages that must be installed for it, and
        extra: the extra of orthwrap that brings them.
    """

    word: str
    name: str
    help: str
    suffixes: tuple[str, ...]
    marks: tuple[str, ...]
    kinds: tuple[str, ...]
    renderer: str
    needs: tuple[str, ...] = ()
    extra: str = ""

    def text(self, report: Any) -> str:
        """The report in this form."""
        return str(pkgutil.resolve_name(self.renderer)(report))
