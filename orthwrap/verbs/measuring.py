"""What the verbs do about the figures of operators: check, and show how far they are."""

from __future__ import annotations

import sys
from typing import Any

from orthwrap.errors import UsageError
from orthwrap.report.make import Measuring


def check_operator(operator: bool, *, measure: bool) -> None:
    """UsageError where operators are asked for, and no figures."""
    if operator and not measure:
        raise UsageError("operator asks for figures, and measure=False (--no-measure) for none")


def measuring_of(progress: Any) -> Measuring | None:
    """Who shows how far the figures are; None where nobody was asked."""
    if progress is True:
        from orthwrap.report.progress import MeasuringProgress
        from orthwrap.report.terminal import console

        progress = MeasuringProgress(console(sys.stderr))
    return getattr(progress, "measuring", None)
