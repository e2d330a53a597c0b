"""Runs beside the first one, from the same start: a control without penalties, and other seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from orthwrap.data import Data
from orthwrap.errors import OrthwrapError
from orthwrap.live.rebuild import rebuild
from orthwrap.live.store import LiveStore
from orthwrap.plan.as_it_is import plan_strip
from orthwrap.report.beside import ControlRun, Repeats, SeedRun
from orthwrap.report.record import Training
from orthwrap.report.verdict import Verdict
from orthwrap.survey import survey
from orthwrap.training.fit import Finetuned, Progress, Session, finetune
from orthwrap.training.pull.kernels import driven_kernels


@dataclass(frozen=True)
class Others:
    """What the other runs start from.

    Attributes:
        start: a copy of the model before its first step, regularizers and all.
        data: of the first run, the same samples held out.
        session: of the first run.
        progress: who shows them, or None.
        driven: what rules say of driving kernels: keywords of `finetune`.
    """

    start: Any
    data: Data
    session: Session
    progress: Progress | None
    driven: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        model: Any,
        data: Data,
        session: Session,
        progress: Progress | None,
        driven: Mapping[str, Any],
    ) -> Others | None:
        """Before the first run; None where there is to be no other.

        Raises:
            OrthwrapError: a model that cannot be copied.
        """
        if not session.settings.has_others:
            return None
        store = LiveStore(model)
        if any(s.current is not None and not s.layer.pointers for s in survey(store).slots):
            raise OrthwrapError(
                "control and repeats train copies, and this model's config does not hold its "
                "regularizers: leave them out"
            )
        return cls(_copy(model), data, session, progress, driven)

    def trained(self, training: Training) -> Training:
        """The first run's training, with what the others came to.

        An interrupt leaves out the run that it ends, and those after it.
        """
        verdict, settings = training.verdict, self.session.settings
        if verdict is None or not training.kept_epoch:
            return training
        seed = self.session.seed
        control = self._control(training, seed) if settings.control else None
        verdict = _with_control(verdict, control)
        training = replace(training, verdict=verdict, control=control)
        if settings.repeats == 1:
            return training
        runs = [SeedRun(seed, training.kept_epoch, verdict, control)]
        for number in range(1, settings.repeats):
            run = self._repeat((seed + number) % 2**32, number + 1)
            if run is None:
                break
            runs.append(run)
        return replace(training, repeats=Repeats(tuple(runs)))

    def left_out(self, training: Training) -> tuple[str, ...]:
        """What was asked for and is not there: a line each."""
        settings = self.session.settings
        lines = []
        if settings.control and training.control is None:
            lines.append("the control did not come to its end, so it is left out")
        runs = 1 if training.repeats is None else len(training.repeats.runs)
        if runs < settings.repeats:
            lines.append(f"of {settings.repeats} seeds {runs} came to their end")
        return tuple(lines)

    def _repeat(self, seed: int, number: int) -> SeedRun | None:
        title = f"seed {seed}, run {number} of {self.session.settings.repeats}"
        done = self._run(_copy(self.start), seed, title, {}, self.driven)
        if done is None or done.training.verdict is None:
            return None
        training = done.training
        control = None
        if self.session.settings.control:
            control = self._control(training, seed)
            if control is None:
                return None
        verdict = _with_control(done.training.verdict, control)
        return SeedRun(seed, training.kept_epoch, verdict, control)

    def _control(self, training: Training, seed: int) -> ControlRun | None:
        """The control of a run, which ends where that run's kept epoch does."""
        by_task = training.keep == "best-task"
        words: dict[str, Any] = {
            "epochs": training.epochs if by_task else training.kept_epoch,
            "keep": "best-task" if by_task else "last",
            **dict.fromkeys(("goal", "pull", "schedule")),
            **({} if by_task else {"monitor": None}),
        }
        model = _copy(self.start, plain=True)
        done = self._run(model, seed, f"control, seed {seed}: no penalty, no pull", words, {})
        if done is None:
            return None
        measured = _copy(self.start)
        measured.set_weights(model.get_weights())
        metrics = {k: v for k, v in done.training.metrics_after.items() if k != "penalty"}
        residuals = {kernel.place: kernel.residual() for kernel in driven_kernels(measured)}
        return ControlRun(done.training.kept_epoch, metrics, residuals)

    def _run(
        self,
        model: Any,
        seed: int,
        title: str,
        words: Mapping[str, Any],
        driven: Mapping[str, Any],
    ) -> Finetuned | None:
        """A run that leaves nothing behind; None where it came to no good end."""
        quiet = dict.fromkeys(("checkpoint_dir", "resume", "log", "tensorboard", "control"))
        settings = self.session.settings.replace(**quiet, repeats=1, seed=seed, **words)
        session = Session(settings, seed, True, None, None, None, self.session.processes)
        if not self.data.repeatable:
            title += "; the data come in an order of their own"
        shown = None if self.progress is None else _Titled(self.progress, title)
        done = finetune(model, self.data, session, shown, **driven)
        ended = done.outcome.fault or done.outcome.interrupted
        return None if ended else done


def _copy(model: Any, *, plain: bool = False) -> Any:
    """A copy with the same weights and optimizer; `plain`, without our regularizers."""
    store = LiveStore(model)
    edits = plan_strip(survey(store)).edits if plain else ()
    return rebuild(store, edits)[0]


def _with_control(verdict: Verdict, control: ControlRun | None) -> Verdict:
    """The verdict with the control's figure of the task."""
    task = verdict.task
    if task is None or control is None:
        return verdict
    return replace(verdict, task=replace(task, control=control.metrics.get(task.name)))


@dataclass(frozen=True)
class _Titled:
    """Shows a run under a title, in place of what was chosen for it."""

    shown: Progress
    title: str

    def start(self, choices: tuple[str, ...], epochs: int, steps: int | None) -> None:
        self.shown.start((self.title,), epochs, steps)

    def step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None:
        self.shown.step(epoch, step, logs)

    def epoch(self, epoch: int, logs: Mapping[str, float]) -> None:
        self.shown.epoch(epoch, logs)

    def stop(self) -> None:
        self.shown.stop()
