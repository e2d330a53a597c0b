"""What was said about training, checked, as a job."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orthwrap.errors import backend_named
from orthwrap.rules.rule import Rule
from orthwrap.rules.words import spoken
from orthwrap.training.settings import Settings

if TYPE_CHECKING:
    from orthwrap.training.fit import Progress
    from orthwrap.training.job import Job


def without_effect(
    training: Mapping[str, Any], *, auto: bool = False, schedule: bool = False
) -> Iterator[str]:
    """What is wrong with each word that says how something is done that is not done at all."""
    schedule = schedule or training.get("schedule") is not None
    for words, is_done, what in (
        (("rho", "rho_over"), auto, "factor auto"),
        (("schedule_by",), schedule, "a schedule"),
        (("temperature",), bool(training.get("distill")), "distill"),
    ):
        for word in words:
            if training.get(word) is not None and not is_done:
                yield f"{spoken(word)} is about {what}: ask for that, or leave it out"


def pulled_twice(training: Mapping[str, Any], rules: Sequence[Rule] = ()) -> Iterator[str]:
    """What is wrong where two words at once say how strong."""
    pulled = next((word for word in ("goal", "pull") if training.get(word) is not None), None)
    if any(rule.pull is not None for rule in rules):
        if pulled is not None:
            yield f"a rule has a pull of its own: leave {pulled} out"
        pulled = "pull"
    if pulled is None:
        return
    if any(rule.is_auto for rule in rules):
        yield f"factor auto and {pulled} exclude each other: give one"
    if training.get("schedule") is not None or any(r.schedule is not None for r in rules):
        yield f"a schedule moves the factor, which {pulled} takes the place of"


def says_how_strong(training: Mapping[str, Any], rules: Sequence[Rule]) -> bool:
    """Whether a factor, a schedule or a pull was named anywhere, or kernels are held anyway.

    Else a goal is the default.
    """
    if any(training.get(word) is not None for word in ("goal", "pull", "schedule")):
        return True
    if all(r.regularizer is None for r in rules):
        return True
    return any(
        (r.constrain is not None and r.regularizer is not None)
        or r.factor is not None
        or r.factor_for
        or r.schedule is not None
        or r.pull is not None
        for r in rules
    )


def job_of(data: Any, settings: Settings | None, progress: Progress | bool | None) -> Job | None:
    if settings is None:
        return None
    with backend_named():
        from orthwrap.training.job import Job

    shown = None if isinstance(progress, bool) else progress
    if progress is None or progress is True:
        from orthwrap.report.progress import TrainingProgress
        from orthwrap.report.terminal import console

        shown = TrainingProgress(console(sys.stdout))

    return Job.of(data, settings, shown)
