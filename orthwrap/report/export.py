"""A form in which a report goes to other programs and to people: one row of `EXPORTS`."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from orthwrap.errors import ValueFault


def check_installed(what: str, packages: Sequence[str]) -> None:
    """ValueFault where packages of the extra `report` are not installed.

    Args:
        what: needs them, in words.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueFault(f"{what} needs {' and '.join(missing)}: pip install 'orthwrap[report]'")


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
        needs: packages of the extra `report` that must be installed for it.
    """

    word: str
    name: str
    help: str
    suffixes: tuple[str, ...]
    marks: tuple[str, ...]
    kinds: tuple[str, ...]
    renderer: str
    needs: tuple[str, ...] = ()

    def text(self, report: Any) -> str:
        """The report in this form; ValueFault where packages that it needs are not installed."""
        check_installed(self.name, self.needs)
        return str(pkgutil.resolve_name(self.renderer)(report))
