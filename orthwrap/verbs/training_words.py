"""What was said about training, checked, as a job."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orthwrap.errors import UsageError
from orthwrap.rules.words import spoken
from orthwrap.training.settings import Settings

if TYPE_CHECKING:
    from orthwrap.training.fit import Progress
    from orthwrap.training.job import Job


def check_effect(
    training: Mapping[str, Any], *, auto: bool = False, schedule: bool = False
) -> None:
    """UsageError for a word that says how something is done that is not done at all."""
    schedule = schedule or training.get("schedule") is not None
    for words, is_done, what in (
        (("rho", "rho_over"), auto, "factor auto"),
        (("schedule_by",), schedule, "a schedule"),
        (("temperature",), bool(training.get("distill")), "distill"),
    ):
        for word in words:
            if training.get(word) is not None and not is_done:
                raise UsageError(f"{spoken(word)} is about {what}: ask for that, or leave it out")


def job_of(data: Any, settings: Settings | None, progress: Progress | bool | None) -> Job | None:
    if settings is None:
        return None
    from orthwrap.training.job import Job

    shown = None if isinstance(progress, bool) else progress
    if progress is True:
        from orthwrap.report.progress import TrainingProgress
        from orthwrap.report.terminal import console

        shown = TrainingProgress(console(sys.stdout))

    return Job.of(data, settings, shown)
